"""make_gguf.py MODEL_DIR BASE.gguf OUT.gguf: a LLaMA-architecture model as a GGUF file, weights in the type they have.

Everything but the weights and the positions (tokenizer, shapes) is taken from BASE.gguf. llama.cpp rotates neighbouring
pairs where Hugging Face rotates halves, so the rows of q and k are reordered head by head.
"""
import json
import pathlib
import sys

import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from safetensors import safe_open

NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def name_of(tensor):
    stem = tensor.removesuffix(".weight")
    if stem in WHOLE:
        return WHOLE[stem] + ".weight"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.weight"


def in_pairs(weight, heads):
    """Row h·d + i + half·d/2 becomes row h·d + 2i + half."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def copy_metadata(reader, writer, config):
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    for field in reader.fields.values():
        if field.name.startswith(("GGUF.", "llama.rope.scaling.")) or field.name in (
            "general.architecture", "general.file_type", "general.quantization_version", "llama.context_length"
        ):
            continue
        sub_type = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)
    writer.add_context_length(config["max_position_embeddings"])
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return
    if kind not in ("linear", "yarn"):
        sys.exit(f"make_gguf: rope_type {kind} has no keys in a GGUF file")
    writer.add_string("llama.rope.scaling.type", kind)
    writer.add_float32("llama.rope.scaling.factor", rope["factor"])
    if kind == "yarn":
        writer.add_uint32("llama.rope.scaling.original_context_length", rope["original_max_position_embeddings"])


def main(model_dir, base, out):
    model_dir = pathlib.Path(model_dir)
    config = json.loads((model_dir / "config.json").read_text())
    writer = GGUFWriter(out, "llama")
    copy_metadata(GGUFReader(base), writer, config)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    with safe_open(model_dir / "model.safetensors", "pt") as weights:
        for tensor in weights.keys():
            weight = weights.get_tensor(tensor)
            for projection, count in heads.items():
                if projection in tensor:
                    weight = in_pairs(weight, count)
            name = name_of(tensor)
            if weight.dtype == torch.bfloat16 and weight.dim() == 2:
                data = weight.contiguous().view(torch.uint8).numpy()
                writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType.BF16)
            else:
                writer.add_tensor(name, weight.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
