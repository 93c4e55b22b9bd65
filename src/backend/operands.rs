//! What each operation's operands must be: one list for all backends, asked before anything starts.
//!
//! A function for each operation of [`Backend`], which says the shapes; it takes the operation's operands and sizes, and the name
//! of the device for the sentence that refuses them.

use super::check::{attention as heads_and_keys, lengths, range, refuse};
use super::shapes::size;
use super::{
    Adam8Tensor, AdamTensor, AttentionShape, Backend, Buffer, HeadGrad, HeadShape, KvShape, MOMENT_BLOCK,
    MatmulShape, NormShape, Places, Quantised, RopeShape, SampleShape, check,
};
use crate::error::Result;
use crate::index::{DocumentId, TokenId};

type Buf<B, T> = <B as Backend>::Buf<T>;
type Act<B> = Buf<B, <B as Backend>::Act>;
type Stat<B> = Buf<B, <B as Backend>::Stat>;
/// Name, elements it has, elements that are needed.
type Need = (&'static str, usize, usize);

pub(super) fn embed<B: Backend>(
    device: &str, y: &Act<B>, table: &Act<B>, ids: &Buf<B, TokenId>, s: HeadShape,
) -> Result<()> {
    let HeadShape { tokens, width, vocab } = s;
    let needs = [
        ("y", y.len(), size([tokens, width])),
        ("table", table.len(), size([vocab, width])),
        ("ids", ids.len(), tokens),
    ];
    lengths(device, "embed", &needs)
}

pub(super) fn embed_backward<B: Backend>(
    device: &str, d_table: &Stat<B>, dy: &Act<B>, ids: &Buf<B, TokenId>, s: HeadShape,
) -> Result<()> {
    let HeadShape { tokens, width, vocab } = s;
    let needs = [
        ("d_table", d_table.len(), size([vocab, width])),
        ("dy", dy.len(), size([tokens, width])),
        ("ids", ids.len(), tokens),
    ];
    lengths(device, "embed_backward", &needs)
}

pub(super) fn rmsnorm<B: Backend>(
    device: &str, y: &Act<B>, rstd: &Stat<B>, x: &Act<B>, w: &Act<B>, s: NormShape,
) -> Result<()> {
    let NormShape { tokens, width, .. } = s;
    let all = size([tokens, width]);
    let needs =
        [("y", y.len(), all), ("rstd", rstd.len(), tokens), ("x", x.len(), all), ("w", w.len(), width)];
    lengths(device, "rmsnorm", &needs)
}

pub(super) fn layernorm<B: Backend>(
    device: &str, y: &Act<B>, stats: &Stat<B>, x: &Act<B>, [w, bias]: [&Act<B>; 2], s: NormShape,
) -> Result<()> {
    let NormShape { tokens, width, .. } = s;
    let all = size([tokens, width]);
    let needs = [
        ("y", y.len(), all),
        ("stats", stats.len(), size([2, tokens])),
        ("x", x.len(), all),
        ("w", w.len(), width),
        ("bias", bias.len(), width),
    ];
    lengths(device, "layernorm", &needs)
}

/// Which norm is undone: what the operation is called, what its statistics are, and how many a token has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    pub op: &'static str,
    pub stats: &'static str,
    pub per_token: usize,
}

impl Norm {
    pub const RMS: Norm = Norm { op: "rmsnorm_backward", stats: "rstd", per_token: 1 };
    pub const LAYER: Norm = Norm { op: "layernorm_backward", stats: "stats", per_token: 2 };
}

pub(super) fn norm_backward<B: Backend>(
    device: &str, norm: Norm, (dx, dw): (&Act<B>, Option<&Stat<B>>), [dy, x]: [&Act<B>; 2], stats: &Stat<B>,
    w: &Act<B>, s: NormShape,
) -> Result<()> {
    let NormShape { tokens, width, .. } = s;
    let all = size([tokens, width]);
    let mut needs = vec![
        ("dx", dx.len(), all),
        ("dy", dy.len(), all),
        ("x", x.len(), all),
        (norm.stats, stats.len(), size([norm.per_token, tokens])),
        ("w", w.len(), width),
    ];
    needs.extend(dw.map(|dw| ("dw", dw.len(), width)));
    lengths(device, norm.op, &needs)
}

