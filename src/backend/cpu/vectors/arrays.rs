//! Arrays as wide as the registers that most machines have: what the compiler makes of them, on any target.

use super::super::math::{CpuFloat, ROUND, Widen, exp2_nearest, larger};
use super::{ACROSS, Vectors};

#[derive(Clone, Copy)]
pub struct Arrays;

impl Vectors for Arrays {
    type Vector = [f32; 4];
    const LANES: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 4] {
        [x; 4]
    }
    #[inline(always)]
    fn add(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        [a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]]
    }
    #[inline(always)]
    fn subtract(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        [a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3]]
    }
    #[inline(always)]
    fn multiply(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        [a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]]
    }
    #[inline(always)]
    fn multiply_add(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        self.add(self.multiply(a, b), c)
    }
    #[inline(always)]
    fn larger(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        [larger(a[0], b[0]), larger(a[1], b[1]), larger(a[2], b[2]), larger(a[3], b[3])]
    }
    #[inline(always)]
    fn exp2<E: CpuFloat>(self, x: [f32; 4]) -> [f32; 4] {
        const HIGHEST: f32 = 127.49;
        let (mut inside, mut n, mut power) = ([0.0; 4], [0.0; 4], [0.0; 4]);
        for i in 0..4 {
            inside[i] = if x[i] > HIGHEST { HIGHEST } else { x[i] };
        }
        for i in 0..4 {
            n[i] = inside[i] + ROUND;
        }
        for i in 0..4 {
            power[i] = f32::from_bits((n[i].to_bits() << 23).wrapping_add(1.0f32.to_bits()));
        }
        for i in 0..4 {
            n[i] -= ROUND;
        }
        let r = self.subtract(inside, n);
        let coefficients = exp2_nearest::<E>();
        let mut p = self.splat(coefficients[0]);
        for c in &coefficients[1..] {
            p = self.multiply_add(p, r, self.splat(*c));
        }
        p = self.multiply(p, power);
        for i in 0..4 {
            p[i] = if x[i] < -126.0 { 0.0 } else { p[i] };
        }
        p
    }
    #[inline(always)]
    fn sums(self, x: [[f32; 4]; ACROSS]) -> [f32; ACROSS] {
        x.map(|x| (x[0] + x[2]) + (x[1] + x[3]))
    }
    #[inline(always)]
    fn largest(self, x: [[f32; 4]; ACROSS]) -> [f32; ACROSS] {
        x.map(|x| larger(larger(x[0], x[2]), larger(x[1], x[3])))
    }
    #[inline(always)]
    fn exceeds(self, x: [f32; 4], limit: f32) -> bool {
        !(x[0] <= limit && x[1] <= limit && x[2] <= limit && x[3] <= limit)
    }
    #[inline(always)]
    unsafe fn load<E: Widen>(self, from: *const E) -> [f32; 4] {
        // SAFETY: the caller's LANES elements; an array has no more alignment than its elements.
        let x = unsafe { from.cast::<[E; 4]>().read() };
        [x[0].widen(), x[1].widen(), x[2].widen(), x[3].widen()]
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: [f32; 4]) {
        // SAFETY: the caller's LANES elements.
        unsafe { to.cast::<[f32; 4]>().write(x) };
    }
    #[inline(always)]
    unsafe fn store_two<E: CpuFloat>(self, to: *mut E, x: [[f32; 4]; 2]) {
        for (i, x) in x.into_iter().enumerate() {
            let x = [E::narrow(x[0]), E::narrow(x[1]), E::narrow(x[2]), E::narrow(x[3])];
            // SAFETY: the caller's 2·LANES elements.
            unsafe { to.add(4 * i).cast::<[E; 4]>().write(x) };
        }
    }
}
