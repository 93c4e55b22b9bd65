//! A base of one's own, and how large it has to be.

use super::{Rope, Scaling};
use crate::error::{Error, Result};

/// The least rope_theta that a model needs to use a context of `length` tokens, by the fit of arXiv 2405.14591 ("Base of RoPE
/// bounds context length", section 5): 0.0424·L^1.628.
pub fn least_theta(length: usize) -> f64 {
    0.0424 * (length as f64).powf(1.628)
}

/// The rotation with another base, where one is asked for.
///
/// # Errors
/// A base that is none or that the model has already, or a model whose scaling counts from the old one.
pub fn rebased(rope: &Rope, theta: Option<f64>) -> Result<Rope> {
    let Some(theta) = theta else { return Ok(rope.clone()) };
    let refuse = |problem: String| Err(Error::usage("--rope-theta", theta, problem));
    if theta == rope.theta {
        return refuse("is the model's own rope_theta, so it changes nothing; leave the flag out".into());
    }
    if rope.scaling != Scaling::None {
        return refuse(format!(
            "the model is scaled already (\"{}\"), and its numbers were chosen for a rope_theta of {}; leave the flag out",
            rope.scaling.name(),
            rope.theta
        ));
    }
    let changed = Rope { theta, ..rope.clone() };
    match changed.check() {
        Ok(()) => Ok(changed),
        Err(problem) => refuse(problem),
    }
}

/// What is worth knowing of a scaling that was made for a context of `reach` tokens, where `target` are to be read.
pub fn reach_warning(rope: &Rope, target: usize, reach: usize) -> Option<String> {
    let by_length = matches!(rope.scaling, Scaling::Dynamic(_) | Scaling::LongRope(_));
    let factor = rope.scaling.factor().filter(|_| !by_length && target > reach)?;
    Some(format!(
        "the scaling \"{}\" by {factor} was made for {reach} tokens, and positions up to {target} are beyond what it brings within the \
         model's reach; give an unscaled model a factor of at least {:.3}",
        rope.scaling.name(),
        (factor * target as f64 / reach as f64 * 1e3).ceil() / 1e3
    ))
}

/// What is worth knowing of a model that is to read `target` tokens, was trained at `original`, and is extended by its base alone.
pub fn base_warning(rope: &Rope, target: usize, original: usize) -> Option<String> {
    let saved = rope.as_saved();
    let theta = match &saved.scaling {
        Scaling::None => saved.theta,
        Scaling::Dynamic(dynamic) => dynamic.theta(saved.theta, saved.rotary_dim),
        _ => return None,
    };
    let least = least_theta(target);
    (target > original && theta < least).then(|| {
        format!(
            "the rope base of {theta:.0} is below {least:.0}, the least that a context of {target} tokens was found to need \
             (arXiv 2405.14591); give a larger --rope-theta, or a scaling as in --rope yarn"
        )
    })
}