pub(super) fn unit_rows<B: Backend>(
    device: &str, y: &Act<B>, scale: &Stat<B>, x: &Act<B>, rows: usize, width: usize,
) -> Result<()> {
    let all = size([rows, width]);
    lengths(device, "unit_rows", &[("y", y.len(), all), ("scale", scale.len(), rows), ("x", x.len(), all)])
}

pub(super) fn unit_rows_backward<B: Backend>(
    device: &str, d: &Stat<B>, y: &Act<B>, scale: &Stat<B>, rows: usize, width: usize,
) -> Result<()> {
    let all = size([rows, width]);
    let needs = [("d", d.len(), all), ("y", y.len(), all), ("scale", scale.len(), rows)];
    lengths(device, "unit_rows_backward", &needs)
}

pub(super) fn matmul_nt<B: Backend>(
    device: &str, [y, x, w]: [&Act<B>; 3], bias: Option<&Act<B>>, residual: Option<&Act<B>>, s: MatmulShape,
) -> Result<()> {
    let MatmulShape { m, n, k } = s;
    let mut needs =
        vec![("y", y.len(), size([m, n])), ("x", x.len(), size([m, k])), ("w", w.len(), size([n, k]))];
    needs.extend(bias.map(|b| ("bias", b.len(), n)));
    needs.extend(residual.map(|r| ("residual", r.len(), size([m, n]))));
    lengths(device, "matmul_nt", &needs)
}

pub(super) fn matmul_nn<B: Backend>(
    device: &str, dx: &Act<B>, dy: &Act<B>, w: &Act<B>, s: MatmulShape,
) -> Result<()> {
    let MatmulShape { m, n, k } = s;
    lengths(
        device,
        "matmul_nn",
        &[("dx", dx.len(), size([m, k])), ("dy", dy.len(), size([m, n])), ("w", w.len(), size([n, k]))],
    )
}

pub(super) fn matmul_tn<B: Backend>(
    device: &str, dw: &Stat<B>, dy: &Act<B>, x: &Act<B>, s: MatmulShape,
) -> Result<()> {
    let MatmulShape { m, n, k } = s;
    lengths(
        device,
        "matmul_tn",
        &[("dw", dw.len(), size([n, k])), ("dy", dy.len(), size([m, n])), ("x", x.len(), size([m, k]))],
    )
}

pub(super) fn bias_backward<B: Backend>(
    device: &str, db: &Stat<B>, dy: &Act<B>, m: usize, n: usize,
) -> Result<()> {
    lengths(device, "bias_backward", &[("db", db.len(), n), ("dy", dy.len(), size([m, n]))])
}

pub(super) fn rope<B: Backend>(
    device: &str, [q, k]: [&Act<B>; 2], places: &Places<'_, B>, turns: &Buf<B, u64>, s: RopeShape,
) -> Result<()> {
    let tokens = size([s.rows, s.tokens]);
    let places = match places {
        Places::Spans { per_row: 0, .. } => return Err(refuse(device, "rope: a row has no span".into())),
        Places::Spans { spans, per_row } => ("spans", spans.len(), size([s.rows, *per_row])),
        Places::List(list) => ("positions", list.len(), tokens),
    };
    let needs = [
        ("q", q.len(), size([tokens, s.heads, s.head_dim])),
        ("k", k.len(), size([tokens, s.kv_heads, s.head_dim])),
        ("turns", turns.len(), s.rotary_dim / 2),
        places,
    ];
    lengths(device, "rope", &needs)?;
    if !s.rotary_dim.is_multiple_of(2) || s.rotary_dim > s.head_dim {
        let problem = format!("rope: rotary_dim {} must be even and at most {}", s.rotary_dim, s.head_dim);
        return Err(refuse(device, problem));
    }
    Ok(())
}

pub(super) fn swiglu<B: Backend>(
    device: &str, y: &Act<B>, gate: &Act<B>, up: &Act<B>, len: usize,
) -> Result<()> {
    lengths(device, "swiglu", &[("y", y.len(), len), ("gate", gate.len(), len), ("up", up.len(), len)])
}

