//! The products of decoding in AMX: 16 keys or values of bf16 at a time as one tile, read where they lie, [16 tokens][32 elements of a head].
//!
//! ```text
//!   scores   Sᵀ[16 keys][16 heads] += K·Qᵀ      K is A; Qᵀ is B, a column for each head, zero but for those that share K's head
//!   sums     O[16 rows][16 words]  += P·V       V is B
//! ```
//!
//! B's words are two neighbours along the sum, and in V it is two elements of one token that are neighbours. So a row of P has its weights
//! in one half of each word and zeros in the other: its sums are every second element of the head, and two rows of a head, one for each
//! half, are all of it. That costs twice the multiplications, of which there are more than enough, and no shuffle of V. A key that is not
//! finite leaves no number in the scores of the heads beside its own.
//!
//! In the caches a core of a Xeon takes 15 ns for a key and a value of 3 heads of 64 with 3 queries each in place of 30 (`vdpbf16ps` starts
//! every second or third cycle there).

use super::super::super::isa::{Isa, Simd, per_isa};
use super::super::super::matmul::amx::{self, ROWS};
use super::super::super::matmul::kernel::Kernel;
use super::super::super::matmul::pack::Packer;
use super::super::super::prefetch::LINE;
use super::super::super::scratch::{Carver, grain};
use super::super::Shape;
use super::KEYS;
use super::lines::Lines;
use half::bf16;
use std::arch::asm;
use std::ops::Range;

/// Words of a tile's row, and of a tile; elements of a row.
const WORDS: usize = 16;
const TILE: usize = ROWS * WORDS;
const WIDE: usize = 2 * WORDS;
/// Heads whose weights are one tile: two rows each.
const HEADS: usize = ROWS / 2;
/// About the bytes of keys or values that are multiplied at once, and asked for before.
const STEP_BYTES: usize = 48 << 10;

/// Whether these products are computed here: there are tiles, and heads are whole rows of them.
pub(super) fn takes(simd: Simd, dim: usize) -> bool {
    simd.isa() == Isa::Amx && dim.is_multiple_of(WIDE)
}

/// Keys of a step, whole tiles.
pub(super) fn step(s: &Shape) -> usize {
    (STEP_BYTES / (2 * s.kv_stride()).max(1) / ROWS * ROWS).clamp(ROWS, KEYS)
}

/// Of n tokens, those that are whole tiles.
pub(super) fn whole_tiles(n: usize) -> usize {
    n / ROWS * ROWS
}

/// Sixteen heads, or what there is left, which are columns of scores; and the tiles of queries that they take.
struct Columns {
    heads: Range<usize>,
    tiles: usize,
}

/// A tile of queries is for each [`WIDE`] elements of each of the key/value heads that the sixteen share.
fn columns(s: &Shape) -> impl Iterator<Item = Columns> + use<> {
    let (heads, group, per_head) = (s.heads, s.group, s.head_dim / WIDE);
    (0..heads).step_by(WORDS).map(move |first| {
        let end = heads.min(first + WORDS);
        Columns { heads: first..end, tiles: ((end - 1) / group + 1 - first / group) * per_head }
    })
}

fn query_tiles(s: &Shape) -> usize {
    columns(s).map(|columns| columns.tiles).sum()
}

const WEIGHT_WORDS: usize = KEYS / ROWS * TILE;

/// Words of a worker's memory.
pub(super) fn room_words(s: &Shape) -> usize {
    let tiles = query_tiles(s);
    grain(tiles * TILE) + grain(tiles) + grain(WEIGHT_WORDS)
}

/// A worker's memory.
pub(super) struct Tiles<'a> {
    simd: Simd,
    shape: &'a Shape,
    kernel: &'static Kernel,
    /// Queries as B: [tile][16 words][16 heads].
    q: &'a mut [u32],
    /// For each of these tiles, the element of a token where its part begins.
    places: &'a mut [u32],
    /// Weights as A, of heads that share a key/value head: [tile of tokens][half][heads][16 tokens].
    weights: &'a mut [u32],
}

