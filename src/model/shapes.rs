//! The sizes of every operation of a pass: one list, for the passes that run them and for the plan of their working memory.

use super::Config;
use crate::backend::{AttentionShape, HeadShape, KvShape, MatmulShape, NormShape};

/// The sizes of every product of a block, for `tokens` tokens.
pub struct BlockShapes {
    pub q: MatmulShape,
    pub kv: MatmulShape,
    pub o: MatmulShape,
    pub up: MatmulShape,
    pub down: MatmulShape,
    pub norm: NormShape,
}

impl Config {
    pub fn block_shapes(&self, tokens: usize) -> BlockShapes {
        let product = |n, k| MatmulShape { m: tokens, n, k };
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        BlockShapes {
            q: product(q, self.hidden_size),
            kv: product(kv, self.hidden_size),
            o: product(self.hidden_size, q),
            up: product(self.intermediate_size, self.hidden_size),
            down: product(self.hidden_size, self.intermediate_size),
            norm: self.norm_shape(tokens),
        }
    }

    /// The sizes of an adapter's product with a side of `width`: with A [rank, inputs], or the transpose of B.
    pub fn adapter_shape(&self, tokens: usize, width: usize) -> MatmulShape {
        MatmulShape { m: tokens, n: self.lora.as_ref().map_or(0, |lora| lora.rank), k: width }
    }

    pub fn head_shape(&self, tokens: usize) -> HeadShape {
        HeadShape { tokens, width: self.hidden_size, vocab: self.vocab_size }
    }

    pub fn norm_shape(&self, tokens: usize) -> NormShape {
        NormShape { tokens, width: self.hidden_size, eps: self.norm_eps }
    }

    /// The norms of the heads of q and k: a row is a head.
    pub fn head_norm_shape(&self, tokens: usize, heads: usize) -> NormShape {
        NormShape { tokens: tokens * heads, width: self.head_dim, eps: self.norm_eps }
    }

    pub fn kv_shape(&self, tokens: usize) -> KvShape {
        KvShape { tokens, kv_heads: self.num_key_value_heads, head_dim: self.head_dim }
    }

    pub fn attention_shape(&self, rows: usize, queries: usize, keys: usize) -> AttentionShape {
        AttentionShape {
            rows,
            queries,
            keys,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            scale: 1.0 / (self.head_dim as f64).sqrt(),
            window: self.arch.window,
        }
    }
}
