//! Hugging Face directories in and out, whole or not at all, and the state to resume from.
//!
//! A run's directory OUT looks like this:
//!
//! ```text
//! OUT/checkpoint-000120/    config.json, model.safetensors, tokenizer files, resume/, manifest.json
//! OUT/checkpoint-000240/    ...
//! OUT/best/                 the model with the best perplexity so far, where that is kept
//! OUT/config.json ...       the final model, with a manifest.json of its own
//! ```
//!
//! A directory is complete when its `manifest.json` is there and true: it is written last and holds every file's length
//! and BLAKE3 hash. OUT belongs to one process at a time, which holds OUT/.lock.

mod adapter;
mod admit;
mod atomic;
mod convert;
mod examine;
mod final_model;
mod lock;
mod manifest;
mod mapped;
mod model;
mod npy;
mod params;
mod pickle;
mod resume;
mod run_dir;
mod tensors;
mod weights;

pub use adapter::{Adapter, write_adapter};
pub use admit::admit;
pub use atomic::{Existing, Staging, is_occupied, is_unfinished, refuse_existing, replace_file};
pub use examine::{Examined, examine};
pub use final_model::{abandon_publishing, finish_publishing, publish, retire};
pub use lock::{RunLock, is_at};
pub use manifest::{MANIFEST, Manifest, ManifestFile, verify};
pub use mapped::map_file;
pub use model::{SHARD_BYTES, copy_tokenizer, write_json, write_model, write_weights};
pub use npy::NpyWriter;
pub use params::{ModelTensors, bytes_of, dtype_of};
pub use resume::{Best, Resume, ResumeState, Slot, SpikeState, Standing, slot_name, write_resume};
pub use run_dir::{BEST, Latest, checkpoint_dir, checkpoints, latest, prune, tidy};
pub use tensors::{Bytes, Stored, TensorSource, TensorSpec, write_safetensors};
pub use weights::Weights;
