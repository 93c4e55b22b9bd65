//! The keys of a model → the config that a checkpoint needs.

use super::names::Architecture;
use super::reader::{Gguf, Value};
use crate::error::Result;
use crate::model::Config;
use crate::model::family::Arch;
use crate::names;
use crate::rope::{Llama3, LongRope, Rope, Scaling, Yarn};
use serde_json::Map;

/// What general.architecture says.
///
/// # Errors
/// An architecture that is not read, or a file that holds no whole model.
pub fn architecture(gguf: &Gguf<'_>) -> Result<Architecture> {
    let name = gguf.text("general.architecture")?;
    let name = gguf.require("general.architecture", name)?;
    let unknown = || {
        let unknown = names::unknown("architecture to import", name, &Architecture::NAMES);
        gguf.error(format!("general.architecture is \"{name}\": {unknown}"))
    };
    let architecture = Architecture::from_name(name).ok_or_else(unknown)?;
    if gguf.text("general.type")?.is_some_and(|t| t != "model") {
        return Err(gguf.error("holds an adapter or other parts and no whole model"));
    }
    if gguf.size("split.count")?.is_some_and(|n| n > 1) {
        return Err(gguf.error("is one of several files of a model; join them with llama-gguf-split --merge"));
    }
    Ok(architecture)
}

/// Keys of one architecture.
struct Keys<'a> {
    gguf: &'a Gguf<'a>,
    prefix: &'static str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        self.gguf.size(&self.name(key))
    }

    fn needed(&self, key: &str) -> Result<usize> {
        self.gguf.require(&self.name(key), self.size(key)?)
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.gguf.number(&self.name(key))
    }

    /// A number that may be written for each layer, where all are the same.
    fn for_all_layers(&self, key: &str) -> Result<Option<usize>> {
        let name = self.name(key);
        let Some(Value::Array(array)) = self.gguf.get(&name) else { return self.size(key) };
        let mut values = array.values();
        let first = values.next();
        match first {
            Some(Value::Unsigned(n)) if values.all(|v| Some(v) == first) => Ok(Some(n as usize)),
            Some(Value::Signed(n)) if n >= 0 && values.all(|v| Some(v) == first) => Ok(Some(n as usize)),
            _ => Err(self.gguf.error(format!("{name} differs from layer to layer, which is not supported"))),
        }
    }
}

/// Qwen2 always has biases in q, k and v; a LLaMA that has some has them in o too, and its file shows it.
fn arch(gguf: &Gguf<'_>, architecture: Architecture) -> Arch {
    let biased = gguf.tensor("blk.0.attn_output.bias").is_some();
    match architecture {
        Architecture::Llama => Arch { qkv_bias: biased, o_bias: biased, ..Arch::LLAMA },
        Architecture::Qwen2 => Arch { qkv_bias: true, ..Arch::LLAMA },
    }
}

