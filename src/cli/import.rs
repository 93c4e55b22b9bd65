//! `pose-engine import`.

use super::common::{Common, Json};
use super::output::size_text;
use crate::backend::device::DType;
use crate::error::Result;
use crate::gguf;
use crate::model::config::Dtype;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Make a Hugging Face directory of a GGUF file (LLaMA or Qwen2), weights and tokenizer
#[derive(Debug, Args)]
#[command(after_help = "Example:
  pose-engine import SmolLM2-135M-Instruct.Q4_1.gguf --out smollm2")]
pub struct Import {
    /// GGUF file, in F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Directory for the model; must be new or empty
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// What the weights are stored as: f32 keeps every bit of them
    #[arg(long, value_enum, default_value_t = DType::Bf16)]
    dtype: DType,
    /// Take the tokenizer's files from this directory and not from the GGUF file
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    #[command(flatten)]
    pub json: Json,
    #[command(flatten)]
    pub common: Common,
}

impl Import {
    pub fn run(self) -> Result<()> {
        let dtype = match self.dtype {
            DType::Bf16 => Dtype::Bf16,
            DType::F32 => Dtype::F32,
        };
        let done = gguf::import(&self.file, &self.out, dtype, self.tokenizer.as_deref())?;
        done.warnings.iter().for_each(|w| self.common.warn(w));
        outln!("imported {} into {}", self.file.display(), self.out.display());
        let (tensors, parameters, context) = (done.tensors, done.parameters, size_text(done.context));
        outln!("  {}, {tensors} tensors, {parameters} parameters, {context} of context", done.architecture);
        outln!("  tokenizer: {}", done.tokenizer);
        self.json.write(&json!({
            "architecture": done.architecture, "tensors": tensors, "parameters": parameters, "context": done.context,
            "tokenizer": done.tokenizer,
        }))
    }
}