pub(super) fn swiglu_backward<B: Backend>(
    device: &str, [d_gate, d_up]: [&Act<B>; 2], [dy, gate, up]: [&Act<B>; 3], len: usize,
) -> Result<()> {
    let needs = [
        ("d_gate", d_gate.len(), len),
        ("d_up", d_up.len(), len),
        ("dy", dy.len(), len),
        ("gate", gate.len(), len),
        ("up", up.len(), len),
    ];
    lengths(device, "swiglu_backward", &needs)
}

pub(super) fn gelu<B: Backend>(device: &str, y: &Act<B>, x: &Act<B>, len: usize) -> Result<()> {
    lengths(device, "gelu", &[("y", y.len(), len), ("x", x.len(), len)])
}

pub(super) fn gelu_backward<B: Backend>(
    device: &str, dx: &Act<B>, dy: &Act<B>, x: &Act<B>, len: usize,
) -> Result<()> {
    lengths(device, "gelu_backward", &[("dx", dx.len(), len), ("dy", dy.len(), len), ("x", x.len(), len)])
}

/// What a pass over queries and keys needs of both.
fn seen<B: Backend>(
    (o, lse, q): (&Act<B>, &Stat<B>, &Act<B>), documents: Option<&Buf<B, DocumentId>>, s: AttentionShape,
) -> Vec<Need> {
    let queries = s.query_elements();
    let mut needs = vec![
        ("o", o.len(), queries),
        ("lse", lse.len(), size([s.rows, s.heads, s.queries])),
        ("q", q.len(), queries),
    ];
    needs.extend(documents.map(|d| ("documents", d.len(), size([s.rows, s.keys]))));
    needs
}

pub(super) fn attention<B: Backend>(
    device: &str, (o, lse): (&Act<B>, &Stat<B>), [q, k, v]: [&Act<B>; 3],
    documents: Option<&Buf<B, DocumentId>>, s: AttentionShape,
) -> Result<()> {
    const OP: &str = "attention";
    heads_and_keys(device, OP, s)?;
    let keys = s.key_elements();
    let mut needs = seen::<B>((o, lse, q), documents, s);
    needs.extend([("k", k.len(), keys), ("v", v.len(), keys)]);
    lengths(device, OP, &needs)
}

