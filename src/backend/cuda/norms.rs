//! RMSNorm, LayerNorm and rows of unit length (`cuda/norm.cu`, `cuda/layernorm.cu`, `cuda/unit.cu`).

use super::buffer::Buf;
use super::driver::{Arg, Grid};
use super::images::tiles;
use super::{Cuda, CudaFloat, STRIDING};
use crate::backend::operands::{self, Norm};
use crate::backend::{Backend, NormShape, ScratchFor};
use crate::error::Result;

/// Blocks that each take a row at a time.
fn row_blocks(blocks: usize, shared: usize) -> Grid {
    Grid { blocks: [blocks, 1, 1], threads: tiles::ROW_THREADS, shared }
}

impl<E: CudaFloat> Cuda<E> {
    pub(super) fn norm_about_zero(
        &self, y: &mut Buf<E>, rstd: &mut Buf<f32>, x: &Buf<E>, w: &Buf<E>, s: NormShape,
    ) -> Result<()> {
        let NormShape { tokens, width, eps } = s;
        const OP: &str = "rmsnorm";
        operands::rmsnorm::<Self>(&self.name, y, rstd, x, w, s)?;
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
        operands::layernorm::<Self>(&self.name, y, stats, x, [w, bias], s)?;
        let operands = [y.arg(), stats.arg(), x.arg(), w.arg(), bias.arg()];
        let sizes = [self.int(OP, tokens)?, self.int(OP, width)?, Arg::float(eps)];
        let grid = row_blocks(Self::norm_blocks(tokens, 32), 3 * width * size_of::<E>());
        self.launch(OP, grid, &[&operands[..], &sizes].concat())
    }

    /// The backward pass of either norm, which leaves sums over some tokens each, which are then added up.
    pub(super) fn undo_norm(
        &self, norm: Norm, (dx, dw): (&mut Buf<E>, Option<&mut Buf<f32>>), [dy, x]: [&Buf<E>; 2],
        stats: &Buf<f32>, w: &Buf<E>, s: NormShape,
    ) -> Result<()> {
        let NormShape { tokens, width, .. } = s;
        operands::norm_backward::<Self>(&self.name, norm, (dx, dw.as_deref()), [dy, x], stats, w, s)?;
        if tokens * width == 0 {
            return Ok(());
        }
        let scratch = self.arena.take(self.scratch_bytes(ScratchFor::NormBackward(s)))?;
        let (partial, blocks) = (scratch.arg(), tiles::NORM_BACKWARD_BLOCKS);
        let shared = width * (4 + 3 * size_of::<E>());
        let grid = row_blocks(blocks, shared);
        let operands = [dx.arg(), partial, dy.arg(), x.arg(), stats.arg(), w.arg()];
        let op = norm.op;
        let sizes = [self.int(op, tokens)?, self.int(op, width)?];
        self.launch(op, grid, &[&operands[..], &sizes].concat())?;
        dw.map_or(Ok(()), |dw| self.column_sum::<f32>(dw, partial, blocks, width))
    }

    pub(super) fn make_unit_rows(
        &self, y: &mut Buf<E>, scale: &mut Buf<f32>, x: &Buf<E>, rows: usize, width: usize,
    ) -> Result<()> {
        const OP: &str = "unit_rows";
        operands::unit_rows::<Self>(&self.name, y, scale, x, rows, width)?;
        let args = [y.arg(), scale.arg(), x.arg(), self.int(OP, rows)?, self.int(OP, width)?];
        self.launch(OP, row_blocks(rows.min(STRIDING), width * size_of::<E>()), &args)
    }

    pub(super) fn undo_unit_rows(
        &self, d: &mut Buf<f32>, y: &Buf<E>, scale: &Buf<f32>, rows: usize, width: usize,
    ) -> Result<()> {
        const OP: &str = "unit_rows_backward";
        operands::unit_rows_backward::<Self>(&self.name, d, y, scale, rows, width)?;
        let args = [d.arg(), y.arg(), scale.arg(), self.int(OP, rows)?, self.int(OP, width)?];
        self.launch(OP, row_blocks(rows.min(STRIDING), 8 * width), &args)
    }
}
