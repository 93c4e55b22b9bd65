//! Attention: tensor cores for the head sizes they have, split over the keys for a few queries, plain kernels for the rest.

use super::buffer::{Buf, optional};
use super::driver::{Arg, Grid};
use super::images::tiles;
use super::kernels::HEAD_DIMS;
use super::scratch::Taken;
use super::{Cuda, CudaFloat, line};
use crate::backend::{AttentionShape, Backend, ScratchFor, operands};
use crate::error::Result;
use crate::index::DocumentId;

/// Splits of the keys at most, and keys of one at least, when decoding; by the shape alone.
const SPLITS: usize = 64;
const KEYS_OF_SPLIT: usize = 256;

/// How a forward pass is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Tensor,
    /// Flash-decoding: `splits` of `per_split` keys.
    Split {
        splits: usize,
        per_split: usize,
    },
    Plain,
}

/// Bytes of `rows` rows of a head in shared memory, padded against bank conflicts (`HeadRows` in cuda/head_rows.cuh).
fn head_rows(rows: usize, head_dim: usize) -> usize {
    rows * (head_dim + 8) * 2
}

/// Shared memory of the forward kernel with tiles of `tile` keys.
fn forward_shared(tile: usize, head_dim: usize) -> usize {
    head_rows(tiles::ATTENTION_QUERIES + 4 * tile, head_dim)
}

fn decode_shared(head_dim: usize) -> usize {
    let warps = tiles::DECODE_THREADS / 32;
    let meeting = warps * tiles::DECODE_ROWS * (head_dim + 4) * 4;
    head_rows(tiles::DECODE_ROWS + 4 * tiles::DECODE_KEYS, head_dim).max(meeting)
}

fn dq_shared(head_dim: usize) -> usize {
    head_rows(2 * tiles::ATTENTION_DQ_QUERIES + 4 * tiles::ATTENTION_DQ_KEYS, head_dim)
}

fn dkv_shared(head_dim: usize) -> usize {
    let rows = 2 * tiles::ATTENTION_DKV_KEYS + 4 * tiles::ATTENTION_DKV_QUERIES;
    head_rows(rows, head_dim) + 16 * tiles::ATTENTION_DKV_QUERIES
}

/// What a GPU must give a block for the tensor core kernels of a head size, the forward pass in the smaller tiles. (99 KiB, as
/// sm_86, sm_89 and sm_120 have, are enough for heads of 128; 256 take more.)
fn most_shared(head_dim: usize) -> usize {
    let forward = forward_shared(tiles::ATTENTION_KEYS_NARROW, head_dim);
    [forward, decode_shared(head_dim), dq_shared(head_dim), dkv_shared(head_dim)]
        .into_iter()
        .fold(0, usize::max)
}

impl<E: CudaFloat> Cuda<E> {
    fn way(&self, s: AttentionShape) -> Way {
        let compiled = E::SUFFIX == "bf16" && HEAD_DIMS.contains(&s.head_dim);
        if !compiled || most_shared(s.head_dim) > self.gpu.about.shared_bytes {
            return Way::Plain;
        }
        Self::splits(s).map_or(Way::Tensor, |(splits, per_split)| Way::Split { splits, per_split })
    }

    /// (splits, keys of one) where there are so few queries that the keys are split.
    pub(super) fn splits(s: AttentionShape) -> Option<(usize, usize)> {
        // from the first key that any query sees, as `seen_from` in attention.cuh
        let unseen = s.window.map_or(0, |window| (s.keys - s.queries + 1).saturating_sub(window));
        let keys = s.keys - unseen / tiles::DECODE_KEYS * tiles::DECODE_KEYS;
        let per_split = keys.div_ceil(SPLITS).max(KEYS_OF_SPLIT).next_multiple_of(tiles::DECODE_KEYS);
        let few = s.queries * (s.heads / s.kv_heads) <= tiles::DECODE_ROWS;
        few.then(|| (keys.div_ceil(per_split), per_split))
    }

    /// Elements of the log-sum-exps of all splits; the parts of o are head_dim times as many.
    fn split_rows(splits: usize, s: AttentionShape) -> usize {
        splits * s.rows * s.kv_heads * tiles::DECODE_ROWS
    }

