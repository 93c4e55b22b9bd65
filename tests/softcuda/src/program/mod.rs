//! A kernel decoded once: registers by number, addresses resolved, every branch with its place of reconvergence.

mod decode;
mod flow;
mod names;
mod tensor;

use crate::memory::Memory;
use crate::ptx::{self, PtxError, Space};
use std::collections::BTreeMap;
use std::sync::Arc;

pub use decode::{FUNCTION_WINDOW, LOCAL_WINDOW, SHARED_WINDOW};
pub use names::{Carry, Conversion, Float, Function, Integer, PairFunction, Round, Test, Type};
pub use tensor::{Element, Fragment, Part, Product, Shape};

/// What an instruction reads: a register, or a number.
#[derive(Clone, Copy, Debug)]
pub enum Src {
    Reg(u32),
    Num(u64),
}

/// Where an address begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    Global,
    Shared,
    Local,
    /// Kernel parameters.
    Param,
    /// Parameters of called functions: in the frame of the function that runs.
    Frame,
    /// By the address itself.
    Generic,
}

/// `base + offset`.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub area: Area,
    pub base: Src,
    pub offset: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    Lane,
    Warp,
    DynamicShared,
    Zero,
}

/// How `shfl` picks the other lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// Where the results of a comparison go.
#[derive(Clone, Copy, Debug)]
pub enum Into {
    /// All bits set.
    Mask(u32),
    /// 1.0 of the type.
    One(u32, Type),
    Predicates(u32, Option<u32>),
}

/// What an instruction does.
#[derive(Clone, Debug)]
pub enum Code {
    Nothing,
    Alu {
        f: Function,
        t: Type,
        from: Type,
        d: u32,
        a: Src,
        b: Src,
        c: Src,
    },
    /// `bfi`: b with its bits [from, from + len) taken from the low ones of a.
    Insert {
        t: Type,
        d: u32,
        a: Src,
        b: Src,
        from: Src,
        len: Src,
    },
    Float {
        op: Float,
        d: u32,
        a: Src,
        b: Src,
        c: Src,
    },
    Convert {
        how: Conversion,
        d: u32,
        a: Src,
        b: Src,
    },
    /// Reads and sets the lane's carry as said.
    Carry {
        f: Carry,
        t: Type,
        d: u32,
        x: [Src; 3],
        reads: bool,
        sets: bool,
    },
    /// `set`: a comparison's result as a number, and `setp` and `set` of pairs.
    CompareInto {
        f: Function,
        t: Type,
        pair: bool,
        ftz: bool,
        /// One register of a mask or of ones, or two predicates, one for each half.
        into: Into,
        a: Src,
        b: Src,
        with: Option<(Function, Src, bool)>,
    },
    /// With a second predicate that gets the opposite, and a predicate that is combined in.
    Compare {
        f: Function,
        t: Type,
        p: u32,
        q: Option<u32>,
        ftz: bool,
        a: Src,
        b: Src,
        with: Option<(Function, Src, bool)>,
    },
    Special {
        d: u32,
        what: Special,
    },
    Pack {
        d: u32,
        parts: Vec<Src>,
        bits: u32,
    },
    Unpack {
        parts: Vec<Option<u32>>,
        bits: u32,
        a: Src,
    },
    Load {
        to: Vec<Option<u32>>,
        t: Type,
        place: Place,
    },
    Store {
        from: Vec<Src>,
        t: Type,
        place: Place,
    },
    Atomic {
        f: Function,
        t: Type,
        d: Option<u32>,
        place: Place,
        b: Src,
        c: Src,
    },
    AsyncCopy {
        to: Place,
        from: Place,
        bytes: u32,
        used: Option<Src>,
    },
    AsyncCommit,
    AsyncWait(u32),
    /// For copies of no group too.
    AsyncWaitAll,
    LoadMatrix {
        to: Vec<u32>,
        place: Place,
        transposed: bool,
    },
    StoreMatrix {
        from: Vec<Src>,
        place: Place,
        transposed: bool,
    },
    LoadFragment {
        fragment: Fragment,
        to: Vec<u32>,
        place: Place,
        /// Elements from a row (or column) to the next.
        stride: Src,
        by_column: bool,
    },
    StoreFragment {
        fragment: Fragment,
        from: Vec<Src>,
        place: Place,
        stride: Src,
        by_column: bool,
    },
    /// `mma` and `wmma` but for what `Mma` is.
    Product {
        product: Product,
        to: Vec<u32>,
        from: [Vec<Src>; 3],
    },
    /// m16n8k16 of bf16 (or f16) with f32 sums.
    Mma {
        half: bool,
        d: [u32; 4],
        a: [Src; 4],
        b: [Src; 2],
        c: [Src; 4],
    },
    Shuffle {
        how: Shuffle,
        d: u32,
        p: Option<u32>,
        a: Src,
        b: Src,
        c: Src,
        mask: Src,
    },
    Vote {
        how: Vote,
        d: u32,
        a: Src,
        negated: bool,
        mask: Src,
    },
    /// `match`: the lanes with the same value; for `all` whether those are all.
    Match {
        d: u32,
        p: Option<u32>,
        t: Type,
        a: Src,
        mask: Src,
        all: bool,
    },
    Reduce {
        f: Function,
        t: Type,
        d: u32,
        a: Src,
        mask: Src,
    },
    ActiveMask {
        d: u32,
    },
    Barrier,
    /// `bar.red`: a barrier that tells how many threads (whether all, whether any) have the predicate.
    BarrierVote {
        how: Poll,
        d: u32,
        a: Src,
        negated: bool,
    },
    WarpBarrier,
    Branch {
        to: usize,
    },
    BranchTable {
        index: Src,
        targets: Vec<usize>,
    },
    /// Places and sizes of arguments and results in the caller's frame.
    Call {
        target: Src,
        args: Vec<(u32, u32)>,
        results: Vec<(u32, u32)>,
    },
    Return,
    /// The local address of something in the running function's frame.
    FrameAddress {
        d: u32,
        offset: u64,
    },
    Exit,
    Trap,
    /// Not known: an error when it is reached.
    Unknown(String),
}

