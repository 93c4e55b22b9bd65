//! Whether a text is opened by the token that begins sequences.

use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use serde::Serialize;

/// Whether each text, or each window of one, is opened by the beginning-of-sequence token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Bos {
    /// If the tokenizer adds one to a text by itself.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl Bos {
    /// The token, if there is to be one.
    ///
    /// # Errors
    /// [`Bos::On`] with a tokenizer that has none.
    pub fn token(self, tokenizer: &Tokenizer) -> Result<Option<u32>> {
        match self {
            Bos::Off => Ok(None),
            Bos::Auto => Ok(if tokenizer.adds_bos() { tokenizer.bos_id() } else { None }),
            Bos::On => tokenizer.bos_id().map(Some).ok_or_else(|| {
                let problem = "this tokenizer has no beginning-of-sequence token; use --bos off";
                Error::usage("--bos", "on", problem)
            }),
        }
    }
}