    /// Bytes of what all splits leave for `combine`.
    pub(super) fn split_bytes(splits: usize, s: AttentionShape) -> usize {
        4 * Self::split_rows(splits, s) * (s.head_dim + 1)
    }

    /// Where they leave it, in so many bytes of scratch: parts of o, behind them log-sum-exps.
    pub(super) fn split_parts(scratch: &Taken, splits: usize, s: AttentionShape) -> [Arg; 2] {
        [scratch.arg(), scratch.arg_at(4 * Self::split_rows(splits, s) * s.head_dim)]
    }

    pub(super) fn forward_scratch(&self, s: AttentionShape) -> usize {
        match self.way(s) {
            Way::Split { splits, .. } => Self::split_bytes(splits, s),
            _ => 0,
        }
    }

    /// Refuses heads wider than any kernel takes.
    pub(super) fn fits(&self, op: &str, s: AttentionShape) -> Result<()> {
        if s.head_dim > tiles::PLAIN_HEAD_DIM {
            let problem = format!("{op}: head_dim {} is more than {}", s.head_dim, tiles::PLAIN_HEAD_DIM);
            return Err(self.refuse(problem));
        }
        Ok(())
    }

    /// What the kernels take after their operands.
    pub(super) fn shape_args(&self, op: &str, s: AttentionShape) -> Result<Vec<Arg>> {
        let window = s.window.map_or(i32::MAX, |w| i32::try_from(w).unwrap_or(i32::MAX));
        let mut args = Vec::new();
        for size in [s.queries, s.keys, s.heads, s.kv_heads] {
            args.push(self.int(op, size)?);
        }
        args.extend([Arg::int(window), Arg::float(s.scale)]);
        Ok(args)
    }

    pub(super) fn forward(
        &self, o: &mut Buf<E>, lse: &mut Buf<f32>, [q, k, v]: [&Buf<E>; 3],
        documents: Option<&Buf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        const OP: &str = "attention";
        operands::attention::<Self>(&self.name, (o, lse), [q, k, v], documents, s)?;
        self.fits(OP, s)?;
        if s.query_elements() == 0 {
            return Ok(());
        }
        let operands = [q.arg(), k.arg(), v.arg(), optional(documents)];
        match self.way(s) {
            Way::Split { splits, per_split } => {
                self.decode([o.arg(), lse.arg()], &operands, (splits, per_split), s)
            }
            _ => self.forward_many([o.arg(), lse.arg()], &operands, s),
        }
    }

    /// Of many queries, or what tensor cores do not do.
    pub(super) fn forward_many(&self, out: [Arg; 2], operands: &[Arg; 4], s: AttentionShape) -> Result<()> {
        const OP: &str = "attention";
        let shape = self.shape_args(OP, s)?;
        match self.way(s) {
            Way::Tensor | Way::Split { .. } => {
                let wide = forward_shared(tiles::ATTENTION_KEYS, s.head_dim);
                let (shared, narrow) = if wide <= self.gpu.about.shared_bytes && s.head_dim <= 128 {
                    (wide, "")
                } else {
                    (forward_shared(tiles::ATTENTION_KEYS_NARROW, s.head_dim), "_narrow")
                };
                let grid = Grid {
                    blocks: [s.queries.div_ceil(tiles::ATTENTION_QUERIES), s.heads, s.rows],
                    threads: tiles::ATTENTION_THREADS,
                    shared,
                };
                let args = [&out[..], operands, &shape].concat();
                self.launch(&format!("attention{narrow}_d{}", s.head_dim), grid, &args)
            }
            Way::Plain => {
                let head_dim = self.int(OP, s.head_dim)?;
                let args = [&out[..], operands, &[head_dim], &shape].concat();
                self.launch("attention_plain", plain_grid(s.queries, s.heads, s.rows), &args)
            }
        }
    }

    fn decode(
        &self, out: [Arg; 2], operands: &[Arg], (splits, per_split): (usize, usize), s: AttentionShape,
    ) -> Result<()> {
        const OP: &str = "decode";
        let scratch = self.arena.take(Self::split_bytes(splits, s))?;
        let parts = Self::split_parts(&scratch, splits, s);
        let blocks = [splits, s.kv_heads, s.rows];
        let grid = Grid { blocks, threads: tiles::DECODE_THREADS, shared: decode_shared(s.head_dim) };
        let args = [&parts[..], operands, &[self.int(OP, per_split)?], &self.shape_args(OP, s)?].concat();
        self.launch(&format!("decode_d{}", s.head_dim), grid, &args)?;
        self.combine(out, parts, splits, s)
    }

