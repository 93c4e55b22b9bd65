//! Which tensor is which: ggml's names, those of a Hugging Face checkpoint, and how rows are ordered.

use super::blocks::Format;
use super::reader::{Gguf, Tensor};
use crate::error::Result;
use crate::model::Config;
use crate::model::family::{Family, LLAMA, QWEN2};
use crate::model::params::{self, ParamSpec};

/// The architectures that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    Llama,
    Qwen2,
}

impl Architecture {
    pub const NAMES: [&str; 2] = ["llama", "qwen2"];

    /// general.architecture, the prefix of the model's keys, and model_type in a config.json.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
        }
    }

    pub fn from_name(name: &str) -> Option<Architecture> {
        [Architecture::Llama, Architecture::Qwen2].into_iter().find(|a| a.name() == name)
    }

    /// The family that the model is written as.
    pub fn family(self) -> &'static Family {
        match self {
            Architecture::Llama => LLAMA,
            Architecture::Qwen2 => QWEN2,
        }
    }

    /// Heads whose rows are reordered in a module: ggml rotates neighbours in LLaMA, transformers halves; for Qwen2 both take
    /// halves.
    fn heads(self, module: &str, c: &Config) -> Option<usize> {
        match (self, module) {
            (Architecture::Llama, "self_attn.q_proj") => Some(c.num_attention_heads),
            (Architecture::Llama, "self_attn.k_proj") => Some(c.num_key_value_heads),
            _ => None,
        }
    }
}

/// Tensors that hold no weights, but rotation.
pub const ROPE_TENSORS: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

/// A tensor of the checkpoint and where it comes from.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// In the checkpoint.
    pub name: String,
    pub tensor: &'a Tensor<'a>,
    /// Heads whose rows stand pair by pair in the file and half by half in the checkpoint; None: as they are.
    pub heads: Option<usize>,
}

/// Modules of a layer in the checkpoint and in the file, where layer i is `blk.i`.
const OF_LAYER: [(&str, &str); 9] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];
const OF_MODEL: [(&str, &str); 3] =
    [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// The module within a layer (or the whole model) and the name in the file of the checkpoint's tensor `name`.
fn in_file(name: &str) -> Option<(&str, String)> {
    let (module, kind) = name.rsplit_once('.')?;
    let (layer, module) = match module.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
        Some((layer, module)) => (Some(layer), module),
        None => (None, module),
    };
    let known: &[(&str, &str)] = if layer.is_some() { &OF_LAYER } else { &OF_MODEL };
    let (_, theirs) = known.iter().find(|(ours, _)| *ours == module)?;
    let prefix = layer.map_or(String::new(), |layer| format!("blk.{layer}."));
    Some((module, format!("{prefix}{theirs}.{kind}")))
}

/// Every tensor of the checkpoint, found in the file.
///
/// # Errors
/// A tensor that is missing, of another shape, or left over: what is not understood would be lost.
pub fn parts<'a>(gguf: &'a Gguf<'a>, architecture: Architecture, config: &Config) -> Result<Vec<Part<'a>>> {
    let mut left: std::collections::HashMap<&str, &Tensor<'_>> =
        gguf.tensors.iter().filter(|t| !ROPE_TENSORS.contains(&t.name)).map(|t| (t.name, t)).collect();
    let mut parts = Vec::new();
    for ParamSpec { name, shape, .. } in params::table(config) {
        let unknown = || gguf.error(format!("is a model with {name}, which no {} has", architecture.name()));
        let (module, from) = in_file(&name).ok_or_else(unknown)?;
        let heads = architecture.heads(module, config);
        let Some(tensor) = left.remove(from.as_str()) else {
            return Err(gguf.error(format!("has no tensor {from}")));
        };
        if tensor.shape != shape {
            return Err(
                gguf.error(format!("{from} is {:?}, and by the file's own keys {shape:?}", tensor.shape))
            );
        }
        if heads.is_some() && shape.len() == 1 && tensor.format.block().0 > 1 {
            return Err(
                gguf.error(format!("{from} is a bias in {:?}; biases are F32, F16 or BF16", tensor.format))
            );
        }
        parts.push(Part { name, tensor, heads });
    }
    match left.keys().min() {
        Some(name) => Err(gguf.error(format!(
            "has a tensor {name}, which no {} model that is read has; without it the model would be another",
            architecture.name()
        ))),
        None => Ok(parts),
    }
}

impl Part<'_> {
    /// Rows in the file, and numbers in each: a vector whose elements are reordered is a column.
    fn rows_and_columns(&self) -> (usize, usize) {
        let shape = &self.tensor.shape;
        match (shape.as_slice(), self.heads) {
            ([n], Some(_)) => (*n, 1),
            ([n], None) => (1, *n),
            _ => (shape[..shape.len() - 1].iter().product(), shape[shape.len() - 1]),
        }
    }

    /// Row r of the checkpoint is this row of the file. A head of the checkpoint has the first elements of all pairs and then the
    /// second ones; in the file the two elements of a pair are neighbours.
    fn row_in_file(&self, r: usize, rows: usize) -> usize {
        let Some(heads) = self.heads else { return r };
        let size = rows / heads;
        let (head, within) = (r / size, r % size);
        let (second, pair) = (within / (size / 2), within % (size / 2));
        head * size + 2 * pair + second
    }

    /// Hands the numbers to `sink`, row by row in the checkpoint's order.
    pub fn read<E>(
        &self, sink: &mut dyn FnMut(&[f32]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let (rows, columns) = self.rows_and_columns();
        let format: Format = self.tensor.format;
        let bytes = format.bytes_of(&[columns]).unwrap_or(0);
        let mut numbers = Vec::with_capacity(columns);
        for r in 0..rows {
            let at = self.row_in_file(r, rows) * bytes;
            numbers.clear();
            format.read(&self.tensor.bytes[at..at + bytes], &mut numbers);
            sink(&numbers)?;
        }
        Ok(())
    }
}