impl<'a> Tiles<'a> {
    /// With the queries of all heads, [heads][head_dim], where such products are taken.
    pub(super) fn new(packer: Packer, shape: &'a Shape, room: &'a mut [u32], q: &[bf16]) -> Self {
        assert!(takes(packer.simd, shape.head_dim));
        let (mut carver, tiles) = (Carver(room), query_tiles(shape));
        let words = carver.words(tiles * TILE);
        let (places, weights) = (carver.words(tiles), carver.words(WEIGHT_WORDS));
        words.fill(0);
        weights.fill(0);
        let (dim, group, per_head) = (shape.head_dim, shape.group, shape.head_dim / WIDE);
        let mut tiles = words.chunks_exact_mut(TILE).zip(&mut *places);
        for Columns { heads, tiles: of_columns } in columns(shape) {
            for (i, (tile, place)) in tiles.by_ref().take(of_columns).enumerate() {
                let (kv, c) = (heads.start / group + i / per_head, i % per_head * WIDE);
                *place = (kv * dim + c) as u32;
                for head in heads.start.max(kv * group)..heads.end.min((kv + 1) * group) {
                    let row: &[[u16; 2]] = bytemuck::cast_slice(&q[head * dim + c..][..WIDE]);
                    for (line, [low, high]) in tile.chunks_exact_mut(WORDS).zip(row) {
                        line[head - heads.start] = u32::from(*low) | u32::from(*high) << 16;
                    }
                }
            }
        }
        Tiles { simd: packer.simd, shape, kernel: packer.kernel, q: words, places, weights }
    }

    /// scores[head·KEYS + j] = q_head·k_j for the n keys, whole tiles of them.
    pub(super) fn dots(&self, scores: &mut [f32], k: Lines<'_, bf16>) {
        let s = self.shape;
        let (stride, bytes) = (s.kv_stride(), 2 * s.kv_stride());
        assert!(k.n.is_multiple_of(ROWS) && k.n * stride <= k.data.len());
        // SAFETY: there are tiles (asserted in `new`).
        unsafe { amx::configure::<{ 2 * ROWS }>() };
        let mut kept = Kept::new();
        let (mut ahead, lines) = (k.ahead, (k.n * bytes / LINE).div_ceil(self.places.len() * (k.n / ROWS)));
        let mut first = 0;
        for Columns { heads, tiles } in columns(s) {
            let (queries, places) = (&self.q[first * TILE..][..tiles * TILE], &self.places[first..][..tiles]);
            first += tiles;
            for j0 in (0..k.n).step_by(ROWS) {
                let keys = &k.data[j0 * stride..][..ROWS * stride];
                // SAFETY: the registers are configured. A place is an element of a token from which on it has a row of a tile; so has each
                // of the 16 tokens of `keys`. There is a tile of queries for each place.
                unsafe {
                    clear();
                    for i in 0..tiles {
                        ahead.ask_for(lines);
                        let keys = keys.as_ptr().add(places[i] as usize);
                        load((keys, bytes), queries.as_ptr().add(i * TILE));
                        add::<true>(i);
                    }
                    if let Some((sums, j0)) = kept.keep(j0) {
                        self.write_scores(scores, sums, j0, heads.clone());
                    }
                }
            }
            if let Some((sums, j0)) = kept.last() {
                self.write_scores(scores, sums, j0, heads);
            }
        }
    }

    /// The scores of 16 keys from j0 on.
    fn write_scores(&self, scores: &mut [f32], sums: &mut Sums, j0: usize, heads: Range<usize>) {
        join(self.simd, sums);
        let mut turned = [0u32; TILE];
        self.kernel.transpose16(bytemuck::cast_slice(&sums.0[0]), LINE, &mut turned, WORDS);
        for (head, row) in heads.zip(turned.chunks_exact(ROWS)) {
            scores[head * KEYS + j0..][..ROWS].copy_from_slice(bytemuck::cast_slice(row));
        }
    }

