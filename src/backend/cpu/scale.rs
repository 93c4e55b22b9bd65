//! A number times every element, and elements as f32.

use super::buffer::Buf;
use super::check;
use super::math::CpuFloat;
use super::{Cpu, RUN};
use crate::backend::Buffer;
use crate::error::Result;

impl<E: CpuFloat> Cpu<E> {
    pub(super) fn scale(&self, x: &mut Buf<E>, factor: f64, len: usize) -> Result<()> {
        check::lengths("scale", &[("x", x.len(), len)])?;
        let (run, factor) = (self.workers.run_length(len, 0.2).next_multiple_of(RUN), factor as f32);
        self.workers.each(0.2 * len as f64, x.as_mut_slice()[..len].chunks_mut(run), |x| {
            x.iter_mut().for_each(|x| *x = E::narrow(factor * x.widen()));
        });
        Ok(())
    }

    pub(super) fn widen(&self, y: &mut Buf<f32>, x: &Buf<E>, len: usize) -> Result<()> {
        check::lengths("widen", &[("y", y.len(), len), ("x", x.len(), len)])?;
        let run = self.workers.run_length(len, 0.2).next_multiple_of(RUN);
        let runs = y.as_mut_slice()[..len].chunks_mut(run).zip(x.as_slice()[..len].chunks(run));
        self.workers.each(0.2 * len as f64, runs, |(y, x)| {
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x.widen());
        });
        Ok(())
    }
}
