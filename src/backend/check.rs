//! Lengths and indices, checked before an operation starts, for all backends.

use super::{AttentionShape, SampleShape};
use crate::error::{Error, Result};
use crate::index::TokenId;

pub(super) fn refuse(device: &str, problem: String) -> Error {
    Error::Device { device: device.into(), problem }
}

/// Every operand, (name, elements it has, elements that are needed), is long enough.
pub(super) fn lengths(device: &str, op: &str, operands: &[(&str, usize, usize)]) -> Result<()> {
    match operands.iter().find(|(_, have, need)| have < need) {
        None => Ok(()),
        Some((name, have, need)) => {
            Err(refuse(device, format!("{op}: {name} has {have} elements, {need} are needed")))
        }
    }
}

/// `len` elements from `at` on lie within a buffer of `have`.
pub(super) fn range(device: &str, op: &str, name: &str, have: usize, at: usize, len: usize) -> Result<()> {
    match at.checked_add(len) {
        Some(end) if end <= have => Ok(()),
        _ => Err(refuse(
            device,
            format!("{op}: {len} elements of {name} from {at} on are needed, it has {have}"),
        )),
    }
}

/// Tokens are entries of the vocabulary (or ignored, where that means something).
pub(super) fn tokens(device: &str, op: &str, ids: &[TokenId], vocab: usize, may_ignore: bool) -> Result<()> {
    let bad = |id: &TokenId| id.0 as usize >= vocab && !(may_ignore && *id == TokenId::IGNORED);
    match ids.iter().position(bad) {
        None => Ok(()),
        Some(t) => {
            Err(refuse(device, format!("{op}: token {t} is {}, the vocabulary has {vocab}", ids[t].0)))
        }
    }
}

/// Heads are shared evenly, and no query lies beyond the keys.
pub(super) fn attention(device: &str, op: &str, s: AttentionShape) -> Result<()> {
    if s.kv_heads == 0 || !s.heads.is_multiple_of(s.kv_heads) {
        return Err(refuse(device, format!("{op}: {} heads on {} key/value heads", s.heads, s.kv_heads)));
    }
    if s.queries > s.keys {
        return Err(refuse(device, format!("{op}: {} queries but {} keys", s.queries, s.keys)));
    }
    Ok(())
}

/// There is something to choose from, by numbers that are a temperature and a probability.
pub(super) fn sample(device: &str, op: &str, s: SampleShape) -> Result<()> {
    if s.vocab == 0 || !(s.temperature >= 0.0 && s.top_p > 0.0 && s.top_p <= 1.0) {
        let SampleShape { vocab, temperature, top_p, .. } = s;
        let problem = format!("{op}: {vocab} tokens at temperature {temperature}, top-p {top_p}");
        return Err(refuse(device, problem));
    }
    Ok(())
}
