//! Lengths and indices, checked before an operation starts.

use crate::error::{Error, Result};
use crate::index::TokenId;

pub(super) fn refuse(problem: String) -> Error {
    Error::Device { device: "cpu".into(), problem }
}

/// Every operand, (name, elements it has, elements that are needed), is long enough.
pub(super) fn lengths(op: &str, operands: &[(&str, usize, usize)]) -> Result<()> {
    match operands.iter().find(|(_, have, need)| have < need) {
        None => Ok(()),
        Some((name, have, need)) => {
            Err(refuse(format!("{op}: {name} has {have} elements, {need} are needed")))
        }
    }
}

/// `len` elements from `at` on lie within a buffer of `have`.
pub(super) fn range(op: &str, name: &str, have: usize, at: usize, len: usize) -> Result<()> {
    match at.checked_add(len) {
        Some(end) if end <= have => Ok(()),
        _ => Err(refuse(format!("{op}: {len} elements of {name} from {at} on are needed, it has {have}"))),
    }
}

/// Tokens are entries of the vocabulary (or ignored, where that means something).
pub(super) fn tokens(op: &str, ids: &[TokenId], vocab: usize, may_ignore: bool) -> Result<()> {
    let bad = |id: &TokenId| id.0 as usize >= vocab && !(may_ignore && *id == TokenId::IGNORED);
    match ids.iter().position(bad) {
        None => Ok(()),
        Some(t) => Err(refuse(format!("{op}: token {t} is {}, the vocabulary has {vocab}", ids[t].0))),
    }
}
