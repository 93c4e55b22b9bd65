//! From files of text to batches: documents -> tokens (cached by content) -> rows of a training step.

pub mod cache;
pub mod corpus;
pub mod documents;
pub mod loader;
pub mod tokenizer;

mod bos;
mod cuts;
mod decoder;
mod guarded;
mod pack;
mod pieces;
mod shares;
mod zstd;

pub use bos::Bos;
pub use corpus::{AllShort, Corpus, Document, LoadOptions, Progress};
pub use cuts::{Cuts, ends_sentence};
pub use decoder::Decoder;
pub use loader::{Batch, BatchPlaces, Example, Loader, Packed};
pub use pack::Piece;
pub use shares::{Share, check_weights};
pub use tokenizer::{Tokenizer, bytes_as_json};
