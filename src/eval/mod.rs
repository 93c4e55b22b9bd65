//! What a model is worth: perplexity by window, and whether it finds what it was told.

mod passkey;
mod perplexity;
mod statistics;

pub use passkey::{PasskeyProtocol, PasskeyReport, PasskeyTrial, ROOM_FOR_ANSWER, run as passkey};
pub use perplexity::{Bos, DocumentScore, Mode, Protocol, WindowReport, run as perplexity, windows_of};
pub use statistics::{mean_and_error, proportion_error};
