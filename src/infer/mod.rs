//! Reading: a text through a KV cache and writing on from it, or a whole text layer by layer for its losses.

use crate::backend::Backend;
use crate::error::Result;
use crate::memory::Ledger;
use crate::model::Model;
use crate::model::buffers::Reading;

mod sampling;
mod scorer;
mod session;

pub use sampling::{Sampling, likeliest, log_probability};
pub use scorer::{Scored, Scorer};
pub use session::{Session, generate};

/// What reads with a model, in memory that is planned beforehand.
pub trait Reads<B: Backend>: Sized {
    /// Takes its buffers through the ledger. The caller reserves scratch for [`Reads::scratch_bytes`].
    fn allocate(b: &B, ledger: &mut Ledger, model: &Model<B>, reading: Reading) -> Result<Self>;
    /// Working memory that the kernels take for it.
    fn scratch_bytes(b: &B, model: &Model<B>, reading: Reading) -> usize;
}
