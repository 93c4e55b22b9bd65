//! adamw8: the update is held to the reference's as adamw's is; each code must be one that the reference's rounding gives to a
//! moment within f32's error of the true one.

use super::plain::round;
use super::{Suite, TRUTH};
use pose_engine::backend::{Adam8Tensor, AdamStep, Backend, Float, MOMENT_BLOCK, MomentCodes};
use pose_engine::random::{Purpose, Stream};

const SEED: u64 = 5 << 33 | 7;
const STEP: AdamStep = AdamStep { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 3, grad_scale: 0.5 };
const DECAY: f64 = 0.1;
/// What f32 makes of a moment and of its share of the scale, relative to the terms that are added.
const ROUNDING: f64 = 2e-6;

pub fn all<B: Backend>(t: &mut Suite<'_, B>) {
    for len in [0, 1, 3, 255, 256, 257, 4095, 4097, 40_003] {
        adamw8(t, &[len], 3.0);
    }
    // one call for several tensors; gradients far from 1
    adamw8(t, &[300, 5, 700], 1e-12);
    adamw8(t, &[300, 5, 700], 1e12);
    what_is_zero_stays(t);
    no_numbers_do_not_pass(t);
    steps_round_to_the_mean(t);
}

/// A parameter with its gradient and its moments, as every backend gets it.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    param: Vec<f64>,
    grad: Vec<f64>,
    m: (Vec<i8>, Vec<f64>),
    v: (Vec<u8>, Vec<f64>),
}

impl Held {
    /// Gradients below `size` with zeros and very small ones among them; all codes.
    fn random<B: Backend>(t: &mut Suite<'_, B>, len: usize, size: f64) -> Held {
        let stat = |x: f64| B::Stat::from_f64(x).to_f64();
        let mut grad: Vec<f64> = t.random_stat(len, 1.0).iter().map(|x| stat(x * size)).collect();
        grad.iter_mut().step_by(7).for_each(|g| *g = 0.0);
        grad.iter_mut().step_by(11).for_each(|g| *g = stat(*g * 1e-5));
        let blocks = len.div_ceil(MOMENT_BLOCK);
        let mut scales =
            || -> Vec<f64> { t.random_stat(blocks, 1.0).iter().map(|x| stat(x.abs() * size)).collect() };
        let (m, v) = (scales(), scales());
        let mut bytes = || -> Vec<u8> { (0..len).map(|_| t.below(256) as u8).collect() };
        let m = (bytes().into_iter().map(|c| (c as i8).max(-127)).collect(), m);
        let v = (bytes(), v);
        Held { param: t.random_stat(len, 1.0), grad, m, v }
    }

    fn zeros(len: usize) -> Held {
        let scales = vec![0.0; len.div_ceil(MOMENT_BLOCK)];
        Held {
            param: vec![0.5; len],
            grad: vec![0.0; len],
            m: (vec![0; len], scales.clone()),
            v: (vec![0; len], scales),
        }
    }

    /// The parameters, and what there is afterwards, of some tensors on a backend. With or without masters as it needs them.
    fn stepped<B: Backend>(b: &B, held: &[Held], step: AdamStep) -> Vec<(Vec<f64>, Held)> {
        let with_master = size_of::<B::Act>() < size_of::<B::Stat>();
        let mut there: Vec<There<B>> = held.iter().map(|h| There::new(b, h)).collect();
        let mut tensors: Vec<Adam8Tensor<'_, B>> = there.iter_mut().map(|t| t.tensor(with_master)).collect();
        b.adamw8(&mut tensors, step, SEED).unwrap();
        there.iter().zip(held).map(|(t, h)| t.back(b, h, with_master)).collect()
    }

