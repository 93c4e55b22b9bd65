//! The scalings and their formulas. With f the plain inverse frequency of a pair and s the factor:
//!
//! | scaling | inverse frequency | source |
//! |---|---|---|
//! | linear | f / s | arXiv 2306.15595 (position interpolation) |
//! | ntk | theta replaced by theta·s^(d/(d−2)) | the "NTK-aware" scaling of 2023; my_modeling_llama.py of PoSE |
//! | yarn | (1−m)·f/s + m·f | arXiv 2309.00071; `_compute_yarn_parameters` of transformers 5.23 |
//! | yarn-revised | f / ((1−m)·s + m) | `revised_yarn` in my_modeling_llama.py of PoSE |
//! | llama3 | f, f/s, or a blend between two wavelengths | Llama 3.1; `_compute_llama3_parameters` of transformers 5.23 |
//! | dynamic, longrope | by the length of what is read | see `lengthwise.rs` |
//!
//! m is 1 for pairs that turn often within the original length and 0 for those that never complete a turn. The two YaRNs
//! agree at both ends and differ between: the first blends frequencies, the second wavelengths.

use super::lengthwise::{Dynamic, LongRope};
use std::f64::consts::TAU;

/// How the frequencies of a model are changed for a longer context.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// As trained.
    None,
    Linear {
        factor: f64,
    },
    /// A larger base. Only while training: it is saved as a changed `rope_theta`.
    Ntk {
        factor: f64,
    },
    Yarn(Yarn),
    /// YaRN as the PoSE authors' code computes it. Other software reads a checkpoint of it as [`Scaling::Yarn`].
    YarnRevised(Yarn),
    Llama3(Llama3),
    Dynamic(Dynamic),
    LongRope(LongRope),
}

/// The numbers of YaRN, named as in a `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    pub factor: f64,
    /// Context length in tokens that the model was first trained with (`original_max_position_embeddings`).
    pub original: usize,
    /// Pairs that turn more often than this within `original` keep their frequency.
    pub beta_fast: f64,
    /// Pairs that turn less often than this are interpolated fully.
    pub beta_slow: f64,
    /// Multiplies cos and sin. None: from the factor, 0.1·ln(factor) + 1.
    pub attention_factor: Option<f64>,
    /// With `mscale_all_dim`, and without `attention_factor`: the ratio of two such temperatures (DeepSeek).
    pub mscale: Option<f64>,
    pub mscale_all_dim: Option<f64>,
    /// Whether the ends of the ramp are rounded outwards to whole pairs.
    pub truncate: bool,
}

impl Yarn {
    /// With the defaults of the paper and of transformers.
    pub fn new(factor: f64, original: usize) -> Self {
        Yarn {
            factor,
            original,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
            mscale: None,
            mscale_all_dim: None,
            truncate: true,
        }
    }

    /// What multiplies cos and sin.
    pub fn attention(&self) -> f64 {
        let temperature = |m: f64| if self.factor <= 1.0 { 1.0 } else { 0.1 * m * self.factor.ln() + 1.0 };
        match (self.attention_factor, self.mscale, self.mscale_all_dim) {
            (Some(given), _, _) => given,
            // zero counts as absent, as in transformers
            (None, Some(m), Some(all)) if m != 0.0 && all != 0.0 => temperature(m) / temperature(all),
            _ => temperature(1.0),
        }
    }

    /// The pair (with fraction) that completes `rotations` turns within the original length.
    fn correction_dim(&self, rotations: f64, dim: usize, theta: f64) -> f64 {
        dim as f64 * (self.original as f64 / (rotations * TAU)).ln() / (2.0 * theta.ln())
    }

    /// m of each pair, [dim/2]: 1 keeps the frequency, 0 interpolates it.
    fn mask(&self, dim: usize, theta: f64) -> impl Iterator<Item = f64> {
        let mut low = self.correction_dim(self.beta_fast, dim, theta);
        let mut high = self.correction_dim(self.beta_slow, dim, theta);
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let low = low.max(0.0);
        // dim - 1 and not dim/2 - 1, which would be the last pair: transformers and the paper's code clamp here
        let mut high = high.min(dim as f64 - 1.0);
        if low == high {
            high += 0.001;
        }
        (0..dim / 2).map(move |i| 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0))
    }
}

/// The numbers of Llama 3.1's scaling, named as in a `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Llama3 {
    pub factor: f64,
    /// Wavelengths above original/low_freq_factor are interpolated fully.
    pub low_freq_factor: f64,
    /// Wavelengths below original/high_freq_factor are kept.
    pub high_freq_factor: f64,
    /// Context length in tokens that the model was first trained with (`original_max_position_embeddings`).
    pub original: usize,
}

impl Llama3 {
    fn scale(&self, f: f64) -> f64 {
        let (original, wavelength) = (self.original as f64, TAU / f);
        if wavelength < original / self.high_freq_factor {
            f
        } else if wavelength > original / self.low_freq_factor {
            f / self.factor
        } else {
            let (low, high) = (self.low_freq_factor, self.high_freq_factor);
            let smooth = (original / wavelength - low) / (high - low);
            (1.0 - smooth) * f / self.factor + smooth * f
        }
    }
}

/// The base that NTK-aware scaling by `factor` amounts to: the slowest pair is interpolated by exactly `factor`.
pub(super) fn ntk_theta(theta: f64, dim: usize, factor: f64) -> f64 {
    theta * factor.powf(dim as f64 / (dim as f64 - 2.0))
}

fn plain(theta: f64, dim: usize) -> impl Iterator<Item = f64> {
    (0..dim / 2).map(move |i| theta.powf((2 * i) as f64 / dim as f64).recip())
}

