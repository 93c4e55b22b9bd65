//! One passage at rising absolute positions: the probe that shows a broken rope configuration at once.
//!
//! The same tokens are scored, at each offset o, in two ways. *Alone*: nothing before them, rotated at o, o+1, ...
//! Rotation is relative, so a RoPE model gives them the same losses wherever they lie, but for rounding; a drift is a
//! fault of the arithmetic (or a scaling that goes by the length). *After*: with the o tokens that precede them in the
//! document, at positions 0, 1, ... There the distances to o are used: where base or scaling is wrong, or the context
//! was never trained, the losses rise with o instead of falling. Differences are paired: each passage is compared with
//! itself at offset 0, which is the passage alone.

use super::perplexity::bos_text;
use super::windows::finite;
use super::{Partial, mean_and_error};
use crate::backend::Backend;
use crate::data::Corpus;
use crate::error::{Error, Result};
use crate::index::TokenId;
use crate::infer::Scorer;
use crate::model::Model;
use crate::names;
use crate::rope::Rope;
use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShiftProtocol {
    /// In tokens, rising from 0.
    pub offsets: Vec<usize>,
    /// Tokens of a passage.
    pub length: usize,
    pub passages: usize,
    /// The token that opens what is read, if any; then the passage's first token is scored too.
    pub bos: Option<u32>,
}

/// Where a passage is cut from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Passage {
    /// Of the corpus.
    #[serde(skip)]
    pub document: usize,
    pub name: String,
    pub start: usize,
}