/// What `bar.red` tells of a predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    Count,
    All,
    Any,
}

#[derive(Clone, Debug)]
pub struct Instruction {
    pub code: Code,
    pub guard: Option<(u32, bool)>,
    pub line: u32,
    pub source: u32,
    /// Of a branch: where the lanes that part here meet again.
    pub meet: usize,
}

/// One kernel parameter in the parameter block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    pub offset: u32,
    pub size: u32,
    pub align: u32,
}

#[derive(Clone, Debug)]
pub struct Kernel {
    pub name: String,
    pub params: Vec<Param>,
    pub param_bytes: u32,
    /// Bytes of static shared memory.
    pub static_shared: u32,
    pub local_bytes: u32,
    pub max_threads: u32,
    pub registers: u32,
    pub code: Vec<Instruction>,
    /// The module's functions that can be called.
    pub routines: Arc<Vec<Routine>>,
}

/// A function that can be called.
#[derive(Clone, Debug)]
pub struct Routine {
    pub name: String,
    /// Places and sizes in the function's frame.
    pub params: Vec<(u32, u32)>,
    pub returns: Vec<(u32, u32)>,
    pub frame_bytes: u32,
    pub registers: u32,
    pub code: Vec<Instruction>,
}

/// All kernels of a module, its variables in device memory.
pub struct Module {
    pub kernels: BTreeMap<String, Arc<Kernel>>,
    pub globals: BTreeMap<String, (u64, u64)>,
}

impl Module {
    /// Reads PTX and puts its variables into memory.
    pub fn load(text: &str, memory: &Memory) -> Result<Module, PtxError> {
        let text = ptx::parse(text)?;
        let globals = place_variables(&text, memory)?;
        let mut decoder = decode::Decoder::new(&text, &globals);
        let mut routines = Vec::new();
        for f in decode::routines(&text) {
            let mut routine = decoder.routine(f)?;
            flow::reconverge(&mut routine.code);
            routines.push(routine);
        }
        decoder.routines = Arc::new(routines);
        let mut kernels = BTreeMap::new();
        for f in text.functions.iter().filter(|f| f.entry) {
            let mut kernel = decoder.kernel(f)?;
            flow::reconverge(&mut kernel.code);
            kernels.insert(f.name.clone(), Arc::new(kernel));
        }
        Ok(Module { kernels, globals })
    }
}

/// Address and bytes of each variable, its content written.
fn place_variables(text: &ptx::Text, memory: &Memory) -> Result<BTreeMap<String, (u64, u64)>, PtxError> {
    let refuse = |message: String| PtxError { line: 0, message };
    let mut globals = BTreeMap::new();
    let variables = || text.variables.iter().filter(|v| matches!(v.space, Space::Global | Space::Const));
    for v in variables() {
        let addr = memory
            .alloc(u64::from(v.bytes.max(1)))
            .ok_or_else(|| refuse(format!("no memory for {}", v.name)))?;
        globals.insert(v.name.clone(), (addr, u64::from(v.bytes)));
    }
    for v in variables() {
        let mut content = v.content.clone();
        content.resize(v.bytes as usize, 0);
        for (at, name, offset) in &v.links {
            let function = decode::routines(text).position(|f| f.name == *name);
            let address =
                function.map(|i| FUNCTION_WINDOW + 16 * i as u64).or(globals.get(name).map(|g| g.0));
            let address = address
                .ok_or_else(|| refuse(format!("{name}, which {} begins with, is not known", v.name)))?;
            let place = content.get_mut(*at as usize..*at as usize + 8);
            let place = place.ok_or_else(|| refuse(format!("{} is longer than it says", v.name)))?;
            place.copy_from_slice(&address.wrapping_add(*offset as u64).to_le_bytes());
        }
        memory.write(globals[&v.name].0, &content).map_err(|e| refuse(e.to_string()))?;
    }
    Ok(globals)
}
