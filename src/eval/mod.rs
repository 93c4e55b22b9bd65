//! What a model is worth: perplexity by window, and whether it finds what it was told.

mod kept;
mod longppl;
mod needle;
mod partial;
mod passkey;
mod perplexity;
mod retrieval;
mod shift;
mod statistics;
pub mod tasks;
mod windows;

pub use longppl::{Judged, KeyScore, LongPplProtocol, LongPplReport, judge, run as longppl};
pub use needle::{Haystack, NeedleProtocol, run as needle};
pub use partial::{Partial, Unit};
pub use passkey::{PasskeyProtocol, run as passkey};
pub use perplexity::{DocumentScore, Protocol, WindowReport, run as perplexity};
pub use retrieval::{Asker, ROOM_FOR_ANSWER, Report, Spent, Trial};
pub use shift::{OffsetReport, Passage, ShiftProtocol, ShiftReport, Side, run as shift};
pub use statistics::{BlockSums, TextMean, mean_and_error, pooled, proportion_error};
pub use windows::{Mode, Windows, losses};
