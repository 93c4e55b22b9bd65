//! `pose-engine eval-shift`.

use super::evaluation::{Evaluation, Resumable};
use super::output::{error_text, size_text, table};
use super::progress::Progress;
use super::reader::{OpenedReader, Reader};
use super::text::Text;
use crate::backend::Backend;
use crate::backend::device::Job;
use crate::data::{Bos, Corpus};
use crate::error::{Error, Result};
use crate::eval::{self, Passage, ShiftProtocol, ShiftReport};
use crate::infer::Scorer;
use crate::model::buffers::Reading;
use crate::recipe::Size;
use crate::size::parse_count;
use clap::Args;
use serde_json::json;

/// Score one passage at rising absolute positions: shows a broken rope configuration at once
#[derive(Debug, Args)]
#[command(after_help = "Example:
  pose-engine eval-shift --model smollm2-32k --data book.txt --offsets 0,2k,8k,24k --length 2k --passages 8")]
pub struct EvalShift {
    #[command(flatten)]
    reader: Reader,
    #[command(flatten)]
    text: Text,
    /// Positions that the passages are moved to, in tokens; 0 is always among them
    #[arg(long, value_delimiter = ',', value_name = "N,...", required = true, value_parser = parse_count)]
    offsets: Vec<usize>,
    /// Tokens of a passage
    #[arg(long, default_value = "2k", value_name = "N")]
    length: Size,
    /// Passages, spread over the text
    #[arg(long, default_value = "8", value_name = "N")]
    passages: Size,
    /// Open what is read with the beginning-of-sequence token
    #[arg(long, value_enum, default_value_t = Bos::Auto)]
    bos: Bos,
    #[command(flatten)]
    pub evaluation: Evaluation,
}

impl EvalShift {
    pub fn run(self) -> Result<()> {
        self.text.require()?;
        let (offsets, length) = (self.offsets()?, self.length.0);
        let farthest = offsets.last().copied().unwrap_or(0);
        let opened = self.reader.open(farthest + length, "--offsets")?;
        let bos = self.bos.token(&opened.tokenizer)?;
        let protocol = ShiftProtocol { offsets, length, passages: self.passages.0, bos };
        let cache = self.evaluation.cache(&self.reader)?;
        let corpus = self.text.load(&opened.tokenizer, &self.evaluation.common)?;
        let passages = protocol.passages(&corpus)?;
        self.evaluation.announce(&protocol.describe());
        let bar = Progress::new("shift", protocol.reads(&passages), "tokens", self.evaluation.common.quiet);
        let reading = Reading { cache, ..Reading::of(protocol.longest(&passages)) };
        let job = ShiftJob {
            opened: &opened,
            protocol: &protocol,
            corpus: &corpus,
            passages: &passages,
            reading,
            bar: &bar,
            resumable: &self.evaluation.resumable,
        };
        let report = self.evaluation.dispatch(&self.reader, job)?;
        bar.finish();
        print_report(&report);
        self.evaluation.write(
            "eval-shift",
            &self.reader,
            &protocol,
            json!({
                "protocol_text": protocol.describe(), "rope_scaling": opened.rope.scaling.name(),
                "passages": report.passages, "results": report.offsets,
            }),
        )
    }

    /// The offsets in order, each once, from 0.
    fn offsets(&self) -> Result<Vec<usize>> {
        if self.length.0 < 2 {
            return Err(Error::usage("--length", self.length, "a passage needs at least 2 tokens"));
        }
        let end = format!("positions go up to {}", u32::MAX);
        let Some(most) = (u32::MAX as usize).checked_sub(self.length.0) else {
            return Err(Error::usage("--length", self.length, end));
        };
        if let Some(offset) = self.offsets.iter().find(|&&offset| offset >= most) {
            return Err(Error::usage("--offsets", offset, end));
        }
        let mut offsets = [&[0], self.offsets.as_slice()].concat();
        offsets.sort_unstable();
        offsets.dedup();
        Ok(offsets)
    }
}

struct ShiftJob<'a> {
    opened: &'a OpenedReader,
    protocol: &'a ShiftProtocol,
    corpus: &'a Corpus,
    passages: &'a [Passage],
    reading: Reading,
    bar: &'a Progress,
    resumable: &'a Resumable,
}

impl Job for ShiftJob<'_> {
    type Out = ShiftReport;
    fn run<B: Backend>(self, b: &B) -> Result<ShiftReport> {
        let ShiftJob { opened, protocol, corpus, passages, reading, bar, resumable } = self;
        let mut partial = resumable.open(b, "eval-shift", opened, reading.cache, Some(corpus), protocol)?;
        let (mut model, mut scorer): (_, Scorer<B>) = opened.load(b, reading)?;
        let mut progress = |tokens| bar.advance(tokens, "");
        let rope = &opened.rope;
        eval::shift(b, &mut model, &mut scorer, rope, corpus, passages, protocol, &mut partial, &mut progress)
    }
}

fn print_report(report: &ShiftReport) {
    let side = |side: Option<&eval::Side>| match side {
        Some(s) => [
            s.passages.to_string(),
            format!("{:.4}", s.ppl),
            format!("{:+.6}", s.difference),
            error_text(s.standard_error, 6),
        ],
        None => ["0", "-", "-", "-"].map(String::from),
    };
    let row = |o: &eval::OffsetReport| {
        let name = std::iter::once(size_text(o.offset));
        name.chain(side(Some(&o.alone))).chain(side(o.after.as_ref())).collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = report.offsets.iter().map(row).collect();
    let headings =
        ["offset", "alone", "ppl", "nll - at 0", "+/- s.e.", "after text", "ppl", "nll - at 0", "+/- s.e."];
    out!("{}", table(&headings, &rows));
}
