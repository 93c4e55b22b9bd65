//! AdamW and the norm of gradients.

use super::Cpu;
use super::isa::per_isa;
use super::math::{CpuFloat, fma};
use crate::backend::{AdamStep, AdamTensor, Buffer};

/// The step's numbers as the loop over elements takes them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coefficients {
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    /// lr / (1 - beta1^step).
    rate: f32,
    /// 1 / sqrt(1 - beta2^step).
    root: f32,
    eps: f32,
    /// -lr·decay.
    shrink: f32,
    grad_scale: f32,
}

impl Coefficients {
    pub(super) fn new(step: AdamStep, decay: f64) -> Self {
        let correction = |beta: f64| 1.0 - beta.powf(step.step as f64);
        Coefficients {
            beta1: step.beta1 as f32,
            beta2: step.beta2 as f32,
            rest1: (1.0 - step.beta1) as f32,
            rest2: (1.0 - step.beta2) as f32,
            rate: (step.lr / correction(step.beta1)) as f32,
            root: (1.0 / correction(step.beta2).sqrt()) as f32,
            eps: step.eps as f32,
            shrink: (-step.lr * decay) as f32,
            grad_scale: step.grad_scale as f32,
        }
    }
}

/// One tensor's part of the step: as [`AdamTensor`](crate::backend::AdamTensor), in slices.
pub(super) struct Piece<'a, E> {
    pub param: &'a mut [E],
    pub master: Option<&'a mut [f32]>,
    pub m: &'a mut [f32],
    pub v: &'a mut [f32],
    pub grad: &'a [f32],
    pub step: Coefficients,
}

/// Elements of a piece.
const PIECE: usize = 1 << 15;

/// The tensor in pieces.
pub(super) fn pieces<'a, E: CpuFloat>(
    t: &'a mut AdamTensor<'_, Cpu<E>>, step: AdamStep,
) -> impl Iterator<Item = Piece<'a, E>> + Send {
    let step = Coefficients::new(step, t.decay);
    let n = t.param.len();
    let mut master = t.master.as_mut().map(|master| master.as_mut_slice()[..n].chunks_mut(PIECE));
    let param = t.param.as_mut_slice().chunks_mut(PIECE);
    let moments = t.m.as_mut_slice()[..n].chunks_mut(PIECE).zip(t.v.as_mut_slice()[..n].chunks_mut(PIECE));
    let grads = t.grad.as_slice()[..n].chunks(PIECE);
    param.zip(moments).zip(grads).map(move |((param, (m, v)), grad)| Piece {
        param,
        master: master.as_mut().and_then(|pieces| pieces.next()),
        m,
        v,
        grad,
        step,
    })
}

/// Advances m and v, and p (and what it is rounded to).
pub(super) fn step<E: CpuFloat>(simd: super::isa::Simd, piece: Piece<'_, E>) {
    let Piece { param, master, m, v, grad, step } = piece;
    match master {
        Some(master) => with_master(simd, param, master, m, v, grad, step),
        None => in_place(simd, param, m, v, grad, step),
    }
}

per_isa! {
    fn with_master[E: CpuFloat](
        param: &mut [E], master: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32], c: Coefficients,
    ) => with_master_body;
    fn in_place[E: CpuFloat](
        param: &mut [E], m: &mut [f32], v: &mut [f32], grad: &[f32], c: Coefficients,
    ) => in_place_body;
    /// Σ x² in f64: 16 partial sums, then those in order.
    pub(super) fn sum_squares(x: &[f32]) -> f64 => sum_squares_body;
}

#[inline(always)]
pub(super) fn with_master_body<E: CpuFloat, const FMA: bool>(
    param: &mut [E], master: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32], c: Coefficients,
) {
    let n = grad.len();
    let (param, master, m, v) = (&mut param[..n], &mut master[..n], &mut m[..n], &mut v[..n]);
    for i in 0..n {
        master[i] = next::<FMA>(master[i], &mut m[i], &mut v[i], grad[i], c);
        param[i] = E::narrow(master[i]);
    }
}

#[inline(always)]
pub(super) fn in_place_body<E: CpuFloat, const FMA: bool>(
    param: &mut [E], m: &mut [f32], v: &mut [f32], grad: &[f32], c: Coefficients,
) {
    let n = grad.len();
    let (param, m, v) = (&mut param[..n], &mut m[..n], &mut v[..n]);
    for i in 0..n {
        param[i] = E::narrow(next::<FMA>(param[i].widen(), &mut m[i], &mut v[i], grad[i], c));
    }
}

#[inline(always)]
fn next<const FMA: bool>(p: f32, m: &mut f32, v: &mut f32, grad: f32, c: Coefficients) -> f32 {
    let g = grad * c.grad_scale;
    *m = fma::<FMA>(c.beta1, *m, c.rest1 * g);
    *v = fma::<FMA>(c.beta2, *v, c.rest2 * g * g);
    let change = c.rate * *m / fma::<FMA>(v.sqrt(), c.root, c.eps);
    p + (c.shrink * p - change)
}

#[inline(always)]
fn sum_squares_body<const FMA: bool>(x: &[f32]) -> f64 {
    let mut acc = [0f64; 16];
    let (chunks, tail) = x.as_chunks::<16>();
    for chunk in chunks {
        for (acc, x) in acc.iter_mut().zip(chunk) {
            *acc += f64::from(*x) * f64::from(*x);
        }
    }
    let tail: f64 = tail.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    acc.iter().sum::<f64>() + tail
}
