//! PoSE in miniature: a small model, documents in which distance matters, four ways to extend, one report.

pub mod documents;
pub mod words;
