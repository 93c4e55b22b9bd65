//! From the words of an instruction to what it does. What is not known becomes [`Code::Unknown`]: an error when it is reached.

mod float;
mod flow;
mod integer;
mod matrix;

use super::{
    Area, Code, Function, Instruction, Kernel, Param, Place, Poll, Routine, Shuffle, Special, Src, Type, Vote,
};
use crate::ptx::{self, Operand, PtxError, Space, Variable};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Names to numbers, for one kernel or function.
#[derive(Clone, Default)]
struct Names {
    registers: HashMap<String, u32>,
    labels: HashMap<String, usize>,
    tables: HashMap<String, Vec<String>>,
    /// Offsets of a kernel's parameters.
    params: HashMap<String, u64>,
    /// Offsets of shared variables, and of a kernel's local ones; addresses of global ones.
    variables: HashMap<String, u64>,
    /// Offsets and sizes of what lies in the frame: parameters of calls, all that is local in a function.
    frame: HashMap<String, (u32, u32)>,
    /// The number of each function that can be called.
    functions: HashMap<String, usize>,
    routine: bool,
}

/// Shared and local addresses begin at these when they are generic; functions lie beyond.
pub const SHARED_WINDOW: u64 = 0x0100_0000_0000;
pub const LOCAL_WINDOW: u64 = 0x0200_0000_0000;
pub const FUNCTION_WINDOW: u64 = 0x0300_0000_0000;

/// Functions that can be called, by number.
pub fn routines(text: &ptx::Text) -> impl Iterator<Item = &ptx::Function> {
    text.functions.iter().filter(|f| !f.entry && f.defined)
}

/// Variables laid out one after the other.
#[derive(Default)]
struct Layout {
    bytes: u32,
}

impl Layout {
    fn place(&mut self, v: &Variable) -> u32 {
        let at = self.bytes.checked_next_multiple_of(v.align.max(1)).unwrap_or(u32::MAX);
        self.bytes = at.saturating_add(v.bytes);
        at
    }
}

/// Decodes the kernels and functions of one module.
pub struct Decoder<'a> {
    text: &'a ptx::Text,
    /// What all of them know.
    names: Names,
    /// Bytes of the module's shared variables, which come first in every kernel.
    shared: u32,
    pub routines: Arc<Vec<Routine>>,
}

