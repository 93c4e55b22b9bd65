//! Braces in a body: what is declared in them is not known outside, and may have the name of something else (PTX ISA 9.0, section 5.4).

use super::{Function, Operand};

/// How much of a function there was when a brace opened.
#[derive(Default)]
pub struct Scope {
    registers: usize,
    variables: usize,
    labels: usize,
    tables: usize,
    body: usize,
}

impl Scope {
    pub fn of(f: &Function) -> Scope {
        Scope {
            registers: f.registers.len(),
            variables: f.variables.len(),
            labels: f.labels.len(),
            tables: f.tables.len(),
            body: f.body.len(),
        }
    }

    /// Gives what was declared since then names that nothing else has.
    pub fn close(&self, f: &mut Function) {
        let mark = format!("@{}", f.body.len());
        let mut names = Vec::new();
        let mut rename = |name: &mut String| {
            names.push(name.clone());
            name.push_str(&mark);
        };
        f.registers[self.registers..].iter_mut().for_each(|r| rename(&mut r.0));
        f.variables[self.variables..].iter_mut().for_each(|v| rename(&mut v.name));
        f.labels[self.labels..].iter_mut().for_each(|l| rename(&mut l.0));
        f.tables[self.tables..].iter_mut().for_each(|t| rename(&mut t.0));
        if names.is_empty() {
            return;
        }
        let within = |name: &mut String| {
            if names.contains(name) {
                name.push_str(&mark);
            }
        };
        for (_, labels) in &mut f.tables[self.tables..] {
            labels.iter_mut().for_each(within);
        }
        for i in &mut f.body[self.body..] {
            if let Some((name, _)) = &mut i.guard {
                within(name);
            }
            i.operands.iter_mut().for_each(|o| each_name(o, &within));
        }
    }
}

fn each_name(o: &mut Operand, f: &impl Fn(&mut String)) {
    match o {
        Operand::Register(name) | Operand::Symbol(name) => f(name),
        Operand::Address(base, _) => each_name(base, f),
        Operand::Negated(inner) => each_name(inner, f),
        Operand::Vector(list) | Operand::List(list) => list.iter_mut().for_each(|o| each_name(o, f)),
        Operand::Pair(a, b) => {
            each_name(a, f);
            each_name(b, f);
        }
        Operand::Number(_) | Operand::Nothing => {}
    }
}
