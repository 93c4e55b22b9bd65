//! The list of operations, each held to the f64 reference on the same (rounded) inputs at awkward sizes.
//!
//! The tolerance is FlashAttention's: the largest error may be at most twice that of a plain loop in the same precision
//! ([`plain`]), plus a millionth of the largest value. A NaN fails. Outputs are longer than needed, and what lies beyond
//! must not change.

pub mod attention;
pub mod kv;
pub mod layers;
pub mod moments;
pub mod plain;
pub mod products;
pub mod sampling;

use pose_engine::backend::reference::{HostBuf, Reference};
use pose_engine::backend::{Backend, Element, Float};

/// Beyond the end of every output.
const GUARD: f64 = 77.0;
const GUARDED: usize = 3;

/// One backend under test. `trace` collects all outputs.
pub struct Suite<'a, B: Backend> {
    pub b: &'a B,
    pub label: String,
    /// What the largest value of an output counts as at least. At sizes where an output has an element or two they may cancel to next to
    /// nothing, and the millionth is then one of the terms.
    pub least: f64,
    seed: u64,
    pub trace: Vec<(String, Vec<f64>)>,
}

impl<'a, B: Backend> Suite<'a, B> {
    pub fn new(b: &'a B, label: &str) -> Self {
        Suite { b, label: label.into(), least: 0.0, seed: 1, trace: Vec::new() }
    }

    /// Every operation.
    pub fn run(&mut self) {
        layers::all(self);
        moments::all(self);
        products::all(self);
        attention::all(self);
        kv::all(self);
        sampling::all(self);
        assert!(self.trace.len() > 100, "the suite tested next to nothing");
    }

    /// n numbers in (-scale, scale), more of them small than large, as `Act` holds them.
    pub fn random(&mut self, n: usize, scale: f64) -> Vec<f64> {
        (0..n).map(|_| B::Act::from_f64(self.next() * scale).to_f64()).collect()
    }

    /// The same as `Stat` holds them.
    pub fn random_stat(&mut self, n: usize, scale: f64) -> Vec<f64> {
        (0..n).map(|_| B::Stat::from_f64(self.next() * scale).to_f64()).collect()
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() >> 33) as usize % n
    }

    fn bits(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn next(&mut self) -> f64 {
        let mut uniform = || (self.bits() >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0;
        0.5 * (uniform() + uniform())
    }

    pub fn upload<T: Element>(&self, values: &[T]) -> B::Buf<T> {
        let mut buf = self.b.alloc(values.len()).unwrap();
        self.b.upload(&mut buf, 0, values).unwrap();
        buf
    }

    pub fn floats<T: Float>(&self, values: &[f64]) -> B::Buf<T> {
        self.upload(&values.iter().map(|x| T::from_f64(*x)).collect::<Vec<_>>())
    }

    /// An output: `values`, and more after them that must stay.
    pub fn output<T: Float>(&self, values: &[f64]) -> B::Buf<T> {
        let mut buf = self.b.alloc(values.len() + GUARDED).unwrap();
        self.fill(&mut buf, values);
        buf
    }

    /// Makes a buffer that is long enough an output of these values.
    pub fn fill<T: Float>(&self, buf: &mut B::Buf<T>, values: &[f64]) {
        let values = values.iter().copied().chain([GUARD; GUARDED]).map(T::from_f64).collect::<Vec<_>>();
        self.b.upload(buf, 0, &values).unwrap();
    }

    /// An output that is written without being read: it starts as NaN.
    pub fn fresh<T: Float>(&self, n: usize) -> B::Buf<T> {
        self.output(&vec![f64::NAN; n])
    }

    /// Holds an output to the reference's.
    pub fn compare<T: Float>(&mut self, name: &str, got: &B::Buf<T>, want: &[f64], plain: &[f64]) {
        let n = want.len();
        let mut all = vec![T::default(); n + GUARDED];
        self.b.download(&mut all, got, 0).unwrap();
        let got: Vec<f64> = all.iter().map(|x| x.to_f64()).collect();
        assert_eq!(got[n..], [GUARD; GUARDED], "{} {name}: wrote beyond the end", self.label);
        let got = &got[..n];
        let largest = want.iter().fold(self.least, |m, x| m.max(if x.is_finite() { x.abs() } else { 0.0 }));
        let tolerance = 2.0 * error(plain, want).0 + 1e-6 * largest + 1e-30;
        let (worst, at) = error(got, want);
        assert!(
            worst <= tolerance,
            "{} {name}: element {at} of {n} is {} instead of {}: error {worst:.3e}, allowed {tolerance:.3e}",
            self.label,
            got[at],
            want[at],
        );
        self.trace.push((name.into(), got.to_vec()));
    }
}

/// The largest difference and where it is; NaN counts as infinite, equal infinities as none.
fn error(got: &[f64], want: &[f64]) -> (f64, usize) {
    assert_eq!(got.len(), want.len());
    let errors = got.iter().zip(want).map(|(g, w)| match g - w {
        _ if g == w => 0.0,
        e if e.is_nan() => f64::INFINITY,
        e => e.abs(),
    });
    errors.enumerate().fold((0.0, 0), |worst, (i, e)| if e > worst.0 { (e, i) } else { worst })
}

pub fn host(values: &[f64]) -> HostBuf<f64> {
    HostBuf(values.to_vec())
}

pub fn zeros(n: usize) -> HostBuf<f64> {
    HostBuf(vec![0.0; n])
}

pub const TRUTH: Reference = Reference;
