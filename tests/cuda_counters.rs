//! What the memory-bound kernels move, by softcuda's counters: at most 1.05 times the bytes that their contracts name, each
//! operand once, and in the fewest 32-byte sectors that could hold what a request asks for.

#[path = "common/softcuda.rs"]
mod softcuda;

use half::bf16;
use pose_engine::backend::cuda::Cuda;
use pose_engine::backend::{
    Adam8Tensor, AdamStep, AdamTensor, AttentionShape, Backend, Direction, Element, HeadGrad, HeadShape,
    MOMENT_BLOCK, MatmulShape, MomentCodes, NormShape, PairLayout, Places, RopeShape,
};
use pose_engine::index::{ChunkSpan, SeqIndex, TokenId};
use serde_json::Value;
use softcuda::Where;
use std::path::PathBuf;

const TOKENS: usize = 4096;
const WIDTH: usize = 512;
const VOCAB: usize = 5008;
const ALL: usize = TOKENS * WIDTH;
const ROWS: usize = 2;
const ROW_TOKENS: usize = 64;
const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;
/// Of the loss: few tokens, a vocabulary with a ragged last tile.
const SCORED: usize = 64;
/// Of decoding: the cache's length, and the sides of a product of one row.
const CACHED: usize = 8192;
const OUTPUTS: usize = 1024;
const INPUTS: usize = 2048;

/// Kernels, and the bytes of their operands: read once, written once. Statistics are f32, the rest bf16.
const MINIMUM: [(&str, usize); 24] = [
    ("embed_bf16", 2 * ALL + 2 * ALL + 4 * TOKENS),
    ("embed_backward_bf16", 2 * ALL + (4 + 4) * ALL + 4 * TOKENS),
    ("rmsnorm_bf16", 2 * ALL + 2 * ALL + 4 * TOKENS + 2 * WIDTH),
    ("rmsnorm_backward_bf16", (2 + 2) * ALL + (2 + 2) * ALL + 4 * TOKENS + 2 * WIDTH),
    // of twice the tokens: with two weights to load, a block has twice the rows
    ("layernorm_bf16", 2 * (2 * ALL + 2 * ALL + 8 * TOKENS) + 2 * 2 * WIDTH),
    ("layernorm_backward_bf16", (2 + 2) * ALL + (2 + 2) * ALL + 8 * TOKENS + 2 * WIDTH),
    ("unit_rows_bf16", 2 * ALL + 2 * ALL + 4 * TOKENS),
    ("unit_rows_backward_bf16", (4 + 2) * ALL + 4 * ALL + 4 * TOKENS),
    ("gelu_bf16", 2 * ALL + 2 * ALL),
    ("gelu_backward_bf16", (2 + 2) * ALL + 2 * ALL),
    // a block for each row reads the bias
    ("add_bias_bf16", SCORED * ((4 + 4) * VOCAB + 2 * VOCAB)),
    ("swiglu_bf16", (2 + 2) * ALL + 2 * ALL),
    ("swiglu_backward_bf16", (2 + 2 + 2) * ALL + (2 + 2) * ALL),
    ("rope_bf16", (2 + 2) * ROWS * ROW_TOKENS * (HEADS + KV_HEADS) * HEAD_DIM),
    ("scale_bf16", (2 + 2) * ALL),
    ("widen_bf16", (2 + 4) * ALL),
    ("column_sum_bf16", 2 * ALL + (4 + 4) * WIDTH),
    ("cross_entropy_bf16", SCORED * ((4 + 2) * VOCAB + 4 + 4)),
    ("matmul_few_bf16", 2 * (INPUTS * OUTPUTS + INPUTS + OUTPUTS)),
    ("decode_d128_bf16", 2 * 2 * CACHED * KV_HEADS * HEAD_DIM + 2 * HEADS * HEAD_DIM),
    ("attention_row_stats_bf16", ROW_TOKENS * HEADS * (2 * 2 * HEAD_DIM + 4 + 8)),
    ("sum_squares", 4 * ALL),
    ("adamw_bf16", 4 * ALL + 3 * (4 + 4) * ALL + 2 * ALL),
    ("adamw8_bf16", 4 * ALL + (4 + 4) * ALL + 2 * (1 + 1) * ALL + 2 * (4 + 4) * ALL / MOMENT_BLOCK + 2 * ALL),
];

fn uploaded<T: Element>(b: &Cuda<bf16>, values: &[T]) -> <Cuda<bf16> as Backend>::Buf<T> {
    let mut buf = b.alloc(values.len()).unwrap();
    b.upload(&mut buf, 0, values).unwrap();
    buf
}

