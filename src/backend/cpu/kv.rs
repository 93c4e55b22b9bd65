//! Keys and values as 8-bit integers: quantising them, and attention over them.

use super::attention::source::{Codes, Source};
use super::attention::{self, ForwardPlan};
use super::isa::per_isa;
use super::math::{CpuFloat, ROUND, largest};
use super::{Buf, Cpu, check};
use crate::backend::{AttentionShape, Buffer, KV_CODE_MAX, KV_SCALE_LEAST, KvShape, Quantised};
use crate::error::Result;
use crate::index::DocumentId;

impl<E: CpuFloat> Cpu<E> {
    pub(super) fn kv_quantise(
        &self, codes: &mut Buf<i8>, scales: &mut Buf<f32>, at: usize, x: &Buf<E>, s: KvShape,
    ) -> Result<()> {
        const OP: &str = "kv_quantise";
        let KvShape { tokens, kv_heads, head_dim } = s;
        let (first, heads) = (at * kv_heads, tokens * kv_heads);
        check::lengths(OP, &[("x", x.len(), heads * head_dim)])?;
        check::range(OP, "scales", scales.len(), first, heads)?;
        check::range(OP, "codes", codes.len(), first * head_dim, heads * head_dim)?;
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

    /// A few keys or values at a time are multiplied out, to E, and from there on all is as if they had been stored so.
    pub(super) fn attention_int8(
        &self, o: &mut Buf<E>, lse: &mut Buf<f32>, q: &Buf<E>, k: Quantised<'_, Self>,
        v: Quantised<'_, Self>, documents: Option<&Buf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        const OP: &str = "attention_int8";
        attention::check(OP, s)?;
        let (queries, keys) = (attention::query_elements(s), attention::key_elements(s));
        let scales = s.rows * s.keys * s.kv_heads;
        let mut operands = vec![
            ("o", o.len(), queries),
            ("lse", lse.len(), s.rows * s.heads * s.queries),
            ("q", q.len(), queries),
            ("k.codes", k.codes.len(), keys),
            ("k.scales", k.scales.len(), scales),
            ("v.codes", v.codes.len(), keys),
            ("v.scales", v.scales.len(), scales),
        ];
        operands.extend(documents.map(|d| ("documents", d.len(), s.rows * s.keys)));
        check::lengths(OP, &operands)?;
        if queries == 0 {
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
