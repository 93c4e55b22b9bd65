//! The names that instructions are made of (PTX ISA 9.0, section 9.7).

/// The type of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Pred,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    Bf16,
    F32,
    F64,
    /// 16 bytes.
    B128,
}

impl Type {
    /// Of a suffix without its dot; bits count as unsigned.
    pub fn named(name: &str) -> Option<Type> {
        Some(match name {
            "pred" => Type::Pred,
            "u8" | "b8" => Type::U8,
            "u16" | "b16" => Type::U16,
            "u32" | "b32" | "f16x2" | "bf16x2" | "u16x2" | "s16x2" => Type::U32,
            "u64" | "b64" | "f32x2" => Type::U64,
            "s8" => Type::S8,
            "s16" => Type::S16,
            "s32" => Type::S32,
            "s64" => Type::S64,
            "f16" => Type::F16,
            "bf16" => Type::Bf16,
            "f32" | "tf32" => Type::F32,
            "f64" => Type::F64,
            "b128" => Type::B128,
            _ => return None,
        })
    }

    pub fn bytes(self) -> u32 {
        match self {
            Type::Pred | Type::U8 | Type::S8 => 1,
            Type::U16 | Type::S16 | Type::F16 | Type::Bf16 => 2,
            Type::U32 | Type::S32 | Type::F32 => 4,
            Type::U64 | Type::S64 | Type::F64 => 8,
            Type::B128 => 16,
        }
    }

    pub fn bits(self) -> u32 {
        8 * self.bytes()
    }

    pub fn signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    pub fn float(self) -> bool {
        matches!(self, Type::F16 | Type::Bf16 | Type::F32 | Type::F64)
    }
}

/// What an operation computes from a, b and c. Names that end in Ftz take denormals for zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    Move,
    Add,
    Sub,
    Mul,
    MulHigh,
    /// a·b of twice the width.
    MulWide,
    /// a·b + c, of the low half.
    Mad,
    MadHigh,
    MadWide,
    Fma,
    /// Rounded down.
    FmaDown,
    /// Into [0, 1], NaN to 0.
    Saturate,
    Div,
    Rem,
    Min,
    Max,
    /// Min and max that give NaN when either is.
    MinNan,
    MaxNan,
    Abs,
    Neg,
    And,
    Or,
    Xor,
    Not,
    ShiftLeft,
    ShiftRight,
    /// Three-input logic by the table in the last operand's place.
    Lop3(u8),
    FunnelLeft {
        wrap: bool,
    },
    FunnelRight {
        wrap: bool,
    },
    ExtractBits,
    Permute,
    CountBits,
    LeadingZeros,
    ReverseBits,
    Select,
    Sqrt,
    Rsqrt,
    Reciprocal,
    Exp2,
    Log2,
    Sin,
    Cos,
    Tanh,
    CopySign,
    /// Conversion, rounding floats to nearest, or integers as said.
    Convert(Round),
    /// Two f32 into a pair of bf16 (or f16), a the upper half.
    PackBf16,
    PackF16,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    /// True also where either is NaN.
    EqualOrNan,
    NotEqualOrNan,
    LessOrNan,
    LessEqualOrNan,
    GreaterOrNan,
    GreaterEqualOrNan,
    IsNumber,
    IsNan,
    Exchange,
    CompareSwap,
    /// One more, or 0 from b on.
    Increment,
    /// One less, or b from 0 and from beyond b.
    Decrement,
    /// Atomic sums of halves of a word.
    AddPair(Type),
    /// `add.f32` as atomics on global memory have it: denormals are zero.
    AddFlushed,
    Integer(Integer),
    Test(Test),
}

