//! PTX text into functions, variables and instructions (PTX ISA 9.0, section 4 and 5).

mod lexer;
mod parser;
mod scope;

pub use parser::parse;

/// What is wrong with a module, and on which line of it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("PTX line {line}: {message}")]
pub struct PtxError {
    pub line: u32,
    pub message: String,
}

/// Where a variable lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// A variable, or a parameter of a kernel.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub space: Space,
    pub bytes: u32,
    pub align: u32,
    /// Initial content; empty for none.
    pub content: Vec<u8>,
    /// Addresses in the initial content: offset, name, what is added.
    pub links: Vec<(u32, String, i64)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    Register(String),
    /// Bits as written: an integer, or a float of 32 or 64 bits.
    Number(u64),
    /// A label, variable or function.
    Symbol(String),
    Address(Box<Operand>, i64),
    Vector(Vec<Operand>),
    /// `(a, b)` of a call.
    List(Vec<Operand>),
    /// `%p|%q`
    Pair(Box<Operand>, Box<Operand>),
    Negated(Box<Operand>),
    /// `_`
    Nothing,
}

#[derive(Clone, Debug)]
pub struct Instruction {
    pub line: u32,
    /// Line of the source file by `.loc`, 0 where there is none.
    pub source: u32,
    /// Predicate register and whether it is negated.
    pub guard: Option<(String, bool)>,
    /// As `ld.global.v4.u32`.
    pub op: String,
    pub operands: Vec<Operand>,
}

#[derive(Clone, Debug, Default)]
pub struct Function {
    pub name: String,
    pub entry: bool,
    /// Has a body.
    pub defined: bool,
    pub returns: Vec<Variable>,
    pub params: Vec<Variable>,
    /// Name and type, as `%r` count 5 spelled out: `%r0`..`%r4`.
    pub registers: Vec<(String, String)>,
    pub variables: Vec<Variable>,
    pub body: Vec<Instruction>,
    /// Label and index into `body`.
    pub labels: Vec<(String, usize)>,
    /// Labels that `brx.idx` picks from, by the table's name.
    pub tables: Vec<(String, Vec<String>)>,
    pub max_threads: Option<u32>,
}

#[derive(Clone, Debug, Default)]
pub struct Text {
    pub variables: Vec<Variable>,
    pub functions: Vec<Function>,
}
