//! Keys and values as 8-bit integers: `cuda/kv_int8.cu`.

use super::buffer::{Buf, optional};
use super::driver::{Arg, Grid};
use super::images::tiles;
use super::{Cuda, CudaFloat, striding};
use crate::backend::{AttentionShape, KvShape, Quantised, operands};
use crate::error::Result;
use crate::index::DocumentId;

/// Bytes of shared memory of a block of decode_int8 (`DecodeMemory` in cuda/kv_int8.cu).
fn decode_memory(head_dim: usize) -> usize {
    let (words, rows, keys) = (head_dim.div_ceil(4), tiles::DECODE_ROWS, tiles::DECODE_KEYS);
    4 * (2 * keys * (words | 1) + rows * 4 * words + rows * keys + 3 * rows + 2 * keys)
}

impl<E: CudaFloat> Cuda<E> {
    pub(super) fn quantise(
        &self, codes: &mut Buf<i8>, scales: &mut Buf<f32>, at: usize, x: &Buf<E>, s: KvShape,
    ) -> Result<()> {
        const OP: &str = "kv_quantise";
        let KvShape { tokens, kv_heads, head_dim } = s;
        let (first, heads) = (at * kv_heads, tokens * kv_heads);
        operands::kv_quantise::<Self>(&self.name, codes, scales, at, x, s)?;
        let to = [codes.arg_at(first * head_dim), scales.arg_at(first), x.arg()];
        let sizes = [self.int(OP, head_dim)?, Arg::long(heads as i64)];
        self.launch(OP, striding(tiles::KV_LANES * heads), &[&to[..], &sizes].concat())
    }

    /// Few queries are decoded over the codes; for many, keys and values are multiplied out first, each element once.
    pub(super) fn forward_int8(
        &self, o: &mut Buf<E>, lse: &mut Buf<f32>, q: &Buf<E>, [k, v]: [Quantised<'_, Self>; 2],
        documents: Option<&Buf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        const OP: &str = "attention_int8";
        operands::attention_int8::<Self>(&self.name, (o, lse), q, [&k, &v], documents, s)?;
        self.fits(OP, s)?;
        let (keys, heads) = (s.key_elements(), s.rows * s.keys * s.kv_heads);
        if s.query_elements() == 0 {
            return Ok(());
        }
        let scratch = self.arena.take(self.int8_scratch(s))?;
        if let Some((splits, per_split)) = Self::splits(s) {
            let parts = Self::split_parts(&scratch, splits, s);
            let blocks = [splits, s.kv_heads, s.rows];
            let shared = decode_memory(s.head_dim);
            let grid = Grid { blocks, threads: tiles::DECODE_THREADS, shared };
            let cache = [k.codes.arg(), k.scales.arg(), v.codes.arg(), v.scales.arg(), optional(documents)];
            let sizes = [self.int(OP, s.head_dim)?, self.int(OP, per_split)?];
            let args = [&parts[..], &[q.arg()], &cache, &sizes, &self.shape_args(OP, s)?].concat();
            self.launch("decode_int8", grid, &args)?;
            return self.combine([o.arg(), lse.arg()], parts, splits, s);
        }
        let whole = [scratch.arg(), scratch.arg_at(keys * size_of::<E>())];
        for (x, to) in [(&k, whole[0]), (&v, whole[1])] {
            let sizes = [self.int(OP, s.head_dim)?, Arg::long(heads as i64)];
            let args = [&[to, x.codes.arg(), x.scales.arg()][..], &sizes].concat();
            self.launch("kv_dequantise", striding(keys.div_ceil(tiles::KV_ELEMENTS)), &args)?;
        }
        let operands = [q.arg(), whole[0], whole[1], optional(documents)];
        self.forward_many([o.arg(), lse.arg()], &operands, s)
    }

    pub(super) fn int8_scratch(&self, s: AttentionShape) -> usize {
        match Self::splits(s) {
            Some((splits, _)) => Self::split_bytes(splits, s),
            None => 2 * s.key_elements() * size_of::<E>(),
        }
    }
}
