//! The one table of parameters: allocation, initialisation, weight decay, checkpoints and tests all read it.
//!
//! The order is that of the forward pass: embedding, layers from the bottom up, last norm, head. Names are the
//! family's; a matrix is [outputs, inputs]. Adapters, where the config asks for them, come after all of these, so that
//! the rest of the table does not depend on them.

use super::config::Config;
use super::family::{Mlp, Names, Norm};
use super::lora::{Also, Lora, Target};
use std::ops::Range;

/// A parameter's place in [`table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub usize);

/// What a fresh parameter holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal numbers of mean 0 and this standard deviation.
    Normal(f64),
    Ones,
    Zeros,
    /// Uniform in ±this.
    Uniform(f64),
}

/// What a parameter belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Model,
    /// A of an adapter, [rank, inputs].
    AdapterA,
    /// B of an adapter, kept as its transpose, [rank, outputs]: then the products that there are add it onto the
    /// projection's output. Files hold [outputs, rank].
    AdapterB,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    /// As in a Hugging Face checkpoint, e.g. `model.layers.3.self_attn.q_proj.weight`; an adapter's as in PEFT's.
    pub name: String,
    pub shape: Vec<usize>,
    /// Whether AdamW's weight decay applies: to matrices, the embedding among them (as GPT-2, LLaMA and PyTorch recipes
    /// do), not to norms and biases.
    pub decay: bool,
    pub init: Init,
    /// Whether it has gradients, and what an optimizer keeps. The others are frozen.
    pub trained: bool,
    pub role: Role,
    /// Where the checkpoint keeps it together with others; None: in a tensor of its own name.
    pub part: Option<Part>,
}

/// Some rows of a tensor of the checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub tensor: String,
    pub first_row: usize,
    /// Of the whole tensor.
    pub rows: usize,
}

/// A tensor of the checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct FileTensor {
    pub name: String,
    pub shape: Vec<usize>,
    /// The parameters in it, one below the other, as places in the table.
    pub holds: Range<usize>,
}

/// The tensors that a checkpoint keeps the parameters of a table in.
pub fn file_tensors(table: &[ParamSpec]) -> Vec<FileTensor> {
    let mut tensors: Vec<FileTensor> = Vec::with_capacity(table.len());
    for (i, spec) in table.iter().enumerate() {
        let Some(part) = &spec.part else {
            tensors.push(FileTensor { name: spec.name.clone(), shape: spec.shape.clone(), holds: i..i + 1 });
            continue;
        };
        match tensors.last_mut().filter(|tensor| tensor.name == part.tensor) {
            Some(tensor) => tensor.holds.end = i + 1,
            None => {
                let shape = [&[part.rows], &spec.shape[1..]].concat();
                tensors.push(FileTensor { name: part.tensor.clone(), shape, holds: i..i + 1 });
            }
        }
    }
    tensors
}

impl ParamSpec {
    /// Numbers in the parameter.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_adapter(&self) -> bool {
        self.role != Role::Model
    }
}

/// The parameters by role, so that forward and backward find them without strings.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamIds {
    /// `[vocab, hidden]`
    pub embed: ParamId,
    pub layers: Vec<LayerIds>,
    /// `[hidden]`
    pub final_norm: NormIds,
    /// `[vocab, hidden]`; None where the embedding is also the head.
    pub head: Option<ParamId>,
    /// `[vocab]`
    pub head_bias: Option<ParamId>,
}

/// A norm of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormIds {
    pub weight: ParamId,
    /// Of a LayerNorm.
    pub bias: Option<ParamId>,
}

/// A projection: its matrix `[outputs, inputs]` and what is added to its output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    pub weight: ParamId,
    /// `[outputs]`
    pub bias: Option<ParamId>,
    pub adapter: Option<AdapterIds>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdapterIds {
    /// `[rank, inputs]`
    pub a: ParamId,
    /// `[rank, outputs]`
    pub b: ParamId,
}

/// Weights `[head_dim]`, the same for all heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadNorms {
    pub q: ParamId,
    pub k: ParamId,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LayerIds {
    /// `[hidden]`, before attention
    pub input_norm: NormIds,
    /// `[heads × head_dim, hidden]`
    pub q: Linear,
    /// `[kv_heads × head_dim, hidden]`
    pub k: Linear,
    /// `[kv_heads × head_dim, hidden]`
    pub v: Linear,
    /// `[hidden, heads × head_dim]`
    pub o: Linear,
    /// Over each head of q and k, where the family has such norms.
    pub head_norms: Option<HeadNorms>,
    /// `[hidden]`, before the feed-forward block; None where that reads what attention reads.
    pub post_norm: Option<NormIds>,
    /// `[intermediate, hidden]`; None where the feed-forward block is not gated.
    pub gate: Option<Linear>,
    /// `[intermediate, hidden]`
    pub up: Linear,
    /// `[hidden, intermediate]`
    pub down: Linear,
}

