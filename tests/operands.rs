//! Every operand of every operation, one element too short: refused with the operation's and the operand's name.

use pose_engine::backend::cpu::{Buf, Cpu};
use pose_engine::backend::{
    Adam8Tensor, AdamStep, AdamTensor, AttentionShape, Backend, Direction, Element, HeadGrad, HeadShape,
    KvShape, MatmulShape, MomentCodes, NormShape, PairLayout, Places, Quantised, RopeShape, SampleShape,
    Write,
};
use pose_engine::error::Result;
use pose_engine::index::{ChunkSpan, DocumentId, RopePosition, TokenId};
use std::cell::RefCell;

/// Gives out operands, one of them perhaps too short, and keeps their names.
struct Operands {
    cpu: Cpu<f32>,
    short: Option<&'static str>,
    given: RefCell<Vec<&'static str>>,
}

impl Operands {
    fn new(short: Option<&'static str>) -> Operands {
        Operands { cpu: Cpu::new(1).unwrap(), short, given: RefCell::default() }
    }

    /// An operand of `len` elements.
    fn of<T: Element>(&self, name: &'static str, len: usize) -> Buf<T> {
        self.given.borrow_mut().push(name);
        self.cpu.alloc(len - usize::from(self.short == Some(name))).unwrap()
    }

    fn act(&self, name: &'static str, len: usize) -> Buf<f32> {
        self.of(name, len)
    }

    fn ids(&self, name: &'static str, len: usize) -> Buf<TokenId> {
        self.of(name, len)
    }
}

const MATMUL: MatmulShape = MatmulShape { m: 5, n: 7, k: 9 };
const NORM: NormShape = NormShape { tokens: 5, width: 7, eps: 1e-5 };
const HEAD: HeadShape = HeadShape { tokens: 5, width: 7, vocab: 11 };
const KV: KvShape = KvShape { tokens: 5, kv_heads: 2, head_dim: 6 };
const LEN: usize = 13;
const STEP: AdamStep = AdamStep { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 1, grad_scale: 1.0 };
const ROPE: RopeShape = RopeShape {
    rows: 2,
    tokens: 5,
    heads: 4,
    kv_heads: 2,
    head_dim: 6,
    rotary_dim: 4,
    pairs: PairLayout::HalfSplit,
    attention_factor: 1.0,
};
const ATTENTION: AttentionShape = AttentionShape {
    rows: 2,
    queries: 5,
    keys: 5,
    heads: 4,
    kv_heads: 2,
    head_dim: 6,
    scale: 0.4,
    window: None,
};
/// Elements of q and of k in the two shapes above, and pairs of a query and a head, of a key and a head.
const Q: usize = 2 * 5 * 4 * 6;
const K: usize = 2 * 5 * 2 * 6;
const QUERIES: usize = 2 * 5 * 4;
const KEYS: usize = 2 * 5 * 2;
const SAMPLE: SampleShape = SampleShape { rows: 3, vocab: 11, temperature: 1.0, top_p: 0.9 };

