//! Which token comes next: greedy, by temperature, from a nucleus.

use super::{Suite, TRUTH, host};
use pose_engine::backend::reference::HostBuf;
use pose_engine::backend::{Backend, SampleShape};
use pose_engine::index::TokenId;

const ROWS: usize = 3;

pub fn all<B: Backend>(t: &mut Suite<'_, B>) {
    for vocab in [1, 2, 63, 1000, 1025, 5003] {
        for (temperature, top_p) in
            [(0.0, 1.0), (1.0, 1.0), (0.7, 0.9), (1.3, 0.3), (1e-30, 0.5), (50.0, 0.999)]
        {
            let s = SampleShape { rows: ROWS, vocab, temperature, top_p };
            let spread = t.random_stat(ROWS * vocab, 8.0);
            sample(t, &spread, s);
            // few values, many equals
            let steps: Vec<f64> = spread.iter().map(|z| z.round()).collect();
            sample(t, &steps, s);
        }
    }
    broken(t);
    weightless(t);
}

/// What weighs nothing is not drawn, by the last number below 1 neither: sums may be rounded so that none exceeds its share.
fn weightless<B: Backend>(t: &mut Suite<'_, B>) {
    for (vocab, top_p) in [(900, 1.0), (5003, 1.0), (5003, 0.9999999)] {
        let s = SampleShape { rows: ROWS, vocab, temperature: 0.01, top_p };
        // likely ones in front, and so far below them that exp gives 0 the rest
        let spread = t.random_stat(ROWS * vocab, 0.01);
        let z = |(i, z): (usize, f64)| if i % vocab < vocab / 2 { z } else { z - 5.0 };
        let logits: Vec<f64> = spread.into_iter().enumerate().map(z).collect();
        let mut tokens = t.upload(&[TokenId(0); ROWS]);
        let mut uploaded = t.floats(&logits);
        t.b.sample(&mut tokens, &mut uploaded, &t.floats(&[1.0 - f64::from(f32::EPSILON) / 2.0; ROWS]), s)
            .unwrap();
        let mut got = [TokenId(0); ROWS];
        t.b.download(&mut got, &tokens, 0).unwrap();
        assert!(got.iter().all(|token| (token.0 as usize) < vocab / 2), "{}: {s:?} drew {got:?}", t.label);
    }
}

fn truth(logits: &[f64], units: &[f64], s: SampleShape) -> Vec<TokenId> {
    let mut tokens = HostBuf(vec![TokenId(0); s.rows]);
    TRUTH.sample(&mut tokens, &mut host(logits), &host(units), s).unwrap();
    tokens.0
}

/// Numbers at which neither the draw nor the nucleus is decided by rounding: moved a little they choose the same.
fn clear_units<B: Backend>(t: &mut Suite<'_, B>, logits: &[f64], s: SampleShape) -> Option<Vec<f64>> {
    const MARGIN: f64 = 1e-4;
    for _ in 0..200 {
        let units: Vec<f64> = (0..s.rows).map(|_| MARGIN + t.below(9990) as f64 * MARGIN).collect();
        let moved = |by: f64, top_p: f64| {
            let units: Vec<f64> = units.iter().map(|u| u + by).collect();
            truth(logits, &units, SampleShape { top_p, ..s })
        };
        let choice = truth(logits, &units, s);
        let others = [
            moved(MARGIN / 2.0, s.top_p),
            moved(-MARGIN / 2.0, s.top_p),
            moved(0.0, (s.top_p * (1.0 + 1e-5)).min(1.0)),
            moved(0.0, s.top_p * (1.0 - 1e-5)),
        ];
        if others.iter().all(|other| *other == choice) {
            return Some(units);
        }
    }
    None
}

fn sample<B: Backend>(t: &mut Suite<'_, B>, logits: &[f64], s: SampleShape) {
    let Some(units) = clear_units(t, logits, s) else { panic!("{s:?} has no draw that is clear") };
    check(t, logits, &units, s);
}

fn check<B: Backend>(t: &mut Suite<'_, B>, logits: &[f64], units: &[f64], s: SampleShape) {
    let want = truth(logits, units, s);
    let mut tokens = t.upload(&[TokenId(77); ROWS + 1]);
    let mut logits = t.floats(logits);
    t.b.sample(&mut tokens, &mut logits, &t.floats(units), s).unwrap();
    let mut got = [TokenId(0); ROWS + 1];
    t.b.download(&mut got, &tokens, 0).unwrap();
    assert_eq!(got[..s.rows], want, "{s:?}");
    assert!(got[s.rows..].iter().all(|token| *token == TokenId(77)), "{s:?}: wrote beyond the end");
    t.trace.push((format!("sample {s:?}"), got.iter().map(|token| f64::from(token.0)).collect()));
}

/// A logit that is no number is told, wherever it is.
fn broken<B: Backend>(t: &mut Suite<'_, B>) {
    for (temperature, bad) in [(0.0, f64::NAN), (1.0, f64::INFINITY), (1.0, f64::NEG_INFINITY)] {
        let s = SampleShape { rows: ROWS, vocab: 2000, temperature, top_p: 0.9 };
        let mut logits = vec![0.0; ROWS * s.vocab];
        logits[7] = 50.0;
        logits[2 * s.vocab - 1] = bad;
        logits[3 * s.vocab - 1] = 50.0;
        assert_eq!(truth(&logits, &[0.5; ROWS], s), [TokenId(7), TokenId::IGNORED, TokenId(1999)]);
        check(t, &logits, &[0.5; ROWS], s);
    }
}