/// The rarer integer instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integer {
    /// c + |a - b|
    Sad,
    Low24,
    High24,
    AddSat,
    SubSat,
    MadHighSat,
    MinRelu,
    MaxRelu,
    /// `bfind`, as a position or as the shift that brings it to the top.
    FindHighest {
        shift: bool,
    },
    FindNth,
    Dot4 {
        signed: [bool; 2],
    },
    Dot2 {
        signed: [bool; 2],
        high: bool,
    },
    /// `szext`
    Extend {
        wrap: bool,
    },
    /// `bmsk`
    Mask {
        wrap: bool,
    },
    IsZero,
    PermuteMode(PermuteMode),
    SelectBySign {
        float: bool,
    },
    /// On halves of a word.
    Pair {
        f: PairFunction,
        signed: bool,
        relu: bool,
    },
    /// `isspacep`
    InWindow {
        start: u64,
        end: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairFunction {
    Add,
    Min,
    Max,
}

/// What `prmt` takes for c in its modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermuteMode {
    Forward4,
    Backward4,
    Replicate8,
    ClampLeft,
    ClampRight,
    Replicate16,
}

impl PermuteMode {
    pub fn named(name: &str) -> Option<PermuteMode> {
        Some(match name {
            "f4e" => PermuteMode::Forward4,
            "b4e" => PermuteMode::Backward4,
            "rc8" => PermuteMode::Replicate8,
            "ecl" => PermuteMode::ClampLeft,
            "ecr" => PermuteMode::ClampRight,
            "rc16" => PermuteMode::Replicate16,
            _ => return None,
        })
    }

    /// The bytes as the default mode names them (section 9.7.9.7).
    pub fn selector(self, c: u32) -> u32 {
        let i = c as usize & 3;
        match self {
            PermuteMode::Forward4 => [0x3210, 0x4321, 0x5432, 0x6543][i],
            PermuteMode::Backward4 => [0x5670, 0x6701, 0x7012, 0x0123][i],
            PermuteMode::Replicate8 => [0x0000, 0x1111, 0x2222, 0x3333][i],
            PermuteMode::ClampLeft => [0x3210, 0x3211, 0x3222, 0x3333][i],
            PermuteMode::ClampRight => [0x0000, 0x1110, 0x2210, 0x3210][i],
            PermuteMode::Replicate16 => [0x1010, 0x3232, 0x1010, 0x3232][i],
        }
    }
}

/// `testp`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

/// With a carry in or out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carry {
    Add,
    Sub,
    MadLow,
    MadHigh,
}

/// A float instruction with its modifiers.
#[derive(Clone, Copy, Debug)]
pub struct Float {
    pub f: Function,
    pub t: Type,
    pub round: Round,
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
    pub xor_sign: bool,
    pub approx: bool,
    /// On both halves of a word.
    pub pair: bool,
}

/// A conversion with its modifiers.
#[derive(Clone, Copy, Debug)]
pub struct Conversion {
    pub to: Type,
    pub from: Type,
    pub round: Round,
    /// To an integral float.
    pub integral: bool,
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
    /// Numbers beyond the range become the largest.
    pub finite: bool,
    pub tf32: bool,
    /// Of two sources.
    pub pair: bool,
}

/// How a float becomes an integer, or a wide float a narrow one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    Nearest,
    Zero,
    Down,
    Up,
    /// To nearest, halfway away from zero.
    Away,
}

impl Function {
    /// Of a comparison's suffix.
    pub fn comparison(name: &str) -> Option<Function> {
        Some(match name {
            "eq" => Function::Equal,
            "ne" => Function::NotEqual,
            "lt" | "lo" => Function::Less,
            "le" | "ls" => Function::LessEqual,
            "gt" | "hi" => Function::Greater,
            "ge" | "hs" => Function::GreaterEqual,
            "equ" => Function::EqualOrNan,
            "neu" => Function::NotEqualOrNan,
            "ltu" => Function::LessOrNan,
            "leu" => Function::LessEqualOrNan,
            "gtu" => Function::GreaterOrNan,
            "geu" => Function::GreaterEqualOrNan,
            "num" => Function::IsNumber,
            "nan" => Function::IsNan,
            _ => return None,
        })
    }
}
