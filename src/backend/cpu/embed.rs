//! Rows of the embedding by token, and the sum of gradients into them.

use super::Cpu;
use super::buffer::Buf;
use super::check;
use super::math::CpuFloat;
use super::norm;
use super::pool::Disjoint;
use crate::backend::{HeadShape, operands};
use crate::error::Result;
use crate::index::TokenId;

impl<E: CpuFloat> Cpu<E> {
    pub(super) fn embed(
        &self, y: &mut Buf<E>, table: &Buf<E>, ids: &Buf<TokenId>, s: HeadShape,
    ) -> Result<()> {
        let HeadShape { tokens, width, vocab } = s;
        operands::embed::<Self>(check::DEVICE, y, table, ids, s)?;
        let ids = &ids.as_slice()[..tokens];
        check::tokens("embed", ids, vocab, false)?;
        let cost = 0.2 * width as f64;
        let run = self.workers.run_length(tokens, cost);
        let y = y.as_mut_slice()[..tokens * width].chunks_mut(run * width.max(1));
        self.workers.each(cost * tokens as f64, y.zip(ids.chunks(run)), |(y, ids)| {
            for (y, id) in y.chunks_exact_mut(width).zip(ids) {
                y.copy_from_slice(&table.as_slice()[id.0 as usize * width..][..width]);
            }
        });
        Ok(())
    }

    pub(super) fn embed_backward(
        &self, d_table: &mut Buf<f32>, dy: &Buf<E>, ids: &Buf<TokenId>, s: HeadShape,
    ) -> Result<()> {
        let HeadShape { tokens, width, vocab } = s;
        operands::embed_backward::<Self>(check::DEVICE, d_table, dy, ids, s)?;
        let (dy, ids) = (dy.as_slice(), &ids.as_slice()[..tokens]);
        check::tokens("embed_backward", ids, vocab, false)?;
        let table = Disjoint::new(d_table.as_mut_slice());
        // Every task has all tokens, in order, and some of the columns.
        let run = self.columns_at_a_time(width);
        self.workers.each(0.5 * (tokens * width) as f64, (0..width).step_by(run), |first| {
            let n = run.min(width - first);
            for (t, id) in ids.iter().enumerate() {
                // SAFETY: no other task has these columns.
                let sum = unsafe { table.range(id.0 as usize * width + first, n) };
                norm::add_rows(self.simd, sum, &dy[t * width + first..][..n], n);
            }
        });
        Ok(())
    }
}