    fn decoded(&self) -> (Vec<f64>, Vec<f64>) {
        let share = |code: f64, most: f64| code * code.abs() / (most * most);
        let m = self.m.0.iter().enumerate();
        let v = self.v.0.iter().enumerate();
        (
            m.map(|(i, c)| self.m.1[i / MOMENT_BLOCK] * share((*c).into(), 127.0)).collect(),
            v.map(|(i, c)| (self.v.1[i / MOMENT_BLOCK] * share((*c).into(), 255.0)).powi(2)).collect(),
        )
    }
}

/// [`Held`] in a backend's memory.
struct There<B: Backend> {
    param: B::Buf<B::Act>,
    master: B::Buf<B::Stat>,
    grad: B::Buf<B::Stat>,
    m: (B::Buf<i8>, B::Buf<B::Stat>),
    v: (B::Buf<u8>, B::Buf<B::Stat>),
}

/// Beyond the end of codes and scales.
const GUARD: u8 = 77;

impl<B: Backend> There<B> {
    fn new(b: &B, h: &Held) -> Self {
        let t = Suite::new(b, "");
        let guarded = |x: &[f64]| t.floats(&[x, &[f64::from(GUARD)]].concat());
        There {
            param: t.floats(&h.param),
            master: t.floats(&h.param),
            grad: t.floats(&h.grad),
            m: (t.upload(&[&h.m.0[..], &[GUARD as i8]].concat()), guarded(&h.m.1)),
            v: (t.upload(&[&h.v.0[..], &[GUARD]].concat()), guarded(&h.v.1)),
        }
    }

    fn tensor(&mut self, with_master: bool) -> Adam8Tensor<'_, B> {
        Adam8Tensor {
            param: &mut self.param,
            master: with_master.then_some(&mut self.master),
            m: MomentCodes { codes: &mut self.m.0, scales: &mut self.m.1 },
            v: MomentCodes { codes: &mut self.v.0, scales: &mut self.v.1 },
            grad: &self.grad,
            decay: DECAY,
        }
    }

    fn back(&self, b: &B, h: &Held, with_master: bool) -> (Vec<f64>, Held) {
        let floats = |buf: &B::Buf<B::Stat>, n: usize| {
            let mut all = vec![B::Stat::default(); n];
            b.download(&mut all, buf, 0).unwrap();
            all.iter().map(|x| x.to_f64()).collect::<Vec<_>>()
        };
        let n = h.param.len();
        let mut act = vec![B::Act::default(); n];
        b.download(&mut act, &self.param, 0).unwrap();
        let act: Vec<f64> = act.iter().map(|x| x.to_f64()).collect();
        let (mut m, mut v) = (vec![0i8; n + 1], vec![0u8; n + 1]);
        b.download(&mut m, &self.m.0, 0).unwrap();
        b.download(&mut v, &self.v.0, 0).unwrap();
        let mut scales = [&self.m.1, &self.v.1].map(|s| floats(s, h.m.1.len() + 1));
        let guards = [m.pop().map(f64::from), v.pop().map(f64::from), scales[0].pop(), scales[1].pop()];
        assert_eq!(guards, [Some(f64::from(GUARD)); 4], "adamw8 wrote beyond the end of {n}");
        let [m_scales, v_scales] = scales;
        let param = if with_master { floats(&self.master, n) } else { act.clone() };
        (act, Held { param, grad: h.grad.clone(), m: (m, m_scales), v: (v, v_scales) })
    }
}

