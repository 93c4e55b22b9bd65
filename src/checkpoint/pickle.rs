//! Pickled weights, as torch saves them: never opened, since opening one can run code; found by their names, so that they can be
//! refused with what to do instead.

use std::path::Path;

/// The adapter that PEFT finds by itself.
pub(super) const ADAPTER: &str = "adapter_model.bin";
/// What a training leaves beside weights under names that weights have too.
const OTHERS: [&str; 5] = ["training_args", "optimizer", "scheduler", "rng_state", "ggml"];

/// Whether transformers finds a file of this name by itself: whole weights, or a shard of them.
fn of_transformers(name: &str) -> bool {
    name.starts_with("pytorch_model") && name.ends_with(".bin")
}

/// The name of a file in `dir` that should be pickled weights, those of a model before those of an adapter.
pub(super) fn found(dir: &Path) -> Option<String> {
    let is_pickle = |name: &String| {
        let end = name.rsplit_once('.').map_or("", |(_, end)| end);
        ["bin", "pt", "pth", "pkl", "pickle", "ckpt"].contains(&end)
            && !OTHERS.iter().any(|other| name.starts_with(other))
    };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned()).filter(is_pickle);
    names.min_by_key(|name| (!of_transformers(name), name == ADAPTER, name.clone()))
}

/// The sentence for a directory with such a file. A command in it goes by names that are known, never by the directory's or the
/// file's own: those may be a stranger's, and the command is there to be copied into a shell.
pub(super) fn refusal(name: &str) -> String {
    let convert = if of_transformers(name) {
        "python -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('.').save_pretrained('.')\""
            .to_string()
    } else {
        let (from, to) = if name == ADAPTER {
            (ADAPTER, "adapter_model.safetensors")
        } else {
            ("FILE", "model.safetensors")
        };
        format!(
            "python -c \"import torch, safetensors.torch as s; w = torch.load('{from}', weights_only=True); \
             s.save_file({{k: v.contiguous().clone() for k, v in w.items()}}, '{to}')\""
        )
    };
    let file = if convert.contains("FILE") { ", with its name for FILE" } else { "" };
    format!(
        "has pickled weights ({name}) and no safetensors; pickles can run code when they are opened and are not read. \
         Convert them where you trust them, in that directory{file}: {convert}"
    )
}
