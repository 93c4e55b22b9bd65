//! From the words of an instruction to what it does. What is not known becomes [`Code::Unknown`]: an error when it is reached.

mod matrix;

use super::{
    Area, Code, Function, Instruction, Kernel, Param, Place, Round, Shuffle, Special, Src, Type, Vote,
};
use crate::ptx::{self, Operand, PtxError, Space, Variable};
use std::collections::{BTreeMap, HashMap};

/// Names to numbers, for one kernel.
struct Names {
    registers: HashMap<String, u32>,
    labels: HashMap<String, usize>,
    /// Offsets of parameters, shared and local variables, addresses of global ones.
    params: HashMap<String, u64>,
    variables: HashMap<String, u64>,
}

/// Shared and local addresses begin at these when they are generic.
pub const SHARED_WINDOW: u64 = 0x0100_0000_0000;
pub const LOCAL_WINDOW: u64 = 0x0200_0000_0000;

pub fn kernel(
    f: &ptx::Function, module: &[Variable], globals: &BTreeMap<String, (u64, u64)>,
) -> Result<Kernel, PtxError> {
    let mut names = Names {
        registers: f.registers.iter().enumerate().map(|(i, (name, _))| (name.clone(), i as u32)).collect(),
        labels: f.labels.iter().cloned().collect(),
        params: HashMap::new(),
        variables: globals.iter().map(|(name, (addr, _))| (name.clone(), *addr)).collect(),
    };
    let mut params = Vec::new();
    let mut at = 0u32;
    for p in &f.params {
        at = at.next_multiple_of(p.align.max(1));
        names.params.insert(p.name.clone(), u64::from(at));
        params.push(Param { offset: at, size: p.bytes, align: p.align });
        at += p.bytes;
    }
    let (mut shared, mut local) = (0u32, 0u32);
    for v in f.variables.iter().chain(module) {
        let size = match v.space {
            Space::Shared => &mut shared,
            Space::Local => &mut local,
            _ => continue,
        };
        if v.bytes > 0 {
            *size = size.next_multiple_of(v.align.max(1));
            names.variables.insert(v.name.clone(), u64::from(*size));
            *size += v.bytes;
        }
    }
    shared = shared.next_multiple_of(128);
    for v in module.iter().filter(|v| v.space == Space::Shared && v.bytes == 0) {
        names.variables.insert(v.name.clone(), u64::from(shared));
    }
    let code = f.body.iter().map(|i| names.instruction(i)).collect::<Result<Vec<_>, _>>()?;
    Ok(Kernel {
        name: f.name.clone(),
        params,
        param_bytes: at,
        static_shared: shared,
        local_bytes: local,
        max_threads: f.max_threads.unwrap_or(1024),
        registers: f.registers.len() as u32,
        code,
    })
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
                self.variables.get(name).map(|at| Src::Num(*at))
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
        Some(Place { area, base: self.src(base)?, offset: *offset })
    }

    fn code(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let kind = words.iter().rev().find_map(|w| Type::named(w));
        let has = |name: &str| words[1..].contains(&name);
        match words[0] {
            "ld" | "ldu" | "st" => self.access(words, kind?, o),
            "mov" => self.mov(kind?, o),
            "cvta" => self.generic(words, o),
            "bra" => {
                let Operand::Symbol(label) = &o[0] else { return None };
                Some(Code::Branch { to: *self.labels.get(label)? })
            }
            "ret" | "exit" => Some(Code::Exit),
            "trap" => Some(Code::Trap),
            "bar" | "barrier" if has("warp") => Some(Code::WarpBarrier),
            "bar" | "barrier" if has("sync") && o.len() == 1 && o[0] == Operand::Number(0) => {
                Some(Code::Barrier)
            }
            "membar" | "fence" | "prefetch" | "nanosleep" => Some(Code::Nothing),
            "bfi" => {
                let [a, b, from, len] =
                    [self.src(&o[1])?, self.src(&o[2])?, self.src(&o[3])?, self.src(&o[4])?];
                Some(Code::Insert { t: kind?, d: self.register(&o[0])?, a, b, from, len })
            }
            "setp" => self.setp(words, kind?, o),
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
        let (d, a) = (self.register(&o[0])?, self.src(&o[1])?);
        Some(Code::Alu { f, t: Type::U64, from: Type::U64, d, a, b: Src::Num(window), c: Src::Num(0) })
    }

    fn alu(&self, f: Function, t: Type, o: &[&Operand]) -> Option<Code> {
        let source = |i: usize| o.get(i).map_or(Some(Src::Num(0)), |o| self.src(o));
        Some(Code::Alu {
            f,
            t,
            from: t,
            d: self.register(o[0])?,
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
            Some(Code::Store { from: self.sources(&o[1])?, t, place: self.place(area, &o[0])? })
        } else {
            Some(Code::Load { to: self.vector(&o[0])?, t, place: self.place(area, &o[1])? })
        }
    }

    fn mov(&self, t: Type, o: &[Operand]) -> Option<Code> {
        if let Operand::Vector(parts) = &o[1] {
            let bits = t.bits() / parts.len() as u32;
            return Some(Code::Pack { d: self.register(&o[0])?, parts: self.sources(&o[1])?, bits });
        }
        if let Operand::Vector(parts) = &o[0] {
            let bits = t.bits() / parts.len() as u32;
            return Some(Code::Unpack { parts: self.vector(&o[0])?, bits, a: self.src(&o[1])? });
        }
        if let Operand::Register(name) = &o[1]
            && let Some(what) = special(name)
        {
            return Some(Code::Special { d: self.register(&o[0])?, what });
        }
        self.alu(Function::Move, t, &[&o[0], &o[1]])
    }

    fn setp(&self, words: &[&str], t: Type, o: &[Operand]) -> Option<Code> {
        let f = Function::comparison(words[1])?;
        let (p, q) = match &o[0] {
            Operand::Pair(p, q) => (self.register(p)?, Some(self.register(q)?)),
            p => (self.register(p)?, None),
        };
        let with = match o.get(3) {
            None => None,
            Some(c) => {
                let how = match words[2] {
                    "and" => Function::And,
                    "or" => Function::Or,
                    _ => Function::Xor,
                };
                let (c, negated) = if let Operand::Negated(c) = c { (&**c, true) } else { (c, false) };
                Some((how, self.src(c)?, negated))
            }
        };
        Some(Code::Compare { f, t, p, q, a: self.src(&o[1])?, b: self.src(&o[2])?, with })
    }

    fn convert(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let types: Vec<&str> = words.iter().copied().filter(|w| Type::named(w).is_some()).collect();
        let &[to, from] = &types[..] else { return None };
        if o.len() == 3 {
            let f = match to {
                "bf16x2" => Function::PackBf16,
                "f16x2" => Function::PackF16,
                _ => return None,
            };
            return self.alu(f, Type::U32, &[&o[0], &o[1], &o[2]]);
        }
        if words[1..] == ["sat", "f32", "f32"] {
            return self.alu(Function::Saturate, Type::F32, &[&o[0], &o[1]]);
        }
        if words.iter().any(|w| matches!(*w, "relu" | "satfinite" | "sat")) {
            return None;
        }
        let round = words.iter().find_map(|w| match *w {
            "rz" | "rzi" => Some(Round::Zero),
            "rm" | "rmi" => Some(Round::Down),
            "rp" | "rpi" => Some(Round::Up),
            "rn" | "rni" => Some(Round::Nearest),
            _ => None,
        });
        let (t, from) = (Type::named(to)?, Type::named(from)?);
        let narrow = |r| !matches!(r, Some(Round::Nearest) | None);
        if t.float() && (narrow(round) && t != from || to == "tf32") {
            return None;
        }
        let f = match round {
            // rounding to an integral value in the same float type
            Some(r) if t == from && words.iter().any(|w| w.ends_with('i') && w.len() == 3) => {
                Function::Convert(r)
            }
            _ if t == from => Function::Move,
            r => Function::Convert(r.unwrap_or(Round::Nearest)),
        };
        let (d, a) = (self.register(&o[0])?, self.src(&o[1])?);
        Some(Code::Alu { f, t, from, d, a, b: Src::Num(0), c: Src::Num(0) })
    }

    fn shuffle(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let how = match words[2] {
            "up" => Shuffle::Up,
            "down" => Shuffle::Down,
            "bfly" => Shuffle::Butterfly,
            "idx" => Shuffle::Index,
            _ => return None,
        };
        let (d, p) = match &o[0] {
            Operand::Pair(d, p) => (self.register(d)?, Some(self.register(p)?)),
            d => (self.register(d)?, None),
        };
        let [a, b, c, mask] = [self.src(&o[1])?, self.src(&o[2])?, self.src(&o[3])?, self.src(&o[4])?];
        Some(Code::Shuffle { how, d, p, a, b, c, mask })
    }

    fn vote(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let how = match words[2] {
            "all" => Vote::All,
            "any" => Vote::Any,
            "uni" => Vote::Uniform,
            "ballot" => Vote::Ballot,
            _ => return None,
        };
        let (a, negated) = if let Operand::Negated(a) = &o[1] { (&**a, true) } else { (&o[1], false) };
        Some(Code::Vote { how, d: self.register(&o[0])?, a: self.src(a)?, negated, mask: self.src(&o[2])? })
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
                "exch" => Function::Exchange,
                "cas" => Function::CompareSwap,
                _ => return None,
            })
        })?;
        let area = if words.contains(&"global") {
            Area::Global
        } else if words.iter().any(|w| w.starts_with("shared")) {
            Area::Shared
        } else {
            Area::Generic
        };
        let (d, rest) = if words[0] == "atom" { (Some(self.register(&o[0])?), &o[1..]) } else { (None, o) };
        let c = rest.get(2).map_or(Some(Src::Num(0)), |c| self.src(c))?;
        Some(Code::Atomic { f, t, d, place: self.place(area, &rest[0])?, b: self.src(&rest[1])?, c })
    }

    fn copy(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        match words {
            ["cp", "async", "commit_group"] => Some(Code::AsyncCommit),
            ["cp", "async", "wait_all"] => Some(Code::AsyncWait(0)),
            ["cp", "async", "wait_group"] => match o[0] {
                Operand::Number(n) => Some(Code::AsyncWait(n as u32)),
                _ => None,
            },
            ["cp", "async", "ca" | "cg", ..] => {
                let Operand::Number(bytes) = o[2] else { return None };
                let used = match o.get(3) {
                    Some(used) => Some(self.src(used)?),
                    None => None,
                };
                let (to, from) = (self.place(Area::Shared, &o[0])?, self.place(Area::Global, &o[1])?);
                Some(Code::AsyncCopy { to, from, bytes: bytes as u32, used })
            }
            _ => None,
        }
    }

    fn arithmetic(&self, words: &[&str], t: Type, o: &[Operand]) -> Option<Code> {
        let has = |name: &str| words[1..].contains(&name);
        if words[0] == "fma" && words[1] == "rm" && t == Type::F32 && words.len() == 3 {
            return self.alu(Function::FmaDown, t, &[&o[0], &o[1], &o[2], &o[3]]);
        }
        if has("sat")
            || has("cc")
            || has("rm")
            || has("rp")
            || has("x2")
            || words.iter().any(|w| w.ends_with("16x2"))
        {
            return None;
        }
        let f = match words[0] {
            "add" => Function::Add,
            "sub" => Function::Sub,
            "mul" if has("wide") => Function::MulWide,
            "mul" if has("hi") => Function::MulHigh,
            "mul" => Function::Mul,
            "mad" if has("wide") => Function::MadWide,
            "mad" if has("hi") => Function::MadHigh,
            "mad" if t.float() => Function::Fma,
            "mad" => Function::Mad,
            "fma" => Function::Fma,
            "div" => Function::Div,
            "rem" => Function::Rem,
            "min" if has("NaN") => Function::MinNan,
            "max" if has("NaN") => Function::MaxNan,
            "min" => Function::Min,
            "max" => Function::Max,
            "abs" => Function::Abs,
            "neg" => Function::Neg,
            "and" => Function::And,
            "or" => Function::Or,
            "xor" => Function::Xor,
            "not" => Function::Not,
            "shl" => Function::ShiftLeft,
            "shr" => Function::ShiftRight,
            "shf" if words[1] == "l" => Function::FunnelLeft { wrap: has("wrap") },
            "shf" => Function::FunnelRight { wrap: has("wrap") },
            "bfe" => Function::ExtractBits,
            "prmt" if words.len() == 2 => Function::Permute,
            "popc" => Function::CountBits,
            "clz" => Function::LeadingZeros,
            "brev" => Function::ReverseBits,
            "selp" => Function::Select,
            "sqrt" => Function::Sqrt,
            "rsqrt" => Function::Rsqrt,
            "rcp" => Function::Reciprocal,
            "ex2" => Function::Exp2,
            "lg2" => Function::Log2,
            "sin" => Function::Sin,
            "cos" => Function::Cos,
            "tanh" => Function::Tanh,
            "copysign" => Function::CopySign,
            "lop3" => match o.last()? {
                Operand::Number(table) => Function::Lop3(*table as u8),
                _ => return None,
            },
            _ => return None,
        };
        let refs: Vec<&Operand> = o.iter().take(4).collect();
        self.alu(f, t, &refs)
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
