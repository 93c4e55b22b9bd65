//! The one table of parameters: allocation, initialisation, weight decay, checkpoints and tests all read it.
//!
//! The order is that of the forward pass: embedding, layers from the bottom up, last norm, head. Names and shapes are those
//! of LlamaForCausalLM; a matrix is [outputs, inputs].

use super::config::Config;

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
}

#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    /// As in a Hugging Face checkpoint, e.g. `model.layers.3.self_attn.q_proj.weight`.
    pub name: String,
    pub shape: Vec<usize>,
    /// Whether AdamW's weight decay applies: to matrices, the embedding among them (as GPT-2, LLaMA and PyTorch recipes
    /// do), not to norms and biases.
    pub decay: bool,
    pub init: Init,
}

impl ParamSpec {
    /// Numbers in the parameter.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The parameters by role, so that forward and backward find them without strings.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamIds {
    /// `[vocab, hidden]`
    pub embed: ParamId,
    pub layers: Vec<LayerIds>,
    /// `[hidden]`
    pub final_norm: ParamId,
    /// `[vocab, hidden]`; None where the embedding is also the head.
    pub head: Option<ParamId>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LayerIds {
    /// `[hidden]`, before attention
    pub input_norm: ParamId,
    /// `[heads × head_dim, hidden]`
    pub q: ParamId,
    /// `[kv_heads × head_dim, hidden]`
    pub k: ParamId,
    /// `[kv_heads × head_dim, hidden]`
    pub v: ParamId,
    /// `[hidden, heads × head_dim]`
    pub o: ParamId,
    /// `[heads × head_dim]`; the four biases are there together or not at all.
    pub q_bias: Option<ParamId>,
    /// `[kv_heads × head_dim]`
    pub k_bias: Option<ParamId>,
    /// `[kv_heads × head_dim]`
    pub v_bias: Option<ParamId>,
    /// `[hidden]`
    pub o_bias: Option<ParamId>,
    /// `[hidden]`, before the feed-forward block
    pub post_norm: ParamId,
    /// `[intermediate, hidden]`
    pub gate: ParamId,
    /// `[intermediate, hidden]`
    pub up: ParamId,
    /// `[hidden, intermediate]`
    pub down: ParamId,
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

/// Numbers in the whole model; a tied head counts once.
pub fn parameter_count(config: &Config) -> usize {
    table(config).iter().map(ParamSpec::elements).sum()
}

/// The table and the ids in one pass, so that they cannot disagree.
fn build(c: &Config) -> (Vec<ParamSpec>, ParamIds) {
    let mut t = Table { specs: Vec::new(), std: c.initializer_range };
    let embed = t.matrix("model.embed_tokens.weight".into(), c.vocab_size, c.hidden_size);
    let layers = (0..c.num_hidden_layers).map(|l| t.layer(c, &format!("model.layers.{l}"))).collect();
    let final_norm = t.norm("model.norm.weight".into(), c.hidden_size);
    let head =
        (!c.tie_word_embeddings).then(|| t.matrix("lm_head.weight".into(), c.vocab_size, c.hidden_size));
    (t.specs, ParamIds { embed, layers, final_norm, head })
}

struct Table {
    specs: Vec<ParamSpec>,
    std: f64,
}

impl Table {
    fn push(&mut self, name: String, shape: Vec<usize>, decay: bool, init: Init) -> ParamId {
        self.specs.push(ParamSpec { name, shape, decay, init });
        ParamId(self.specs.len() - 1)
    }

    fn matrix(&mut self, name: String, outputs: usize, inputs: usize) -> ParamId {
        self.push(name, vec![outputs, inputs], true, Init::Normal(self.std))
    }

    fn norm(&mut self, name: String, width: usize) -> ParamId {
        self.push(name, vec![width], false, Init::Ones)
    }

    fn layer(&mut self, c: &Config, layer: &str) -> LayerIds {
        let (q_width, kv_width) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        let attention = |part: &str| format!("{layer}.self_attn.{part}");
        let mlp = |part: &str| format!("{layer}.mlp.{part}_proj.weight");
        let input_norm = self.norm(format!("{layer}.input_layernorm.weight"), c.hidden_size);
        let q = self.matrix(attention("q_proj.weight"), q_width, c.hidden_size);
        let k = self.matrix(attention("k_proj.weight"), kv_width, c.hidden_size);
        let v = self.matrix(attention("v_proj.weight"), kv_width, c.hidden_size);
        let o = self.matrix(attention("o_proj.weight"), c.hidden_size, q_width);
        let mut bias = |part: &str, width| {
            c.attention_bias.then(|| self.push(attention(part), vec![width], false, Init::Zeros))
        };
        let q_bias = bias("q_proj.bias", q_width);
        let k_bias = bias("k_proj.bias", kv_width);
        let v_bias = bias("v_proj.bias", kv_width);
        let o_bias = bias("o_proj.bias", c.hidden_size);
        let post_norm = self.norm(format!("{layer}.post_attention_layernorm.weight"), c.hidden_size);
        let gate = self.matrix(mlp("gate"), c.intermediate_size, c.hidden_size);
        let up = self.matrix(mlp("up"), c.intermediate_size, c.hidden_size);
        let down = self.matrix(mlp("down"), c.hidden_size, c.intermediate_size);
        LayerIds { input_norm, q, k, v, o, q_bias, k_bias, v_bias, o_bias, post_norm, gate, up, down }
    }
}
