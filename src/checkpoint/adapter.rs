//! An adapter as PEFT keeps it: adapter_config.json and adapter_model.safetensors, and beside them what PEFT does not keep:
//! config.json with the scaling that was trained, and base_model.json, which tells the base model from others.

use super::atomic::Staging;
use super::model::{copy_companions, write_config, write_json};
use super::pickle;
use super::tensors::{TensorSource, write_safetensors};
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::model::Config;
use crate::model::family::short;
use crate::model::lora::{Also, Lora, Target};
use crate::model::params::{ParamSpec, adapter_name, model_name, peft_name};
use crate::regular;
use clap::ValueEnum;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const BASE: &str = "base_model.json";
const HEAD: &str = "lm_head.weight";

/// An opened adapter.
#[derive(Debug)]
pub struct Adapter {
    dir: PathBuf,
    pub lora: Lora,
    /// Where the base model is, as adapter_config.json says it.
    base: Option<PathBuf>,
    pub weights: Weights,
}

/// What is read of adapter_config.json; what would change the formula is refused.
#[derive(Deserialize)]
struct PeftConfig {
    peft_type: String,
    base_model_name_or_path: Option<PathBuf>,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    rank_pattern: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    alpha_pattern: serde_json::Map<String, serde_json::Value>,
}

impl PeftConfig {
    fn read(path: &Path) -> Result<PeftConfig> {
        let text =
            regular::read_to_string(path).map_err(|e| Error::io(path, "reading the adapter's config", e))?;
        let config: PeftConfig = serde_json::from_str(&text)
            .map_err(|e| Error::file(path, format!("is not an adapter's config: {e}")))?;
        let refused = [
            (config.peft_type != "LORA", "a peft_type other than LORA"),
            (config.use_dora, "use_dora"),
            (config.fan_in_fan_out, "fan_in_fan_out"),
            (!config.rank_pattern.is_empty(), "rank_pattern"),
            (!config.alpha_pattern.is_empty(), "alpha_pattern"),
            (config.r == 0 || !config.lora_alpha.is_finite(), "a rank of 0 or an alpha that is no number"),
        ];
        match refused.iter().find(|(is, _)| *is) {
            Some((_, what)) => Err(Error::file(path, format!("has {what}, which is not supported"))),
            None => Ok(config),
        }
    }
}

impl Adapter {
    /// The adapter in `dir`, if the directory holds one.
    pub fn find(dir: &Path) -> Result<Option<Adapter>> {
        if dir.join(CONFIG).exists() { Adapter::open(dir).map(Some) } else { Ok(None) }
    }

    /// # Errors
    /// No adapter, one of another kind than LoRA or whose weights are pickled, or tensors that belong to no projection.
    pub fn open(dir: &Path) -> Result<Adapter> {
        let config = PeftConfig::read(&dir.join(CONFIG))?;
        let tensors = dir.join(TENSORS);
        if !tensors.exists() && dir.join(pickle::ADAPTER).exists() {
            return Err(Error::file(dir, pickle::refusal(pickle::ADAPTER)));
        }
        let weights = Weights::open_file(&tensors)?;
        let names = weights.names();
        let is_there = |module: &str| names.iter().any(|name| name.contains(&format!(".{module}.lora_A.")));
        // the model, and with it the family, is not known yet
        let has = |target: &&Target| target.modules().any(&is_there);
        let lora = Lora {
            rank: config.r,
            alpha: config.lora_alpha,
            targets: Target::value_variants().iter().filter(has).copied().collect(),
            also: Vec::new(),
            rank_stabilised: config.use_rslora,
        };
        Ok(Adapter { dir: dir.into(), lora, base: config.base_model_name_or_path, weights })
    }

    /// The directory of the base model.
    pub fn base(&self) -> Result<&Path> {
        let path = self.dir.join(CONFIG);
        match self.base.as_deref() {
            Some(base) if base.is_dir() => Ok(base),
            Some(base) => {
                let problem = format!(
                    "names {} as base_model_name_or_path, which is no directory here; write there where the base model is",
                    base.display()
                );
                Err(Error::file(path, problem))
            }
            None => Err(Error::file(
                path,
                "names no base model: the adapter was trained on fresh weights; train with --lora-merge to save a whole model",
            )),
        }
    }

    /// Whether the model's config.json and tokenizer are beside it: PEFT leaves them with the base model.
    pub fn has_config(&self) -> bool {
        self.dir.join("config.json").exists()
    }

