//! kv_quantise and attention_int8.

use super::attention::{Case, case};
use super::plain;
use super::{Suite, TRUTH, host, zeros};
use pose_engine::backend::reference::HostBuf;
use pose_engine::backend::{Backend, Float, KvShape, Quantised};
use pose_engine::index::DocumentId;

pub fn all<B: Backend>(t: &mut Suite<'_, B>) {
    for (tokens, kv_heads, head_dim) in
        [(1, 1, 1), (3, 2, 15), (17, 3, 64), (65, 1, 80), (5, 2, 128), (33, 2, 36), (2, 1, 256), (0, 2, 64)]
    {
        quantise(t, KvShape { tokens, kv_heads, head_dim });
    }
    no_numbers_do_not_pass(t);
    let cases = [
        case(1, 1, 1, (1, 1), 1),
        case(1, 33, 33, (1, 1), 15),
        case(2, 65, 65, (4, 2), 64),
        case(1, 63, 63, (3, 3), 80),
        case(1, 257, 257, (6, 2), 64),
        case(1, 40, 300, (2, 1), 128),
        case(1, 300, 300, (2, 1), 32).window(50),
        case(2, 257, 257, (2, 2), 16).documents(|j| j as u32 / 100),
        case(2, 100, 357, (3, 1), 36).window(90),
        // decoding
        case(1, 1, 1, (9, 3), 64),
        case(1, 1, 65, (9, 3), 64),
        case(1, 1, 257, (4, 1), 80),
        case(2, 2, 300, (6, 2), 128),
        case(1, 1, 5000, (9, 3), 64),
        case(2, 3, 4500, (2, 2), 16).window(1000),
        case(1, 2, 4200, (2, 1), 16).documents(|j| j as u32 / 1500),
        case(1, 5, 70, (2, 1), 36),
        case(1, 1, 90, (16, 1), 256),
        case(1, 7, 90, (1, 1), 15).window(3),
        // decoding from codes as they lie: an odd number behind whole steps, heads of one vector, of several, of any number on a key
        case(2, 1, 1500, (12, 1), 32).window(700),
        case(2, 1, 2085, (4, 2), 128).documents(|j| j as u32 / 1000),
        case(1, 1, 1045, (8, 2), 64),
        case(1, 1, 261, (3, 3), 192),
        case(1, 1, 333, (2, 2), 96),
        case(2, 1, 300, (7, 1), 96),
    ];
    for case in &cases {
        attention(t, case);
    }
}

/// Codes are within half a scale of what they stand for; tokens before `at` and after the last one stay.
pub fn quantise<B: Backend>(t: &mut Suite<'_, B>, s: KvShape) {
    const AT: usize = 2;
    let (heads, first) = (s.tokens * s.kv_heads, AT * s.kv_heads);
    let mut x = t.random(heads * s.head_dim, 3.0);
    // a head of zeros, and one of numbers too small for a scale
    x.iter_mut().take(s.head_dim * usize::from(heads > 1)).for_each(|x| *x = 0.0);
    x.iter_mut().rev().take(s.head_dim * usize::from(heads > 2)).for_each(|x| *x *= 1e-40);
    let (mut codes, mut scales) = (HostBuf(vec![7i8; (first + heads) * s.head_dim]), zeros(first + heads));
    let x: Vec<f64> = x.iter().map(|x| B::Act::from_f64(*x).to_f64()).collect();
    TRUTH.kv_quantise(&mut codes, &mut scales, AT, &host(&x), s).unwrap();
    let mut codes_b = t.upload(&vec![7i8; (first + heads) * s.head_dim + 5]);
    let mut scales_b = t.output::<B::Stat>(&vec![0.0; first + heads]);
    t.b.kv_quantise(&mut codes_b, &mut scales_b, AT, &t.floats(&x), s).unwrap();
    t.compare::<B::Stat>(&format!("scales of {s:?}"), &scales_b, &scales.0, &scales.0);

    let mut got = vec![0i8; (first + heads) * s.head_dim + 5];
    t.b.download(&mut got, &codes_b, 0).unwrap();
    let (before, rest) = got.split_at(first * s.head_dim);
    let (got, after) = rest.split_at(heads * s.head_dim);
    assert!(before.iter().chain(after).all(|c| *c == 7), "{s:?}: codes of other tokens were written");
    for (i, (code, x)) in got.iter().zip(&x).enumerate() {
        let scale = scales.0[first + i / s.head_dim];
        assert!((-127..=127).contains(code), "{s:?}: code {code}");
        if scale == 0.0 {
            assert_eq!(*code, 0, "{s:?}: element {i} of a head without a scale");
        } else {
            let error = (x - scale * f64::from(*code)).abs();
            assert!(error <= 0.5001 * scale, "{s:?}: element {i}: {x} as {code} of scale {scale}");
        }
    }
}

