//! Keys and values as 8-bit integers: quantising them, and attention over them.

use super::attention::ForwardPlan;
use super::attention::source::{Codes, Source};
use super::isa::per_isa;
use super::math::{CpuFloat, ROUND, largest};
use super::{Buf, Cpu, check};
use crate::backend::{AttentionShape, KV_CODE_MAX, KV_SCALE_LEAST, KvShape, Quantised, operands};
use crate::error::Result;
use crate::index::DocumentId;

impl<E: CpuFloat> Cpu<E> {
    pub(super) fn kv_quantise(
        &self, codes: &mut Buf<i8>, scales: &mut Buf<f32>, at: usize, x: &Buf<E>, s: KvShape,
    ) -> Result<()> {
        operands::kv_quantise::<Self>(check::DEVICE, codes, scales, at, x, s)?;
        let KvShape { tokens, kv_heads, head_dim } = s;
        let (first, heads) = (at * kv_heads, tokens * kv_heads);
        if heads * head_dim == 0 {
            return Ok(());
        }
        let cost = 0.5 * head_dim as f64;
        let run = self.workers.run_length(heads, cost);
        let codes = codes.as_mut_slice()[first * head_dim..][..heads * head_dim].chunks_mut(run * head_dim);
        let scales = scales.as_mut_slice()[first..][..heads].chunks_mut(run);
        let x = x.as_slice()[..heads * head_dim].chunks(run * head_dim);
        self.workers.each(cost * heads as f64, codes.zip(scales).zip(x), |((codes, scales), x)| {
            quantise(self.simd, codes, scales, x, head_dim);
        });
        Ok(())
    }

    /// For one query a row codes are multiplied as they lie (`attention/decode/codes.rs`). For more, some keys or values at a time are
    /// multiplied out, to E, and from there on all is as if they had been stored so.
    pub(super) fn attention_int8(
        &self, o: &mut Buf<E>, lse: &mut Buf<f32>, q: &Buf<E>, k: Quantised<'_, Self>,
        v: Quantised<'_, Self>, documents: Option<&Buf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        operands::attention_int8::<Self>(check::DEVICE, (o, lse), q, [&k, &v], documents, s)?;
        if s.query_elements() == 0 {
            return Ok(());
        }
        let (k, v) = (Source::Int8(Codes::of(k)), Source::Int8(Codes::of(v)));
        self.attend(&self.int8_plan(s), (o, lse), q, (k, v), documents);
        Ok(())
    }

    pub(super) fn int8_plan(&self, s: AttentionShape) -> ForwardPlan {
        self.forward_plan(s).with_room::<E>()
    }
}

per_isa! {
    fn quantise[E: CpuFloat](codes: &mut [i8], scales: &mut [f32], x: &[E], width: usize) => quantise_body;
}

#[inline(always)]
fn quantise_body<E: CpuFloat, const FMA: bool>(codes: &mut [i8], scales: &mut [f32], x: &[E], width: usize) {
    for ((codes, scale), x) in codes.chunks_exact_mut(width).zip(scales).zip(x.chunks_exact(width)) {
        *scale = scale_of(x);
        let inverse = if *scale > 0.0 { 1.0 / *scale } else { 0.0 };
        for (code, x) in codes.iter_mut().zip(x) {
            *code = (x.widen() * inverse + ROUND).to_bits() as i8;
        }
    }
}

/// max |x|/127, NaN where an x is no finite number.
#[inline(always)]
fn scale_of<E: CpuFloat>(x: &[E]) -> f32 {
    let scale = largest(x) / KV_CODE_MAX as f32;
    if scale < KV_SCALE_LEAST as f32 { 0.0 } else { scale }
}
