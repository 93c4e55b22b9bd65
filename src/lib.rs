//! pose-engine lengthens the context window of RoPE language models by PoSE (Positional Skip-wise Training,
//! arXiv 2309.10400), on kernels written by hand. docs/architecture.md is the map of these rooms.

pub mod backend;
pub mod checkpoint;
pub mod cli;
pub mod compare;
pub mod data;
pub mod error;
pub mod eval;
pub mod figures;
pub mod gguf;
pub mod index;
pub mod infer;
pub mod memory;
pub mod model;
pub mod names;
pub mod optim;
pub mod positions;
pub mod printable;
pub mod quickstart;
pub mod random;
pub mod recipe;
mod regular;
pub mod rope;
pub mod size;
pub mod train;
