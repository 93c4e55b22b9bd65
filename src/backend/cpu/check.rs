//! The checks of [`crate::backend::check`] in this backend's name.

use crate::backend::check;
use crate::error::Result;
use crate::index::TokenId;

pub(super) const DEVICE: &str = "cpu";

pub(super) fn lengths(op: &str, operands: &[(&str, usize, usize)]) -> Result<()> {
    check::lengths(DEVICE, op, operands)
}

pub(super) fn range(op: &str, name: &str, have: usize, at: usize, len: usize) -> Result<()> {
    check::range(DEVICE, op, name, have, at, len)
}

pub(super) fn tokens(op: &str, ids: &[TokenId], vocab: usize, may_ignore: bool) -> Result<()> {
    check::tokens(DEVICE, op, ids, vocab, may_ignore)
}
