//! Every operation by plain loops in f64: the truth that the other backends are held to, and slow on purpose.
//!
//! It shares nothing with them but the trait: no packing, no blocking, no online softmax.

mod attention;
mod kv;
mod layers;
mod loss;
mod moments;
mod products;
mod sample;

use super::*;
use crate::error::Error;

/// The reference backend. Storage and statistics are f64.
#[derive(Debug, Default)]
pub struct Reference;

/// A plain vector.
#[derive(Clone, Debug)]
pub struct HostBuf<T>(pub Vec<T>);

impl<T: Element> Buffer<T> for HostBuf<T> {
    fn len(&self) -> usize {
        self.0.len()
    }
}

/// The first `need` elements, or an error that names the operand.
fn part<'a, T: Element>(op: &str, operand: &str, buf: &'a HostBuf<T>, need: usize) -> Result<&'a [T]> {
    buf.0.get(..need).ok_or_else(|| too_short(op, operand, buf.0.len(), need))
}

fn part_mut<'a, T: Element>(
    op: &str, operand: &str, buf: &'a mut HostBuf<T>, need: usize,
) -> Result<&'a mut [T]> {
    let have = buf.0.len();
    buf.0.get_mut(..need).ok_or_else(|| too_short(op, operand, have, need))
}

fn too_short(op: &str, operand: &str, have: usize, need: usize) -> Error {
    refused(format!("{op}: {operand} holds {have} elements, {need} are needed"))
}

fn refused(problem: String) -> Error {
    Error::Device { device: "reference".into(), problem }
}

type Buf = HostBuf<f64>;

impl Backend for Reference {
    type Act = f64;
    type Stat = f64;
    type Buf<T: Element> = HostBuf<T>;

    fn alloc<T: Element>(&self, len: usize) -> Result<HostBuf<T>> {
        Ok(HostBuf(vec![T::default(); len]))
    }
    fn upload<T: Element>(&self, dst: &mut HostBuf<T>, at: usize, src: &[T]) -> Result<()> {
        part_mut("upload", "dst", dst, at + src.len())?[at..].copy_from_slice(src);
        Ok(())
    }
    fn download<T: Element>(&self, dst: &mut [T], src: &HostBuf<T>, at: usize) -> Result<()> {
        dst.copy_from_slice(&part("download", "src", src, at + dst.len())?[at..]);
        Ok(())
    }
    fn copy<T: Element>(
        &self, dst: &mut HostBuf<T>, dst_at: usize, src: &HostBuf<T>, src_at: usize, len: usize,
    ) -> Result<()> {
        let src = &part("copy", "src", src, src_at + len)?[src_at..];
        part_mut("copy", "dst", dst, dst_at + len)?[dst_at..].copy_from_slice(src);
        Ok(())
    }
    fn zero<T: Element>(&self, x: &mut HostBuf<T>, len: usize) -> Result<()> {
        part_mut("zero", "x", x, len)?.fill(T::default());
        Ok(())
    }
    fn exchange(&self, x: &mut Buf, y: &mut Buf) {
        std::mem::swap(x, y);
    }