    /// Whether these are the weights that the adapter was trained on, as far as the adapter says.
    pub fn check_base(&self, base: &Weights) -> Result<()> {
        let path = self.dir.join(BASE);
        let text = match regular::read_to_string(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            text => text.map_err(|e| Error::io(&path, "reading what the adapter was trained on", e))?,
        };
        let known: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| Error::file(&path, format!("is not JSON: {e}")))?;
        let (known, found) = (known["fingerprint"].as_str(), base.fingerprint()?);
        match known {
            Some(known) if known != found => Err(Error::file(
                &self.dir,
                format!(
                    "is an adapter for another model: its base has fingerprint {known}, these weights {found}"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Whether every tensor belongs to a parameter of this table, in its shape. `tied` is the embedding, where it is the head too.
    pub fn check(&self, table: &[ParamSpec], tied: Option<&ParamSpec>) -> Result<()> {
        let other = |problem: String| {
            Err(Error::file(&self.dir, format!("is an adapter for another model: {problem}")))
        };
        let mut known = HashSet::new();
        if let Some(embed) = tied {
            self.check_tied(embed)?;
            known.insert(peft_name(HEAD));
        }
        for spec in table {
            let mut expected = vec![(peft_name(&spec.name), spec.shape.clone())];
            if let [outputs, inputs] = spec.shape[..]
                && Target::of(&spec.name).is_some()
            {
                let rank = self.lora.rank;
                expected.push((adapter_name(&spec.name, "A"), vec![rank, inputs]));
                expected.push((adapter_name(&spec.name, "B"), vec![outputs, rank]));
            }
            for (name, shape) in expected {
                match self.weights.shape(&name) {
                    Some(found) if found != shape => {
                        return other(format!("{name} is {found:?}, this model makes it {shape:?}"));
                    }
                    _ => known.insert(name),
                };
            }
        }
        match self.weights.names().into_iter().find(|name| !known.contains(*name)) {
            Some(name) => other(format!("it has {}, the model has not", model_name(name).unwrap_or(name))),
            None => Ok(()),
        }
    }

    /// Over a model whose head is its embedding an adapter has both, alike, as training here writes them, or neither. PEFT lets them part.
    fn check_tied(&self, embed: &ParamSpec) -> Result<()> {
        let names = [peft_name(&embed.name), peft_name(HEAD)];
        let there = names.each_ref().map(|name| self.weights.shape(name).is_some());
        let alike = match there {
            [true, true] => self.digest(&names[0], &embed.shape)? == self.digest(&names[1], &embed.shape)?,
            [embed, head] => embed == head,
        };
        if alike {
            return Ok(());
        }
        let problem = format!(
            "has weights of its own for {} or {HEAD} (modules_to_save), which are one in this model (tie_word_embeddings); merge it with PEFT",
            embed.name
        );
        Err(Error::file(&self.dir, problem))
    }

    fn digest(&self, name: &str, shape: &[usize]) -> Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        self.weights.read_f32(name, shape, &mut |_, values: &[f32]| {
            hasher.update(bytemuck::cast_slice(values));
            Ok(())
        })?;
        Ok(hasher.finalize())
    }
}

/// Writes an adapter with all that it takes to use it. `source` has the tensors under PEFT's names; `base` is the directory
/// of the model that it was trained on, None where that was drawn anew.
pub fn write_adapter(
    staging: &Staging, config: &Config, lora: &Lora, base: Option<&Path>, source: &dyn TensorSource,
) -> Result<Vec<String>> {
    let mut warnings = write_config(staging, config)?;
    if let Some(packed) =
        config.family.names.layer.packed_qkv.filter(|_| lora.targets.iter().any(Target::is_packed))
    {
        warnings.push(format!(
            "the adapter has matrices for q, k and v, which other software knows as one module, {}: only pose-engine reads it; \
             --lora-merge saves a whole model",
            short(packed)
        ));
    }
    write_json(staging, CONFIG, &peft_config(config, lora, base))?;
    let all: Vec<usize> = (0..source.specs().len()).collect();
    write_safetensors(&staging.dir().join(TENSORS), source, &all)?;
    if let Some(dir) = base {
        let fingerprint = Weights::open(dir)?.fingerprint()?;
        write_json(staging, BASE, &json!({ "path": dir.to_string_lossy(), "fingerprint": fingerprint }))?;
        copy_companions(staging, config, dir)?;
    }
    Ok(warnings)
}

fn peft_config(config: &Config, lora: &Lora, base: Option<&Path>) -> serde_json::Value {
    let names = &config.family.names;
    let targets: Vec<&str> = lora.targets.iter().map(|target| target.module(config.family)).collect();
    let modules = |also: &Also| match also {
        // PEFT keeps a head that is tied to the embedding as a module of its own
        Also::Embed if config.tie_word_embeddings => vec![short(names.embed), short(names.head)],
        Also::Embed => vec![short(names.embed)],
        Also::Norm => {
            let mut norms = vec![short(names.layer.input_norm)];
            if !config.arch.parallel {
                norms.push(short(names.layer.post_norm));
            }
            if config.arch.qk_norm {
                norms.extend([short(names.layer.q_norm), short(names.layer.k_norm)]);
            }
            norms.push(short(names.final_norm));
            norms
        }
    };
    let full: Vec<&str> = lora.also.iter().flat_map(modules).collect();
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.map(Path::to_string_lossy),
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "use_rslora": lora.rank_stabilised,
        "target_modules": targets,
        "modules_to_save": (!full.is_empty()).then_some(full),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "inference_mode": true,
    })
}
