//! Flags that say which text a measure is made on.

use super::common::Common;
use super::progress::Reading;
use super::reader::OpenedReader;
use crate::data::{Corpus, LoadOptions, Tokenizer};
use crate::error::{Error, Result};
use crate::recipe::Size;
use crate::size::parse_bytes;
use clap::Args;
use std::path::PathBuf;

/// `--data`.
#[derive(Debug, Args)]
pub struct Text {
    /// Held-out text: .txt (one document a file), .jsonl, each also .gz or .zst, or directories of these
    #[arg(long, num_args = 1.., value_name = "PATH")]
    data: Vec<PathBuf>,
    /// Field of a .jsonl line that holds the text
    #[arg(long, default_value = "text", value_name = "FIELD")]
    text_field: String,
    #[command(flatten)]
    compressed: Compressed,
}

/// `--max-decompressed`.
#[derive(Debug, Args)]
pub struct Compressed {
    /// Most that a .gz or .zst file may become, as in 20GiB [default: 100 times its size; 64 MiB at least, shared by
    /// files that are read together]
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE")]
    pub max_decompressed: Option<u64>,
}

/// Which of its documents, and how much of each.
#[derive(Debug, Args)]
pub struct Selection {
    /// Tokens of each document that are used [default: all]
    #[arg(long, value_name = "N")]
    pub tokens: Option<Size>,
    /// Documents that are used, the first ones [default: all]
    #[arg(long, value_name = "N")]
    docs: Option<Size>,
    /// Leave out documents with fewer tokens
    #[arg(long, value_name = "N")]
    min_tokens: Option<Size>,
}

impl Text {
    pub fn is_given(&self) -> bool {
        !self.data.is_empty()
    }

    /// As they were given, for errors.
    pub fn paths(&self) -> String {
        let paths: Vec<String> = self.data.iter().map(|path| path.display().to_string()).collect();
        paths.join(" ")
    }

    /// Refuses a command line that names none.
    pub fn require(&self) -> Result<()> {
        let missing =
            || Error::usage("--data", "(missing)", "name the text to measure on: files or directories");
        self.is_given().then_some(()).ok_or_else(missing)
    }

    pub fn load(&self, tokenizer: &Tokenizer, common: &Common) -> Result<Corpus> {
        let options = LoadOptions {
            text_field: self.text_field.clone(),
            max_decompressed: self.compressed.max_decompressed,
            ..LoadOptions::default()
        };
        let reading = Reading::new(common.quiet);
        let (corpus, warnings) =
            Corpus::load(&self.data, tokenizer, &options, Some(&|read| reading.tell(read)))?;
        warnings.iter().for_each(|w| common.warn(w));
        Ok(corpus)
    }
}

impl Selection {
    /// The documents, cut and chosen as the flags say.
    pub fn load(&self, text: &Text, opened: &OpenedReader, common: &Common) -> Result<Corpus> {
        let mut corpus = text.load(&opened.tokenizer, common)?;
        if let Some(least) = self.min_tokens {
            let dropped = corpus.retain_at_least(least.0).map_err(|short| {
                let problem =
                    format!("leaves nothing to measure on: {short}; ask for at most {}", short.tokens);
                Error::usage("--min-tokens", least, problem)
            })?;
            common.note(&match dropped {
                1 => format!("1 document has fewer than {least} tokens and is left out"),
                _ => format!("{dropped} documents have fewer than {least} tokens and are left out"),
            });
        }
        if let Some(docs) = self.docs {
            corpus.documents.truncate(docs.0);
        }
        corpus.cut(self.tokens.map_or(usize::MAX, |n| n.0));
        if corpus.documents.iter().all(|d| d.tokens.len() < 2) {
            return Err(Error::usage(
                "--data",
                text.paths(),
                "there is no token to score: every document is shorter than 2 tokens",
            ));
        }
        Ok(corpus)
    }
}
