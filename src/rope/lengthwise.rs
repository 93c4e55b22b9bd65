//! Scalings that depend on how long the text is that is read.
//!
//! The length is that of a whole request (a training's target, a window, a prompt with its answer), known before its first
//! token is rotated and kept to its end: keys that are cached were rotated by it. Software that looks at the tokens so far changes
//! frequencies under the keys in its cache.

use super::scaling::ntk_theta;

/// Dynamic NTK: theta·(s·L/L0 - (s-1))^(d/(d-2)) for a text of L tokens above L0, theta up to there
/// (`_compute_dynamic_ntk_parameters` of transformers 5.23, where L0 is max_position_embeddings).
#[derive(Clone, Debug, PartialEq)]
pub struct Dynamic {
    /// s; here 1 is a scaling too: theta·(L/L0)^(d/(d-2)).
    pub factor: f64,
    /// L0: context length in tokens that the model was first trained with.
    pub original: usize,
    /// L, tokens of the text that is read; 0 where none is named yet.
    pub length: usize,
}

impl Dynamic {
    /// The base for the length that is read.
    pub(super) fn theta(&self, theta: f64, dim: usize) -> f64 {
        let ratio = self.length.max(self.original) as f64 / self.original as f64;
        ntk_theta(theta, dim, self.factor * ratio - (self.factor - 1.0))
    }

    pub(super) fn check(&self, dim: usize) -> Result<(), String> {
        if !(self.factor.is_finite() && self.factor >= 1.0) {
            return Err(format!("rope scaling factor {} must be a finite number of at least 1", self.factor));
        }
        if self.original == 0 {
            return Err("dynamic's original context length 0 must be at least 1".into());
        }
        if dim <= 2 {
            return Err("rope scaling \"dynamic\" needs more than 2 rotated elements per head: its exponent is d/(d-2)".into());
        }
        Ok(())
    }
}

/// LongRoPE (arXiv 2402.13753): each pair's wavelength has a factor of its own, from one list for texts up to the original length and
/// from another above (`_compute_longrope_parameters` of transformers 5.23). The lists are found by a search and stand in config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct LongRope {
    /// `[rotary_dim/2]`, up to `original` tokens.
    pub short_factor: Vec<f64>,
    /// `[rotary_dim/2]`, above.
    pub long_factor: Vec<f64>,
    /// L0: context length in tokens that the model was first trained with (`original_max_position_embeddings`).
    pub original: usize,
    /// s: how much longer the context became.
    pub factor: f64,
    /// Multiplies cos and sin. None: sqrt(1 + ln s / ln L0), 1 for s up to 1.
    pub attention_factor: Option<f64>,
    /// Tokens of the text that is read; 0 where none is named yet.
    pub length: usize,
}

impl LongRope {
    /// The list that holds for the length that is read.
    pub fn factors(&self) -> &[f64] {
        if self.length > self.original { &self.long_factor } else { &self.short_factor }
    }

    pub fn attention(&self) -> f64 {
        match self.attention_factor {
            Some(given) => given,
            None if self.factor <= 1.0 => 1.0,
            None => (1.0 + self.factor.ln() / (self.original as f64).ln()).sqrt(),
        }
    }

    pub(super) fn check(&self, dim: usize) -> Result<(), String> {
        for (name, list) in [("short_factor", &self.short_factor), ("long_factor", &self.long_factor)] {
            if list.len() != dim / 2 {
                return Err(format!(
                    "longrope's {name} has {} numbers, and {dim} rotated elements per head are {} pairs",
                    list.len(),
                    dim / 2
                ));
            }
            if let Some(wrong) = list.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
                return Err(format!(
                    "longrope's {name} has {wrong}, and each must be a finite number above 0"
                ));
            }
        }
        if self.original < 2 {
            return Err("longrope's original_max_position_embeddings must be at least 2".into());
        }
        if !(self.factor.is_finite() && self.factor > 0.0) {
            return Err(format!("rope scaling factor {} must be a finite number above 0", self.factor));
        }
        let attention = self.attention();
        if !(attention > 0.0 && attention.is_finite()) {
            return Err(format!("longrope's attention factor {attention} must be a finite number above 0"));
        }
        Ok(())
    }
}
