//! Which keys a query sees, for single pairs and for whole tiles of pairs.

use crate::index::DocumentId;
use std::ops::Range;

/// The rule of one row, on sequence indices: causal, within the window, of the same document.
#[derive(Clone, Copy)]
pub(super) struct Mask<'a> {
    /// usize::MAX where there is no window.
    pub window: usize,
    /// The document of every key of the row.
    pub documents: Option<&'a [DocumentId]>,
}

/// How much of a tile of pairs is visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cover {
    Nothing,
    Part,
    All,
}

impl Mask<'_> {
    /// For queries at the indices `q` and keys `k`, neither empty.
    pub(super) fn cover(&self, q: Range<usize>, k: Range<usize>) -> Cover {
        let too_late = k.start >= q.end;
        let too_old = (q.start + 1).saturating_sub(k.end) >= self.window;
        if too_late || too_old {
            return Cover::Nothing;
        }
        let all = k.end - 1 <= q.start && q.end - 1 - k.start.min(q.end - 1) < self.window;
        match self.documents.map(|ids| Self::documents(&ids[q], &ids[k])) {
            Some(Cover::Nothing) => Cover::Nothing,
            Some(Cover::Part) => Cover::Part,
            _ if all => Cover::All,
            _ => Cover::Part,
        }
    }

    /// By the least and the greatest document on each side, whatever their order.
    fn documents(q: &[DocumentId], k: &[DocumentId]) -> Cover {
        let ends =
            |ids: &[DocumentId]| ids.iter().fold((u32::MAX, 0), |(lo, hi), d| (d.0.min(lo), d.0.max(hi)));
        let (q, k) = (ends(q), ends(k));
        if q.1 < k.0 || k.1 < q.0 {
            Cover::Nothing
        } else if q.0 == q.1 && q == k {
            Cover::All
        } else {
            Cover::Part
        }
    }

    /// The keys that the query at index i may see as far as order and window go.
    pub(super) fn keys_of(&self, i: usize) -> Range<usize> {
        (i + 1).saturating_sub(self.window)..i + 1
    }

    /// The queries that may see key j as far as order and window go.
    pub(super) fn queries_of(&self, j: usize) -> Range<usize> {
        j..j.saturating_add(self.window)
    }

    /// Hides (-inf) the scores of what is not visible: those outside `seen`, and those whose document is not that of index
    /// `at`. `others` are the indices that the scores belong to.
    #[inline(always)]
    pub(super) fn apply(&self, scores: &mut [f32], at: usize, seen: Range<usize>, others: Range<usize>) {
        let inside = |i: usize| i.clamp(others.start, others.end) - others.start;
        let (first, end) = (inside(seen.start), inside(seen.end));
        let end = end.max(first);
        scores[..first].fill(f32::NEG_INFINITY);
        scores[end..].fill(f32::NEG_INFINITY);
        let Some(ids) = self.documents else { return };
        let document = ids[at].0;
        let ids = &ids[others.start + first..others.start + end];
        for (s, id) in scores[first..end].iter_mut().zip(ids) {
            *s = if id.0 == document { *s } else { f32::NEG_INFINITY };
        }
    }
}
