//! Rope in a `config.json`: the spelling of transformers 4.x (`rope_theta` + `rope_scaling`) and of 5.x
//! (`rope_parameters`). Both are read, both are written, and where both stand in a file they must agree: each major
//! version reads its own and falls back to theta 10000 in silence.

use super::MOST_HEAD;
use super::fields::Fields;
use crate::error::Result;
use crate::names;
use crate::rope::{Dynamic, Llama3, LongRope, Rope, Scaling, ScalingKind, Yarn};
use serde_json::{Map, Value, json};

/// What transformers takes where a file names no theta.
pub(super) const DEFAULT_THETA: f64 = 10_000.0;
/// Tells this program that a "yarn" is [`Scaling::YarnRevised`]; transformers warns about it and goes on.
const VARIANT: &str = "pose_engine_variant";
const REVISED: &str = "revised";

/// Takes all rope keys out of the file's fields.
///
/// `positions` is max_position_embeddings: where a yarn or llama3 scaling does not name the original length, this is
/// taken for it, as transformers does.
pub(in crate::model) fn read(fields: &mut Fields<'_>, rotary_dim: usize, positions: usize) -> Result<Rope> {
    // before memory is taken for the frequencies of each pair
    if rotary_dim > MOST_HEAD {
        return Err(fields.error(format!("{rotary_dim} elements of a head are rotated, above {MOST_HEAD}")));
    }
    let original = fields.size("original_max_position_embeddings", u32::MAX as usize)?;
    let top_theta = fields.number("rope_theta")?;
    let old = match fields.object("rope_scaling", "rope_scaling.")? {
        Some(object) => Some(spec(object, original, positions)?),
        None => None,
    };
    let new = match fields.object("rope_parameters", "rope_parameters.")? {
        Some(object) => Some(spec(object, original, positions)?),
        None => None,
    };
    let (old_theta, old) = old.map_or((None, None), |(t, s)| (t, Some(s)));
    let (new_theta, new) = new.map_or((None, None), |(t, s)| (t, Some(s)));
    let show = |t: &f64| t.to_string();
    let theta = fields.agree(("rope_theta", top_theta), ("rope_scaling.rope_theta", old_theta), show)?;
    let theta = fields.agree(("rope_theta", theta), ("rope_parameters.rope_theta", new_theta), show)?;
    let show = |s: &Scaling| Value::Object(scaling_json(s)).to_string();
    let scaling = fields.agree(("rope_scaling", old), ("rope_parameters", new), show)?;
    if let Some(original) = original.filter(|_| scaling.as_ref().is_none_or(|s| original_of(s).is_none())) {
        // of no use to this scaling: kept as an unknown key
        fields.map.insert("original_max_position_embeddings".into(), json!(original));
    }
    let rope =
        Rope { theta: theta.unwrap_or(DEFAULT_THETA), rotary_dim, scaling: scaling.unwrap_or(Scaling::None) };
    rope.check().map_err(|problem| fields.error(problem))?;
    Ok(rope)
}

fn original_of(scaling: &Scaling) -> Option<usize> {
    match scaling {
        // counts from max_position_embeddings, whatever else the file says
        Scaling::Dynamic(_) => None,
        other => other.original(),
    }
}

/// One `rope_scaling` or `rope_parameters` object: its theta, where it has one, and its scaling.
fn spec(mut f: Fields<'_>, top_original: Option<usize>, positions: usize) -> Result<(Option<f64>, Scaling)> {
    if let Some((layers, _)) = f.map.iter().find(|(_, v)| v.is_object()) {
        return Err(
            f.error(format!("{}{layers}: rope that differs from layer to layer is not supported", f.prefix))
        );
    }
    let theta = f.number("rope_theta")?;
    if f.number("partial_rotary_factor")?.is_some_and(|p| p != 1.0) {
        return Err(f.error(format!("{}partial_rotary_factor other than 1 is not supported", f.prefix)));
    }
    let (old_name, new_name) = (f.text("type")?, f.text("rope_type")?);
    let names = (format!("{}type", f.prefix), format!("{}rope_type", f.prefix));
    let name = f.agree((&names.0, old_name), (&names.1, new_name), |n| format!("\"{n}\""))?;
    let scaling = match name.as_deref().unwrap_or("default") {
        "default" => Scaling::None,
        "linear" => Scaling::Linear { factor: factor(&mut f)? },
        "yarn" => yarn(&mut f, top_original, positions)?,
        "llama3" => llama3(&mut f, top_original, positions)?,
        "dynamic" => Scaling::Dynamic(Dynamic { factor: factor(&mut f)?, original: positions, length: 0 }),
        // "su" is what the first Phi-3 files call it
        "longrope" | "su" => longrope(&mut f, top_original, positions)?,
        other => {
            let known = ["default", "linear", "dynamic", "yarn", "longrope", "llama3"];
            let unknown = names::unknown("type", other, &known);
            return Err(f.error(format!("{}rope_type \"{other}\" is unknown: {unknown}", f.prefix)));
        }
    };
    // written by the YaRN authors' own code, without effect on the numbers
    f.take("finetuned");
    // a number that is not read would silently be without effect
    if let Some((key, value)) = f.map.iter().find(|(_, v)| !v.is_null()) {
        return Err(f.error(format!(
            "{}{key} is {value}, which rope_type \"{}\" does not take; remove it or correct the type",
            f.prefix,
            name.as_deref().unwrap_or("default")
        )));
    }
    Ok((theta, scaling))
}

fn factor(f: &mut Fields<'_>) -> Result<f64> {
    let factor = f.number("factor")?;
    f.require("factor", factor)
}