    /// acc[head][..] += Σ_j weights[head·KEYS + j]·v_j for the n values, whole tiles of them.
    pub(super) fn sums(&mut self, acc: &mut [f32], weights: &[bf16], v: Lines<'_, bf16>) {
        let s = self.shape;
        let (stride, bytes) = (s.kv_stride(), 2 * s.kv_stride());
        assert!(v.n.is_multiple_of(ROWS) && v.n * stride <= v.data.len());
        // SAFETY: as in `dots`.
        unsafe { amx::configure::<{ 2 * ROWS }>() };
        let mut kept = Kept::new();
        let of_kv = |kv| (0..s.group).step_by(HEADS).map(move |g| (kv, g, HEADS.min(s.group - g)));
        let products = s.kv_heads * s.group.div_ceil(HEADS) * (s.head_dim / WIDE) * (v.n / ROWS);
        let (mut ahead, lines) = (v.ahead, (v.n * bytes / LINE).div_ceil(products));
        for (kv, g, heads) in (0..s.kv_heads).flat_map(of_kv) {
            let first = kv * s.group + g;
            write_weights(self.simd, self.weights, &weights[first * KEYS..], heads, v.n);
            for c in (0..s.head_dim).step_by(WIDE) {
                let (weights, values) = (&self.weights[..v.n * WORDS], &v.data[..v.n * stride]);
                // SAFETY: the registers are configured. Each of the n tokens has a row of a tile from kv·head_dim + c on, and there is a
                // tile of weights for each 16 of them.
                unsafe {
                    clear();
                    for i in 0..v.n / ROWS {
                        ahead.ask_for(lines);
                        let values = values.as_ptr().add(i * ROWS * stride + kv * s.head_dim + c);
                        load((values, bytes), weights.as_ptr().add(i * TILE));
                        add::<false>(i);
                    }
                    if let Some((sums, (c, heads))) = kept.keep((c, first..first + heads)) {
                        self.add_sums(acc, sums, c, heads);
                    }
                }
            }
        }
        if let Some((sums, (c, heads))) = kept.last() {
            self.add_sums(acc, sums, c, heads);
        }
    }

    /// Sums of some heads from element c on.
    fn add_sums(&self, acc: &mut [f32], sums: &mut Sums, c: usize, heads: Range<usize>) {
        join(self.simd, sums);
        let (even, odd) = sums.0[0].split_at(TILE / 2);
        for (row, head) in heads.enumerate() {
            let acc = &mut acc[head * self.shape.head_dim + c..][..WIDE];
            add_halves(self.simd, acc, &even[row * WORDS..][..WORDS], &odd[row * WORDS..][..WORDS]);
        }
    }
}

/// The two accumulators, stored: rows that are cache lines. There are two so that a product need not wait for the one before.
#[repr(align(64))]
struct Sums([[f32; TILE]; 2]);

/// Two places to store accumulators in, in turns: what was stored last has not arrived when it could be read.
struct Kept<W> {
    sums: [Sums; 2],
    turn: usize,
    /// What the accumulators that were kept last are of.
    last: Option<W>,
}

impl<W> Kept<W> {
    fn new() -> Self {
        Kept { sums: [const { Sums([[0.0; TILE]; 2]) }; 2], turn: 0, last: None }
    }

    /// Keeps the accumulators, which are of `what`; returns those before.
    ///
    /// # Safety
    /// The registers are configured.
    #[inline(always)]
    unsafe fn keep(&mut self, what: W) -> Option<(&mut Sums, W)> {
        self.turn ^= 1;
        let [first, second] = &mut self.sums[self.turn].0;
        // SAFETY: the caller's; a tile of 16 rows of 64 bytes fits in each.
        unsafe {
            asm!("tilestored [{0} + {line}], tmm0", "tilestored [{1} + {line}], tmm1",
                in(reg) first.as_mut_ptr(), in(reg) second.as_mut_ptr(), line = in(reg) LINE,
                options(nostack, preserves_flags));
        }
        let before = self.last.replace(what)?;
        Some((&mut self.sums[self.turn ^ 1], before))
    }

