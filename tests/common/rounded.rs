//! A plain implementation in bf16: the f64 reference with every stored activation and weight rounded to bf16, and nothing
//! else. What error it makes is what the precision costs; a backend in bf16 may make at most twice that.

use half::bf16;
use pose_engine::backend::reference::{HostBuf, Reference};
use pose_engine::backend::*;
use pose_engine::error::Result;
use pose_engine::index::{DocumentId, TokenId};

pub struct Rounded;

pub type Buf = HostBuf<f64>;
const R: Reference = Reference;

/// Every element to the nearest bf16.
pub fn round(x: &mut Buf) {
    x.0.iter_mut().for_each(|x| *x = bf16::from_f64(*x).to_f64());
}

/// Places and gradients name the backend in their types; both use the same buffers.
fn places<'a>(places: Places<'a, Rounded>) -> Places<'a, Reference> {
    match places {
        Places::Spans { spans, per_row } => Places::Spans { spans, per_row },
        Places::List(list) => Places::List(list),
    }
}

impl Backend for Rounded {
    type Act = f64;
    type Stat = f64;
    type Buf<T: Element> = HostBuf<T>;

    fn alloc<T: Element>(&self, len: usize) -> Result<HostBuf<T>> {
        R.alloc(len)
    }
    fn upload<T: Element>(&self, dst: &mut HostBuf<T>, at: usize, src: &[T]) -> Result<()> {
        R.upload(dst, at, src)
    }
    fn download<T: Element>(&self, dst: &mut [T], src: &HostBuf<T>, at: usize) -> Result<()> {
        R.download(dst, src, at)
    }
    fn copy<T: Element>(
        &self, dst: &mut HostBuf<T>, dst_at: usize, src: &HostBuf<T>, src_at: usize, len: usize,
    ) -> Result<()> {
        R.copy(dst, dst_at, src, src_at, len)
    }
    fn zero<T: Element>(&self, x: &mut HostBuf<T>, len: usize) -> Result<()> {
        R.zero(x, len)
    }
    fn exchange(&self, x: &mut Buf, y: &mut Buf) {
        R.exchange(x, y);
    }
    fn scratch_bytes(&self, _op: ScratchFor) -> usize {
        0
    }
    fn reserve_scratch(&self, _bytes: usize) -> Result<()> {
        Ok(())
    }
    fn embed(&self, y: &mut Buf, table: &Buf, ids: &HostBuf<TokenId>, s: HeadShape) -> Result<()> {
        R.embed(y, table, ids, s)
    }
    fn embed_backward(
        &self, d_table: &mut Buf, dy: &Buf, ids: &HostBuf<TokenId>, s: HeadShape,
    ) -> Result<()> {
        R.embed_backward(d_table, dy, ids, s)
    }
    fn rmsnorm(&self, y: &mut Buf, rstd: &mut Buf, x: &Buf, w: &Buf, s: NormShape) -> Result<()> {
        R.rmsnorm(y, rstd, x, w, s)?;
        round(y);
        Ok(())
    }
    fn rmsnorm_backward(
        &self, dx: &mut Buf, dw: Option<&mut Buf>, dy: &Buf, x: &Buf, rstd: &Buf, w: &Buf, s: NormShape,
    ) -> Result<()> {
        R.rmsnorm_backward(dx, dw, dy, x, rstd, w, s)?;
        round(dx);
        Ok(())
    }
    fn layernorm(
        &self, y: &mut Buf, stats: &mut Buf, x: &Buf, w: &Buf, bias: &Buf, s: NormShape,
    ) -> Result<()> {
        R.layernorm(y, stats, x, w, bias, s)?;
        round(y);
        Ok(())
    }
    fn layernorm_backward(
        &self, dx: &mut Buf, dw: Option<&mut Buf>, dy: &Buf, x: &Buf, stats: &Buf, w: &Buf, s: NormShape,
    ) -> Result<()> {
        R.layernorm_backward(dx, dw, dy, x, stats, w, s)?;
        round(dx);
        Ok(())
    }
    fn unit_rows(&self, y: &mut Buf, scale: &mut Buf, x: &Buf, rows: usize, width: usize) -> Result<()> {
        R.unit_rows(y, scale, x, rows, width)?;
        round(y);
        Ok(())
    }
    fn unit_rows_backward(&self, d: &mut Buf, y: &Buf, scale: &Buf, rows: usize, width: usize) -> Result<()> {
        R.unit_rows_backward(d, y, scale, rows, width)
    }
    fn matmul_nt(
        &self, y: &mut Buf, x: &Buf, w: &Buf, bias: Option<&Buf>, residual: Option<&Buf>, s: MatmulShape,
    ) -> Result<()> {
        R.matmul_nt(y, x, w, bias, residual, s)?;
        round(y);
        Ok(())
    }
    fn matmul_nn(&self, dx: &mut Buf, dy: &Buf, w: &Buf, write: Write, s: MatmulShape) -> Result<()> {
        R.matmul_nn(dx, dy, w, write, s)?;
        round(dx);
        Ok(())
    }
    fn matmul_tn(&self, dw: &mut Buf, dy: &Buf, x: &Buf, s: MatmulShape) -> Result<()> {
        R.matmul_tn(dw, dy, x, s)
    }
    fn bias_backward(&self, db: &mut Buf, dy: &Buf, m: usize, n: usize) -> Result<()> {
        R.bias_backward(db, dy, m, n)
    }
    fn rope(
        &self, q: &mut Buf, k: &mut Buf, at: Places<'_, Self>, turns: &HostBuf<u64>, direction: Direction,
        s: RopeShape,
    ) -> Result<()> {
        R.rope(q, k, places(at), turns, direction, s)?;
        round(q);
        round(k);
        Ok(())
    }
    fn swiglu(&self, y: &mut Buf, gate: &Buf, up: &Buf, len: usize) -> Result<()> {
        R.swiglu(y, gate, up, len)?;
        round(y);
        Ok(())
    }
    fn swiglu_backward(
        &self, d_gate: &mut Buf, d_up: &mut Buf, dy: &Buf, gate: &Buf, up: &Buf, len: usize,
    ) -> Result<()> {
        R.swiglu_backward(d_gate, d_up, dy, gate, up, len)?;
        round(d_gate);
        round(d_up);
        Ok(())
    }
    fn gelu(&self, y: &mut Buf, x: &Buf, len: usize) -> Result<()> {
        R.gelu(y, x, len)?;
        round(y);
        Ok(())
    }
    fn gelu_backward(&self, dx: &mut Buf, dy: &Buf, x: &Buf, len: usize) -> Result<()> {
        R.gelu_backward(dx, dy, x, len)?;
        round(dx);
        Ok(())
    }
    fn attention(
        &self, o: &mut Buf, lse: &mut Buf, q: &Buf, k: &Buf, v: &Buf,
        documents: Option<&HostBuf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        R.attention(o, lse, q, k, v, documents, s)?;
        round(o);
        Ok(())
    }
    fn kv_quantise(
        &self, codes: &mut HostBuf<i8>, scales: &mut Buf, at: usize, x: &Buf, s: KvShape,
    ) -> Result<()> {
        R.kv_quantise(codes, scales, at, x, s)
    }
    fn attention_int8(
        &self, o: &mut Buf, lse: &mut Buf, q: &Buf, k: Quantised<'_, Self>, v: Quantised<'_, Self>,
        documents: Option<&HostBuf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        let [k, v] = [k, v].map(|x| Quantised { codes: x.codes, scales: x.scales });
        R.attention_int8(o, lse, q, k, v, documents, s)?;
        round(o);
        Ok(())
    }
    fn attention_backward(
        &self, dq: &mut Buf, dk: &mut Buf, dv: &mut Buf, d_o: &Buf, o: &Buf, lse: &Buf, q: &Buf, k: &Buf,
        v: &Buf, documents: Option<&HostBuf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        R.attention_backward(dq, dk, dv, d_o, o, lse, q, k, v, documents, s)?;
        [dq, dk, dv].into_iter().for_each(round);
        Ok(())
    }
    fn head_loss(
        &self, nll: &mut Buf, x: &Buf, w: &Buf, bias: Option<&Buf>, targets: &HostBuf<TokenId>,
        grad: Option<HeadGrad<'_, Self>>, s: HeadShape,
    ) -> Result<()> {
        let Some(HeadGrad { dx, dw, db, scale, weights }) = grad else {
            return R.head_loss(nll, x, w, bias, targets, None, s);
        };
        let inner = HeadGrad { dx: &mut *dx, dw, db, scale, weights };
        R.head_loss(nll, x, w, bias, targets, Some(inner), s)?;
        round(dx);
        Ok(())
    }
    fn head_logits(
        &self, logits: &mut Buf, x: &Buf, w: &Buf, bias: Option<&Buf>, s: HeadShape,
    ) -> Result<()> {
        R.head_logits(logits, x, w, bias, s)
    }
    fn sample(
        &self, tokens: &mut HostBuf<TokenId>, logits: &mut Buf, units: &Buf, s: SampleShape,
    ) -> Result<()> {
        R.sample(tokens, logits, units, s)
    }
    fn scale(&self, x: &mut Buf, factor: f64, len: usize) -> Result<()> {
        R.scale(x, factor, len)?;
        round(x);
        Ok(())
    }
    fn widen(&self, y: &mut Buf, x: &Buf, len: usize) -> Result<()> {
        R.widen(y, x, len)
    }
    fn sum_squares(&self, tensors: &[(&Buf, usize)]) -> Result<Vec<f64>> {
        R.sum_squares(tensors)
    }
    fn adamw(&self, _: &mut [AdamTensor<'_, Self>], _: AdamStep) -> Result<()> {
        Err(pose_engine::error::Error::usage("adamw", "", "no test of rounding takes an optimizer step"))
    }
    fn adamw8(&self, _: &mut [Adam8Tensor<'_, Self>], _: AdamStep, _: u64) -> Result<()> {
        Err(pose_engine::error::Error::usage("adamw8", "", "no test of rounding takes an optimizer step"))
    }
}