/// The model as a [`Config`].
pub fn config(gguf: &Gguf<'_>, architecture: Architecture) -> Result<Config> {
    let keys = Keys { gguf, prefix: architecture.name() };
    if keys.size("expert_count")?.is_some_and(|n| n > 0) {
        return Err(gguf.error("is a mixture of experts, which is not supported"));
    }
    let embedding = gguf.tensor("token_embd.weight");
    let vocab_size = embedding.map_or(0, |t| t.shape[0]);
    let (hidden_size, heads) =
        (keys.needed("embedding_length")?, keys.for_all_layers("attention.head_count")?);
    let heads = gguf.require(&keys.name("attention.head_count"), heads)?;
    let positions = keys.needed("context_length")?;
    let head_dim = keys.size("attention.key_length")?.or(hidden_size.checked_div(heads)).unwrap_or(0);
    for key in ["attention.value_length", "rope.dimension_count"] {
        if let Some(other) = keys.size(key)?.filter(|&n| n != head_dim) {
            let problem =
                format!("{} is {other} in heads of {head_dim}, which is not supported", keys.name(key));
            return Err(gguf.error(problem));
        }
    }
    let epsilon = keys.number("attention.layer_norm_rms_epsilon")?;
    let epsilon = gguf.require(&keys.name("attention.layer_norm_rms_epsilon"), epsilon)?;
    let id = |key: &str| -> Result<Option<u32>> {
        let id = gguf.size(key)?.filter(|&id| id < vocab_size);
        Ok(id.map(|id| id as u32))
    };
    // each has some; and what is made for each must not be more than the file stands for
    let (layers, tensors) = (keys.needed("block_count")?, gguf.tensors.len());
    if layers > tensors {
        return Err(
            gguf.error(format!("has {tensors} tensors, and by its own keys {layers} layers: it is damaged"))
        );
    }
    let bos = id("tokenizer.ggml.bos_token_id")?;
    let config = Config {
        family: architecture.family(),
        arch: arch(gguf, architecture),
        vocab_size,
        hidden_size,
        intermediate_size: gguf
            .require(&keys.name("feed_forward_length"), keys.for_all_layers("feed_forward_length")?)?,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: keys.for_all_layers("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        norm_eps: decimal(epsilon),
        tie_word_embeddings: gguf.tensor("output.weight").is_none(),
        max_position_embeddings: positions,
        bos_token_id: bos,
        eos_token_ids: id("tokenizer.ggml.eos_token_id")?.into_iter().collect(),
        initializer_range: 0.02,
        dtype: None,
        rope: rope(&keys, head_dim, positions)?,
        lora: None,
        extra: Map::new(),
    };
    config.check().map_err(|problem| gguf.error(problem))?;
    Ok(config)
}

/// The decimal that an f32 was written from, as in 1e-5, which as f32 is 9.999999747378752e-6.
fn decimal(x: f64) -> f64 {
    let short = x as f32;
    if f64::from(short) == x { short.to_string().parse().unwrap_or(x) } else { x }
}

fn rope(keys: &Keys<'_>, dim: usize, positions: usize) -> Result<Rope> {
    let gguf = keys.gguf;
    let theta = keys.number("rope.freq_base")?.unwrap_or(10_000.0);
    for key in ["rope.scaling.alpha", "rope.scaling.yarn_log_multiplier"] {
        if gguf.get(&keys.name(key)).is_some() {
            return Err(gguf.error(format!("{} is of a scaling that is not supported", keys.name(key))));
        }
    }
    let rope = Rope { theta, rotary_dim: dim, scaling: Scaling::None };
    let original = keys.size("rope.scaling.original_context_length")?.unwrap_or(positions);
    if let Some(factors) = factors(gguf, "rope_freqs.weight", dim)? {
        return Ok(Rope { scaling: by_factors(&rope, &factors, original), ..rope });
    }
    let (long, short) =
        (factors(gguf, "rope_factors_long.weight", dim)?, factors(gguf, "rope_factors_short.weight", dim)?);
    if let (Some(long_factor), Some(short_factor)) = (long, short) {
        let attention = keys.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let factor = positions as f64 / original.max(1) as f64;
        let numbers = LongRope {
            short_factor,
            long_factor,
            original,
            factor,
            attention_factor: Some(attention),
            length: 0,
        };
        return Ok(Rope { scaling: Scaling::LongRope(numbers), ..rope });
    }
    Ok(Rope { scaling: named(keys, original)?, ..rope })
}

/// What rope.scaling.type says.
fn named(keys: &Keys<'_>, original: usize) -> Result<Scaling> {
    let gguf = keys.gguf;
    let name = keys.name("rope.scaling.type");
    let given = keys.number("rope.scaling.factor")?;
    let factor = match given {
        None => keys.number("rope.scale_linear")?,
        given => given,
    };
    // files from before there were types have only the linear factor
    let kind = gguf.text(&name)?.unwrap_or(if factor.is_some_and(|f| f != 1.0) { "linear" } else { "none" });
    let needed = || gguf.require(&keys.name("rope.scaling.factor"), factor);
    match kind {
        "none" => Ok(Scaling::None),
        "linear" if needed()? == 1.0 => Ok(Scaling::None),
        "linear" => Ok(Scaling::Linear { factor: needed()? }),
        "yarn" => {
            let factor = needed()?;
            let plain = Yarn::new(factor, original);
            // llama.cpp multiplies what is written here with the temperature that it computes itself
            let attention =
                keys.number("rope.scaling.yarn_attn_factor")?.or(keys.number("rope.scaling.attn_factor")?);
            Ok(Scaling::Yarn(Yarn {
                beta_fast: keys.number("rope.scaling.yarn_beta_fast")?.unwrap_or(plain.beta_fast),
                beta_slow: keys.number("rope.scaling.yarn_beta_slow")?.unwrap_or(plain.beta_slow),
                attention_factor: attention.filter(|&a| a != 1.0).map(|a| a * plain.attention()),
                ..plain
            }))
        }
        other => {
            let unknown = names::unknown("scaling", other, &["none", "linear", "yarn"]);
            Err(gguf.error(format!("{name} is \"{other}\": {unknown}")))
        }
    }
}

/// A tensor of one factor for each pair.
fn factors(gguf: &Gguf<'_>, name: &str, dim: usize) -> Result<Option<Vec<f64>>> {
    let Some(tensor) = gguf.tensor(name) else { return Ok(None) };
    if tensor.shape != [dim / 2] {
        return Err(gguf.error(format!(
            "{name} is {:?}, and heads of {dim} have {} pairs",
            tensor.shape,
            dim / 2
        )));
    }
    let mut numbers = Vec::new();
    tensor.format.read(tensor.bytes, &mut numbers);
    match numbers.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
        Some(wrong) => {
            Err(gguf.error(format!("{name} has {wrong}, and each must be a finite number above 0")))
        }
        None => Ok(Some(numbers.into_iter().map(f64::from).collect())),
    }
}

/// Wavelengths multiplied by one list at every length: Llama 3.1's scaling where the list is of its formula, which keeps only the
/// factors; else longrope with the same list twice, which is the same rotation.
fn by_factors(rope: &Rope, factors: &[f64], original: usize) -> Scaling {
    let most = factors.iter().copied().fold(1.0, f64::max);
    let plain = rope.inverse_frequencies();
    for original in [8192, original] {
        let llama3 =
            Scaling::Llama3(Llama3 { factor: most, low_freq_factor: 1.0, high_freq_factor: 4.0, original });
        let scaled = Rope { scaling: llama3.clone(), ..rope.clone() }.inverse_frequencies();
        let close =
            |((scaled, plain), factor): ((&f64, &f64), &f64)| (plain / scaled / factor - 1.0).abs() < 1e-5;
        if most > 1.0 && scaled.iter().zip(&plain).zip(factors).all(close) {
            return llama3;
        }
    }
    if factors.iter().all(|&f| f == 1.0) {
        return Scaling::None;
    }
    Scaling::LongRope(LongRope {
        short_factor: factors.to_vec(),
        long_factor: factors.to_vec(),
        original,
        factor: 1.0,
        attention_factor: Some(1.0),
        length: 0,
    })
}