    /// o and lse of all splits.
    pub(super) fn combine(
        &self, [o, lse]: [Arg; 2], parts: [Arg; 2], splits: usize, s: AttentionShape,
    ) -> Result<()> {
        const OP: &str = "decode_combine";
        let mut args = vec![o, lse, parts[0], parts[1]];
        for size in [splits, s.queries, s.heads, s.kv_heads, s.head_dim] {
            args.push(self.int(OP, size)?);
        }
        let grid =
            Grid { blocks: [s.queries * s.heads, s.rows, 1], threads: tiles::DECODE_THREADS, shared: 0 };
        self.launch(OP, grid, &args)
    }

    pub(super) fn backward(
        &self, [dq, dk, dv]: [&mut Buf<E>; 3], [d_o, o]: [&Buf<E>; 2], lse: &Buf<f32>,
        [q, k, v]: [&Buf<E>; 3], documents: Option<&Buf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        const OP: &str = "attention_backward";
        operands::attention_backward::<Self>(
            &self.name,
            [dq, dk, dv, d_o],
            (o, lse),
            [q, k, v],
            documents,
            s,
        )?;
        self.fits(OP, s)?;
        let stats = s.rows * s.heads * s.queries;
        if s.query_elements() == 0 {
            return Ok(());
        }
        let scratch = self.arena.take(self.scratch_bytes(ScratchFor::AttentionBackward(s)))?;
        let mut args = vec![scratch.arg(), d_o.arg(), o.arg(), lse.arg()];
        for size in [s.queries, s.heads, s.head_dim, stats] {
            args.push(self.int(OP, size)?);
        }
        let blocks = stats.div_ceil(tiles::ATTENTION_STATS_THREADS / 32);
        self.launch("attention_row_stats", line(blocks, tiles::ATTENTION_STATS_THREADS), &args)?;

        let plain = self.way(s) == Way::Plain;
        let head_dim = if plain { vec![self.int(OP, s.head_dim)?] } else { Vec::new() };
        let inputs = [d_o.arg(), scratch.arg(), q.arg(), k.arg(), v.arg(), optional(documents)];
        let rest = [&inputs[..], &head_dim, &self.shape_args(OP, s)?].concat();
        let (for_dq, for_dkv) =
            ([&[dq.arg()][..], &rest].concat(), [&[dk.arg(), dv.arg()][..], &rest].concat());
        if plain {
            self.launch("attention_plain_dq", plain_grid(s.queries, s.heads, s.rows), &for_dq)?;
            return self.launch("attention_plain_dkv", plain_grid(s.keys, s.kv_heads, s.rows), &for_dkv);
        }
        self.launch(&format!("attention_dq_d{}", s.head_dim), dq_grid(s), &for_dq)?;
        self.launch(&format!("attention_dkv_d{}", s.head_dim), dkv_grid(s), &for_dkv)
    }
}

fn plain_grid(lines: usize, heads: usize, rows: usize) -> Grid {
    let blocks = [lines.div_ceil(tiles::PLAIN_WARPS), heads, rows];
    Grid { blocks, threads: tiles::PLAIN_WARPS * 32, shared: 0 }
}

fn dq_grid(s: AttentionShape) -> Grid {
    Grid {
        blocks: [s.queries.div_ceil(tiles::ATTENTION_DQ_QUERIES), s.heads, s.rows],
        threads: tiles::ATTENTION_DQ_THREADS,
        shared: dq_shared(s.head_dim),
    }
}

fn dkv_grid(s: AttentionShape) -> Grid {
    let parts = s.head_dim.div_ceil(tiles::ATTENTION_DKV_COLUMNS);
    Grid {
        blocks: [s.keys.div_ceil(tiles::ATTENTION_DKV_KEYS), s.kv_heads, s.rows * parts],
        threads: tiles::ATTENTION_DKV_THREADS,
        shared: dkv_shared(s.head_dim),
    }
}