    /// Those that were kept last.
    fn last(&mut self) -> Option<(&mut Sums, W)> {
        let last = self.last.take()?;
        Some((&mut self.sums[self.turn], last))
    }
}

/// The accumulators, 0.
///
/// # Safety
/// The registers are configured.
#[inline(always)]
unsafe fn clear() {
    // SAFETY: the caller's.
    unsafe { asm!("tilezero tmm0", "tilezero tmm1", options(nostack, nomem, preserves_flags)) };
}

/// 16 tokens' parts, so many bytes apart, and a tile of queries or weights.
///
/// # Safety
/// The registers are configured; each part has 64 bytes, the tile [`TILE`] words.
#[inline(always)]
unsafe fn load((tokens, apart): (*const bf16, usize), tile: *const u32) {
    // SAFETY: the caller's. No call lies between the first use of a tile register and the last.
    unsafe {
        asm!("tileloadd tmm2, [{tokens} + {apart}]", "tileloadd tmm3, [{tile} + {line}]",
            tokens = in(reg) tokens, apart = in(reg) apart, tile = in(reg) tile, line = in(reg) LINE,
            options(nostack, readonly, preserves_flags));
    }
}

/// One of the accumulators, in turns, += tokens·tile if the tokens are `FIRST`, or else tile·tokens.
///
/// # Safety
/// The registers are configured.
#[inline(always)]
unsafe fn add<const FIRST: bool>(turn: usize) {
    // SAFETY: the caller's.
    unsafe {
        match (FIRST, turn % 2) {
            (true, 0) => asm!("tdpbf16ps tmm0, tmm2, tmm3", options(nostack, nomem, preserves_flags)),
            (true, _) => asm!("tdpbf16ps tmm1, tmm2, tmm3", options(nostack, nomem, preserves_flags)),
            (false, 0) => asm!("tdpbf16ps tmm0, tmm3, tmm2", options(nostack, nomem, preserves_flags)),
            (false, _) => asm!("tdpbf16ps tmm1, tmm3, tmm2", options(nostack, nomem, preserves_flags)),
        }
    }
}

per_isa! {
    /// The first of two accumulators += the second.
    fn join(sums: &mut Sums) => join_body;
    /// The weights [heads][KEYS] of the first n tokens as A; rows of heads that are not there stay what they were, and no one asks for
    /// their sums.
    fn write_weights(tiles: &mut [u32], weights: &[bf16], heads: usize, n: usize) => write_weights_body;
    /// acc[2i] += even[i], acc[2i + 1] += odd[i].
    fn add_halves(acc: &mut [f32], even: &[f32], odd: &[f32]) => add_halves_body;
}

#[inline(always)]
fn join_body<const FMA: bool>(sums: &mut Sums) {
    let [first, second] = &mut sums.0;
    for i in 0..TILE {
        first[i] += second[i];
    }
}

#[inline(always)]
fn write_weights_body<const FMA: bool>(tiles: &mut [u32], weights: &[bf16], heads: usize, n: usize) {
    for (i, tile) in tiles.chunks_exact_mut(TILE).take(n / ROWS).enumerate() {
        let (even, odd) = tile.split_at_mut(TILE / 2);
        for head in 0..heads {
            let row = &weights[head * KEYS + i * ROWS..][..WORDS];
            let (even, odd) = (&mut even[head * WORDS..][..WORDS], &mut odd[head * WORDS..][..WORDS]);
            for j in 0..WORDS {
                even[j] = u32::from(row[j].to_bits());
                odd[j] = u32::from(row[j].to_bits()) << 16;
            }
        }
    }
}

#[inline(always)]
fn add_halves_body<const FMA: bool>(acc: &mut [f32], even: &[f32], odd: &[f32]) {
    for ((pair, even), odd) in acc.as_chunks_mut::<2>().0.iter_mut().zip(even).zip(odd) {
        pair[0] += even;
        pair[1] += odd;
    }
}