/// All passages at one offset, in one of the two ways.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Side {
    /// How many there are: not every document has so many tokens before its passage.
    pub passages: usize,
    /// Mean over them, in nats per token.
    pub nll: f64,
    pub ppl: f64,
    /// Mean over them of NLL here minus NLL at offset 0.
    pub difference: f64,
    pub standard_error: Option<f64>,
    /// By passage, in the report's order.
    pub of_passages: Vec<Option<f64>>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OffsetReport {
    pub offset: usize,
    pub alone: Side,
    /// None where no document has so many tokens before a passage.
    pub after: Option<Side>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShiftReport {
    pub passages: Vec<Passage>,
    pub offsets: Vec<OffsetReport>,
}

impl ShiftProtocol {
    /// One sentence for people.
    pub fn describe(&self) -> String {
        let ShiftProtocol { passages, length, .. } = self;
        let bos = bos_text(self.bos, "before what is read");
        format!(
            "{} of {length} tokens, {bos}; alone at positions offset, offset+1, ..., and after the \
             offset tokens before them; difference = mean over passages of NLL minus NLL at offset 0",
            names::counted(*passages, "passage")
        )
    }

    fn farthest(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// Passages that do not overlap, spread evenly over the places that have the farthest offset's tokens before them;
    /// a shorter document has one, at its end.
    ///
    /// # Errors
    /// Text that does not have so many.
    pub fn passages(&self, corpus: &Corpus) -> Result<Vec<Passage>> {
        let mut places = Vec::new();
        for (document, text) in corpus.documents.iter().enumerate() {
            let Some(last) = text.tokens.len().checked_sub(self.length) else { continue };
            let first = self.farthest().min(last);
            let starts = (first..=last).step_by(self.length);
            places.extend(starts.map(|start| Passage { document, name: text.name.clone(), start }));
        }
        if places.len() < self.passages {
            let problem = format!(
                "the text has room for {} of {} tokens behind an offset of {}; ask for at most that, for \
                 shorter ones, or give more text",
                names::counted(places.len(), "passage"),
                self.length,
                self.farthest()
            );
            return Err(Error::usage("--passages", self.passages, problem));
        }
        let all = places.len();
        Ok((0..self.passages).map(|i| places[i * all / self.passages].clone()).collect())
    }

    /// Each offset's readings: (passage, tokens before it, position of the first token).
    fn readings(&self, offset: usize, passages: &[Passage]) -> Vec<(usize, usize, usize)> {
        let alone = (0..passages.len()).map(|i| (i, 0, offset));
        let after = passages.iter().enumerate().filter(|(_, p)| offset > 0 && p.start >= offset);
        alone.chain(after.map(|(i, _)| (i, offset, 0))).collect()
    }

    fn opening(&self) -> usize {
        usize::from(self.bos.is_some())
    }

    /// Tokens that are read at once at most.
    pub fn longest(&self, passages: &[Passage]) -> usize {
        let before = |&offset: &usize| passages.iter().any(|p| p.start >= offset);
        let before = self.offsets.iter().copied().filter(before).max().unwrap_or(0);
        self.opening() + before + self.length
    }

    /// Tokens that go through the model.
    pub fn reads(&self, passages: &[Passage]) -> usize {
        let readings = self.offsets.iter().flat_map(|&offset| self.readings(offset, passages));
        readings.map(|(_, before, _)| self.opening() + before + self.length).sum()
    }
}

/// Scores every passage at every offset but those that `partial` has; what depends on the length of the text is rotated
/// for offset and passage.
pub fn run<B: Backend>(
    b: &B, model: &mut Model<B>, scorer: &mut Scorer<B>, rope: &Rope, corpus: &Corpus, passages: &[Passage],
    protocol: &ShiftProtocol, partial: &mut Partial, progress: &mut dyn FnMut(usize),
) -> Result<ShiftReport> {
    let mut offsets: Vec<OffsetReport> = Vec::new();
    for &offset in &protocol.offsets {
        model.set_rope(b, &rope.for_length(protocol.opening() + offset + protocol.length))?;
        let (mut alone, mut after) = (vec![None; passages.len()], vec![None; passages.len()]);
        for (i, before, position) in protocol.readings(offset, passages) {
            let ids = ids_of(corpus, &passages[i], before, protocol);
            let measure = || {
                let positions: Vec<u32> = (position..position + ids.len()).map(|p| p as u32).collect();
                // of the text itself the first token that both ways predict
                let nll = scorer.score(b, model, &ids, Some(&positions), before + 1, progress)?.nll;
                finite(&nll, &passages[i].name)?;
                Ok(nll.iter().map(|&loss| f64::from(loss)).sum::<f64>() / nll.len() as f64)
            };
            let unit = partial.unit(&("shift", offset, i, before), measure)?;
            if unit.resumed {
                progress(ids.len());
            }
            let of_passages = if before == 0 { &mut alone } else { &mut after };
            of_passages[i] = Some(unit.result);
        }
        let start = offsets.first().map_or_else(|| alone.clone(), |first| first.alone.of_passages.clone());
        let after = if offset == 0 { alone.clone() } else { after };
        let after = after.iter().any(Option::is_some).then(|| Side::new(after, &start));
        offsets.push(OffsetReport { offset, alone: Side::new(alone, &start), after });
    }
    Ok(ShiftReport { passages: passages.to_vec(), offsets })
}

/// What opens it, `before` tokens of the document, the passage.
fn ids_of(corpus: &Corpus, passage: &Passage, before: usize, protocol: &ShiftProtocol) -> Vec<TokenId> {
    let text = &corpus.documents[passage.document].tokens;
    let text = &text[passage.start - before..passage.start + protocol.length];
    protocol.bos.map(TokenId).into_iter().chain(text.iter().copied()).collect()
}

impl Side {
    fn new(of_passages: Vec<Option<f64>>, start: &[Option<f64>]) -> Side {
        let values: Vec<f64> = of_passages.iter().copied().flatten().collect();
        let pairs = of_passages.iter().zip(start);
        let differences: Vec<f64> = pairs.filter_map(|(here, start)| Some((*here)? - (*start)?)).collect();
        let (nll, _) = mean_and_error(&values);
        let (difference, standard_error) = mean_and_error(&differences);
        Side { passages: values.len(), nll, ppl: nll.exp(), difference, standard_error, of_passages }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Document;
    use approx::assert_relative_eq;

    fn corpus(lengths: &[usize]) -> Corpus {
        let document = |&n: &usize| Document { name: format!("{n}"), tokens: vec![TokenId(1); n] };
        Corpus { documents: lengths.iter().map(document).collect() }
    }

    #[test]
    fn passages_lie_behind_the_farthest_offset_and_do_not_overlap() {
        let protocol = |passages| ShiftProtocol { offsets: vec![0, 100], length: 10, passages, bos: None };
        let corpus = corpus(&[9, 200, 60]);
        // 100, 110, ..., 190 of the second document, and the end of the third
        let all = protocol(11).passages(&corpus).unwrap();
        assert_eq!(
            all.iter().map(|p| p.start).collect::<Vec<_>>(),
            [100, 110, 120, 130, 140, 150, 160, 170, 180, 190, 50]
        );
        let two = protocol(2).passages(&corpus).unwrap();
        assert_eq!(two.iter().map(|p| (p.document, p.start)).collect::<Vec<_>>(), [(1, 100), (1, 150)]);
        let said = protocol(12).passages(&corpus).unwrap_err().to_string();
        assert!(said.contains("--passages 12") && said.contains("room for 11"), "{said}");
        assert_eq!(protocol(11).longest(&all), 110);
        assert_eq!(protocol(11).longest(&all[10..]), 10);
        assert_eq!(protocol(11).reads(&all), 11 * 10 + 11 * 10 + 10 * 110);
    }

    #[test]
    fn differences_are_paired() {
        let start = [Some(1.0), Some(5.0), Some(2.0)];
        let side = Side::new(vec![Some(1.5), Some(5.5), None], &start);
        assert_eq!((side.passages, side.nll), (2, 3.5));
        assert_relative_eq!(side.difference, 0.5);
        assert_relative_eq!(side.standard_error.unwrap(), 0.0);
    }
}
