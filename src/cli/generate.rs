//! `pose-engine generate`.

use super::common::{Common, Json, Where};
use super::evaluation::KvCache;
use super::reader::{OpenedReader, Reader};
use crate::backend::Backend;
use crate::backend::device::{Job, dispatch};
use crate::data::Bos;
use crate::error::{Error, Result};
use crate::index::TokenId;
use crate::infer::{Sampling, generate};
use crate::model::buffers::Reading;
use crate::model::cache::CacheFormat;
use crate::printable::printable;
use crate::recipe::Size;
use clap::Args;
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

/// Continue a text
#[derive(Debug, Args)]
#[command(after_help = "Example:
  pose-engine generate --model smollm2 --prompt \"The capital of France is\" --max-new-tokens 32")]
pub struct Generate {
    #[command(flatten)]
    reader: Reader,
    /// The text to continue
    #[arg(
        long,
        value_name = "TEXT",
        conflicts_with = "prompt_file",
        required_unless_present = "prompt_file"
    )]
    prompt: Option<String>,
    /// A file with the text to continue
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Stop after so many tokens, if the end-of-text token does not come first
    #[arg(long, default_value = "128", value_name = "N")]
    max_new_tokens: Size,
    /// 0 takes the likeliest token each time
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    temperature: f64,
    /// Draw from the smallest set of likeliest tokens that reaches this probability [default: 1]
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Seed of what is drawn
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Open the text with the beginning-of-sequence token
    #[arg(long, value_enum, default_value_t = Bos::Auto)]
    bos: Bos,
    #[command(flatten)]
    kv: KvCache,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    pub json: Json,
    #[command(flatten)]
    pub common: Common,
}

impl Generate {
    pub fn run(self) -> Result<()> {
        let sampling = self.sampling()?;
        let cache = self.kv.format(self.reader.dtype)?;
        let text = match (&self.prompt, &self.prompt_file) {
            (Some(text), _) => text.clone(),
            (None, Some(path)) => {
                std::fs::read_to_string(path).map_err(|e| Error::io(path, "reading the prompt", e))?
            }
            (None, None) => String::new(),
        };
        let files = self.reader.files()?;
        let bos = self.bos.token(&files.tokenizer)?;
        let prompt: Vec<TokenId> =
            bos.map(TokenId).into_iter().chain(files.tokenizer.encode(&text)?).collect();
        if prompt.is_empty() {
            return Err(Error::usage("--prompt", "\"\"", "is empty; give at least one token to continue"));
        }
        let longest = prompt.len().saturating_add(self.max_new_tokens.0);
        let opened = self.reader.scaled(files, longest, "--max-new-tokens")?;
        let ends = opened.config.eos_token_ids.iter().copied().chain(opened.tokenizer.eos_id());
        let stop: Vec<TokenId> = ends.map(TokenId).collect();
        let job = GenerateJob {
            opened: &opened,
            prompt: &prompt,
            most: self.max_new_tokens.0,
            stop: &stop,
            sampling,
            cache,
        };
        let ids = dispatch(self.place.device(&self.common), self.reader.dtype, self.common.threads, job)?;
        let plain_ids: Vec<u32> = ids.iter().map(|id| id.0).collect();
        self.json.write(&json!({
            "prompt_tokens": prompt.len(), "ids": plain_ids, "text": opened.tokenizer.decode(&ids, false)?,
        }))
    }

    /// How tokens are chosen; refuses what does nothing where the likeliest is taken.
    fn sampling(&self) -> Result<Sampling> {
        let sampling =
            Sampling { temperature: self.temperature, top_p: self.top_p.unwrap_or(1.0), seed: self.seed };
        sampling.check()?;
        if let Some(p) = self.top_p.filter(|_| self.temperature == 0.0) {
            let problem =
                "is for drawing, and at a temperature of 0 the likeliest token is taken; give one, as 0.8";
            return Err(Error::usage("--top-p", p, problem));
        }
        Ok(sampling)
    }
}

struct GenerateJob<'a> {
    opened: &'a OpenedReader,
    prompt: &'a [TokenId],
    most: usize,
    stop: &'a [TokenId],
    sampling: Sampling,
    cache: CacheFormat,
}

impl Job for GenerateJob<'_> {
    type Out = Vec<TokenId>;
    fn run<B: Backend>(self, b: &B) -> Result<Vec<TokenId>> {
        let reading = Reading { cache: self.cache, ..Reading::of(self.prompt.len() + self.most) };
        let (model, mut session) = self.opened.load(b, reading)?;
        let mut decoder = self.opened.tokenizer.decoder(true);
        let tell = teller();
        // a closed pipe ends the text, not the program with an error
        let mut emit = |token: TokenId| {
            let piece = if self.stop.contains(&token) { String::new() } else { decoder.push(token)? };
            Ok(tell(&piece).is_ok())
        };
        let ids =
            generate(b, &model, &mut session, self.prompt, self.most, self.stop, &self.sampling, &mut emit)?;
        let _ = tell(&(decoder.finish()? + "\n"));
        Ok(ids)
    }
}

/// Writes the text as it comes: into a file or a pipe the very text, to a terminal what does not steer it.
fn teller() -> impl Fn(&str) -> std::io::Result<()> {
    let terminal = std::io::stdout().is_terminal();
    move |text: &str| {
        let text = if terminal { printable(text) } else { text.into() };
        let mut out = std::io::stdout();
        out.write_all(text.as_bytes()).and_then(|()| out.flush())
    }
}
