//! Float arithmetic, comparisons and conversions (PTX ISA 9.0, sections 9.7.3 to 9.7.6 and 9.7.9.21).

use super::Names;
use crate::program::{Code, Conversion, Float, Function, Into, Round, Src, Test, Type};
use crate::ptx::Operand;

const MODIFIERS: [&str; 14] =
    ["rn", "rz", "rm", "rp", "ftz", "sat", "relu", "approx", "full", "NaN", "xorsign", "abs", "noftz", "rna"];

/// The mode that a word stands for; those of one letter more round to integral values.
fn mode(word: &str) -> Option<Round> {
    Some(match word {
        "rn" | "rni" => Round::Nearest,
        "rz" | "rzi" => Round::Zero,
        "rm" | "rmi" => Round::Down,
        "rp" | "rpi" => Round::Up,
        "rna" => Round::Away,
        _ => return None,
    })
}

fn function(words: &[&str]) -> Option<Function> {
    let nan = words.contains(&"NaN");
    Some(match words[0] {
        "add" => Function::Add,
        "sub" => Function::Sub,
        "mul" => Function::Mul,
        "mad" | "fma" => Function::Fma,
        "div" => Function::Div,
        "min" if nan => Function::MinNan,
        "max" if nan => Function::MaxNan,
        "min" => Function::Min,
        "max" => Function::Max,
        "abs" => Function::Abs,
        "neg" => Function::Neg,
        "sqrt" => Function::Sqrt,
        "rsqrt" => Function::Rsqrt,
        "rcp" => Function::Reciprocal,
        "ex2" => Function::Exp2,
        "lg2" => Function::Log2,
        "sin" => Function::Sin,
        "cos" => Function::Cos,
        "tanh" => Function::Tanh,
        _ => return None,
    })
}

impl Names {
    pub(super) fn float(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let (last, middle) = words.split_last()?;
        let pair = last.ends_with("x2");
        let t = Type::named(last.trim_end_matches("x2")).filter(|t| t.float())?;
        let middle = middle.get(1..)?;
        if !middle.iter().all(|w| MODIFIERS.contains(w)) || o.len() > 4 {
            return None;
        }
        let has = |name: &str| middle.contains(&name);
        if has("relu") && words[0] != "fma" {
            return None;
        }
        let round = words.iter().find_map(|w| mode(w)).unwrap_or(Round::Nearest);
        let op = Float {
            f: function(words)?,
            t,
            round,
            ftz: has("ftz"),
            sat: has("sat"),
            relu: has("relu"),
            xor_sign: has("xorsign"),
            approx: has("approx"),
            pair,
        };
        let refs: Vec<&Operand> = o.iter().collect();
        // fma.rm.f32 is what exact splitting of sums is made of, and has a short way
        let down = op.f == Function::Fma && t == Type::F32 && words == ["fma", "rm", "f32"];
        if down {
            return self.alu(Function::FmaDown, t, &refs);
        }
        let plain = !(op.ftz || op.sat || op.relu || op.xor_sign || pair) && round == Round::Nearest;
        let short = t != Type::F16 && t != Type::Bf16 || op.f != Function::Fma;
        if plain && short && !(op.approx && op.f == Function::Div) {
            return self.alu(op.f, t, &refs);
        }
        let source = |i: usize| o.get(i).map_or(Some(Src::Num(0)), |o| self.src(o));
        Some(Code::Float { op, d: self.register(o.first()?)?, a: source(1)?, b: source(2)?, c: source(3)? })
    }

    pub(super) fn test(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let what = match *words.get(1)? {
            "finite" => Test::Finite,
            "infinite" => Test::Infinite,
            "number" => Test::Number,
            "notanumber" => Test::NotANumber,
            "normal" => Test::Normal,
            "subnormal" => Test::Subnormal,
            _ => return None,
        };
        self.alu(Function::Test(what), Type::named(words.get(2)?)?, &[o.first()?, o.get(1)?])
    }

