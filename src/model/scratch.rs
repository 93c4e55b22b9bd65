//! How much working memory the kernels take for a pass of a given size.

use super::Config;
use super::buffers::Reading;
use super::cache::CacheFormat;
use crate::backend::{Backend, MatmulShape, ScratchFor};

fn products(c: &Config, tokens: usize) -> [MatmulShape; 5] {
    let s = c.block_shapes(tokens);
    [s.q, s.kv, s.o, s.up, s.down]
}

/// Products with the adapters' matrices, on either side of them.
fn adapters(c: &Config, tokens: usize) -> impl Iterator<Item = MatmulShape> {
    let targets = c.lora.iter().flat_map(|lora| &lora.targets);
    let sides = targets.flat_map(|target| <[usize; 2]>::from(target.sides(c)));
    sides.map(move |width| c.adapter_shape(tokens, width))
}

fn most<B: Backend>(b: &B, ops: impl IntoIterator<Item = ScratchFor>) -> usize {
    ops.into_iter().map(|op| b.scratch_bytes(op)).max().unwrap_or(0)
}

/// For a training step over `rows` rows of `tokens` tokens.
pub fn training<B: Backend>(b: &B, c: &Config, rows: usize, tokens: usize) -> usize {
    let all = rows * tokens;
    let shape = c.attention_shape(rows, tokens, tokens);
    let head = c.head_shape(all);
    let norm = c.norm_shape(all);
    let head_norm = c.arch.qk_norm.then(|| c.head_norm_shape(all, c.num_attention_heads));
    let products = products(c, all).into_iter().chain(adapters(c, all));
    let products =
        products.flat_map(|s| [ScratchFor::MatmulNt(s), ScratchFor::MatmulNn(s), ScratchFor::MatmulTn(s)]);
    most(
        b,
        products.chain(head_norm.map(ScratchFor::NormBackward)).chain([
            ScratchFor::Attention(shape),
            ScratchFor::AttentionBackward(shape),
            ScratchFor::NormBackward(norm),
            ScratchFor::HeadLoss(head, true),
        ]),
    )
}

/// For reading, chunk by chunk and token by token.
pub fn reading<B: Backend>(b: &B, c: &Config, reading: Reading) -> usize {
    let (chunk, capacity) = (reading.chunk(), reading.capacity);
    let head = c.head_shape(chunk);
    let attention = match reading.cache {
        CacheFormat::Act => ScratchFor::Attention,
        CacheFormat::Int8 => ScratchFor::AttentionInt8,
    };
    let added = adapters(c, chunk).flat_map(|s| [ScratchFor::MatmulNt(s), ScratchFor::MatmulNn(s)]);
    let products = products(c, chunk).map(ScratchFor::MatmulNt).into_iter().chain(added);
    // the last chunk may be short, and few queries over many keys can take more than many do
    let attention = (1..=chunk).map(|queries| attention(c.attention_shape(1, queries, capacity)));
    most(b, products.chain(attention).chain([ScratchFor::HeadLoss(head, false)]))
}

/// For the logits of `rows` tokens at a time.
pub fn logits<B: Backend>(b: &B, c: &Config, rows: usize) -> usize {
    b.scratch_bytes(ScratchFor::MatmulNt(MatmulShape { m: rows, n: c.vocab_size, k: c.hidden_size }))
}