impl Scaling {
    /// The name that recipes and messages use.
    pub fn name(&self) -> &'static str {
        match self {
            Scaling::None => "none",
            Scaling::Linear { .. } => "linear",
            Scaling::Ntk { .. } => "ntk",
            Scaling::Yarn(_) => "yarn",
            Scaling::YarnRevised(_) => "yarn-revised",
            Scaling::Llama3(_) => "llama3",
            Scaling::Dynamic(_) => "dynamic",
            Scaling::LongRope(_) => "longrope",
        }
    }

    /// How much longer the context becomes; None for a model as trained.
    pub fn factor(&self) -> Option<f64> {
        match self {
            Scaling::None => None,
            Scaling::Linear { factor } | Scaling::Ntk { factor } => Some(*factor),
            Scaling::Yarn(y) | Scaling::YarnRevised(y) => Some(y.factor),
            Scaling::Llama3(l) => Some(l.factor),
            Scaling::Dynamic(d) => Some(d.factor),
            Scaling::LongRope(l) => Some(l.factor),
        }
    }

    /// The context length that was trained before scaling, where the scaling says it.
    pub fn original(&self) -> Option<usize> {
        match self {
            Scaling::None | Scaling::Linear { .. } | Scaling::Ntk { .. } => None,
            Scaling::Yarn(y) | Scaling::YarnRevised(y) => Some(y.original),
            Scaling::Llama3(l) => Some(l.original),
            Scaling::Dynamic(d) => Some(d.original),
            Scaling::LongRope(l) => Some(l.original),
        }
    }

    /// The same for a text of `length` tokens: of those that depend on it, which base or which factors hold.
    pub fn for_length(&self, length: usize) -> Scaling {
        match self {
            Scaling::Dynamic(d) => Scaling::Dynamic(Dynamic { length, ..d.clone() }),
            Scaling::LongRope(l) => Scaling::LongRope(LongRope { length, ..l.clone() }),
            other => other.clone(),
        }
    }

    pub(super) fn attention_factor(&self) -> f64 {
        match self {
            Scaling::Yarn(y) | Scaling::YarnRevised(y) => y.attention(),
            Scaling::LongRope(l) => l.attention(),
            _ => 1.0,
        }
    }

    pub(super) fn apply(&self, theta: f64, dim: usize) -> Vec<f64> {
        match self {
            Scaling::None => plain(theta, dim).collect(),
            Scaling::Linear { factor } => plain(theta, dim).map(|f| f / factor).collect(),
            Scaling::Ntk { factor } => plain(ntk_theta(theta, dim, *factor), dim).collect(),
            Scaling::Yarn(y) => plain(theta, dim)
                .zip(y.mask(dim, theta))
                .map(|(f, m)| f / y.factor * (1.0 - m) + f * m)
                .collect(),
            Scaling::YarnRevised(y) => plain(theta, dim)
                .zip(y.mask(dim, theta))
                .map(|(f, m)| f / ((1.0 - m) * y.factor + m))
                .collect(),
            Scaling::Llama3(l) => plain(theta, dim).map(|f| l.scale(f)).collect(),
            Scaling::Dynamic(d) => plain(d.theta(theta, dim), dim).collect(),
            Scaling::LongRope(l) => {
                plain(theta, dim).zip(l.factors()).map(|(f, factor)| f / factor).collect()
            }
        }
    }

    pub(super) fn check(&self, dim: usize) -> Result<(), String> {
        match self {
            Scaling::Dynamic(d) => return d.check(dim),
            Scaling::LongRope(l) => return l.check(dim),
            _ => (),
        }
        if let Some(factor) = self.factor() {
            if !(factor.is_finite() && factor >= 1.0) {
                return Err(format!("rope scaling factor {factor} must be a finite number above 1"));
            }
            if factor == 1.0 {
                return Err(format!(
                    "rope scaling \"{}\" with factor 1 changes nothing; use no scaling instead",
                    self.name()
                ));
            }
        }
        match self {
            Scaling::Ntk { .. } if dim <= 2 => Err(
                "rope scaling \"ntk\" needs more than 2 rotated elements per head: its exponent is d/(d-2)"
                    .into(),
            ),
            Scaling::Yarn(y) | Scaling::YarnRevised(y) => y.check(),
            Scaling::Llama3(l) => l.check(),
            _ => Ok(()),
        }
    }
}

impl Yarn {
    fn check(&self) -> Result<(), String> {
        let Yarn { beta_fast, beta_slow, .. } = *self;
        if self.original == 0 {
            return Err("yarn's original_max_position_embeddings 0 must be at least 1".into());
        }
        if !(beta_slow > 0.0 && beta_fast >= beta_slow && beta_fast.is_finite()) {
            return Err(format!(
                "yarn's beta_fast {beta_fast} must be at least its beta_slow {beta_slow}, both above 0"
            ));
        }
        let attention = self.attention();
        if !(attention > 0.0 && attention.is_finite()) {
            return Err(format!("yarn's attention factor {attention} must be a finite number above 0"));
        }
        Ok(())
    }
}

impl Llama3 {
    fn check(&self) -> Result<(), String> {
        let Llama3 { low_freq_factor: low, high_freq_factor: high, .. } = *self;
        if self.original == 0 {
            return Err("llama3's original_max_position_embeddings 0 must be at least 1".into());
        }
        if !(low > 0.0 && high > low && high.is_finite()) {
            return Err(format!(
                "llama3's high_freq_factor {high} must be above its low_freq_factor {low}, both above 0"
            ));
        }
        Ok(())
    }
}