    /// What a comparison is combined with: function, predicate, whether that is negated.
    fn combined(&self, words: &[&str], c: Option<&Operand>) -> Option<Option<(Function, Src, bool)>> {
        let Some(c) = c else { return Some(None) };
        let how = match *words.get(2)? {
            "and" => Function::And,
            "or" => Function::Or,
            "xor" => Function::Xor,
            _ => return None,
        };
        let (c, negated) = if let Operand::Negated(c) = c { (&**c, true) } else { (c, false) };
        Some(Some((how, self.src(c)?, negated)))
    }

    pub(super) fn setp(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let f = Function::comparison(words.get(1)?)?;
        let last = words.last()?;
        let (pair, ftz) = (last.ends_with("x2"), words.contains(&"ftz"));
        let (p, q) = match o.first()? {
            Operand::Pair(p, q) => (self.register(p)?, self.register(q)),
            p => (self.register(p)?, None),
        };
        let (a, b, with) = (self.src(o.get(1)?)?, self.src(o.get(2)?)?, self.combined(words, o.get(3))?);
        if pair {
            let t = Type::named(last.trim_end_matches("x2"))?;
            return Some(Code::CompareInto { f, t, pair, ftz, into: Into::Predicates(p, q), a, b, with });
        }
        Some(Code::Compare { f, t: Type::named(last)?, p, q, ftz, a, b, with })
    }

    pub(super) fn set(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let f = Function::comparison(words.get(1)?)?;
        let &[.., to, from] = words else { return None };
        let pair = from.ends_with("x2");
        let (t, ftz, d) =
            (Type::named(from.trim_end_matches("x2"))?, words.contains(&"ftz"), self.register(o.first()?)?);
        let into = match Type::named(to.trim_end_matches("x2"))? {
            one if one.float() => Into::One(d, one),
            _ => Into::Mask(d),
        };
        let (a, b, with) = (self.src(o.get(1)?)?, self.src(o.get(2)?)?, self.combined(words, o.get(3))?);
        Some(Code::CompareInto { f, t, pair, ftz, into, a, b, with })
    }

    pub(super) fn convert(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let mut types = words.iter().copied().filter(|w| Type::named(w).is_some());
        let (to, from) = (types.next()?, types.next()?);
        let known = |w: &&str| {
            MODIFIERS.contains(w) || mode(w).is_some() || *w == "satfinite" || Type::named(w).is_some()
        };
        if !words[1..].iter().all(known) || types.next().is_some() {
            return None;
        }
        let has = |name: &str| words[1..].contains(&name);
        let pair = to.ends_with("x2");
        if pair != (o.len() == 3) {
            return None;
        }
        let round = words.iter().find_map(|w| mode(w));
        let how = Conversion {
            to: Type::named(to.trim_end_matches("x2"))?,
            from: Type::named(from)?,
            round: round.unwrap_or(Round::Nearest),
            integral: words.iter().any(|w| w.len() == 3 && w.ends_with('i') && mode(w).is_some())
                && Type::named(to)?.float(),
            ftz: has("ftz"),
            sat: has("sat"),
            relu: has("relu"),
            finite: has("satfinite"),
            tf32: to == "tf32",
            pair,
        };
        let plain = !(how.ftz || how.sat || how.relu || how.finite || how.tf32);
        if plain && pair && how.round == Round::Nearest && how.from == Type::F32 {
            let f = if how.to == Type::Bf16 { Function::PackBf16 } else { Function::PackF16 };
            return self.alu(f, Type::U32, &[o.first()?, o.get(1)?, o.get(2)?]);
        }
        let (d, a) = (self.register(o.first()?)?, self.src(o.get(1)?)?);
        let nearest = how.round == Round::Nearest || !how.to.float();
        if plain && !pair && (nearest || how.to == how.from) {
            let f = if how.to == how.from && (round.is_none() || !how.integral) {
                Function::Move
            } else {
                Function::Convert(how.round)
            };
            return Some(Code::Alu { f, t: how.to, from: how.from, d, a, b: Src::Num(0), c: Src::Num(0) });
        }
        let b = if pair { self.src(o.get(2)?)? } else { Src::Num(0) };
        Some(Code::Convert { how, d, a, b })
    }
}