    fn scratch_bytes(&self, _op: ScratchFor) -> usize {
        0
    }
    fn reserve_scratch(&self, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn embed(&self, y: &mut Buf, table: &Buf, ids: &HostBuf<TokenId>, s: HeadShape) -> Result<()> {
        layers::embed(y, table, ids, s)
    }
    fn embed_backward(
        &self, d_table: &mut Buf, dy: &Buf, ids: &HostBuf<TokenId>, s: HeadShape,
    ) -> Result<()> {
        layers::embed_backward(d_table, dy, ids, s)
    }
    fn rmsnorm(&self, y: &mut Buf, rstd: &mut Buf, x: &Buf, w: &Buf, s: NormShape) -> Result<()> {
        layers::rmsnorm(y, rstd, x, w, s)
    }
    fn rmsnorm_backward(
        &self, dx: &mut Buf, dw: Option<&mut Buf>, dy: &Buf, x: &Buf, rstd: &Buf, w: &Buf, s: NormShape,
    ) -> Result<()> {
        layers::rmsnorm_backward(dx, dw, dy, x, rstd, w, s)
    }
    fn layernorm(
        &self, y: &mut Buf, stats: &mut Buf, x: &Buf, w: &Buf, bias: &Buf, s: NormShape,
    ) -> Result<()> {
        layers::layernorm(y, stats, x, w, bias, s)
    }
    fn layernorm_backward(
        &self, dx: &mut Buf, dw: Option<&mut Buf>, dy: &Buf, x: &Buf, stats: &Buf, w: &Buf, s: NormShape,
    ) -> Result<()> {
        layers::layernorm_backward(dx, dw, dy, x, stats, w, s)
    }
    fn unit_rows(&self, y: &mut Buf, scale: &mut Buf, x: &Buf, rows: usize, width: usize) -> Result<()> {
        layers::unit_rows(y, scale, x, rows, width)
    }
    fn unit_rows_backward(&self, d: &mut Buf, y: &Buf, scale: &Buf, rows: usize, width: usize) -> Result<()> {
        layers::unit_rows_backward(d, y, scale, rows, width)
    }
    fn matmul_nt(
        &self, y: &mut Buf, x: &Buf, w: &Buf, bias: Option<&Buf>, residual: Option<&Buf>, s: MatmulShape,
    ) -> Result<()> {
        products::matmul_nt(y, x, w, bias, residual, s)
    }
    fn matmul_nn(&self, dx: &mut Buf, dy: &Buf, w: &Buf, write: Write, s: MatmulShape) -> Result<()> {
        products::matmul_nn(dx, dy, w, write, s)
    }
    fn matmul_tn(&self, dw: &mut Buf, dy: &Buf, x: &Buf, s: MatmulShape) -> Result<()> {
        products::matmul_tn(dw, dy, x, s)
    }
    fn bias_backward(&self, db: &mut Buf, dy: &Buf, m: usize, n: usize) -> Result<()> {
        products::bias_backward(db, dy, m, n)
    }
    fn rope(
        &self, q: &mut Buf, k: &mut Buf, places: Places<'_, Self>, turns: &HostBuf<u64>,
        direction: Direction, s: RopeShape,
    ) -> Result<()> {
        layers::rope(q, k, places, turns, direction, s)
    }
    fn swiglu(&self, y: &mut Buf, gate: &Buf, up: &Buf, len: usize) -> Result<()> {
        layers::swiglu(y, gate, up, len)
    }
    fn swiglu_backward(
        &self, d_gate: &mut Buf, d_up: &mut Buf, dy: &Buf, gate: &Buf, up: &Buf, len: usize,
    ) -> Result<()> {
        layers::swiglu_backward(d_gate, d_up, dy, gate, up, len)
    }
    fn gelu(&self, y: &mut Buf, x: &Buf, len: usize) -> Result<()> {
        layers::gelu(y, x, len)
    }
    fn gelu_backward(&self, dx: &mut Buf, dy: &Buf, x: &Buf, len: usize) -> Result<()> {
        layers::gelu_backward(dx, dy, x, len)
    }
    fn attention(
        &self, o: &mut Buf, lse: &mut Buf, q: &Buf, k: &Buf, v: &Buf,
        documents: Option<&HostBuf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        attention::forward(o, lse, q, k, v, documents, s)
    }
    fn kv_quantise(
        &self, codes: &mut HostBuf<i8>, scales: &mut Buf, at: usize, x: &Buf, s: KvShape,
    ) -> Result<()> {
        kv::quantise(codes, scales, at, x, s)
    }
    fn attention_int8(
        &self, o: &mut Buf, lse: &mut Buf, q: &Buf, k: Quantised<'_, Self>, v: Quantised<'_, Self>,
        documents: Option<&HostBuf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        let (k, v) = (kv::dequantise(k, s)?, kv::dequantise(v, s)?);
        attention::forward(o, lse, q, &k, &v, documents, s)
    }
    fn attention_backward(
        &self, dq: &mut Buf, dk: &mut Buf, dv: &mut Buf, d_o: &Buf, o: &Buf, lse: &Buf, q: &Buf, k: &Buf,
        v: &Buf, documents: Option<&HostBuf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        attention::backward(dq, dk, dv, d_o, o, lse, q, k, v, documents, s)
    }
    fn head_loss(
        &self, nll: &mut Buf, x: &Buf, w: &Buf, bias: Option<&Buf>, targets: &HostBuf<TokenId>,
        grad: Option<HeadGrad<'_, Self>>, s: HeadShape,
    ) -> Result<()> {
        loss::head_loss(nll, x, w, bias, targets, grad, s)
    }
    fn head_logits(
        &self, logits: &mut Buf, x: &Buf, w: &Buf, bias: Option<&Buf>, s: HeadShape,
    ) -> Result<()> {
        products::matmul_nt(logits, x, w, bias, None, MatmulShape { m: s.tokens, n: s.vocab, k: s.width })
    }
    fn sample(
        &self, tokens: &mut HostBuf<TokenId>, logits: &mut Buf, units: &Buf, s: SampleShape,
    ) -> Result<()> {
        sample::sample(tokens, logits, units, s)
    }
    fn scale(&self, x: &mut Buf, factor: f64, len: usize) -> Result<()> {
        part_mut("scale", "x", x, len)?.iter_mut().for_each(|x| *x *= factor);
        Ok(())
    }
    fn widen(&self, y: &mut Buf, x: &Buf, len: usize) -> Result<()> {
        part_mut("widen", "y", y, len)?.copy_from_slice(part("widen", "x", x, len)?);
        Ok(())
    }
    fn sum_squares(&self, tensors: &[(&Buf, usize)]) -> Result<Vec<f64>> {
        let sum =
            |&(x, len): &(&Buf, usize)| Ok(part("sum_squares", "x", x, len)?.iter().map(|x| x * x).sum());
        tensors.iter().map(sum).collect()
    }
    fn adamw(&self, tensors: &mut [AdamTensor<'_, Self>], step: AdamStep) -> Result<()> {
        tensors.iter_mut().try_for_each(|t| loss::adamw(t, step))
    }
    fn adamw8(&self, tensors: &mut [Adam8Tensor<'_, Self>], step: AdamStep, seed: u64) -> Result<()> {
        tensors.iter_mut().enumerate().try_for_each(|(at, t)| moments::adamw8(t, at, step, seed))
    }
}