/// Every operation by its name in the trait, with all the operands that it can have.
type Operation = (&'static str, fn(&Operands) -> Result<()>);

const OPERATIONS: &[Operation] = &[
    ("upload", |o| o.cpu.upload(&mut o.act("dst", LEN), 3, &[0.0; LEN - 3])),
    ("download", |o| o.cpu.download(&mut [0.0; LEN - 3], &o.act("src", LEN), 3)),
    ("copy", |o| o.cpu.copy(&mut o.act("dst", LEN), 2, &o.act("src", LEN + 1), 3, LEN - 2)),
    ("zero", |o| o.cpu.zero(&mut o.act("x", LEN), LEN)),
    ("embed", |o| o.cpu.embed(&mut o.act("y", 35), &o.act("table", 77), &o.ids("ids", 5), HEAD)),
    ("embed_backward", |o| {
        o.cpu.embed_backward(&mut o.act("d_table", 77), &o.act("dy", 35), &o.ids("ids", 5), HEAD)
    }),
    ("rmsnorm", |o| {
        o.cpu.rmsnorm(&mut o.act("y", 35), &mut o.act("rstd", 5), &o.act("x", 35), &o.act("w", 7), NORM)
    }),
    ("rmsnorm_backward", |o| {
        let (mut dx, mut dw) = (o.act("dx", 35), o.act("dw", 7));
        let (dy, x, rstd) = (o.act("dy", 35), o.act("x", 35), o.act("rstd", 5));
        o.cpu.rmsnorm_backward(&mut dx, Some(&mut dw), &dy, &x, &rstd, &o.act("w", 7), NORM)
    }),
    ("layernorm", |o| {
        let (mut y, mut stats, x) = (o.act("y", 35), o.act("stats", 10), o.act("x", 35));
        o.cpu.layernorm(&mut y, &mut stats, &x, &o.act("w", 7), &o.act("bias", 7), NORM)
    }),
    ("layernorm_backward", |o| {
        let (mut dx, mut dw) = (o.act("dx", 35), o.act("dw", 7));
        let (dy, x, stats) = (o.act("dy", 35), o.act("x", 35), o.act("stats", 10));
        o.cpu.layernorm_backward(&mut dx, Some(&mut dw), &dy, &x, &stats, &o.act("w", 7), NORM)
    }),
    ("unit_rows", |o| o.cpu.unit_rows(&mut o.act("y", 35), &mut o.act("scale", 5), &o.act("x", 35), 5, 7)),
    ("unit_rows_backward", |o| {
        o.cpu.unit_rows_backward(&mut o.act("d", 35), &o.act("y", 35), &o.act("scale", 5), 5, 7)
    }),
    ("matmul_nt", |o| {
        let (mut y, x, w) = (o.act("y", 35), o.act("x", 45), o.act("w", 63));
        o.cpu.matmul_nt(&mut y, &x, &w, Some(&o.act("bias", 7)), Some(&o.act("residual", 35)), MATMUL)
    }),
    ("matmul_nn", |o| {
        let mut dx = o.act("dx", 45);
        o.cpu.matmul_nn(&mut dx, &o.act("dy", 35), &o.act("w", 63), Write::Overwrite, MATMUL)
    }),
    ("matmul_tn", |o| o.cpu.matmul_tn(&mut o.act("dw", 63), &o.act("dy", 35), &o.act("x", 45), MATMUL)),
    ("bias_backward", |o| o.cpu.bias_backward(&mut o.act("db", 7), &o.act("dy", 35), 5, 7)),
    ("rope", |o| {
        let (spans, turns) = (o.of::<ChunkSpan>("spans", 6), o.of("turns", 2));
        let places = Places::Spans { spans: &spans, per_row: 3 };
        o.cpu.rope(&mut o.act("q", Q), &mut o.act("k", K), places, &turns, Direction::Forward, ROPE)
    }),
    ("rope", |o| {
        let (list, turns) = (o.of::<RopePosition>("positions", 10), o.of("turns", 2));
        let places = Places::List(&list);
        o.cpu.rope(&mut o.act("q", Q), &mut o.act("k", K), places, &turns, Direction::Backward, ROPE)
    }),
    ("swiglu", |o| o.cpu.swiglu(&mut o.act("y", LEN), &o.act("gate", LEN), &o.act("up", LEN), LEN)),
    ("swiglu_backward", |o| {
        let (mut d_gate, mut d_up, dy) = (o.act("d_gate", LEN), o.act("d_up", LEN), o.act("dy", LEN));
        o.cpu.swiglu_backward(&mut d_gate, &mut d_up, &dy, &o.act("gate", LEN), &o.act("up", LEN), LEN)
    }),
    ("gelu", |o| o.cpu.gelu(&mut o.act("y", LEN), &o.act("x", LEN), LEN)),
    ("gelu_backward", |o| {
        o.cpu.gelu_backward(&mut o.act("dx", LEN), &o.act("dy", LEN), &o.act("x", LEN), LEN)
    }),
    ("attention", |o| {
        let (mut out, mut lse, q) = (o.act("o", Q), o.act("lse", QUERIES), o.act("q", Q));
        let (k, v, documents) = (o.act("k", K), o.act("v", K), o.of::<DocumentId>("documents", 10));
        o.cpu.attention(&mut out, &mut lse, &q, &k, &v, Some(&documents), ATTENTION)
    }),
    ("kv_quantise", |o| {
        // from the third token on
        let (mut codes, mut scales) = (o.of("codes", 7 * 2 * 6), o.act("scales", 7 * 2));
        o.cpu.kv_quantise(&mut codes, &mut scales, 2, &o.act("x", 5 * 2 * 6), KV)
    }),
    ("attention_int8", |o| {
        let (mut out, mut lse, q) = (o.act("o", Q), o.act("lse", QUERIES), o.act("q", Q));
        let (k, k_scales) = (o.of("k.codes", K), o.act("k.scales", KEYS));
        let (v, v_scales) = (o.of("v.codes", K), o.act("v.scales", KEYS));
        let k = Quantised { codes: &k, scales: &k_scales };
        let v = Quantised { codes: &v, scales: &v_scales };
        let documents = o.of::<DocumentId>("documents", 10);
        o.cpu.attention_int8(&mut out, &mut lse, &q, k, v, Some(&documents), ATTENTION)
    }),
    ("attention_backward", |o| {
        let (mut dq, mut dk, mut dv, d_o) = (o.act("dq", Q), o.act("dk", K), o.act("dv", K), o.act("d_o", Q));
        let (out, lse, q) = (o.act("o", Q), o.act("lse", QUERIES), o.act("q", Q));
        let (k, v, documents) = (o.act("k", K), o.act("v", K), o.of::<DocumentId>("documents", 10));
        let documents = Some(&documents);
        o.cpu
            .attention_backward(&mut dq, &mut dk, &mut dv, &d_o, &out, &lse, &q, &k, &v, documents, ATTENTION)
    }),
    ("head_loss", |o| {
        let (mut nll, x, w, bias) = (o.act("nll", 5), o.act("x", 35), o.act("w", 77), o.act("bias", 11));
        let (mut dx, mut dw, mut db) = (o.act("dx", 35), o.act("dw", 77), o.act("db", 11));
        let (targets, weights) = (o.ids("targets", 5), o.act("weights", 5));
        let (dw, db) = (Some(&mut dw), Some(&mut db));
        let grad = HeadGrad { dx: &mut dx, dw, db, scale: 1.0, weights: Some(&weights) };
        o.cpu.head_loss(&mut nll, &x, &w, Some(&bias), &targets, Some(grad), HEAD)
    }),
    ("head_logits", |o| {
        let (mut logits, x, w) = (o.act("logits", 55), o.act("x", 35), o.act("w", 77));
        o.cpu.head_logits(&mut logits, &x, &w, Some(&o.act("bias", 11)), HEAD)
    }),
    ("sample", |o| {
        o.cpu.sample(&mut o.ids("tokens", 3), &mut o.act("logits", 33), &o.act("units", 3), SAMPLE)
    }),
    ("scale", |o| o.cpu.scale(&mut o.act("x", LEN), 2.0, LEN)),
    ("widen", |o| o.cpu.widen(&mut o.act("y", LEN), &o.act("x", LEN), LEN)),
    ("sum_squares", |o| o.cpu.sum_squares(&[(&o.act("x", LEN), LEN)]).map(|_| ())),
    // the parameter is what says how long the others must be
    ("adamw", |o| {
        let (mut param, mut master) = (o.cpu.alloc(LEN)?, o.act("master", LEN));
        let (mut m, mut v, grad) = (o.act("m", LEN), o.act("v", LEN), o.act("grad", LEN));
        let (param, master) = (&mut param, Some(&mut master));
        let tensor = AdamTensor { param, master, m: &mut m, v: &mut v, grad: &grad, decay: 0.1 };
        o.cpu.adamw(&mut [tensor], STEP)
    }),
    ("adamw8", |o| {
        // two blocks
        const LEN: usize = 300;
        let (mut param, mut master, grad) = (o.cpu.alloc(LEN)?, o.act("master", LEN), o.act("grad", LEN));
        let (mut m, mut m_scales) = (o.of("m.codes", LEN), o.act("m.scales", 2));
        let (mut v, mut v_scales) = (o.of("v.codes", LEN), o.act("v.scales", 2));
        let tensor = Adam8Tensor {
            param: &mut param,
            master: Some(&mut master),
            m: MomentCodes { codes: &mut m, scales: &mut m_scales },
            v: MomentCodes { codes: &mut v, scales: &mut v_scales },
            grad: &grad,
            decay: 0.1,
        };
        o.cpu.adamw8(&mut [tensor], STEP, 1)
    }),
];

#[test]
fn each_operand_that_is_too_short_is_refused_by_name() {
    for (op, run) in OPERATIONS {
        let whole = Operands::new(None);
        run(&whole).unwrap_or_else(|e| panic!("{op} refuses operands that are long enough: {e}"));
        for name in whole.given.into_inner() {
            let short = Operands::new(Some(name));
            let Err(refusal) = run(&short) else { panic!("{op} takes a {name} that is too short") };
            let refusal = refusal.to_string();
            // ranges have a sentence of their own, since they may begin anywhere
            let of_lengths = format!("device cpu: {op}: {name} has ");
            let of_ranges = format!(" elements of {name} from ");
            assert!(
                refusal.starts_with(&of_lengths) && refusal.ends_with(" are needed")
                    || refusal.starts_with(&format!("device cpu: {op}: ")) && refusal.contains(&of_ranges),
                "{op}, {name}: {refusal}"
            );
        }
    }
}

/// The table has every operation of the trait, with every operand.
#[test]
fn the_table_is_whole() {
    // what has no operands, or none that could be too short
    const OTHERS: [&str; 7] = [
        "free_bytes",
        "synchronize",
        "alloc",
        "exchange",
        "scratch_bytes",
        "optimizer_bytes",
        "reserve_scratch",
    ];
    let source = include_str!("../src/backend/mod.rs");
    let operations = source.split("pub trait Backend").nth(1).unwrap().split("\n    fn ").skip(1);
    let mut found = 0;
    for text in operations {
        let name = text.split(['(', '<']).next().unwrap();
        if OTHERS.contains(&name) {
            continue;
        }
        found += 1;
        let rows: Vec<_> = OPERATIONS.iter().filter(|(op, _)| *op == name).collect();
        assert!(!rows.is_empty(), "{name} is not in the table");
        let buffers = text.split(';').next().unwrap().matches("Self::Buf<").count();
        for (_, run) in rows {
            let operands = Operands::new(None);
            run(&operands).unwrap();
            let mut given = operands.given.into_inner();
            assert!(given.len() >= buffers, "{name} has {buffers} buffers, the table only {given:?}");
            given.sort_unstable();
            given.dedup();
            assert!(given.len() >= buffers, "{name}: a name stands twice in {given:?}");
        }
    }
    assert!(found > 30, "the trait was not found in its source: {found} operations");
}
