//! Every operation at every tail: each length from 1 to a vector more than a pair of them holds, along each dimension that a kernel
//! cuts into vectors, panels or strips. Small sizes, so that all of them can go between guard pages on every instruction set; what
//! large ones are for is in the files of the operations.

use crate::conformance::attention::{self, case};
use crate::conformance::{Suite, kv, layers, moments, products};
use pose_engine::backend::{
    Backend, Direction, HeadShape, KvShape, MatmulShape, NormShape, PairLayout, RopeShape,
};

/// Columns of the widest panel and one more: every number of them that is left over.
const COLUMNS: usize = 33;
/// Rows of the tallest strip twice, and one more.
const ROWS: usize = 65;
/// Elements of two bf16 vectors, of two pairs of f32 vectors, and two more: every number that is left over, whole words and half ones.
const DEPTH: usize = 66;

/// Lengths of rows and of runs of elements.
fn widths() -> impl Iterator<Item = usize> {
    (1..=33).chain(63..=65)
}

pub fn all<B: Backend>(t: &mut Suite<'_, B>) {
    // the order of the terms that cancel in a norm of one element, or in the attention to one key
    t.least = 1.0;
    matrices(t);
    rows(t);
    elements(t);
    heads_and_losses(t);
    queries_and_keys(t);
}

/// Each dimension of a product in turn, the others moving along: 5 and 33 share no divisor, so all widths come up.
fn matrices<B: Backend>(t: &mut Suite<'_, B>) {
    let columns = |i: usize| 1 + 5 * i % COLUMNS;
    for depth in 1..=DEPTH {
        // few rows take another way than five
        for m in 1..=5 {
            let s = MatmulShape { m, n: columns(depth + m), k: depth };
            products::nt(t, s, &[(depth % 2 == 0, depth % 4 < 2)]);
        }
        products::nn(t, MatmulShape { m: 1 + depth % 5, n: depth, k: columns(depth) });
        products::tn(t, MatmulShape { m: depth, n: 1 + depth % ROWS, k: columns(depth) });
    }
    // an odd depth, and one that is whole words
    for depth in [37, 38] {
        for columns in 1..=COLUMNS {
            for m in [3, 5] {
                products::nt(t, MatmulShape { m, n: columns, k: depth }, &[(true, true)]);
            }
            products::nn(t, MatmulShape { m: 5, n: depth, k: columns });
            products::tn(t, MatmulShape { m: depth, n: 5, k: columns });
        }
        for rows in 1..=ROWS {
            products::nt(t, MatmulShape { m: rows, n: 19, k: depth }, &[(false, false)]);
            products::nn(t, MatmulShape { m: rows, n: depth, k: 19 });
            products::tn(t, MatmulShape { m: depth, n: rows, k: 19 });
        }
    }
}

fn rows<B: Backend>(t: &mut Suite<'_, B>) {
    const TOKENS: usize = 5;
    for width in widths() {
        let s = NormShape { tokens: TOKENS, width, eps: 1e-5 };
        layers::embed(t, HeadShape { tokens: TOKENS, width, vocab: 7 });
        layers::rmsnorm(t, s);
        layers::layernorm(t, s);
        layers::unit_rows(t, TOKENS, width, false);
        products::bias_backward(t, TOKENS, width);
        kv::quantise(t, KvShape { tokens: TOKENS, kv_heads: 2, head_dim: width });
        // a head that is not rotated as a whole, where it is wide enough, and one that is
        for (head_dim, pairs) in [(width + 1, width / 2), (2 * width, width)] {
            for layout in [PairLayout::HalfSplit, PairLayout::Interleaved] {
                let s = RopeShape {
                    rows: 1,
                    tokens: TOKENS,
                    heads: 2,
                    kv_heads: 1,
                    head_dim,
                    rotary_dim: 2 * pairs,
                    pairs: layout,
                    attention_factor: 1.1,
                };
                layers::rope(t, s, if width % 2 == 0 { Direction::Forward } else { Direction::Backward });
            }
        }
    }
}

fn elements<B: Backend>(t: &mut Suite<'_, B>) {
    for len in widths() {
        layers::swiglu(t, len);
        layers::gelu(t, len);
        layers::scale(t, len);
        layers::widen(t, len);
        layers::sum_squares(t, len);
        layers::adamw(t, len);
        layers::copy_and_zero(t, len);
        layers::exchange(t, len);
    }
    // blocks of 256 share a scale
    for len in widths().chain(255..=257) {
        moments::adamw8(t, &[len], 3.0);
    }
}

fn heads_and_losses<B: Backend>(t: &mut Suite<'_, B>) {
    for n in widths() {
        let biased = n % 2 == 0;
        products::head(t, HeadShape { tokens: 6, width: 8, vocab: n }, biased, false);
        products::head(t, HeadShape { tokens: 6, width: n, vocab: 19 }, biased, false);
        products::head(t, HeadShape { tokens: n, width: 9, vocab: 19 }, biased, true);
    }
}

/// Tails of a head's width and of the keys, for several queries forward and backward, for a single one, and of codes. Some rows and
/// heads, so that there are outputs enough for the largest error of a plain loop to say what is usual.
fn queries_and_keys<B: Backend>(t: &mut Suite<'_, B>) {
    for head_dim in widths() {
        attention::one(t, &case(2, 19, 19, (4, 2), head_dim));
        for case in [case(2, 5, 24, (4, 2), head_dim), case(3, 1, 37, (6, 2), head_dim)] {
            attention::one(t, &case);
            kv::attention(t, &case);
        }
    }
    for keys in 1..=DEPTH {
        attention::one(t, &case(1, keys, keys, (4, 2), 10));
        for case in [case(1, keys.div_ceil(2), keys, (4, 2), 10), case(3, 1, keys, (6, 2), 10)] {
            attention::one(t, &case);
            kv::attention(t, &case);
        }
    } // heads of whole vectors, which decoding reads in its own way: every rest of a step of keys, heads that share a key in all numbers
    for keys in 1..=17 {
        for (heads, head_dim) in
            [((2, 2), 32), ((4, 2), 64), ((3, 1), 64), ((4, 1), 96), ((5, 1), 32), ((11, 1), 64)]
        {
            let case = case(2, 1, keys, heads, head_dim);
            attention::one(t, &case);
            kv::attention(t, &case);
        }
    }
}
