//! `pose-engine eval-longppl`.

use super::evaluation::{Evaluation, Resumable, longest_read, longest_window, note_unfilled};
use super::output::{error_text, size_text, table};
use super::progress::Progress;
use super::reader::{OpenedReader, Reader};
use super::text::{Selection, Text};
use crate::backend::Backend;
use crate::backend::device::Job;
use crate::data::{Bos, Corpus};
use crate::error::{Error, Result};
use crate::eval::{self, Judged, LongPplProtocol, LongPplReport};
use crate::infer::Scorer;
use crate::model::buffers::Reading;
use crate::recipe::Size;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Measure perplexity on the tokens that need the long context (LongPPL)
#[derive(Debug, Args)]
#[command(after_help = "Example:
  pose-engine eval-longppl --model smollm2-32k --data book.txt --windows 8k,32k --tokens 32k")]
pub struct EvalLongPpl {
    #[command(flatten)]
    reader: Reader,
    #[command(flatten)]
    text: Text,
    /// Windows in tokens, as in 8k,32k; the longest is the long context in which key tokens are chosen
    #[arg(long, value_delimiter = ',', value_name = "N,...", required = true)]
    windows: Vec<Size>,
    /// Tokens from one of those windows' begin to the next's [default: half the window]
    #[arg(long, value_name = "N")]
    stride: Option<Size>,
    /// The short context in which key tokens are hard to foretell
    #[arg(long, default_value = "4k", value_name = "N")]
    short: Size,
    /// Tokens that share one short context
    #[arg(long, default_value = "1k", value_name = "N")]
    short_stride: Size,
    /// By how much the long context must raise a key token's log-probability, in nats (LSD)
    #[arg(long, default_value_t = 2.0, value_name = "X")]
    min_gain: f64,
    /// What a key token's log-probability in the long context must exceed (LCL)
    #[arg(long, default_value_t = -2.0, value_name = "X", allow_negative_numbers = true)]
    min_log_likelihood: f64,
    /// Model that chooses the key tokens, with the same tokenizer [default: the model itself]
    #[arg(long, value_name = "DIR")]
    judge: Option<PathBuf>,
    /// Open each window with the beginning-of-sequence token
    #[arg(long, value_enum, default_value_t = Bos::Auto)]
    bos: Bos,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    pub evaluation: Evaluation,
}

impl EvalLongPpl {
    pub fn run(self) -> Result<()> {
        self.text.require()?;
        let longest = self.longest()?;
        let opened = self.reader.open(longest, "--windows")?;
        let corpus = self.selection.load(&self.text, &opened, &self.evaluation.common)?;
        note_unfilled(&self.evaluation.common, &self.windows, &corpus);
        let judge = self.judge(longest, &opened, &corpus)?;
        let protocol = LongPplProtocol {
            windows: self.windows.iter().map(|w| w.0).collect(),
            stride: self.stride.map(|s| s.0),
            short: self.short.0,
            short_stride: self.short_stride.0,
            min_gain: self.min_gain,
            min_log_likelihood: self.min_log_likelihood,
            bos: self.bos.token(&opened.tokenizer)?,
            other_judge: judge.is_some(),
        };
        self.refuse_short_texts(&protocol, &corpus)?;
        self.evaluation.announce(&protocol.describe());
        let reads = corpus.documents.iter().map(|d| protocol.reads(d.tokens.len())).sum();
        let bar = Progress::new("longppl", reads, "tokens", self.evaluation.common.quiet);
        let capacity = longest_read(longest, corpus.longest());
        let reading = Reading { cache: self.evaluation.cache(&self.reader)?, ..Reading::of(capacity) };
        let job = LongPplJob {
            opened: &opened,
            judge: judge.as_ref(),
            protocol: &protocol,
            corpus: &corpus,
            reading,
            bar: &bar,
            resumable: &self.evaluation.resumable,
        };
        let (judged, reports) = self.evaluation.dispatch(&self.reader, job)?;
        bar.finish();
        print_reports(&reports);
        self.evaluation.write(
            "eval-longppl",
            &self.reader,
            &protocol,
            json!({
                "judge": self.judge, "protocol_text": protocol.describe(),
                "rope_scaling": opened.rope.scaling.name(), "results": reports, "judged": judged,
            }),
        )
    }

    /// The longest window, after a look at what does not go together.
    fn longest(&self) -> Result<usize> {
        let longest = longest_window(&self.windows, self.stride)?;
        let short = self.short.0.saturating_add(self.short_stride.0);
        if short > longest {
            let problem = format!(
                "with --short-stride {} a short window has {short} tokens, more than the longest of --windows, \
                 {longest}; lower them or ask for a longer window",
                self.short_stride
            );
            return Err(Error::usage("--short", self.short, problem));
        }
        if !(self.min_gain >= 0.0 && self.min_gain.is_finite()) {
            return Err(Error::usage("--min-gain", self.min_gain, "must be a number of at least 0"));
        }
        if !(self.min_log_likelihood <= 0.0 && self.min_log_likelihood.is_finite()) {
            let problem = "is the logarithm of a probability: must be a number of at most 0";
            return Err(Error::usage("--min-log-likelihood", self.min_log_likelihood, problem));
        }
        Ok(longest)
    }

