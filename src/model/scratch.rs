//! How much working memory the kernels take for a pass of a given size.

use super::Config;
use crate::backend::{AttentionShape, Backend, HeadShape, MatmulShape, NormShape, ScratchFor};

fn products(c: &Config, m: usize) -> [MatmulShape; 5] {
    let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    let product = |n, k| MatmulShape { m, n, k };
    [
        product(q, c.hidden_size),
        product(kv, c.hidden_size),
        product(c.hidden_size, q),
        product(c.intermediate_size, c.hidden_size),
        product(c.hidden_size, c.intermediate_size),
    ]
}

fn attention(c: &Config, rows: usize, queries: usize, keys: usize) -> AttentionShape {
    AttentionShape {
        rows,
        queries,
        keys,
        heads: c.num_attention_heads,
        kv_heads: c.num_key_value_heads,
        head_dim: c.head_dim,
        scale: 1.0,
        window: None,
    }
}

fn most<B: Backend>(b: &B, ops: impl IntoIterator<Item = ScratchFor>) -> usize {
    ops.into_iter().map(|op| b.scratch_bytes(op)).max().unwrap_or(0)
}

/// For a training step over `rows` rows of `tokens` tokens.
pub fn training<B: Backend>(b: &B, c: &Config, rows: usize, tokens: usize) -> usize {
    let all = rows * tokens;
    let shape = attention(c, rows, tokens, tokens);
    let head = HeadShape { tokens: all, width: c.hidden_size, vocab: c.vocab_size };
    let norm = NormShape { tokens: all, width: c.hidden_size, eps: c.rms_norm_eps };
    let products = products(c, all).into_iter();
    let products =
        products.flat_map(|s| [ScratchFor::MatmulNt(s), ScratchFor::MatmulNn(s), ScratchFor::MatmulTn(s)]);
    most(
        b,
        products.chain([
            ScratchFor::Attention(shape),
            ScratchFor::AttentionBackward(shape),
            ScratchFor::NormBackward(norm),
            ScratchFor::HeadLoss(head, true),
        ]),
    )
}

/// For reading in chunks of `chunk` tokens with up to `capacity` in the cache.
pub fn reading<B: Backend>(b: &B, c: &Config, chunk: usize, capacity: usize) -> usize {
    let head = HeadShape { tokens: chunk, width: c.hidden_size, vocab: c.vocab_size };
    let logits = MatmulShape { m: 1, n: c.vocab_size, k: c.hidden_size };
    most(
        b,
        products(c, chunk).map(ScratchFor::MatmulNt).into_iter().chain([
            ScratchFor::Attention(attention(c, 1, chunk, capacity)),
            ScratchFor::Attention(attention(c, 1, 1, capacity)),
            ScratchFor::HeadLoss(head, false),
            ScratchFor::MatmulNt(logits),
        ]),
    )
}
