//! Integer arithmetic (PTX ISA 9.0, sections 9.7.1, 9.7.2, 9.7.8 and 9.7.9).

use super::{LOCAL_WINDOW, Names, SHARED_WINDOW};
use crate::memory::BASE;
use crate::program::names::PermuteMode;
use crate::program::{Carry, Code, Function, Integer, PairFunction, Src, Type};
use crate::ptx::Operand;

impl Names {
    pub(super) fn integer(&self, words: &[&str], t: Type, o: &[Operand]) -> Option<Code> {
        let has = |name: &str| words[1..].contains(&name);
        if has("cc") || matches!(words[0], "addc" | "subc" | "madc") {
            return self.carry(words, t, o);
        }
        let refs: Vec<&Operand> = o.iter().take(4).collect();
        if let Some((f, t)) = rare(words, t) {
            return self.alu(Function::Integer(f), t, &refs);
        }
        if has("sat") || has("relu") {
            return None;
        }
        self.alu(common(words, o)?, t, &refs)
    }

    fn carry(&self, words: &[&str], t: Type, o: &[Operand]) -> Option<Code> {
        let f = match words[0] {
            "add" | "addc" => Carry::Add,
            "sub" | "subc" => Carry::Sub,
            "mad" | "madc" if words.get(1) == Some(&"lo") => Carry::MadLow,
            "mad" | "madc" if words.get(1) == Some(&"hi") => Carry::MadHigh,
            _ => return None,
        };
        let source = |i: usize| o.get(i).map_or(Some(Src::Num(0)), |o| self.src(o));
        let x = [source(1)?, source(2)?, source(3)?];
        let (reads, sets) = (words[0].ends_with('c'), words.contains(&"cc"));
        Some(Code::Carry { f, t, d: self.register(o.first()?)?, x, reads, sets })
    }

    pub(super) fn is_in_space(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let (start, end) = match words.get(1)?.split("::").next()? {
            "shared" => (SHARED_WINDOW, LOCAL_WINDOW),
            "local" => (LOCAL_WINDOW, BASE),
            "global" => (BASE, u64::MAX),
            _ => return None,
        };
        self.alu(Function::Integer(Integer::InWindow { start, end }), Type::U64, &[o.first()?, o.get(1)?])
    }
}

fn rare(words: &[&str], t: Type) -> Option<(Integer, Type)> {
    let has = |name: &str| words[1..].contains(&name);
    let wrap = has("wrap");
    let signed = |i: usize| words.get(i).is_some_and(|w| w.starts_with('s'));
    let last = *words.last()?;
    let f = match words[0] {
        "add" | "min" | "max" if matches!(last, "u16x2" | "s16x2") => {
            let f = match words[0] {
                "add" => PairFunction::Add,
                "min" => PairFunction::Min,
                _ => PairFunction::Max,
            };
            Integer::Pair { f, signed: last == "s16x2", relu: has("relu") }
        }
        "sad" => Integer::Sad,
        "mul24" | "mad24" if words.get(1) == Some(&"lo") => Integer::Low24,
        "mul24" | "mad24" if words.get(1) == Some(&"hi") && !has("sat") => Integer::High24,
        "add" if has("sat") && t == Type::S32 => Integer::AddSat,
        "sub" if has("sat") && t == Type::S32 => Integer::SubSat,
        "mad" if has("sat") && has("hi") && t == Type::S32 => Integer::MadHighSat,
        "min" if has("relu") && t == Type::S32 => Integer::MinRelu,
        "max" if has("relu") && t == Type::S32 => Integer::MaxRelu,
        "bfind" => Integer::FindHighest { shift: has("shiftamt") },
        "fns" => Integer::FindNth,
        "dp4a" => Integer::Dot4 { signed: [signed(1), signed(2)] },
        "dp2a" => Integer::Dot2 { signed: [signed(2), signed(3)], high: words.get(1) == Some(&"hi") },
        "szext" => Integer::Extend { wrap },
        "bmsk" => Integer::Mask { wrap },
        "cnot" => Integer::IsZero,
        "prmt" if words.len() == 3 => Integer::PermuteMode(PermuteMode::named(words.get(2)?)?),
        // the type before the last is that of the result
        "slct" => {
            let t = Type::named(words[words.len() - 2])?;
            return Some((Integer::SelectBySign { float: last == "f32" }, t));
        }
        _ => return None,
    };
    // positions and counts are of 32 bits; they fit the type
    Some((f, t))
}

fn common(words: &[&str], o: &[Operand]) -> Option<Function> {
    let has = |name: &str| words[1..].contains(&name);
    Some(match words[0] {
        "add" => Function::Add,
        "sub" => Function::Sub,
        "mul" if has("wide") => Function::MulWide,
        "mul" if has("hi") => Function::MulHigh,
        "mul" => Function::Mul,
        "mad" if has("wide") => Function::MadWide,
        "mad" if has("hi") => Function::MadHigh,
        "mad" => Function::Mad,
        "div" => Function::Div,
        "rem" => Function::Rem,
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
        "shf" if words.get(1) == Some(&"l") => Function::FunnelLeft { wrap: has("wrap") },
        "shf" => Function::FunnelRight { wrap: has("wrap") },
        "bfe" => Function::ExtractBits,
        "prmt" if words.len() == 2 => Function::Permute,
        "popc" => Function::CountBits,
        "clz" => Function::LeadingZeros,
        "brev" => Function::ReverseBits,
        "selp" => Function::Select,
        "lop3" => match o.last()? {
            Operand::Number(table) if words.len() == 2 => Function::Lop3(*table as u8),
            _ => return None,
        },
        _ => return None,
    })
}