    /// The model that chooses, where it is another; it must cut the text into the same tokens.
    fn judge(&self, longest: usize, opened: &OpenedReader, corpus: &Corpus) -> Result<Option<OpenedReader>> {
        let Some(dir) = &self.judge else { return Ok(None) };
        let reader = Reader {
            model: Some(dir.clone()),
            dtype: self.reader.dtype,
            rope: None,
            rope_factor: None,
            rope_theta: None,
        };
        let judge = reader.open(longest, "--windows")?;
        let same = judge.tokenizer.fingerprint() == opened.tokenizer.fingerprint();
        if same
            || self.selection.load(&self.text, &judge, &self.evaluation.common)?.fingerprint()
                == corpus.fingerprint()
        {
            return Ok(Some(judge));
        }
        let problem = "cuts the text into other tokens than --model does; a judge needs the same tokenizer";
        Err(Error::usage("--judge", dir.display(), problem))
    }

    /// Refuses text in which no token can be a key token, or whose long contexts would be shorter than its short ones.
    fn refuse_short_texts(&self, protocol: &LongPplProtocol, corpus: &Corpus) -> Result<()> {
        let longest = corpus.longest();
        let window = protocol.longest();
        let stride = protocol.at(window).stride;
        let least = window - stride;
        if longest > window && least < self.short.0 {
            let problem = format!(
                "windows of {window} tokens begin every {stride}, so what should be the long context may be {least} tokens, less \
                 than the short one; lower --short, give a smaller --stride or a longer window"
            );
            return Err(Error::usage("--short", self.short, problem));
        }
        if longest > self.short.0 {
            return Ok(());
        }
        let problem = format!(
            "the longest document has {longest} tokens, no more than the short context of {}; give a longer one, or \
             lower --short",
            self.short
        );
        Err(Error::usage("--data", self.text.paths(), problem))
    }
}

struct LongPplJob<'a> {
    opened: &'a OpenedReader,
    judge: Option<&'a OpenedReader>,
    protocol: &'a LongPplProtocol,
    corpus: &'a Corpus,
    reading: Reading,
    bar: &'a Progress,
    resumable: &'a Resumable,
}

impl Job for LongPplJob<'_> {
    type Out = (Vec<Judged>, Vec<LongPplReport>);
    fn run<B: Backend>(self, b: &B) -> Result<Self::Out> {
        let LongPplJob { opened, judge, protocol, corpus, reading, bar, resumable } = self;
        let judge_is = judge.map(OpenedReader::fingerprint).transpose()?;
        let what = json!({ "protocol": protocol, "judge": judge_is });
        let partial = &mut resumable.open(b, "eval-longppl", opened, reading.cache, Some(corpus), &what)?;
        let progress = &mut |tokens| bar.advance(tokens, "");
        let other = judge.map(|judge| {
            let (mut model, mut scorer): (_, Scorer<B>) = judge.load(b, reading)?;
            eval::judge(b, &mut model, &mut scorer, &judge.rope, corpus, protocol, partial, progress)
        });
        let other = other.transpose()?;
        let (mut model, mut scorer): (_, Scorer<B>) = opened.load(b, reading)?;
        let rope = &opened.rope;
        let judged = match other {
            Some(judged) => judged,
            None => eval::judge(b, &mut model, &mut scorer, rope, corpus, protocol, partial, progress)?,
        };
        let reports =
            eval::longppl(b, &mut model, &mut scorer, rope, corpus, protocol, &judged, partial, progress)?;
        Ok((judged, reports))
    }
}

fn print_reports(reports: &[LongPplReport]) {
    let number = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.4}"));
    let row = |r: &LongPplReport| {
        vec![
            size_text(r.window),
            number(r.longppl),
            error_text(r.longppl_error, 4),
            number(r.mean_longppl),
            error_text(r.mean_longppl_error, 4),
            r.keys.to_string(),
            format!("{:.4}", r.ppl),
            r.scored.to_string(),
            r.documents.len().to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = reports.iter().map(row).collect();
    let headings = [
        "window",
        "LongPPL",
        "+/- s.e.",
        "mean over docs",
        "+/- s.e.",
        "key tokens",
        "ppl",
        "scored",
        "docs",
    ];
    out!("{}", table(&headings, &rows));
    if reports.iter().all(|r| r.keys == 0) {
        outln!("no token is foretold so much better by the long context: there are no key tokens");
    }
}
