//! Reading a text through a KV cache and writing on from it.

mod sampling;
mod session;

pub use sampling::Sampling;
pub use session::{DEFAULT_CHUNK, Session, generate};