/// Each of the kernels once.
fn launch_all() {
    let b = &Cuda::<bf16>::new(0).unwrap();
    let act = |len: usize| b.alloc::<bf16>(len).unwrap();
    let stat = |len: usize| b.alloc::<f32>(len).unwrap();
    b.reserve_scratch(64 << 20).unwrap();

    // every id once, not in order
    let ids: Vec<TokenId> = (0..TOKENS).map(|t| TokenId((t * 7 % 4999) as u32)).collect();
    let (ids, s) = (uploaded(b, &ids), HeadShape { tokens: TOKENS, width: WIDTH, vocab: VOCAB });
    b.embed(&mut act(ALL), &act(VOCAB * WIDTH), &ids, s).unwrap();
    b.embed_backward(&mut stat(VOCAB * WIDTH), &act(ALL), &ids, s).unwrap();

    let s = NormShape { tokens: TOKENS, width: WIDTH, eps: 1e-5 };
    let (x, w, mut rstd) = (act(ALL), act(WIDTH), stat(TOKENS));
    b.rmsnorm(&mut act(ALL), &mut rstd, &x, &w, s).unwrap();
    b.rmsnorm_backward(&mut act(ALL), Some(&mut stat(WIDTH)), &act(ALL), &x, &rstd, &w, s).unwrap();

    let (two, mut stats) = (NormShape { tokens: 2 * TOKENS, ..s }, stat(4 * TOKENS));
    b.layernorm(&mut act(2 * ALL), &mut stats, &act(2 * ALL), &w, &act(WIDTH), two).unwrap();
    b.layernorm_backward(&mut act(ALL), Some(&mut stat(WIDTH)), &act(ALL), &x, &stats, &w, s).unwrap();
    b.unit_rows(&mut act(ALL), &mut rstd, &x, TOKENS, WIDTH).unwrap();
    b.unit_rows_backward(&mut stat(ALL), &x, &rstd, TOKENS, WIDTH).unwrap();

    b.gelu(&mut act(ALL), &x, ALL).unwrap();
    b.gelu_backward(&mut act(ALL), &act(ALL), &x, ALL).unwrap();
    b.swiglu(&mut act(ALL), &act(ALL), &act(ALL), ALL).unwrap();
    b.swiglu_backward(&mut act(ALL), &mut act(ALL), &act(ALL), &act(ALL), &act(ALL), ALL).unwrap();

    let s = RopeShape {
        rows: ROWS,
        tokens: ROW_TOKENS,
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        rotary_dim: HEAD_DIM,
        pairs: PairLayout::HalfSplit,
        attention_factor: 1.0,
    };
    let span = |start, bias| ChunkSpan { start: SeqIndex(start), bias };
    let spans = uploaded(b, &[span(0, 0), span(20, 1000), span(0, 5), span(50, 100_000)]);
    let places = Places::Spans { spans: &spans, per_row: 2 };
    let tokens = ROWS * ROW_TOKENS * HEAD_DIM;
    let turns = uploaded(b, &[1u64 << 50; HEAD_DIM / 2]);
    b.rope(&mut act(tokens * HEADS), &mut act(tokens * KV_HEADS), places, &turns, Direction::Forward, s)
        .unwrap();

    loss_and_decoding(b);
    b.scale(&mut act(ALL), 0.5, ALL).unwrap();
    b.widen(&mut stat(ALL), &act(ALL), ALL).unwrap();
    b.sum_squares(&[(&stat(ALL), ALL)]).unwrap();
    let (mut param, mut master, mut m, mut v) = (act(ALL), stat(ALL), stat(ALL), stat(ALL));
    let tensor = AdamTensor {
        param: &mut param,
        master: Some(&mut master),
        m: &mut m,
        v: &mut v,
        grad: &stat(ALL),
        decay: 0.1,
    };
    let step = AdamStep { lr: 1e-3, beta1: 0.9, beta2: 0.99, eps: 1e-8, step: 1, grad_scale: 1.0 };
    b.adamw(&mut [tensor], step).unwrap();
    let (mut m_codes, mut v_codes) = (b.alloc(ALL).unwrap(), b.alloc(ALL).unwrap());
    let (mut m_scales, mut v_scales) = (stat(ALL / MOMENT_BLOCK), stat(ALL / MOMENT_BLOCK));
    let tensor = Adam8Tensor {
        param: &mut param,
        master: Some(&mut master),
        m: MomentCodes { codes: &mut m_codes, scales: &mut m_scales },
        v: MomentCodes { codes: &mut v_codes, scales: &mut v_scales },
        grad: &stat(ALL),
        decay: 0.1,
    };
    b.adamw8(&mut [tensor], step, 1).unwrap();
    b.synchronize().unwrap();
}

