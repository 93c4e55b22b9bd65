//! Rotary position embedding (RoFormer, arXiv 2104.09864): how fast each pair of a head turns, and the ways to slow the
//! turning down so that positions beyond the trained length look familiar.
//!
//! Everything here is f64 and about numbers alone: no model, no backend. A [`Rope`] gives inverse frequencies (radians per
//! position), [`turns`] makes them exact binary fractions of a turn, and [`phase`] is the angle at a position.

mod base;
mod lengthwise;
mod phase;
mod scaling;
mod training;

pub use base::{base_warning, least_theta, reach_warning, rebased};
pub use lengthwise::{Dynamic, LongRope};
pub use phase::{phase, turns};
pub use scaling::{Llama3, Scaling, Yarn};
pub use training::{ScalingKind, check_factor, for_training};

/// The rotation of one model: its base, how many leading elements of a head turn, and how it is scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the wavelengths (`rope_theta`); pair i turns by theta^(-2i/rotary_dim) radians per position.
    pub theta: f64,
    /// Leading elements of each head that are rotated; even.
    pub rotary_dim: usize,
    pub scaling: Scaling,
}

/// For people: theta, and the scaling with the numbers that a command can change.
impl std::fmt::Display for Rope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "theta {}, ", self.theta)?;
        match (self.scaling.factor(), self.scaling.original()) {
            (None, _) => write!(f, "no scaling"),
            (Some(factor), None) => write!(f, "{} by {factor}", self.scaling.name()),
            (Some(factor), Some(original)) => {
                write!(f, "{} by {factor} from {original} tokens", self.scaling.name())
            }
        }
    }
}

impl Rope {
    /// Radians per position of each pair, [rotary_dim/2], scaled; the first pair turns fastest.
    pub fn inverse_frequencies(&self) -> Vec<f64> {
        self.scaling.apply(self.theta, self.rotary_dim)
    }

    /// Multiplies cos and sin of every angle: the temperature of YaRN and LongRoPE, 1 for everything else.
    pub fn attention_factor(&self) -> f64 {
        self.scaling.attention_factor()
    }

    /// [`Rope::inverse_frequencies`] as 64-bit binary fractions of a turn per position, [rotary_dim/2].
    pub fn turns(&self) -> Vec<u64> {
        self.inverse_frequencies().into_iter().map(turns).collect()
    }

    /// The rotation of a text of `length` tokens, its answer included: fixed for the whole of it. The same as this one but for
    /// scalings that depend on the length.
    pub fn for_length(&self, length: usize) -> Rope {
        Rope { scaling: self.scaling.for_length(length), ..self.clone() }
    }

    /// The same rotation as a checkpoint spells it: NTK is nothing but a larger base, so it becomes one.
    pub fn as_saved(&self) -> Rope {
        match self.scaling {
            Scaling::Ntk { factor } => Rope {
                theta: scaling::ntk_theta(self.theta, self.rotary_dim, factor),
                scaling: Scaling::None,
                ..self.clone()
            },
            _ => self.clone(),
        }
    }

    /// Whether this can be computed and means something; the error is one sentence without a subject to put before it.
    pub fn check(&self) -> std::result::Result<(), String> {
        if !(self.theta > 1.0 && self.theta.is_finite()) {
            return Err(format!("rope_theta {} must be a finite number above 1", self.theta));
        }
        if self.rotary_dim == 0 || !self.rotary_dim.is_multiple_of(2) {
            return Err(format!(
                "{} rotated elements per head: they turn in pairs, so it must be even",
                self.rotary_dim
            ));
        }
        self.scaling.check(self.rotary_dim)?;
        if self.scaling != Scaling::None && !self.differs_from_plain() {
            return Err(format!(
                "rope scaling \"{}\" changes no frequency of this model; remove it or correct its numbers",
                self.scaling.name()
            ));
        }
        Ok(())
    }

    /// A scaling that is silently without effect is the commonest bug of long-context checkpoints, so it is looked for.
    fn differs_from_plain(&self) -> bool {
        let plain = Scaling::None.apply(self.theta, self.rotary_dim);
        let relative = |(scaled, plain): (f64, &f64)| ((scaled - plain) / plain).abs();
        let differs =
            |rope: &Rope| rope.inverse_frequencies().into_iter().zip(&plain).map(relative).any(|d| d > 1e-12);
        // what depends on the length need only differ at some length
        differs(self)
            || differs(&self.for_length(usize::MAX >> 1))
            || matches!(self.scaling, Scaling::LongRope(_)) && self.attention_factor() != 1.0
    }
}