/// What is no finite number makes its head's scale NaN, and that the attention of every query that sees it.
fn no_numbers_do_not_pass<B: Backend>(t: &mut Suite<'_, B>) {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for (queries, head_dim) in [(1, 16), (40, 16), (1, 64)] {
            let case = case(1, queries, 90, (2, 1), head_dim);
            let s = case.shape;
            let kv = KvShape { tokens: 90, kv_heads: 1, head_dim };
            let q = t.random(queries * 2 * head_dim, 1.0);
            for in_values in [false, true] {
                let mut cache: [Vec<f64>; 2] = [0; 2].map(|_| t.random(90 * head_dim, 1.0));
                cache[usize::from(in_values)][10 * head_dim + 3] = bad;
                let [k, v] = cache.map(|x| {
                    let (mut codes, mut scales) = (t.b.alloc(90 * head_dim).unwrap(), t.b.alloc(90).unwrap());
                    t.b.kv_quantise(&mut codes, &mut scales, 0, &t.floats(&x), kv).unwrap();
                    let mut scale = [B::Stat::default()];
                    t.b.download(&mut scale, &scales, 10).unwrap();
                    (codes, scales, scale[0].to_f64())
                });
                assert!((if in_values { v.2 } else { k.2 }).is_nan(), "the scale of {bad} is a number");
                let (mut o, mut lse) = (t.fresh::<B::Act>(q.len()), t.fresh::<B::Stat>(2 * queries));
                let [k, v] = [&k, &v].map(|x| Quantised { codes: &x.0, scales: &x.1 });
                t.b.attention_int8(&mut o, &mut lse, &t.floats(&q), k, v, None, s).unwrap();
                let mut out = vec![B::Act::default(); q.len()];
                t.b.download(&mut out, &o, 0).unwrap();
                assert!(out.iter().all(|x| x.to_f64().is_nan()), "{bad} was passed over, {queries} queries");
            }
        }
    }
}

pub fn attention<B: Backend>(t: &mut Suite<'_, B>, case: &Case) {
    let s = case.shape;
    let (nq, heads) = (s.rows * s.queries * s.heads * s.head_dim, s.rows * s.keys * s.kv_heads);
    let q = t.random(nq, 4.0);
    let mut codes = |largest: f64| {
        let scales = t.random_stat(heads, 2.0 * largest / 127.0);
        let scales: Vec<f64> = scales.iter().map(|x| x.abs()).collect();
        let codes: Vec<i8> =
            (0..heads * s.head_dim).map(|_| t.below(255) as u8 as i8).map(|c| c.max(-127)).collect();
        (codes, scales)
    };
    let (k, v) = (codes(4.0), codes(1.0));
    let name = |what: &str| format!("{what} of int8 {s:?} documents {}", case.documents.is_some());
    let ids: Option<Vec<u32>> = case.ids();
    let documents: Option<Vec<DocumentId>> =
        ids.as_ref().map(|ids| ids.iter().map(|id| DocumentId(*id)).collect());

    let (mut o, mut lse) = (zeros(nq), zeros(s.rows * s.heads * s.queries));
    let on_host = |x: &(Vec<i8>, Vec<f64>)| (HostBuf(x.0.clone()), host(&x.1));
    let (k_host, v_host) = (on_host(&k), on_host(&v));
    let [k_view, v_view] = [&k_host, &v_host].map(|x| Quantised { codes: &x.0, scales: &x.1 });
    let documents_host = documents.clone().map(HostBuf);
    TRUTH.attention_int8(&mut o, &mut lse, &host(&q), k_view, v_view, documents_host.as_ref(), s).unwrap();
    let rounded = |x: &(Vec<i8>, Vec<f64>)| -> Vec<f64> {
        let product =
            |(i, code): (usize, &i8)| plain::round::<B::Act>(x.1[i / s.head_dim] as f32 * f32::from(*code));
        x.0.iter().enumerate().map(product).collect()
    };
    let plain = plain::attention::<B::Act>(&q, &rounded(&k), &rounded(&v), ids.as_deref(), s);

    let on_device = |x: &(Vec<i8>, Vec<f64>)| (t.upload(&x.0), t.floats::<B::Stat>(&x.1));
    let (k_b, v_b) = (on_device(&k), on_device(&v));
    let [k_view, v_view] = [&k_b, &v_b].map(|x| Quantised { codes: &x.0, scales: &x.1 });
    let documents_b = documents.map(|d| t.upload(&d));
    let (mut o_b, mut lse_b) = (t.fresh(nq), t.fresh(lse.0.len()));
    t.b.attention_int8(&mut o_b, &mut lse_b, &t.floats(&q), k_view, v_view, documents_b.as_ref(), s).unwrap();
    t.compare::<B::Act>(&name("o"), &o_b, &o.0, &plain.o);
    t.compare::<B::Stat>(&name("lse"), &lse_b, &lse.0, &plain.lse);
}