impl<'a> Decoder<'a> {
    pub fn new(text: &'a ptx::Text, globals: &BTreeMap<String, (u64, u64)>) -> Decoder<'a> {
        let mut names = Names {
            variables: globals.iter().map(|(name, (addr, _))| (name.clone(), *addr)).collect(),
            functions: routines(text).enumerate().map(|(i, f)| (f.name.clone(), i)).collect(),
            ..Names::default()
        };
        let mut shared = Layout::default();
        for v in text.variables.iter().filter(|v| v.space == Space::Shared && v.bytes > 0) {
            names.variables.insert(v.name.clone(), shared.place(v).into());
        }
        Decoder { text, names, shared: shared.bytes, routines: Arc::default() }
    }

    pub fn kernel(&self, f: &ptx::Function) -> Result<Kernel, PtxError> {
        let mut names = self.names.within(f);
        let (mut params, mut block) = (Vec::new(), Layout::default());
        for p in &f.params {
            let offset = block.place(p);
            names.params.insert(p.name.clone(), offset.into());
            params.push(Param { offset, size: p.bytes, align: p.align });
        }
        let (mut shared, mut local) = (Layout { bytes: self.shared }, Layout::default());
        for v in f.variables.iter().filter(|v| v.bytes > 0) {
            match v.space {
                Space::Shared => names.variables.insert(v.name.clone(), shared.place(v).into()).map(|_| ()),
                Space::Local => names.variables.insert(v.name.clone(), local.place(v).into()).map(|_| ()),
                _ => names.frame.insert(v.name.clone(), (local.place(v), v.bytes)).map(|_| ()),
            };
        }
        let static_shared = shared.bytes.next_multiple_of(128);
        let dynamic = f.variables.iter().chain(&self.text.variables);
        for v in dynamic.filter(|v| v.space == Space::Shared && v.bytes == 0) {
            names.variables.insert(v.name.clone(), static_shared.into());
        }
        Ok(Kernel {
            name: f.name.clone(),
            params,
            param_bytes: block.bytes,
            static_shared,
            local_bytes: local.bytes,
            max_threads: f.max_threads.unwrap_or(1024),
            registers: f.registers.len() as u32,
            code: names.body(f)?,
            routines: self.routines.clone(),
        })
    }

    pub fn routine(&self, f: &ptx::Function) -> Result<Routine, PtxError> {
        let mut names = self.names.within(f);
        names.routine = true;
        let mut frame = Layout::default();
        let mut place = |v: &Variable| {
            let at = (frame.place(v), v.bytes);
            names.frame.insert(v.name.clone(), at);
            at
        };
        let params = f.params.iter().map(&mut place).collect();
        let returns = f.returns.iter().map(&mut place).collect();
        f.variables.iter().filter(|v| v.space != Space::Shared).for_each(|v| {
            place(v);
        });
        Ok(Routine {
            name: f.name.clone(),
            params,
            returns,
            frame_bytes: frame.bytes,
            registers: f.registers.len() as u32,
            code: names.body(f)?,
        })
    }
}

impl Names {
    /// With the registers and labels of a function.
    fn within(&self, f: &ptx::Function) -> Names {
        Names {
            registers: f
                .registers
                .iter()
                .enumerate()
                .map(|(i, (name, _))| (name.clone(), i as u32))
                .collect(),
            labels: f.labels.iter().cloned().collect(),
            tables: f.tables.iter().cloned().collect(),
            ..self.clone()
        }
    }

    fn body(&self, f: &ptx::Function) -> Result<Vec<Instruction>, PtxError> {
        f.body.iter().map(|i| self.instruction(i)).collect()
    }
}

impl Names {
    fn instruction(&self, i: &ptx::Instruction) -> Result<Instruction, PtxError> {
        let error = |message: String| PtxError { line: i.line, message };
        let guard = match &i.guard {
            Some((name, negated)) => {
                let r = self
                    .registers
                    .get(name)
                    .ok_or_else(|| error(format!("register {name} is not declared")))?;
                Some((*r, *negated))
            }
            None => None,
        };
        let words: Vec<&str> = i.op.split('.').collect();
        let code = self.code(&words, &i.operands).unwrap_or_else(|| Code::Unknown(i.op.clone()));
        Ok(Instruction { code, guard, line: i.line, source: i.source, meet: 0 })
    }

    fn register(&self, o: &Operand) -> Option<u32> {
        match o {
            Operand::Register(name) | Operand::Symbol(name) => self.registers.get(name).copied(),
            _ => None,
        }
    }

    fn src(&self, o: &Operand) -> Option<Src> {
        match o {
            Operand::Number(n) => Some(Src::Num(*n)),
            Operand::Symbol(name) if name == "WARP_SZ" => Some(Src::Num(32)),
            Operand::Symbol(name) if !self.registers.contains_key(name) => {
                // the address in its own space, as `mov` gives it
                self.variables.get(name).copied().or_else(|| self.function_address(name)).map(Src::Num)
            }
            _ => self.register(o).map(Src::Reg),
        }
    }

    fn vector(&self, o: &Operand) -> Option<Vec<Option<u32>>> {
        match o {
            Operand::Vector(parts) => parts
                .iter()
                .map(|p| if *p == Operand::Nothing { Some(None) } else { self.register(p).map(Some) })
                .collect(),
            _ => Some(vec![Some(self.register(o)?)]),
        }
    }

    fn sources(&self, o: &Operand) -> Option<Vec<Src>> {
        match o {
            Operand::Vector(parts) => parts.iter().map(|p| self.src(p)).collect(),
            _ => Some(vec![self.src(o)?]),
        }
    }

    fn four(&self, o: &Operand) -> Option<[Src; 4]> {
        self.sources(o)?.try_into().ok()
    }

