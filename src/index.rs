//! Three ways to say where a token is, kept apart by the type system, and the token itself.
//!
//! The causal mask, the KV slot and the loss live on [`SeqIndex`]; rotation lives on [`RopePosition`]; packed documents
//! live on [`DocumentId`]. PoSE moves rope positions and nothing else: software that reads a jump in positions as the
//! start of another document cuts attention exactly where PoSE needs it.

use bytemuck::{Pod, Zeroable};

/// Place of a token in its row: 0, 1, 2, ... without gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct SeqIndex(pub u32);

/// The position that a token is rotated as; below the target length, with skips between chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct RopePosition(pub u32);

/// Which packed document a token belongs to; attention never crosses from one to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct DocumentId(pub u32);

/// An entry of the vocabulary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct TokenId(pub u32);

impl TokenId {
    /// A target that takes no part in the loss.
    pub const IGNORED: TokenId = TokenId(u32::MAX);
}

/// One chunk of a row: from `start` to the next chunk's start (or the row's end), token t is rotated as t + bias.
///
/// `bias` is the paper's skipping bias u_i; the first chunk of a PoSE row has bias 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct ChunkSpan {
    pub start: SeqIndex,
    pub bias: u32,
}