pub(super) fn attention_int8<B: Backend>(
    device: &str, (o, lse): (&Act<B>, &Stat<B>), q: &Act<B>, [k, v]: [&Quantised<'_, B>; 2],
    documents: Option<&Buf<B, DocumentId>>, s: AttentionShape,
) -> Result<()> {
    const OP: &str = "attention_int8";
    heads_and_keys(device, OP, s)?;
    let (keys, scales) = (s.key_elements(), size([s.rows, s.keys, s.kv_heads]));
    let mut needs = seen::<B>((o, lse, q), documents, s);
    needs.extend([
        ("k.codes", k.codes.len(), keys),
        ("k.scales", k.scales.len(), scales),
        ("v.codes", v.codes.len(), keys),
        ("v.scales", v.scales.len(), scales),
    ]);
    lengths(device, OP, &needs)
}

pub(super) fn attention_backward<B: Backend>(
    device: &str, [dq, dk, dv, d_o]: [&Act<B>; 4], (o, lse): (&Act<B>, &Stat<B>), [q, k, v]: [&Act<B>; 3],
    documents: Option<&Buf<B, DocumentId>>, s: AttentionShape,
) -> Result<()> {
    const OP: &str = "attention_backward";
    heads_and_keys(device, OP, s)?;
    if s.queries != s.keys {
        return Err(refuse(device, format!("{OP}: {} queries but {} keys", s.queries, s.keys)));
    }
    let (queries, keys) = (s.query_elements(), s.key_elements());
    let mut needs = seen::<B>((o, lse, q), documents, s);
    needs.extend([
        ("dq", dq.len(), queries),
        ("dk", dk.len(), keys),
        ("dv", dv.len(), keys),
        ("d_o", d_o.len(), queries),
        ("k", k.len(), keys),
        ("v", v.len(), keys),
    ]);
    lengths(device, OP, &needs)
}

pub(super) fn kv_quantise<B: Backend>(
    device: &str, codes: &Buf<B, i8>, scales: &Stat<B>, at: usize, x: &Act<B>, s: KvShape,
) -> Result<()> {
    const OP: &str = "kv_quantise";
    let KvShape { tokens, kv_heads, head_dim } = s;
    let (first, heads) = (size([at, kv_heads]), size([tokens, kv_heads]));
    lengths(device, OP, &[("x", x.len(), size([heads, head_dim]))])?;
    range(device, OP, "scales", scales.len(), first, heads)?;
    range(device, OP, "codes", codes.len(), size([first, head_dim]), size([heads, head_dim]))
}

pub(super) fn head_loss<B: Backend>(
    device: &str, nll: &Stat<B>, [x, w]: [&Act<B>; 2], bias: Option<&Act<B>>, targets: &Buf<B, TokenId>,
    grad: Option<&HeadGrad<'_, B>>, s: HeadShape,
) -> Result<()> {
    let HeadShape { tokens, width, vocab } = s;
    let mut needs = vec![
        ("nll", nll.len(), tokens),
        ("x", x.len(), size([tokens, width])),
        ("w", w.len(), size([vocab, width])),
        ("targets", targets.len(), tokens),
    ];
    needs.extend(bias.map(|bias| ("bias", bias.len(), vocab)));
    if let Some(grad) = grad {
        needs.push(("dx", grad.dx.len(), size([tokens, width])));
        needs.extend(grad.dw.as_ref().map(|dw| ("dw", dw.len(), size([vocab, width]))));
        needs.extend(grad.db.as_ref().map(|db| ("db", db.len(), vocab)));
        needs.extend(grad.weights.map(|weights| ("weights", weights.len(), tokens)));
    }
    lengths(device, "head_loss", &needs)
}

pub(super) fn head_logits<B: Backend>(
    device: &str, logits: &Stat<B>, [x, w]: [&Act<B>; 2], bias: Option<&Act<B>>, s: HeadShape,
) -> Result<()> {
    let HeadShape { tokens, width, vocab } = s;
    let mut needs = vec![
        ("logits", logits.len(), size([tokens, vocab])),
        ("x", x.len(), size([tokens, width])),
        ("w", w.len(), size([vocab, width])),
    ];
    needs.extend(bias.map(|bias| ("bias", bias.len(), vocab)));
    lengths(device, "head_logits", &needs)
}

pub(super) fn sample<B: Backend>(
    device: &str, tokens: &Buf<B, TokenId>, logits: &Stat<B>, units: &Stat<B>, s: SampleShape,
) -> Result<()> {
    check::sample(device, "sample", s)?;
    let needs = [
        ("tokens", tokens.len(), s.rows),
        ("logits", logits.len(), size([s.rows, s.vocab])),
        ("units", units.len(), s.rows),
    ];
    lengths(device, "sample", &needs)
}

pub(super) fn adamw<B: Backend>(device: &str, tensors: &[AdamTensor<'_, B>]) -> Result<()> {
    tensors.iter().try_for_each(|t| {
        let n = t.param.len();
        let mut needs = vec![("m", t.m.len(), n), ("v", t.v.len(), n), ("grad", t.grad.len(), n)];
        needs.extend(t.master.as_ref().map(|master| ("master", master.len(), n)));
        lengths(device, "adamw", &needs)
    })
}

pub(super) fn adamw8<B: Backend>(device: &str, tensors: &[Adam8Tensor<'_, B>]) -> Result<()> {
    tensors.iter().try_for_each(|t| {
        let n = t.param.len();
        let blocks = n.div_ceil(MOMENT_BLOCK);
        let mut needs = vec![
            ("m.codes", t.m.codes.len(), n),
            ("m.scales", t.m.scales.len(), blocks),
            ("v.codes", t.v.codes.len(), n),
            ("v.scales", t.v.scales.len(), blocks),
            ("grad", t.grad.len(), n),
        ];
        needs.extend(t.master.as_ref().map(|master| ("master", master.len(), n)));
        lengths(device, "adamw8", &needs)
    })
}
