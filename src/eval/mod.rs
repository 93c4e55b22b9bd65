//! What a model is worth: perplexity by window, and whether it finds what it was told.

mod needle;
mod passkey;
mod perplexity;
mod retrieval;
mod statistics;

pub use needle::{NeedleProtocol, run as needle};
pub use passkey::{PasskeyProtocol, run as passkey};
pub use perplexity::{Bos, DocumentScore, Mode, Protocol, WindowReport, run as perplexity, windows_of};
pub use retrieval::{Asker, ROOM_FOR_ANSWER, Report, Spent, Trial};
pub use statistics::{mean_and_error, proportion_error};