fn loss_and_decoding(b: &Cuda<bf16>) {
    let act = |len: usize| b.alloc::<bf16>(len).unwrap();
    let stat = |len: usize| b.alloc::<f32>(len).unwrap();
    let targets: Vec<TokenId> = (0..SCORED).map(|t| TokenId(t as u32)).collect();
    let s = HeadShape { tokens: SCORED, width: 64, vocab: VOCAB };
    let (mut dx, mut dw) = (act(SCORED * s.width), stat(VOCAB * s.width));
    let grad = HeadGrad { dx: &mut dx, dw: Some(&mut dw), db: None, scale: 1.0, weights: None };
    let (x, w) = (act(SCORED * s.width), act(VOCAB * s.width));
    b.head_loss(&mut stat(SCORED), &x, &w, None, &uploaded(b, &targets), Some(grad), s).unwrap();

    let (mut logits, bias) = (stat(SCORED * VOCAB), act(VOCAB));
    b.head_logits(&mut logits, &x, &w, Some(&bias), s).unwrap();

    b.bias_backward(&mut stat(WIDTH), &act(ALL), TOKENS, WIDTH).unwrap();
    let s = MatmulShape { m: 1, n: OUTPUTS, k: INPUTS };
    b.matmul_nt(&mut act(OUTPUTS), &act(INPUTS), &act(INPUTS * OUTPUTS), None, None, s).unwrap();

    let of = |queries: usize, keys: usize, kv_heads: usize| AttentionShape {
        rows: 1,
        queries,
        keys,
        heads: HEADS,
        kv_heads,
        head_dim: HEAD_DIM,
        scale: 0.1,
        window: None,
    };
    let cache = CACHED * KV_HEADS * HEAD_DIM;
    let (mut o, q) = (act(HEADS * HEAD_DIM), act(HEADS * HEAD_DIM));
    let s = of(1, CACHED, KV_HEADS);
    b.attention(&mut o, &mut stat(HEADS), &q, &act(cache), &act(cache), None, s).unwrap();
    let n = ROW_TOKENS * HEADS * HEAD_DIM;
    let (mut dq, mut dk, mut dv) = (act(n), act(n), act(n));
    let (d_o, o, q, k, v, lse) = (act(n), act(n), act(n), act(n), act(n), stat(ROW_TOKENS * HEADS));
    let s = of(ROW_TOKENS, ROW_TOKENS, HEADS);
    b.attention_backward(&mut dq, &mut dk, &mut dv, &d_o, &o, &lse, &q, &k, &v, None, s).unwrap();
}

/// The sum of a counter over the kinds of access to global memory, of all launches of a kernel.
fn counted(report: &Value, kernel: &str, counter: &str) -> u64 {
    let launches = report["launches"].as_array().expect("launches");
    let of_kernel = launches.iter().filter(|launch| launch["kernel"] == kernel);
    let kinds = |launch: &Value| {
        let of_kind = |kind: &&str| launch[*kind][counter].as_u64().expect(counter);
        ["loads", "stores", "atomics", "async_copies"].iter().map(of_kind).sum::<u64>()
    };
    of_kernel.map(kinds).sum()
}

/// The report of a process that runs the test named, for the process that started it; None in the other, or without kernels.
fn report_of(test: &str, work: impl FnOnce()) -> Option<Value> {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}.json", std::process::id()));
    match softcuda::inside_with(test, &[("SOFTCUDA_REPORT", path.as_path())]) {
        Where::Inside => work(),
        Where::Skipped => {}
        Where::Done => {
            let report = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            std::fs::remove_file(&path).unwrap();
            return Some(report);
        }
    }
    None
}

#[test]
fn the_yardstick_of_tensor_cores_does_what_it_is_credited_with() {
    const ROUNDS: usize = 2;
    let measure = || {
        let peaks = Cuda::<bf16>::new(0).unwrap().measure_peak(ROUNDS).unwrap();
        assert!(peaks.bf16_gflops > 0.0 && peaks.f32_gflops > 0.0 && peaks.bandwidth_gbs > 0.0);
    };
    let test = "the_yardstick_of_tensor_cores_does_what_it_is_credited_with";
    let Some(report) = report_of(test, measure) else { return };
    let launches = report["launches"].as_array().expect("launches");
    let ops = launches.iter().find(|launch| launch["kernel"] == "peak_mma_bf16").map(|l| &l["tensor_ops"]);
    // 1056 blocks of 8 warps, 8 chains of products of 2·16·8·16 FLOPs
    assert_eq!(ops.and_then(Value::as_u64), Some((1056 * 8 * 8 * ROUNDS * 4096) as u64));
}

#[test]
fn memory_bound_kernels_move_what_their_contracts_name() {
    let test = "memory_bound_kernels_move_what_their_contracts_name";
    let Some(report) = report_of(test, launch_all) else { return };
    println!("| kernel | bytes / least | sectors / fewest |");
    let mut beyond = Vec::new();
    for (kernel, minimum) in MINIMUM {
        let bytes = counted(&report, kernel, "bytes") as f64 / minimum as f64;
        let sectors =
            counted(&report, kernel, "sectors") as f64 / counted(&report, kernel, "ideal_sectors") as f64;
        println!("| {kernel} | {bytes:.3} | {sectors:.3} |");
        assert!(bytes >= 0.99, "{kernel} cannot have read its operands");
        if bytes > 1.05 || sectors > 1.0 {
            beyond.push(kernel);
        }
    }
    assert!(beyond.is_empty(), "{beyond:?} move more than they must");
}
