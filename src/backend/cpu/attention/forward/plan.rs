//! How the forward pass is cut, and what memory that takes.

use super::super::super::math::LANES;
use super::super::super::matmul::pack::Packer;
use super::super::super::scratch::{Carver, grain};
use super::super::softmax::State;
use super::super::source::room_words;
use super::super::{KEYS, Shape, panel_words};
use super::strip::unit;
use crate::backend::AttentionShape;

/// Rows (a query of one head each) that a task aims at, and the least. The more there are, the more share the packing of K and V; their
/// queries and sums are read again for each block of keys, 384 KB of 1024 rows of 64. Processors with tiles have an L2 of 2 MB.
const ROWS: usize = 1024;
const ROWS_OF_TILES: usize = 2048;
const ROWS_LEAST: usize = 64;
/// Keys of one part when few queries meet many keys.
pub(super) const PART: usize = 2048;

/// How the work is cut.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Plan {
    pub(super) shape: Shape,
    pub(super) packer: Packer,
    pub(super) threads: usize,
    /// Queries a task, and parts that the keys are cut into (1 unless there are few queries).
    pub(super) queries: usize,
    pub(super) parts: usize,
    /// Words of a block of keys that is multiplied out before it is packed.
    room: usize,
}

impl Plan {
    pub(in crate::backend::cpu) fn new(packer: Packer, threads: usize, s: AttentionShape) -> Self {
        let shape = Shape::new(s, packer.kernel);
        let rows = shape.queries * shape.group;
        let parts = if rows <= ROWS_LEAST && shape.keys > 2 * PART { shape.keys.div_ceil(PART) } else { 1 };
        let units = shape.rows * shape.kv_heads;
        let aim = if packer.kernel.a_in_rows { ROWS_OF_TILES } else { ROWS };
        // Parts of the keys are merged for all queries of a unit at once.
        let mut queries = if parts > 1 { shape.queries } else { aim.div_ceil(shape.group) };
        while parts == 1
            && units * shape.queries.div_ceil(queries) < 6 * threads
            && queries * shape.group > ROWS_LEAST
        {
            queries = queries.div_ceil(2);
        }
        if packer.kernel.a_in_rows && parts == 1 {
            // As many as the last strip has room for.
            queries = (queries * shape.group).next_multiple_of(packer.kernel.mr) / shape.group;
        }
        Plan { shape, packer, threads, queries: queries.min(shape.queries.max(1)), parts, room: 0 }
    }

    /// With the room that codes take which become elements of E.
    pub(in crate::backend::cpu) fn with_room<E>(self) -> Self {
        Plan { room: room_words::<E>(KEYS, self.shape.head_dim), ..self }
    }

    pub(super) fn task_rows(&self) -> usize {
        self.queries * self.shape.group
    }

    pub(super) fn worker_words(&self) -> usize {
        let (s, kernel) = (&self.shape, self.packer.kernel);
        let rows = self.task_rows();
        grain(KEYS * s.words)
            + grain(panel_words(self.packer, KEYS, s.columns))
            + grain(rows * s.words)
            + grain(rows * s.columns)
            + grain(2 * rows)
            + grain(kernel.mr * unit(kernel))
            + grain(kernel.mr * KEYS)
            + grain(kernel.mr * LANES)
            + grain(self.room)
    }

    /// Words of one part's result: the weighted sum and the state of every row.
    pub(super) fn part_words(&self) -> usize {
        grain(self.task_rows() * (self.shape.columns + 2))
    }

    pub(super) fn parts_words(&self) -> usize {
        let units = self.shape.rows * self.shape.kv_heads;
        if self.parts > 1 { units * self.parts * self.part_words() } else { 0 }
    }

    pub(in crate::backend::cpu) fn scratch_words(&self) -> usize {
        self.threads * self.worker_words() + self.parts_words()
    }
}

/// One worker's memory.
pub(super) struct Space<'a> {
    /// [KEYS/nr][words of a head][nr] and [columns/nr][words of KEYS][nr].
    pub k_panels: &'a mut [u32],
    pub v_panels: &'a mut [u32],
    /// [rows][words of a head].
    pub q: &'a mut [u32],
    /// [rows][columns].
    pub acc: &'a mut [f32],
    pub states: &'a mut [State],
    /// [mr][[`unit`]], [mr][KEYS] and [mr][LANES]: scores of some rows, their weights, and sums of these.
    pub scores: &'a mut [f32],
    pub weights: &'a mut [u32],
    pub sums: &'a mut [f32],
    /// A block of keys or values that is multiplied out.
    pub room: &'a mut [u32],
}

impl<'a> Space<'a> {
    pub(super) fn carve(plan: &Plan, scratch: &'a mut [u32]) -> Self {
        let (s, kernel, rows) = (&plan.shape, plan.packer.kernel, plan.task_rows());
        let mut carver = Carver(scratch);
        Space {
            k_panels: carver.words(KEYS * s.words),
            v_panels: carver.words(panel_words(plan.packer, KEYS, s.columns)),
            q: carver.words(rows * s.words),
            acc: carver.floats(rows * s.columns),
            states: bytemuck::cast_slice_mut(carver.words(2 * rows)),
            scores: carver.floats(kernel.mr * unit(kernel)),
            weights: carver.words(kernel.mr * KEYS),
            sums: carver.floats(kernel.mr * LANES),
            room: carver.words(plan.room),
        }
    }
}
