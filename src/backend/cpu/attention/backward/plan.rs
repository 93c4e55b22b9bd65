//! How the backward pass is cut, and what memory that takes.

use super::super::super::matmul::pack::Packer;
use super::super::super::scratch::{Carver, grain};
use super::super::{KEYS, Shape};
use super::dq;
use super::queries::{self, QUERIES};
use crate::backend::AttentionShape;

/// Tasks that are enough, and bytes that their sums of dQ may take: each writes one of its own, and all are read again at the end. Three
/// key/value heads of 64 with three query heads each may have four parts up to windows of 32k.
const TASKS: usize = 12;
const PARTS_BYTES: usize = 512 << 20;

/// How the work is cut.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Plan {
    pub(super) shape: Shape,
    pub(super) packer: Packer,
    pub(super) threads: usize,
    /// Tasks that share the key blocks of a key/value head.
    pub(super) parts: usize,
}

impl Plan {
    pub(in crate::backend::cpu) fn new(packer: Packer, threads: usize, s: AttentionShape) -> Self {
        let shape = Shape::new(s, packer.kernel);
        let units = (shape.rows * shape.kv_heads).max(1);
        let mut plan = Plan { shape, packer, threads, parts: 1 };
        let room = PARTS_BYTES / (4 * units * plan.sums().words()).max(1);
        plan.parts = TASKS.div_ceil(units).min(shape.keys.div_ceil(KEYS)).min(room).max(1);
        plan
    }

    pub(super) fn sums(&self) -> dq::Layout {
        dq::Layout::new(self.shape, self.packer.kernel)
    }

    pub(super) fn worker_words(&self) -> usize {
        let (s, kernel) = (&self.shape, self.packer.kernel);
        2 * grain(KEYS * s.words)
            + grain(self.sums().k_words())
            + 2 * grain(KEYS * s.columns)
            + 2 * grain(kernel.mr * QUERIES)
            + grain(KEYS * kernel.words(QUERIES))
            + grain(self.sums().ds_words())
            + if self.parts == 1 { self.sums().words() } else { 0 }
    }

    pub(super) fn parts_words(&self) -> usize {
        let units = self.shape.rows * self.shape.kv_heads;
        if self.parts == 1 { 0 } else { units * self.parts * self.sums().words() }
    }

    pub(super) fn queries(&self) -> queries::Layout {
        queries::Layout::new(self.shape, self.packer)
    }

    pub(in crate::backend::cpu) fn scratch_words(&self) -> usize {
        self.threads * self.worker_words() + self.parts_words() + self.queries().words()
    }
}

/// One worker's memory.
pub(super) struct Space<'a> {
    /// Rows of K and V, [KEYS][words of a head], and Kᵀ as A of dQᵀ.
    pub k_rows: &'a mut [u32],
    pub v_rows: &'a mut [u32],
    pub k_turned: &'a mut [u32],
    /// [KEYS][columns].
    pub dk: &'a mut [f32],
    pub dv: &'a mut [f32],
    /// [mr][QUERIES]: Sᵀ, then Pᵀ, and dPᵀ of a strip of keys.
    pub scores: &'a mut [f32],
    pub slopes: &'a mut [f32],
    /// dSᵀ, [KEYS][QUERIES], and as B of dQᵀ.
    pub ds: &'a mut [u32],
    pub ds_panels: &'a mut [u32],
}

impl<'a> Space<'a> {
    /// The pieces, and the words of dQ where the worker keeps it.
    pub(super) fn carve(plan: &Plan, scratch: &'a mut [u32]) -> (Self, &'a mut [u32]) {
        let (s, kernel, sums) = (&plan.shape, plan.packer.kernel, plan.sums());
        let mut carver = Carver(scratch);
        let space = Space {
            k_rows: carver.words(KEYS * s.words),
            v_rows: carver.words(KEYS * s.words),
            k_turned: carver.words(sums.k_words()),
            dk: carver.floats(KEYS * s.columns),
            dv: carver.floats(KEYS * s.columns),
            scores: carver.floats(kernel.mr * QUERIES),
            slopes: carver.floats(kernel.mr * QUERIES),
            ds: carver.words(KEYS * kernel.words(QUERIES)),
            ds_panels: carver.words(sums.ds_words()),
        };
        (space, carver.words(if plan.parts == 1 { sums.words() } else { 0 }))
    }
}