    fn place(&self, area: Area, o: &Operand) -> Option<Place> {
        let Operand::Address(base, offset) = o else { return None };
        if let Operand::Symbol(name) = &**base
            && let Some(at) = self.params.get(name)
        {
            return Some(Place { area: Area::Param, base: Src::Num(*at), offset: *offset });
        }
        if let Operand::Symbol(name) | Operand::Register(name) = &**base
            && let Some((at, _)) = self.frame.get(name)
        {
            return Some(Place { area: Area::Frame, base: Src::Num((*at).into()), offset: *offset });
        }
        // a function's parameters lie in its frame, whose addresses are local
        let area = if area == Area::Param && self.routine { Area::Local } else { area };
        Some(Place { area, base: self.src(base)?, offset: *offset })
    }

    fn code(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let kind = words.iter().rev().find_map(|w| Type::named(w));
        let has = |name: &str| words[1..].contains(&name);
        match words[0] {
            "ld" | "ldu" | "st" => self.access(words, kind?, o),
            "mov" => self.mov(kind?, o),
            "cvta" => self.generic(words, o),
            "bra" | "brx" => self.branch(words, o),
            "call" => self.call(o),
            "ret" if self.routine => Some(Code::Return),
            "ret" | "exit" => Some(Code::Exit),
            "trap" => Some(Code::Trap),
            "bar" | "barrier" if has("warp") => Some(Code::WarpBarrier),
            "bar" | "barrier" if has("sync") && matches!(o, [Operand::Number(0)]) => Some(Code::Barrier),
            "bar" | "barrier" if has("red") => self.barrier_vote(words, o),
            "membar" | "fence" | "prefetch" | "nanosleep" => Some(Code::Nothing),
            "bfi" => {
                let [a, b, from, len] =
                    [self.src(o.get(1)?)?, self.src(o.get(2)?)?, self.src(o.get(3)?)?, self.src(o.get(4)?)?];
                Some(Code::Insert { t: kind?, d: self.register(o.first()?)?, a, b, from, len })
            }
            "setp" => self.setp(words, o),
            "set" => self.set(words, o),
            "testp" => self.test(words, o),
            "isspacep" => self.is_in_space(words, o),
            "match" | "redux" => self.gathering(words, kind?, o),
            "activemask" => Some(Code::ActiveMask { d: self.register(o.first()?)? }),
            "cvt" => self.convert(words, o),
            "shfl" => self.shuffle(words, o),
            "vote" => self.vote(words, o),
            "atom" | "red" => self.atomic(words, kind?, o),
            "cp" => self.copy(words, o),
            "ldmatrix" | "stmatrix" | "mma" | "wmma" if words.len() > 3 => self.matrix(words, o),
            _ => self.arithmetic(words, kind?, o),
        }
    }

    /// `cvta.shared.u64 d, a` adds the window, `cvta.to.shared` takes it off; global addresses are generic as they are.
    fn generic(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let window = match *words.iter().find(|w| matches!(**w, "shared" | "local" | "global" | "const"))? {
            "shared" => SHARED_WINDOW,
            "local" => LOCAL_WINDOW,
            _ => 0,
        };
        let f = if words.contains(&"to") { Function::Sub } else { Function::Add };
        let (d, a) = (self.register(o.first()?)?, self.src(o.get(1)?)?);
        Some(Code::Alu { f, t: Type::U64, from: Type::U64, d, a, b: Src::Num(window), c: Src::Num(0) })
    }

    fn alu(&self, f: Function, t: Type, o: &[&Operand]) -> Option<Code> {
        let source = |i: usize| o.get(i).map_or(Some(Src::Num(0)), |o| self.src(o));
        Some(Code::Alu {
            f,
            t,
            from: t,
            d: self.register(o.first()?)?,
            a: source(1)?,
            b: source(2)?,
            c: source(3)?,
        })
    }