pub fn adamw8<B: Backend>(t: &mut Suite<'_, B>, lens: &[usize], size: f64) {
    let held: Vec<Held> = lens.iter().map(|len| Held::random(t, *len, size)).collect();
    let want = Held::stepped(&TRUTH, &held, STEP);
    let got = Held::stepped(t.b, &held, STEP);
    for (at, ((before, want), (act, got))) in held.iter().zip(&want).zip(&got).enumerate() {
        let name = format!("adamw8 {} of {lens:?} at {size:e}", lens[at]);
        let plain = plain(before);
        let column = |i: usize| plain.iter().map(|p| f64::from(p[i])).collect::<Vec<_>>();
        let rounded: Vec<f64> = plain.iter().map(|p| round::<B::Act>(p[0])).collect();
        let act = t.output::<B::Act>(act);
        t.compare::<B::Act>(&format!("{name} param"), &act, &want.0, &rounded);
        let master = t.output::<B::Stat>(&got.param);
        let plain_master = if size_of::<B::Act>() < size_of::<B::Stat>() { column(0) } else { rounded };
        t.compare::<B::Stat>(&format!("{name} master"), &master, &want.1.param, &plain_master);
        for (what, got, want, moment) in
            [("m", &got.m.1, &want.1.m.1, column(1)), ("v", &got.v.1, &want.1.v.1, column(2))]
        {
            let plain: Vec<f64> = moment
                .chunks(MOMENT_BLOCK)
                .map(|b| b.iter().fold(0.0, |top: f64, x| top.max(x.abs())))
                .collect();
            let got = t.output::<B::Stat>(got);
            t.compare::<B::Stat>(&format!("{name} scales of {what}"), &got, want, &plain);
        }
        codes(&name, at, before, got);
        t.trace.push((format!("{name} codes"), got.m.0.iter().map(|c| f64::from(*c)).collect()));
        t.trace.push((format!("{name} codes of v"), got.v.0.iter().map(|c| f64::from(*c)).collect()));
    }
}

/// p, m and √v in f32.
fn plain(h: &Held) -> Vec<[f32; 3]> {
    let (m, v) = h.decoded();
    (0..h.param.len())
        .map(|i| {
            let g = h.grad[i] as f32 * STEP.grad_scale as f32;
            let m = 0.9 * m[i] as f32 + 0.1 * g;
            let v = 0.95 * v[i] as f32 + 0.05 * g * g;
            let (fix1, fix2) = (1.0 - 0.9f32.powi(3), 1.0 - 0.95f32.powi(3));
            let p = h.param[i] as f32;
            [p - 1e-2 * (m / fix1 / ((v / fix2).sqrt() + 1e-8) + DECAY as f32 * p), m, v.sqrt()]
        })
        .collect()
}

/// Every code is what a moment within rounding of the true one becomes, with this element's random bits.
fn codes(name: &str, at: usize, before: &Held, got: &Held) {
    let mut words = Stream::new(SEED, Purpose::Rounding, STEP.step, at as u32);
    let (m, v) = before.decoded();
    for i in 0..m.len() {
        let g = before.grad[i] * STEP.grad_scale;
        let (kept, new) = (STEP.beta1 * m[i], (1.0 - STEP.beta1) * g);
        let word = words.next_u32();
        let unit = |bits: u32| (f64::from(bits) + 0.5) / 65536.0;
        let scale = got.m.1[i / MOMENT_BLOCK];
        let slack = ROUNDING * (kept.abs() + new.abs());
        let [low, high] = [-slack, slack].map(|e| signed_code(kept + new + e, scale, unit(word & 0xffff)));
        let code = got.m.0[i];
        assert!((low..=high).contains(&code.into()), "{name}: m {i} is {code}, not {low}..={high}");

        let moment = STEP.beta2 * v[i] + (1.0 - STEP.beta2) * g * g;
        let share = moment / got.v.1[i / MOMENT_BLOCK].powi(2);
        let [low, high] =
            [1.0 - ROUNDING, 1.0 + ROUNDING].map(|e| code_of(share * e, 4, 255, unit(word >> 16)));
        let (low, high) = (low.max(i32::from(moment > 0.0)), high.max(i32::from(moment > 0.0)));
        let code = got.v.0[i];
        assert!((low..=high).contains(&code.into()), "{name}: v {i} is {code}, not {low}..={high}");
    }
}

fn signed_code(m: f64, scale: f64, unit: f64) -> i32 {
    let code = code_of(m.abs() / scale, 2, 127, unit);
    if m < 0.0 { -code } else { code }
}

