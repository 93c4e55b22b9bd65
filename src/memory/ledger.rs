//! Allocation that keeps account of itself.

use crate::backend::{Backend, Element};
use crate::error::Result;

/// What a buffer is for, and so when it lives and what shrinks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Weights,
    MasterWeights,
    Moments,
    Gradients,
    /// Kept from the forward pass for the backward pass.
    Activations,
    /// Shared by all layers.
    Work,
    KvCache,
    /// The residual stream of a whole text that is read layer by layer.
    Stream,
    /// The kernels' own working memory.
    Scratch,
    Batch,
    /// The program itself: code, threads, tokenizer, corpus.
    Program,
}

impl Kind {
    pub const ALL: [Kind; 11] = [
        Kind::Weights,
        Kind::MasterWeights,
        Kind::Moments,
        Kind::Gradients,
        Kind::Activations,
        Kind::Work,
        Kind::KvCache,
        Kind::Stream,
        Kind::Scratch,
        Kind::Batch,
        Kind::Program,
    ];

    /// The flag that makes buffers of this kind smaller, of those that the rows of a plan show are not in force already.
    pub fn remedy(self, rows: &[Row]) -> Option<&'static str> {
        let of_kind = || rows.iter().filter(|row| row.kind == self);
        let any = |dtype: &str| of_kind().any(|row| row.dtype == dtype);
        let has = |kind: Kind| rows.iter().any(|row| row.kind == kind);
        // what has gradients and no moments is `logits --grad-norms`
        let (trains, undoes) = (has(Kind::Moments), has(Kind::Gradients));
        Some(match self {
            Kind::Weights => {
                let largest = of_kind().max_by_key(|row| row.bytes)?;
                return (largest.dtype == "f32").then_some("--dtype bf16 halves the weights");
            }
            Kind::Gradients | Kind::Activations | Kind::Work | Kind::Batch if undoes && !trains => {
                "fewer --ids keep less for the backward pass"
            }
            Kind::Work | Kind::Batch if !trains => return None,
            Kind::Moments if any("i8") => return None,
            Kind::MasterWeights | Kind::Gradients if rows.iter().any(|row| row.name.contains(".lora_A.")) => {
                "a lower --lora-rank has fewer of these"
            }
            Kind::Moments => "--optimizer adamw8bit keeps moments in a quarter of the memory of f32",
            Kind::MasterWeights | Kind::Gradients => {
                "--lora-rank trains adapters alone, and what is frozen has none of these"
            }
            Kind::Activations if of_kind().filter(|row| row.name.ends_with(".q")).count() > 1 => {
                "--recompute keeps one layer's activations, a smaller --batch keeps fewer rows"
            }
            Kind::Activations => "a smaller --batch or --train-len keeps fewer tokens",
            Kind::Work | Kind::Batch => {
                "a smaller --batch (with more --grad-accum) or --train-len shrinks what a step holds"
            }
            Kind::KvCache | Kind::Stream if trains => {
                "a lower --target-len, or no --eval-data, which is read at that length, leaves less of the cache"
            }
            Kind::KvCache if any("i8") => {
                "a shorter text (--windows, --lengths, the prompt) has a smaller cache"
            }
            Kind::KvCache => {
                "--kv-cache int8 keeps keys and values in about half of what bf16 takes, a shorter text (--windows, --lengths, the \
                 prompt) fewer of them"
            }
            Kind::Stream => "shorter --windows keep less of a text",
            Kind::Scratch => "fewer --threads need less working memory",
            Kind::Program => "fewer or smaller --data files keep less text in memory",
        })
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Kind::Weights => "weights",
            Kind::MasterWeights => "master weights",
            Kind::Moments => "moments",
            Kind::Gradients => "gradients",
            Kind::Activations => "activations",
            Kind::Work => "work",
            Kind::KvCache => "KV cache",
            Kind::Stream => "residual stream",
            Kind::Scratch => "scratch",
            Kind::Batch => "batch",
            Kind::Program => "program",
        })
    }
}

/// One buffer of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub kind: Kind,
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: &'static str,
    pub bytes: usize,
}

/// Hands out buffers and writes down each one.
#[derive(Debug)]
pub struct Ledger {
    dry: bool,
    rows: Vec<Row>,
}

impl Ledger {
    /// Allocates for real.
    pub fn live() -> Self {
        Ledger { dry: false, rows: Vec::new() }
    }

    /// Allocates nothing: every buffer is empty, every row is written.
    pub fn dry() -> Self {
        Ledger { dry: true, rows: Vec::new() }
    }

    pub fn is_dry(&self) -> bool {
        self.dry
    }

    /// A zeroed buffer of the product of `shape`, entered as `name`.
    pub fn buf<B: Backend, T: Element>(
        &mut self, backend: &B, kind: Kind, name: &str, shape: &[usize],
    ) -> Result<B::Buf<T>> {
        let len: usize = shape.iter().product();
        self.note(kind, name, shape, T::NAME, len * size_of::<T>());
        backend.alloc(if self.dry { 0 } else { len })
    }

    /// A zeroed buffer for one thing and, once that is over, for another. Entered as what `first` takes and what `then` takes
    /// beyond it.
    pub fn buf_in_turn<B: Backend, T: Element, U: Element>(
        &mut self, backend: &B, first: (Kind, &str, &[usize]), then: (Kind, &str, &[usize]),
    ) -> Result<B::Buf<T>> {
        let bytes = first.2.iter().product::<usize>() * size_of::<T>();
        let beyond = (then.2.iter().product::<usize>() * size_of::<U>()).saturating_sub(bytes);
        self.note(first.0, first.1, first.2, T::NAME, bytes);
        self.note(then.0, then.1, then.2, U::NAME, beyond);
        backend.alloc(if self.dry { 0 } else { (bytes + beyond).div_ceil(size_of::<T>()) })
    }

    /// Enters memory that something else allocates.
    pub fn note(&mut self, kind: Kind, name: &str, shape: &[usize], dtype: &'static str, bytes: usize) {
        self.rows.push(Row { kind, name: name.into(), shape: shape.to_vec(), dtype, bytes });
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn total(&self) -> usize {
        self.rows.iter().map(|row| row.bytes).sum()
    }

    /// Bytes of one kind.
    pub fn of(&self, kind: Kind) -> usize {
        self.rows.iter().filter(|row| row.kind == kind).map(|row| row.bytes).sum()
    }
}
