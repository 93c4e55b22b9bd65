//! Corpora and how often a row is of each.

use super::corpus::{Chooser, Corpus};
use super::pack::Pack;
use crate::error::{Error, Result};
use crate::names;
use crate::positions::Sampler;
use crate::random::{Purpose, Stream};
use std::ops::Range;

/// A corpus, and how likely a row is of it, in proportion to the weights of the others.
#[derive(Clone, Debug)]
pub struct Share {
    pub corpus: Corpus,
    pub weight: f64,
}

/// How the rows of a corpus are found.
#[derive(Debug)]
pub(super) enum Rows {
    /// A window of one document.
    Windows(Chooser),
    /// Several documents.
    Packed(Pack),
}

/// A corpus among the documents of all.
#[derive(Debug)]
pub(super) struct Part {
    /// Its documents.
    pub documents: Range<usize>,
    pub rows: Rows,
}

/// All corpora as one list of documents, and what finds the rows of each.
#[derive(Debug)]
pub(super) struct Shares {
    pub corpus: Corpus,
    parts: Vec<Part>,
    weights: Vec<f64>,
}

impl Shares {
    /// Drops the documents that no row of the sampler can be made of; the second value is what to know of that.
    ///
    /// Errors: a corpus of which nothing is left, weights that [`check_weights`] refuses.
    pub(super) fn new(shares: Vec<Share>, sampler: &Sampler) -> Result<(Shares, Vec<String>)> {
        let weights: Vec<f64> = shares.iter().map(|share| share.weight).collect();
        check_weights(&weights)?;
        let (mut all, mut parts, mut notes) = (Corpus::default(), Vec::new(), Vec::new());
        for Share { mut corpus, .. } in shares {
            notes.extend(drop_short(&mut corpus, sampler)?);
            let rows = if sampler.packs() {
                let pack = Pack::new(&corpus, sampler.window());
                notes.push(packed_text(&corpus, &pack, sampler.window()));
                Rows::Packed(pack)
            } else {
                Rows::Windows(Chooser::new(&corpus, sampler.document_len()))
            };
            let first = all.documents.len();
            all.documents.append(&mut corpus.documents);
            parts.push(Part { documents: first..all.documents.len(), rows });
        }
        Ok((Shares { corpus: all, parts, weights }, notes))
    }

    /// The corpus of a row.
    pub(super) fn part(&self, seed: u64, step: u64, row: u32) -> &Part {
        &self.parts[Stream::new(seed, Purpose::Corpus, step, row).weighted(&self.weights)]
    }

    /// blake3 of all tokens, where documents end, and, of several corpora, where corpora do.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let documents = self.corpus.fingerprint();
        if self.parts.len() == 1 {
            return documents;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&documents);
        for part in &self.parts {
            hasher.update(&(part.documents.end as u64).to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

/// Refuses weights that no row can be drawn by.
pub fn check_weights(weights: &[f64]) -> Result<()> {
    let list = || weights.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
    let refused = |problem: &str| Err(Error::usage("--mix", list(), problem));
    if weights.iter().any(|w| !w.is_finite() || *w < 0.0) {
        return refused("every weight must be a finite number of at least 0, as in 0.7,0.3");
    }
    match weights.iter().sum::<f64>() {
        sum if !sum.is_finite() => {
            refused("the weights sum to more than a number can hold; 7,3 is as good as 0.7,0.3")
        }
        0.0 => {
            refused("the weights sum to zero, so no row can be drawn; give one of them more, as in 0.7,0.3")
        }
        _ => Ok(()),
    }
}

fn drop_short(corpus: &mut Corpus, sampler: &Sampler) -> Result<Option<String>> {
    let (need, all) = (sampler.document_len(), corpus.documents.len());
    if !sampler.packs() {
        let flag = sampler.window_flag();
        let dropped = corpus.retain_at_least(need).map_err(|short| {
            let problem = format!(
                "each row takes {need} tokens of one document (a window and the last target), and {short}; lower {flag} to at \
                 most {} or give longer documents",
                short.tokens.saturating_sub(1)
            );
            Error::usage(flag, need.saturating_sub(1), problem)
        })?;
        return Ok((dropped > 0).then(|| {
            format!("{dropped} of {all} documents have fewer than {need} tokens and are not trained on")
        }));
    }
    let first = corpus.documents.first().map_or(String::new(), |document| document.name.clone());
    corpus.documents.retain(|document| document.tokens.len() >= need);
    let dropped = all - corpus.documents.len();
    if corpus.documents.is_empty() {
        let problem = format!(
            "each of {}, {first} the first, has fewer than two tokens, and a document of one token has \
             nothing to predict; give longer documents",
            names::counted(all, "document")
        );
        return Err(Error::usage("--data", first, problem));
    }
    Ok((dropped > 0).then(|| {
        format!(
            "{dropped} of {all} documents have fewer than two tokens, so nothing to predict, and are not trained on"
        )
    }))
}

fn packed_text(corpus: &Corpus, pack: &Pack, window: usize) -> String {
    let places = corpus.tokens() - corpus.documents.len() as u64;
    let full = 100.0 * places as f64 / (pack.rows() * window) as f64;
    format!(
        "{} packed into {} of {window}, {full:.1}% full",
        names::counted(corpus.documents.len(), "document"),
        names::counted(pack.rows(), "row")
    )
}
