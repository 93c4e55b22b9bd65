//! GGUF files: as `import` reads them, without what it writes.

use crate::budget::Budget;
use crate::{Desk, Target};
use pose_engine::data::Tokenizer;
use pose_engine::gguf::{self, reader::Gguf};

pub const GGUF: Target = Target { name: "gguf", read, seeds, budget: Budget::PARSED };

fn read(desk: &Desk, bytes: &[u8]) {
    let path = desk.path().join("model.gguf");
    let Ok(gguf) = Gguf::open(bytes, &path) else { return };
    let Ok(architecture) = gguf::config::architecture(&gguf) else { return };
    let Ok(config) = gguf::config::config(&gguf, architecture) else { return };
    if let Ok(files) = gguf::tokenizer::tokenizer(&gguf, config.vocab_size) {
        let _ = Tokenizer::from_json(files.tokenizer.to_string().as_bytes(), &path);
    }
    for part in gguf::names::parts(&gguf, architecture, &config).into_iter().flatten() {
        let _: Result<(), ()> = part.read(&mut |_| Ok(()));
    }
}

/// A file in the making: keys and tensors one after the other.
#[derive(Default)]
struct File {
    keys: Vec<u8>,
    tensors: Vec<u8>,
    data: Vec<u8>,
    counts: [u64; 2],
}

impl File {
    fn key(&mut self, name: &str, kind: u32, value: &[u8]) {
        self.keys.extend(text(name));
        self.keys.extend(kind.to_le_bytes());
        self.keys.extend(value);
        self.counts[1] += 1;
    }

    fn array(&mut self, name: &str, kind: u32, values: &[Vec<u8>]) {
        let head = [&kind.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        self.key(name, 9, &[head, values.concat()].concat());
    }

    /// A tensor of a format's code, with `bytes` zeros; sizes fastest first.
    fn tensor(&mut self, name: &str, sizes: &[u64], code: u32, bytes: usize) {
        self.tensors.extend(text(name));
        self.tensors.extend((sizes.len() as u32).to_le_bytes());
        sizes.iter().for_each(|size| self.tensors.extend(size.to_le_bytes()));
        self.tensors.extend(code.to_le_bytes());
        self.tensors.extend((self.data.len() as u64).to_le_bytes());
        self.data.resize((self.data.len() + bytes).next_multiple_of(32), 0);
        self.counts[0] += 1;
    }

    fn done(self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        self.counts.iter().for_each(|count| bytes.extend(count.to_le_bytes()));
        bytes.extend(self.keys);
        bytes.extend(self.tensors);
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(self.data);
        bytes
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

const UNSIGNED: u32 = 4;
const SIGNED: u32 = 5;
const FLOAT: u32 = 6;
const TEXT: u32 = 8;

/// One layer of width 32: every size that a whole block of 32 numbers allows.
fn model(architecture: &str) -> File {
    let mut file = File::default();
    file.key("general.architecture", TEXT, &text(architecture));
    let sizes = [
        ("block_count", 1u32),
        ("context_length", 64),
        ("embedding_length", 32),
        ("feed_forward_length", 32),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ];
    for (name, size) in sizes {
        file.key(&format!("{architecture}.{name}"), UNSIGNED, &size.to_le_bytes());
    }
    file.key(&format!("{architecture}.attention.layer_norm_rms_epsilon"), FLOAT, &1e-5f32.to_le_bytes());
    file.tensor("token_embd.weight", &[32, 4], 2, 4 * 18);
    for (name, rows, code, row) in
        [("attn_q", 32, 8, 34), ("attn_k", 16, 3, 20), ("attn_v", 16, 1, 64), ("attn_output", 32, 6, 22)]
    {
        file.tensor(&format!("blk.0.{name}.weight"), &[32, rows], code, rows as usize * row);
    }
    for (name, code, row) in [("ffn_gate", 7, 24), ("ffn_up", 30, 64), ("ffn_down", 0, 128)] {
        file.tensor(&format!("blk.0.{name}.weight"), &[32, 32], code, 32 * row);
    }
    for norm in ["blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"] {
        file.tensor(norm, &[32], 0, 128);
    }
    file
}

fn seeds() -> Vec<Vec<u8>> {
    let texts = |all: &[&str]| -> Vec<Vec<u8>> { all.iter().map(|t| text(t)).collect() };
    let mut llama = model("llama");
    llama.key("tokenizer.ggml.model", TEXT, &text("llama"));
    llama.array("tokenizer.ggml.tokens", TEXT, &texts(&["<unk>", "a", "b", "ab"]));
    llama.array("tokenizer.ggml.scores", FLOAT, &[0f32, -1.0, -2.0, -3.0].map(|x| x.to_le_bytes().to_vec()));
    llama.array("tokenizer.ggml.token_type", SIGNED, &[2i32, 1, 1, 1].map(|x| x.to_le_bytes().to_vec()));
    llama.key("tokenizer.ggml.bos_token_id", UNSIGNED, &1u32.to_le_bytes());
    let mut qwen2 = model("qwen2");
    for (name, n) in [("attn_q", 32), ("attn_k", 16), ("attn_v", 16)] {
        qwen2.tensor(&format!("blk.0.{name}.bias"), &[n], 0, n as usize * 4);
    }
    qwen2.key("qwen2.rope.scaling.type", TEXT, &text("yarn"));
    qwen2.key("qwen2.rope.scaling.factor", FLOAT, &4f32.to_le_bytes());
    qwen2.key("tokenizer.ggml.model", TEXT, &text("gpt2"));
    qwen2.key("tokenizer.ggml.pre", TEXT, &text("qwen2"));
    qwen2.array("tokenizer.ggml.tokens", TEXT, &texts(&["<|end|>", "a", "b", "ab"]));
    qwen2.array("tokenizer.ggml.merges", TEXT, &texts(&["a b"]));
    vec![llama.done(), qwen2.done()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Damage of a file that is refused at its first key would test nothing.
    #[test]
    fn the_seeds_are_whole_models() {
        for bytes in seeds() {
            let path = std::path::Path::new("model.gguf");
            let gguf = Gguf::open(&bytes, path).unwrap();
            let architecture = gguf::config::architecture(&gguf).unwrap();
            let config = gguf::config::config(&gguf, architecture).unwrap();
            gguf::names::parts(&gguf, architecture, &config).unwrap();
            let files = gguf::tokenizer::tokenizer(&gguf, config.vocab_size).unwrap();
            Tokenizer::from_json(files.tokenizer.to_string().as_bytes(), path).unwrap();
        }
    }
}
