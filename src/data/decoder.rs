//! Tokens to text, one at a time: a character may be spread over several tokens, and a token's text may depend on the one
//! before it.

use super::tokenizer::Tokenizer;
use crate::error::Result;
use crate::index::TokenId;

/// Gives out text as soon as it is complete. The pieces together are what [`Tokenizer::decode`] makes of all tokens.
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// Tokens that text still to come depends on: some whose text has been given out, then those that wait.
    tokens: Vec<TokenId>,
    /// How many of `tokens` have been given out.
    told: usize,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Decoder { tokenizer, skip_special, tokens: Vec::new(), told: 0 }
    }

    /// The text that this token completes, possibly none.
    ///
    /// Errors: those of [`Tokenizer::decode`].
    pub fn push(&mut self, token: TokenId) -> Result<String> {
        self.tokens.push(token);
        let (told, all) = self.texts()?;
        // A replacement character at the end is as a rule the first half of a character: wait for the rest.
        if all.len() <= told.len() || all.ends_with('\u{FFFD}') {
            return Ok(String::new());
        }
        // The tokens given out last stay, so that the next one is decoded as following them (a leading space is dropped
        // by some decoders at the start of a text, and only there).
        self.tokens.drain(..self.told);
        self.told = self.tokens.len();
        Ok(tail(&told, &all))
    }

    /// What is still waiting, when no more tokens come.
    ///
    /// Errors: those of [`Tokenizer::decode`].
    pub fn finish(self) -> Result<String> {
        let (told, all) = self.texts()?;
        Ok(tail(&told, &all))
    }

    /// The text of the tokens given out, and of all that are kept.
    fn texts(&self) -> Result<(String, String)> {
        let text = |tokens| self.tokenizer.decode(tokens, self.skip_special);
        Ok((text(&self.tokens[..self.told])?, text(&self.tokens)?))
    }
}

fn tail(told: &str, all: &str) -> String {
    all.get(told.len()..).unwrap_or_default().to_string()
}
