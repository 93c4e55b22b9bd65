//! PoSE in miniature: a small model, documents in which distance matters, four ways to extend, one report.

pub mod documents;
pub mod recall;
pub mod start;
pub mod words;
