//! `pose-engine eval-ppl`.

use super::evaluation::{Evaluation, longest_read, longest_window, note_unfilled};
use super::output::{error_text, seconds_text, size_text, table};
use super::plan::Planned;
use super::progress::Progress;
use super::reader::{OpenedReader, Reader};
use super::text::{Selection, Text};
use crate::backend::Backend;
use crate::backend::device::{Device, Job, dispatch};
use crate::data::{Bos, Corpus};
use crate::error::Result;
use crate::eval::{self, Mode, Protocol, WindowReport};
use crate::infer::Scorer;
use crate::memory;
use crate::model::buffers::Reading;
use crate::recipe::Size;
use clap::Args;
use serde_json::json;

/// Measure perplexity by window
#[derive(Debug, Args)]
#[command(after_help = "Example:
  pose-engine eval-ppl --model smollm2-32k --data book.txt --windows 2k,8k,32k --tokens 64k")]
pub struct EvalPpl {
    #[command(flatten)]
    pub reader: Reader,
    #[command(flatten)]
    text: Text,
    #[command(flatten)]
    pub protocol: ProtocolFlags,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    pub evaluation: Evaluation,
}

/// Which tokens are scored, and with how much before them.
#[derive(Debug, Args)]
pub struct ProtocolFlags {
    /// Windows in tokens, as in 2k,4k,8k
    #[arg(long, value_delimiter = ',', value_name = "N,...", required = true)]
    pub windows: Vec<Size>,
    /// Tokens from one window's begin to the next's [default: half the window]
    #[arg(long, value_name = "N")]
    stride: Option<Size>,
    /// Slide over the whole text, or take each document's first window only
    #[arg(long, value_enum, default_value_t = Mode::Sliding)]
    mode: Mode,
    /// Open each window with the beginning-of-sequence token: auto does what the tokenizer does by itself
    #[arg(long, value_enum, default_value_t = Bos::Auto)]
    bos: Bos,
}

impl ProtocolFlags {
    pub fn sizes(&self) -> Vec<usize> {
        self.windows.iter().map(|window| window.0).collect()
    }

    pub fn longest(&self) -> Result<usize> {
        longest_window(&self.windows, self.stride)
    }

    fn resolve(&self, opened: &OpenedReader) -> Result<Protocol> {
        let bos = self.bos.token(&opened.tokenizer)?;
        Ok(Protocol { mode: self.mode, stride: self.stride.map(|s| s.0), bos })
    }
}

impl EvalPpl {
    pub fn run(self) -> Result<()> {
        let longest = self.protocol.longest()?;
        self.text.require()?;
        let opened = self.reader.open(longest, "--windows")?;
        let protocol = self.protocol.resolve(&opened)?;
        let corpus = self.selection.load(&self.text, &opened, &self.evaluation.common)?;
        note_unfilled(&self.evaluation.common, &self.protocol.windows, &corpus);
        let described = protocol.describe(&self.protocol.sizes());
        self.evaluation.announce(&described);
        let reading = self.reading(Some(&corpus))?;
        let job = PplJob { flags: &self, opened: &opened, protocol: &protocol, corpus: &corpus, reading };
        let (reports, planned) = self.evaluation.dispatch(&self.reader, job)?;
        print_reports(&reports);
        let peak = memory::resident_bytes().map(|(_, peak)| peak);
        outln!("{}", memory::peak_text(peak, planned));
        self.evaluation.write(
            "eval-ppl",
            &self.reader,
            &protocol,
            json!({
                "planned_bytes": planned, "peak_bytes": peak,
                "protocol_text": described, "rope_scaling": opened.rope.scaling.name(), "results": reports,
            }),
        )
    }