impl LayerIds {
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        let LayerIds { q, k, v, o, gate, up, down, .. } = self;
        [q, k, v, o].into_iter().chain(gate).chain([up, down])
    }

    /// None where the family has no such projection.
    pub fn linear(&self, target: Target) -> Option<&Linear> {
        match target {
            Target::Q => Some(&self.q),
            Target::K => Some(&self.k),
            Target::V => Some(&self.v),
            Target::O => Some(&self.o),
            Target::Gate => self.gate.as_ref(),
            Target::Up => Some(&self.up),
            Target::Down => Some(&self.down),
        }
    }

    fn linear_mut(&mut self, target: Target) -> Option<&mut Linear> {
        match target {
            Target::Q => Some(&mut self.q),
            Target::K => Some(&mut self.k),
            Target::V => Some(&mut self.v),
            Target::O => Some(&mut self.o),
            Target::Gate => self.gate.as_mut(),
            Target::Up => Some(&mut self.up),
            Target::Down => Some(&mut self.down),
        }
    }
}

impl ParamIds {
    pub fn new(config: &Config) -> ParamIds {
        build(config).1
    }

    /// The matrix that gives the logits: the head's own, or the embedding.
    pub fn head_weight(&self) -> ParamId {
        self.head.unwrap_or(self.embed)
    }
}

/// Every parameter of the model, in a fixed order.
pub fn table(config: &Config) -> Vec<ParamSpec> {
    build(config).0
}

/// Numbers in the whole model, adapters among them; a tied head counts once.
pub fn parameter_count(config: &Config) -> usize {
    table(config).iter().map(ParamSpec::elements).sum()
}

/// Numbers that are trained.
pub fn trained_count(config: &Config) -> usize {
    table(config).iter().filter(|spec| spec.trained).map(ParamSpec::elements).sum()
}

/// The table and the ids in one pass, so that they cannot disagree.
fn build(c: &Config) -> (Vec<ParamSpec>, ParamIds) {
    let names = &c.family.names;
    let mut t = Table {
        specs: Vec::new(),
        std: c.initializer_range,
        lora: c.lora.as_ref(),
        names,
        norm: c.arch.norm,
    };
    let embed = t.matrix(weight(names.embed), c.vocab_size, c.hidden_size);
    t.specs[embed.0].trained = t.trains(Also::Embed);
    let mut layers: Vec<LayerIds> = (0..c.num_hidden_layers).map(|l| t.layer(c, l)).collect();
    let final_norm = t.norm(names.final_norm, c.hidden_size);
    let head = (!c.tie_word_embeddings).then(|| t.matrix(weight(names.head), c.vocab_size, c.hidden_size));
    let head_bias = t.bias(names.head, c.arch.head_bias, c.vocab_size);
    if let Some(lora) = &c.lora {
        for ids in &mut layers {
            for &target in &lora.targets {
                let Some(linear) = ids.linear_mut(target) else { continue };
                linear.adapter = Some(t.adapter(lora.rank, linear.weight));
            }
        }
    }
    (t.specs, ParamIds { embed, layers, final_norm, head, head_bias })
}

fn weight(module: &str) -> String {
    format!("{module}.weight")
}

struct Table<'a> {
    specs: Vec<ParamSpec>,
    std: f64,
    lora: Option<&'a Lora>,
    names: &'a Names,
    norm: Norm,
}

