//! RMSNorm, LayerNorm and rows of unit length (`cuda/norm.cu`, `cuda/layernorm.cu`, `cuda/unit.cu`).

use super::buffer::Buf;
use super::driver::{Arg, Grid};
use super::images::tiles;
use super::{Cuda, CudaFloat, STRIDING};
use crate::backend::{Backend, Buffer, NormShape, ScratchFor};
use crate::error::Result;

/// Blocks that each take a row at a time.
fn row_blocks(blocks: usize, shared: usize) -> Grid {
    Grid { blocks: [blocks, 1, 1], threads: tiles::ROW_THREADS, shared }
}

/// A norm's statistics: what they are called, where they are, how many a token has.
type Stats<'a> = (&'static str, &'a Buf<f32>, usize);

impl<E: CudaFloat> Cuda<E> {
    pub(super) fn norm_about_zero(
        &self, y: &mut Buf<E>, rstd: &mut Buf<f32>, x: &Buf<E>, w: &Buf<E>, s: NormShape,
    ) -> Result<()> {
        let NormShape { tokens, width, eps } = s;
        const OP: &str = "rmsnorm";
        let all = tokens * width;
        let operands =
            [("y", y.len(), all), ("rstd", rstd.len(), tokens), ("x", x.len(), all), ("w", w.len(), width)];
        self.lengths(OP, &operands)?;
        let operands = [y.arg(), rstd.arg(), x.arg(), w.arg()];
        let sizes = [self.int(OP, tokens)?, self.int(OP, width)?, Arg::float(eps)];
        let shared = 2 * width * size_of::<E>();
        let grid = row_blocks(Self::norm_blocks(tokens, 16), shared);
        self.launch(OP, grid, &[&operands[..], &sizes].concat())
    }

    pub(super) fn norm_about_mean(
        &self, y: &mut Buf<E>, stats: &mut Buf<f32>, x: &Buf<E>, [w, bias]: [&Buf<E>; 2], s: NormShape,
    ) -> Result<()> {
        let NormShape { tokens, width, eps } = s;
        const OP: &str = "layernorm";
        let all = tokens * width;
        let operands = [
            ("y", y.len(), all),
            ("stats", stats.len(), 2 * tokens),
            ("x", x.len(), all),
            ("w", w.len(), width),
            ("bias", bias.len(), width),
        ];
        self.lengths(OP, &operands)?;
        let operands = [y.arg(), stats.arg(), x.arg(), w.arg(), bias.arg()];
        let sizes = [self.int(OP, tokens)?, self.int(OP, width)?, Arg::float(eps)];
        let grid = row_blocks(Self::norm_blocks(tokens, 32), 3 * width * size_of::<E>());
        self.launch(OP, grid, &[&operands[..], &sizes].concat())
    }

    /// The backward pass of either norm: `op` leaves sums over some tokens each, which are then added up.
    pub(super) fn undo_norm(
        &self, op: &'static str, (dx, dw): (&mut Buf<E>, Option<&mut Buf<f32>>), [dy, x]: [&Buf<E>; 2],
        (stats_name, stats, per_token): Stats<'_>, w: &Buf<E>, s: NormShape,
    ) -> Result<()> {
        let NormShape { tokens, width, .. } = s;
        let all = tokens * width;
        let mut operands = vec![
            ("dx", dx.len(), all),
            ("dy", dy.len(), all),
            ("x", x.len(), all),
            (stats_name, stats.len(), per_token * tokens),
            ("w", w.len(), width),
        ];
        operands.extend(dw.as_ref().map(|dw| ("dw", dw.len(), width)));
        self.lengths(op, &operands)?;
        if all == 0 {
            return Ok(());
        }
        let scratch = self.arena.take(self.scratch_bytes(ScratchFor::NormBackward(s)))?;
        let (partial, blocks) = (scratch.arg(), tiles::NORM_BACKWARD_BLOCKS);
        let shared = width * (4 + 3 * size_of::<E>());
        let grid = row_blocks(blocks, shared);
        let operands = [dx.arg(), partial, dy.arg(), x.arg(), stats.arg(), w.arg()];
        let sizes = [self.int(op, tokens)?, self.int(op, width)?];
        self.launch(op, grid, &[&operands[..], &sizes].concat())?;
        dw.map_or(Ok(()), |dw| self.column_sum::<f32>(dw, partial, blocks, width))
    }

    pub(super) fn make_unit_rows(
        &self, y: &mut Buf<E>, scale: &mut Buf<f32>, x: &Buf<E>, rows: usize, width: usize,
    ) -> Result<()> {
        const OP: &str = "unit_rows";
        let all = rows * width;
        self.lengths(OP, &[("y", y.len(), all), ("scale", scale.len(), rows), ("x", x.len(), all)])?;
        let args = [y.arg(), scale.arg(), x.arg(), self.int(OP, rows)?, self.int(OP, width)?];
        self.launch(OP, row_blocks(rows.min(STRIDING), width * size_of::<E>()), &args)
    }

    pub(super) fn undo_unit_rows(
        &self, d: &mut Buf<f32>, y: &Buf<E>, scale: &Buf<f32>, rows: usize, width: usize,
    ) -> Result<()> {
        const OP: &str = "unit_rows_backward";
        let all = rows * width;
        self.lengths(OP, &[("d", d.len(), all), ("y", y.len(), all), ("scale", scale.len(), rows)])?;
        let args = [d.arg(), y.arg(), scale.arg(), self.int(OP, rows)?, self.int(OP, width)?];
        self.launch(OP, row_blocks(rows.min(STRIDING), 8 * width), &args)
    }
}