    /// What the run would allocate, of the model or of a built-in architecture; text is counted where --data is given.
    pub fn plan(&self, preset: Option<&str>, device: Device) -> Result<Planned> {
        let longest = self.protocol.longest()?;
        let opened = match preset {
            Some(name) => self.reader.open_preset(name, longest, "--windows")?,
            None => self.reader.open(longest, "--windows")?,
        };
        self.protocol.resolve(&opened)?;
        let load = || self.selection.load(&self.text, &opened, &self.evaluation.common);
        let corpus = self.text.is_given().then(load).transpose()?;
        let reading = self.reading(corpus.as_ref())?;
        let text = corpus.map_or(0, |c| c.tokens() as usize);
        let job = PlanJob { opened: &opened, reading, text };
        dispatch(device, self.reader.dtype, self.evaluation.common.threads, job)
    }

    /// Room for the tokens that are read at once at most: the longest window, or less where no document fills it.
    fn reading(&self, corpus: Option<&Corpus>) -> Result<Reading> {
        let longest = corpus.map(Corpus::longest).or(self.selection.tokens.map(|n| n.0));
        let window = self.protocol.longest()?;
        let capacity = longest.map_or(window, |longest| longest_read(window, longest));
        Ok(Reading { cache: self.evaluation.cache(&self.reader)?, ..Reading::of(capacity) })
    }
}

struct PplJob<'a> {
    flags: &'a EvalPpl,
    opened: &'a OpenedReader,
    protocol: &'a Protocol,
    corpus: &'a Corpus,
    reading: Reading,
}

struct PlanJob<'a> {
    opened: &'a OpenedReader,
    reading: Reading,
    text: usize,
}

impl Job for PlanJob<'_> {
    type Out = Planned;
    fn run<B: Backend>(self, b: &B) -> Result<Planned> {
        let ledger = self.opened.plan::<B, Scorer<B>>(b, self.reading, self.text)?;
        Ok(Planned::of(b, self.opened.config.clone(), ledger))
    }
}

impl Job for PplJob<'_> {
    type Out = (Vec<WindowReport>, usize);
    fn run<B: Backend>(self, b: &B) -> Result<(Vec<WindowReport>, usize)> {
        let (reading, text) = (self.reading, self.corpus.tokens() as usize);
        let planned = self.opened.plan::<B, Scorer<B>>(b, reading, text)?.total();
        let (flags, cache) = (self.flags, reading.cache);
        let what = json!({ "protocol": self.protocol, "windows": flags.protocol.sizes() });
        let mut partial =
            flags.evaluation.resumable.open(b, "eval-ppl", self.opened, cache, Some(self.corpus), &what)?;
        memory::reset_peak();
        let (mut model, mut scorer) = self.opened.load(b, reading)?;
        let mut reports = Vec::new();
        for window in &self.flags.protocol.windows {
            model.set_rope(b, &self.opened.rope.for_length(window.0))?;
            let label = format!("window {}", size_text(window.0));
            let bar =
                Progress::new(&label, self.reads(window.0), "tokens", self.flags.evaluation.common.quiet);
            let mut progress = |tokens| bar.advance(tokens, "");
            let report = eval::perplexity(
                b,
                &model,
                &mut scorer,
                self.corpus,
                self.protocol,
                window.0,
                &mut partial,
                &mut progress,
            )?;
            bar.finish();
            reports.push(report);
        }
        Ok((reports, planned))
    }
}

impl PplJob<'_> {
    /// Tokens that go through the model at one window.
    fn reads(&self, window: usize) -> usize {
        let windows = self.protocol.windows(window);
        self.corpus.documents.iter().map(|d| windows.reads(d.tokens.len())).sum()
    }
}

fn print_reports(reports: &[WindowReport]) {
    let rows: Vec<Vec<String>> = reports
        .iter()
        .map(|r| {
            vec![
                size_text(r.window),
                format!("{:.4}", r.ppl),
                error_text(r.ppl_error, 4),
                format!("{:.6}", r.nll),
                format!("{:.4}", r.mean_ppl),
                error_text(r.mean_ppl_error, 4),
                r.documents.len().to_string(),
                r.scored.to_string(),
                seconds_text(r.seconds),
            ]
        })
        .collect();
    let headings =
        ["window", "ppl", "+/- s.e.", "nll", "mean over docs", "+/- s.e.", "docs", "scored", "time"];
    out!("{}", table(&headings, &rows));
}