impl Table<'_> {
    fn push(&mut self, name: String, shape: Vec<usize>, decay: bool, init: Init, trained: bool) -> ParamId {
        self.specs.push(ParamSpec { name, shape, decay, init, trained, role: Role::Model, part: None });
        ParamId(self.specs.len() - 1)
    }

    /// Whether parameters of this kind are trained in full: all are where there are no adapters.
    fn trains(&self, kind: Also) -> bool {
        self.lora.is_none_or(|lora| lora.also.contains(&kind))
    }

    fn matrix(&mut self, name: String, outputs: usize, inputs: usize) -> ParamId {
        self.push(name, vec![outputs, inputs], true, Init::Normal(self.std), self.lora.is_none())
    }

    /// The weight of a norm.
    fn scale(&mut self, module: &str, width: usize) -> ParamId {
        let trained = self.trains(Also::Norm);
        self.push(weight(module), vec![width], false, Init::Ones, trained)
    }

    /// A norm of the residual stream.
    fn norm(&mut self, module: &str, width: usize) -> NormIds {
        let (weight, trained) = (self.scale(module, width), self.trains(Also::Norm));
        let biased = self.norm == Norm::Layer;
        let bias =
            biased.then(|| self.push(format!("{module}.bias"), vec![width], false, Init::Zeros, trained));
        NormIds { weight, bias }
    }

    /// The bias of a projection, where there `is` one.
    fn bias(&mut self, module: &str, is: bool, width: usize) -> Option<ParamId> {
        let trained = self.lora.is_none();
        is.then(|| self.push(format!("{module}.bias"), vec![width], false, Init::Zeros, trained))
    }

    /// The adapter of a matrix. A is drawn as PEFT draws it: Kaiming's uniform with slope √5, which is ±1/√inputs.
    fn adapter(&mut self, rank: usize, of: ParamId) -> AdapterIds {
        let (weight, sides) = (self.specs[of.0].name.clone(), self.specs[of.0].shape.clone());
        let (outputs, inputs) = (sides[0], sides[1]);
        let mut part = |letter: &str, width, init, role| {
            let name = adapter_name(&weight, letter);
            self.specs.push(ParamSpec {
                name,
                shape: vec![rank, width],
                decay: true,
                init,
                trained: true,
                role,
                part: None,
            });
            ParamId(self.specs.len() - 1)
        };
        let a = part("A", inputs, Init::Uniform(1.0 / (inputs as f64).sqrt()), Role::AdapterA);
        AdapterIds { a, b: part("B", outputs, Init::Zeros, Role::AdapterB) }
    }

    /// Says that the checkpoint has these matrices, which stand next to each other in the table, in one tensor.
    fn pack(&mut self, ids: &[ParamId], tensor: &str) {
        let rows = ids.iter().map(|id| self.specs[id.0].shape[0]).sum();
        let mut first_row = 0;
        for id in ids {
            let spec = &mut self.specs[id.0];
            spec.part = Some(Part { tensor: tensor.into(), first_row, rows });
            first_row += spec.shape[0];
        }
    }

    fn layer(&mut self, c: &Config, layer: usize) -> LayerIds {
        let (q_width, kv_width) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        let (names, prefix) = (self.names.layer, format!("{}.{layer}", self.names.layers));
        let of = |module: &str| format!("{prefix}.{module}");
        let (hidden, inner) = (c.hidden_size, c.intermediate_size);
        let input_norm = self.norm(&of(names.input_norm), hidden);
        // the biases of attention stand behind its matrices
        let sides = [(names.q, q_width, hidden), (names.k, kv_width, hidden), (names.v, kv_width, hidden)];
        let [q, k, v] = sides.map(|(name, outputs, inputs)| self.matrix(weight(&of(name)), outputs, inputs));
        if let Some(packed) = names.packed_qkv {
            self.pack(&[q, k, v], &weight(&of(packed)));
        }
        let o = self.matrix(weight(&of(names.o)), hidden, q_width);
        let mut biased =
            |weight, name, is, width| Linear { weight, bias: self.bias(&of(name), is, width), adapter: None };
        let q = biased(q, names.q, c.arch.qkv_bias, q_width);
        let k = biased(k, names.k, c.arch.qkv_bias, kv_width);
        let v = biased(v, names.v, c.arch.qkv_bias, kv_width);
        let o = biased(o, names.o, c.arch.o_bias, hidden);
        let head_norms = c.arch.qk_norm.then(|| HeadNorms {
            q: self.scale(&of(names.q_norm), c.head_dim),
            k: self.scale(&of(names.k_norm), c.head_dim),
        });
        let post_norm = (!c.arch.parallel).then(|| self.norm(&of(names.post_norm), hidden));
        let gated = c.arch.mlp == Mlp::SwiGlu;
        let mut projection = |name, outputs, inputs| {
            let matrix = self.matrix(weight(&of(name)), outputs, inputs);
            Linear { weight: matrix, bias: self.bias(&of(name), !gated, outputs), adapter: None }
        };
        let gate = gated.then(|| projection(names.gate, inner, hidden));
        let (up, down) = (projection(names.up, inner, hidden), projection(names.down, hidden, inner));
        LayerIds { input_norm, q, k, v, o, head_norms, post_norm, gate, up, down }
    }
}

/// What PEFT puts before the names of the model that it wraps.
const PEFT_PREFIX: &str = "base_model.model.";

/// A parameter of the model as an adapter's file calls it.
pub fn peft_name(model_name: &str) -> String {
    format!("{PEFT_PREFIX}{model_name}")
}

/// The inverse of [`peft_name`].
pub fn model_name(peft_name: &str) -> Option<&str> {
    peft_name.strip_prefix(PEFT_PREFIX)
}

/// Matrix `A` or `B` of the adapter of `weight` as an adapter's file calls it.
pub fn adapter_name(weight: &str, letter: &str) -> String {
    let module = weight.strip_suffix(".weight").unwrap_or(weight);
    peft_name(&format!("{module}.lora_{letter}.weight"))
}
