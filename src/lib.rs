//! pose-engine lengthens the context window of RoPE language models by PoSE (Positional Skip-wise Training,
//! arXiv 2309.10400), on kernels written by hand. docs/architecture.md is the map of these rooms.

pub mod backend;
pub mod checkpoint;
pub mod error;
pub mod index;
pub mod model;
pub mod rope;