    fn area(&self, words: &[&str]) -> Area {
        let named = |w: &&str| {
            Some(match w.split("::").next()? {
                "shared" => Area::Shared,
                "local" => Area::Local,
                "param" => Area::Param,
                "global" | "const" => Area::Global,
                _ => return None,
            })
        };
        words[1..].iter().find_map(named).unwrap_or(Area::Generic)
    }

    fn access(&self, words: &[&str], t: Type, o: &[Operand]) -> Option<Code> {
        let area = self.area(words);
        if words[0] == "st" {
            Some(Code::Store { from: self.sources(o.get(1)?)?, t, place: self.place(area, o.first()?)? })
        } else {
            Some(Code::Load { to: self.vector(o.first()?)?, t, place: self.place(area, o.get(1)?)? })
        }
    }

    fn mov(&self, t: Type, o: &[Operand]) -> Option<Code> {
        if let Operand::Vector(parts) = o.get(1)? {
            let bits = t.bits().checked_div(parts.len() as u32)?;
            return Some(Code::Pack { d: self.register(o.first()?)?, parts: self.sources(o.get(1)?)?, bits });
        }
        if let Operand::Vector(parts) = o.first()? {
            let bits = t.bits().checked_div(parts.len() as u32)?;
            return Some(Code::Unpack { parts: self.vector(o.first()?)?, bits, a: self.src(o.get(1)?)? });
        }
        if let Operand::Register(name) = o.get(1)?
            && let Some(what) = special(name)
        {
            return Some(Code::Special { d: self.register(o.first()?)?, what });
        }
        if let Operand::Symbol(name) = o.get(1)?
            && let Some((at, _)) = self.frame.get(name)
        {
            return Some(Code::FrameAddress { d: self.register(o.first()?)?, offset: (*at).into() });
        }
        self.alu(Function::Move, t, &[o.first()?, o.get(1)?])
    }

    fn shuffle(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let how = match *words.get(2)? {
            "up" => Shuffle::Up,
            "down" => Shuffle::Down,
            "bfly" => Shuffle::Butterfly,
            "idx" => Shuffle::Index,
            _ => return None,
        };
        let (d, p) = match o.first()? {
            Operand::Pair(d, p) => (self.register(d)?, Some(self.register(p)?)),
            d => (self.register(d)?, None),
        };
        let [a, b, c, mask] =
            [self.src(o.get(1)?)?, self.src(o.get(2)?)?, self.src(o.get(3)?)?, self.src(o.get(4)?)?];
        Some(Code::Shuffle { how, d, p, a, b, c, mask })
    }

    fn vote(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let how = match *words.get(2)? {
            "all" => Vote::All,
            "any" => Vote::Any,
            "uni" => Vote::Uniform,
            "ballot" => Vote::Ballot,
            _ => return None,
        };
        let (a, negated) =
            if let Operand::Negated(a) = o.get(1)? { (&**a, true) } else { (o.get(1)?, false) };
        Some(Code::Vote {
            how,
            d: self.register(o.first()?)?,
            a: self.src(a)?,
            negated,
            mask: self.src(o.get(2)?)?,
        })
    }

    fn barrier_vote(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let how = words.iter().find_map(|word| match *word {
            "popc" => Some(Poll::Count),
            "and" => Some(Poll::All),
            "or" => Some(Poll::Any),
            _ => None,
        })?;
        let [d, Operand::Number(0), a] = o else { return None };
        let (a, negated) = if let Operand::Negated(a) = a { (&**a, true) } else { (a, false) };
        Some(Code::BarrierVote { how, d: self.register(d)?, a: self.src(a)?, negated })
    }