/// The length that the model was first trained with. Phi-3 and others keep it outside the object, and transformers 5.x
/// lets that one win; here they must agree.
fn original(f: &mut Fields<'_>, top: Option<usize>, positions: usize) -> Result<usize> {
    let own = f.size("original_max_position_embeddings", u32::MAX as usize)?;
    let name = format!("{}original_max_position_embeddings", f.prefix);
    let agreed = f.agree(("original_max_position_embeddings", top), (&name, own), |n| n.to_string())?;
    Ok(agreed.unwrap_or(positions))
}

fn yarn(f: &mut Fields<'_>, top_original: Option<usize>, positions: usize) -> Result<Scaling> {
    let original = original(f, top_original, positions)?;
    let factor = f.number("factor")?.unwrap_or(positions as f64 / original as f64);
    let numbers = Yarn {
        // zero counts as absent, as in transformers
        beta_fast: f.number("beta_fast")?.filter(|&b| b != 0.0).unwrap_or(32.0),
        beta_slow: f.number("beta_slow")?.filter(|&b| b != 0.0).unwrap_or(1.0),
        attention_factor: f.number("attention_factor")?,
        mscale: f.number("mscale")?,
        mscale_all_dim: f.number("mscale_all_dim")?,
        truncate: f.boolean("truncate")?.unwrap_or(true),
        ..Yarn::new(factor, original)
    };
    match f.text(VARIANT)?.as_deref() {
        None => Ok(Scaling::Yarn(numbers)),
        Some(REVISED) => Ok(Scaling::YarnRevised(numbers)),
        Some(other) => {
            Err(f.error(format!("{}{VARIANT} \"{other}\" is unknown; supported is {REVISED}", f.prefix)))
        }
    }
}

fn longrope(f: &mut Fields<'_>, top_original: Option<usize>, positions: usize) -> Result<Scaling> {
    let (short, long) = (f.numbers("short_factor")?, f.numbers("long_factor")?);
    let original = original(f, top_original, positions)?;
    Ok(Scaling::LongRope(LongRope {
        short_factor: f.require("short_factor", short)?,
        long_factor: f.require("long_factor", long)?,
        original,
        factor: f.number("factor")?.unwrap_or(positions as f64 / original as f64),
        attention_factor: f.number("attention_factor")?,
        length: 0,
    }))
}

fn llama3(f: &mut Fields<'_>, top_original: Option<usize>, positions: usize) -> Result<Scaling> {
    let (low, high) = (f.number("low_freq_factor")?, f.number("high_freq_factor")?);
    Ok(Scaling::Llama3(Llama3 {
        factor: factor(f)?,
        low_freq_factor: f.require("low_freq_factor", low)?,
        high_freq_factor: f.require("high_freq_factor", high)?,
        original: original(f, top_original, positions)?,
    }))
}

/// The scaling's own keys, `rope_type` first.
fn scaling_json(scaling: &Scaling) -> Map<String, Value> {
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| map.insert(key.into(), value);
    match scaling {
        Scaling::None | Scaling::Ntk { .. } => _ = put("rope_type", json!("default")),
        Scaling::Linear { factor } => {
            put("rope_type", json!("linear"));
            put("factor", json!(factor));
        }
        Scaling::Yarn(y) | Scaling::YarnRevised(y) => {
            put("rope_type", json!("yarn"));
            put("factor", json!(y.factor));
            put("original_max_position_embeddings", json!(y.original));
            // always spelled out: what readers infer from the factor has changed between versions
            put("attention_factor", json!(y.attention()));
            put("beta_fast", json!(y.beta_fast));
            put("beta_slow", json!(y.beta_slow));
            if !y.truncate {
                put("truncate", json!(false));
            }
            if matches!(scaling, Scaling::YarnRevised(_)) {
                put(VARIANT, json!(REVISED));
            }
        }
        Scaling::Dynamic(d) => {
            put("rope_type", json!("dynamic"));
            put("factor", json!(d.factor));
        }
        Scaling::LongRope(l) => {
            put("rope_type", json!("longrope"));
            put("factor", json!(l.factor));
            put("original_max_position_embeddings", json!(l.original));
            put("attention_factor", json!(l.attention()));
            put("short_factor", json!(l.short_factor));
            put("long_factor", json!(l.long_factor));
        }
        Scaling::Llama3(l) => {
            put("rope_type", json!("llama3"));
            put("factor", json!(l.factor));
            put("low_freq_factor", json!(l.low_freq_factor));
            put("high_freq_factor", json!(l.high_freq_factor));
            put("original_max_position_embeddings", json!(l.original));
        }
    }
    map
}

/// Puts both spellings into `out`. Returns what the user should know about how other software will read them.
pub(super) fn write(rope: &Rope, out: &mut Map<String, Value>) -> Vec<String> {
    let rope = rope.as_saved();
    let mut old = scaling_json(&rope.scaling);
    let mut new = old.clone();
    new.insert("rope_theta".into(), json!(rope.theta));
    out.insert("rope_parameters".into(), Value::Object(new));
    out.insert("rope_theta".into(), json!(rope.theta));
    let old = match rope.scaling {
        Scaling::None => Value::Null,
        _ => {
            old.insert("type".into(), old["rope_type"].clone());
            Value::Object(old)
        }
    };
    out.insert("rope_scaling".into(), old);
    if let Scaling::LongRope(l) = &rope.scaling {
        // Phi-3's own code looks for it here
        out.insert("original_max_position_embeddings".into(), json!(l.original));
    }
    match rope.scaling {
        Scaling::YarnRevised(_) => vec![format!(
            "config.json says rope_type \"yarn\" with {VARIANT} \"{REVISED}\": only pose-engine reads the variant, other \
             software will take it for standard {} and compute different frequencies",
            ScalingKind::Yarn
        )],
        _ => Vec::new(),
    }
}