/// The code c of which (c/most)^k is `share` in the mean: c is rounded up with the probability that makes it so.
fn code_of(share: f64, k: i32, most: i32, unit: f64) -> i32 {
    let power = |c: i32| f64::from(c).powi(k);
    let x = share.min(1.0) * power(most);
    let c = (0..=most).rev().find(|c| power(*c) <= x).unwrap_or(0);
    let up = unit * (power(c + 1) - power(c)) < x - power(c);
    c + i32::from(up)
}

/// Without a gradient and without moments nothing moves but by decay, and no code appears.
fn what_is_zero_stays<B: Backend>(t: &mut Suite<'_, B>) {
    let mut held = Held::zeros(300);
    for step in 1..=3 {
        let after = Held::stepped(t.b, &[held.clone()], AdamStep { step, ..STEP }).remove(0).1;
        assert_eq!((&after.m, &after.v), (&held.m, &held.v));
        held.param = after.param;
    }
    let want = 0.5 * (1.0 - STEP.lr * DECAY).powi(3);
    assert!(held.param.iter().all(|p| (p - want).abs() < 1e-3), "{}", held.param[0]);
    // a gradient that is small beside its block's largest keeps a second moment above zero
    held.grad = (0..300).map(|i| if i == 0 { 1.0 } else { 1e-9 }).collect();
    let after = Held::stepped(t.b, &[held], STEP).remove(0).1;
    assert!(after.v.0.iter().all(|c| *c > 0), "{:?}", after.v.0);
}

/// A gradient that is no finite number makes its block's scales NaN, and no other block's; the block's parameters follow.
fn no_numbers_do_not_pass<B: Backend>(t: &mut Suite<'_, B>) {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut held = Held::random(t, 600, 1.0);
        held.grad[300] = bad;
        let mut after = Held::stepped(t.b, &[held], STEP).remove(0).1;
        for scales in [&after.m.1, &after.v.1] {
            assert_eq!([0, 1, 2].map(|b| scales[b].is_nan()), [false, true, false], "{bad}");
        }
        after.grad = vec![0.0; 600];
        let (act, _) = Held::stepped(t.b, &[after], STEP).remove(0);
        assert!((0..600).all(|i| act[i].is_nan() == (256..512).contains(&i)), "{bad}");
    }
}

/// Moments of gradients that set in late and are small beside their block's largest come out right in the mean over elements.
/// They grow by fractions of a code a step: rounded to the nearest, m and v would stop at about a third.
fn steps_round_to_the_mean<B: Backend>(t: &mut Suite<'_, B>) {
    const N: usize = 16 * MOMENT_BLOCK;
    const SMALL: f64 = 0.004;
    let (late, steps) = (30u64, 40u64);
    let is_small = |i: usize| !i.is_multiple_of(MOMENT_BLOCK);
    let mut held = Held::zeros(N);
    for step in 1..=late + steps {
        let small = if step > late { SMALL } else { 0.0 };
        held.grad = (0..N).map(|i| if is_small(i) { small } else { 1.0 }).collect();
        let numbers = AdamStep { step, grad_scale: 1.0, ..STEP };
        held = Held::stepped(t.b, &[held], numbers).remove(0).1;
    }
    let (m, v) = held.decoded();
    let mean = |x: &[f64]| {
        let small: Vec<f64> = (0..N).filter(|i| is_small(*i)).map(|i| x[i]).collect();
        small.iter().sum::<f64>() / small.len() as f64
    };
    let grown = |beta: f64| 1.0 - beta.powi(steps as i32);
    let (m, v) = (mean(&m) / (SMALL * grown(0.9)), mean(&v) / (SMALL * SMALL * grown(0.95)));
    // five standard errors of a mean over 4080 elements
    assert!((m - 1.0).abs() < 0.006 && (v - 1.0).abs() < 0.012, "{m} and {v} times what they should be");
}