    fn atomic(&self, words: &[&str], t: Type, o: &[Operand]) -> Option<Code> {
        let f = words.iter().find_map(|w| {
            Some(match *w {
                "add" => Function::Add,
                "min" => Function::Min,
                "max" => Function::Max,
                "and" => Function::And,
                "or" => Function::Or,
                "xor" => Function::Xor,
                "inc" => Function::Increment,
                "dec" => Function::Decrement,
                "exch" => Function::Exchange,
                "cas" => Function::CompareSwap,
                _ => return None,
            })
        })?;
        let area = self.area(words);
        let last = *words.last()?;
        if words.iter().any(|w| matches!(*w, "v2" | "v4" | "v8" | "async")) {
            return None;
        }
        // single precision alone loses denormals, and in global memory alone (section 9.7.13.5)
        let f = match last {
            "f16x2" | "bf16x2" if f == Function::Add => {
                Function::AddPair(Type::named(&last[..last.len() - 2])?)
            }
            "f32" if f == Function::Add && area != Area::Shared => Function::AddFlushed,
            _ => f,
        };
        let (d, rest) =
            if words[0] == "atom" { (Some(self.register(o.first()?)?), &o[1..]) } else { (None, o) };
        let c = rest.get(2).map_or(Some(Src::Num(0)), |c| self.src(c))?;
        Some(Code::Atomic { f, t, d, place: self.place(area, rest.first()?)?, b: self.src(rest.get(1)?)?, c })
    }

    fn copy(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        match words {
            ["cp", "async", "commit_group"] => Some(Code::AsyncCommit),
            ["cp", "async", "wait_all"] => Some(Code::AsyncWaitAll),
            ["cp", "async", "wait_group"] => match *o.first()? {
                Operand::Number(n) => Some(Code::AsyncWait(n as u32)),
                _ => None,
            },
            ["cp", "async", "ca" | "cg", ..] => {
                let Operand::Number(bytes) = *o.get(2)? else { return None };
                let used = match o.get(3) {
                    Some(used) => Some(self.src(used)?),
                    None => None,
                };
                let (to, from) =
                    (self.place(Area::Shared, o.first()?)?, self.place(Area::Global, o.get(1)?)?);
                Some(Code::AsyncCopy { to, from, bytes: bytes as u32, used })
            }
            _ => None,
        }
    }

    fn arithmetic(&self, words: &[&str], t: Type, o: &[Operand]) -> Option<Code> {
        let float = t.float() || words.iter().any(|w| matches!(*w, "f16x2" | "bf16x2" | "f32x2"));
        match words[0] {
            "copysign" => self.alu(Function::CopySign, t, &[o.first()?, o.get(1)?, o.get(2)?]),
            "selp" | "slct" => self.integer(words, t, o),
            _ if float => self.float(words, o),
            _ => self.integer(words, t, o),
        }
    }

    /// `match.any.sync.b32 d, a, mask`, `match.all.sync.b32 d|p, a, mask`, `redux.sync.add.s32 d, a, mask`
    fn gathering(&self, words: &[&str], t: Type, o: &[Operand]) -> Option<Code> {
        let (d, p) = match o.first()? {
            Operand::Pair(d, p) => (self.register(d)?, Some(self.register(p)?)),
            d => (self.register(d)?, None),
        };
        let (a, mask) = (self.src(o.get(1)?)?, self.src(o.get(2)?)?);
        if words[0] == "match" {
            return Some(Code::Match { d, p, t, a, mask, all: words.get(1) == Some(&"all") });
        }
        let f = match *words.get(2)? {
            "add" => Function::Add,
            "min" => Function::Min,
            "max" => Function::Max,
            "and" => Function::And,
            "or" => Function::Or,
            "xor" => Function::Xor,
            _ => return None,
        };
        (!t.float()).then_some(Code::Reduce { f, t, d, a, mask })
    }
}

fn special(name: &str) -> Option<Special> {
    let (base, axis) = name.split_once('.').unwrap_or((name, ""));
    let axis = ["x", "y", "z"].iter().position(|a| *a == axis).unwrap_or(0);
    Some(match base {
        "%tid" => Special::Tid(axis),
        "%ntid" => Special::Ntid(axis),
        "%ctaid" => Special::Ctaid(axis),
        "%nctaid" => Special::Nctaid(axis),
        "%laneid" => Special::Lane,
        "%warpid" => Special::Warp,
        "%dynamic_smem_size" => Special::DynamicShared,
        "%clock" | "%clock64" | "%smid" | "%globaltimer" => Special::Zero,
        _ => return None,
    })
}
