//! Which rotation a run trains with: the model's own, scaled for the target length.

use super::{Dynamic, Llama3, Rope, Scaling, Yarn};
use crate::error::{Error, Result};
use crate::names;
use std::fmt;
use std::str::FromStr;

/// A scaling by its name alone, as a recipe gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum ScalingKind {
    None,
    Linear,
    Ntk,
    Yarn,
    YarnRevised,
    Llama3,
    Dynamic,
}

impl ScalingKind {
    pub const ALL: [ScalingKind; 7] = [
        ScalingKind::None,
        ScalingKind::Linear,
        ScalingKind::Ntk,
        ScalingKind::Yarn,
        ScalingKind::YarnRevised,
        ScalingKind::Llama3,
        ScalingKind::Dynamic,
    ];

    pub fn name(self) -> &'static str {
        match self {
            ScalingKind::None => "none",
            ScalingKind::Linear => "linear",
            ScalingKind::Ntk => "ntk",
            ScalingKind::Yarn => "yarn",
            ScalingKind::YarnRevised => "yarn-revised",
            ScalingKind::Llama3 => "llama3",
            ScalingKind::Dynamic => "dynamic",
        }
    }
}

impl fmt::Display for ScalingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// From a recipe file; flags are read by clap.
impl TryFrom<String> for ScalingKind {
    type Error = String;

    fn try_from(name: String) -> std::result::Result<Self, String> {
        name.parse().map_err(|problem| format!("rope \"{name}\": {problem}"))
    }
}

impl FromStr for ScalingKind {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        ScalingKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let known = ScalingKind::ALL.map(ScalingKind::name);
            match name {
                "longrope" | "su" => "longrope's factors come from a search and stand in a model's config.json; a model that has \
                                      them keeps them with none"
                    .into(),
                _ => names::unknown("scaling", name, &known),
            }
        })
    }
}

/// A factor is of a scaling, and one that a context can be extended by.
///
/// # Errors
/// A factor for `none`, or one that is not between 1 and a million.
pub fn check_factor(kind: ScalingKind, factor: Option<f64>) -> Result<()> {
    let Some(factor) = factor else { return Ok(()) };
    let refuse = |problem: &str| Err(Error::usage("--rope-factor", factor, problem));
    match kind {
        ScalingKind::None => {
            refuse("says by how much to interpolate but --rope is none; choose --rope linear, ntk or yarn")
        }
        _ if !(1.0..=1e6).contains(&factor) => refuse("must be a finite number between 1 and 1000000"),
        _ => Ok(()),
    }
}

/// The rotation to train with, for a context of `target_len` tokens, set by a flag, where `original_len` were trained.
///
/// `none` keeps the scaling of `base`, whatever that is; one that depends on the length of the text is set to
/// `target_len`. Any other kind starts from an unscaled base and scales it by target_len / original_len, or by `factor`
/// where given.
///
/// # Errors
/// Those of [`check_factor`]; a base that is scaled already (its frequencies would be scaled twice), a target that is no longer than
/// the original where no factor is given, a factor of 1 but for `dynamic`, or a scaling that changes no frequency of this base.
pub fn for_training(
    base: &Rope, kind: ScalingKind, (target_len, flag): (usize, &str), original_len: usize,
    factor: Option<f64>,
) -> Result<Rope> {
    let refuse = |problem: String| Err(Error::usage("--rope", kind, problem));
    check_factor(kind, factor)?;
    if kind == ScalingKind::None {
        return Ok(base.for_length(target_len));
    }
    if base.scaling != Scaling::None {
        return refuse(format!(
            "the model is scaled already (\"{}\", factor {}), and scaling twice would give frequencies that neither \
             length was trained with; choose none to go on with the scaling it has, or start from the unscaled model",
            base.scaling.name(),
            base.scaling.factor().unwrap_or(1.0),
        ));
    }
    if original_len == 0 {
        return refuse("the original context length is 0; it must be at least 1".into());
    }
    let s = factor.unwrap_or(target_len as f64 / original_len as f64);
    if s <= 1.0 && factor.is_none() {
        return refuse(format!(
            "the length {target_len} is not above the model's {original_len}, so there is nothing to scale; \
             choose none, a larger {flag} or a --rope-factor"
        ));
    }
    let scaling = match kind {
        ScalingKind::None => Scaling::None,
        ScalingKind::Linear => Scaling::Linear { factor: s },
        ScalingKind::Ntk => Scaling::Ntk { factor: s },
        ScalingKind::Yarn => Scaling::Yarn(Yarn::new(s, original_len)),
        ScalingKind::YarnRevised => Scaling::YarnRevised(Yarn::new(s, original_len)),
        ScalingKind::Llama3 => Scaling::Llama3(Llama3 {
            factor: s,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original: original_len,
        }),
        ScalingKind::Dynamic => {
            Scaling::Dynamic(Dynamic { factor: s, original: original_len, length: target_len })
        }
    };
    let rope = Rope { scaling, ..base.clone() };
    rope.check().map_err(|problem| Error::usage("--rope", kind, problem))?;
    Ok(rope)
}
