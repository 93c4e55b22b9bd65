//! Branches and calls (PTX ISA 9.0, section 9.7.12).

use super::Names;
use crate::program::{Code, FUNCTION_WINDOW, Src};
use crate::ptx::Operand;

impl Names {
    pub(super) fn branch(&self, words: &[&str], o: &[Operand]) -> Option<Code> {
        let label = |o: &Operand| match o {
            Operand::Symbol(label) => self.labels.get(label).copied(),
            _ => None,
        };
        if words[0] == "bra" {
            return Some(Code::Branch { to: label(o.first()?)? });
        }
        let Operand::Symbol(table) = o.get(1)? else { return None };
        let targets =
            self.tables.get(table)?.iter().map(|l| self.labels.get(l).copied()).collect::<Option<_>>()?;
        Some(Code::BranchTable { index: self.src(o.first()?)?, targets })
    }

    /// `call (results), function, (arguments), prototype;` all but the function may be missing.
    pub(super) fn call(&self, o: &[Operand]) -> Option<Code> {
        let (results, rest) = match o {
            [Operand::List(results), rest @ ..] => (&results[..], rest),
            _ => (&[][..], o),
        };
        let args = match rest.get(1) {
            Some(Operand::List(args)) => &args[..],
            _ => &[],
        };
        let target = match rest.first()? {
            Operand::Symbol(name) if name == "__assertfail" => return Some(Code::Trap),
            Operand::Symbol(name) if self.functions.contains_key(name) => {
                Src::Num(self.function_address(name)?)
            }
            target @ Operand::Register(_) => self.src(target)?,
            _ => return None,
        };
        let places = |list: &[Operand]| -> Option<Vec<(u32, u32)>> {
            list.iter()
                .map(|o| match o {
                    Operand::Symbol(name) | Operand::Register(name) => self.frame.get(name).copied(),
                    _ => None,
                })
                .collect()
        };
        Some(Code::Call { target, args: places(args)?, results: places(results)? })
    }

    pub(super) fn function_address(&self, name: &str) -> Option<u64> {
        self.functions.get(name).map(|i| FUNCTION_WINDOW + 16 * *i as u64)
    }
}
