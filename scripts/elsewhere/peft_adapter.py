"""An adapter in PEFT and here, for scripts/peft-elsewhere.

    peft_adapter.py make BASE_DIR OUT_DIR --rank R --alpha X [--rslora] [--full]
                                                            one with random A and B, as PEFT saves it
    peft_adapter.py compare ADAPTER_DIR...                  a table of errors; exit 1 where one of pose-engine's is above 1e-4

Beside each ADAPTER_DIR, ADAPTER_DIR-merged is what `pose-engine merge` made of it. Errors are relative, ||a - b|| / ||b||,
b being PEFT's.
"""
import argparse
import json
import pathlib
import sys

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from compare_transformers import angles_in_f64, ours, positions_of

BOUND = 1e-4
TOKENS, TARGET = 96, 512
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FULL = ["embed_tokens", "lm_head", "input_layernorm", "post_attention_layernorm", "norm"]
COLUMNS = ["adapter", "logits, f32", "to PEFT in float64", "logits merged, f32", "weights merged, the worst tensor",
           "what the adapter changes"]


@torch.no_grad()
def make(base, out, rank, alpha, rslora, full):
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_pretrained(base.resolve(), dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(
        r=rank, lora_alpha=alpha, use_rslora=rslora, target_modules=PROJECTIONS, modules_to_save=FULL if full else None,
        task_type="CAUSAL_LM"))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(out)


def in_peft(adapter, dtype):
    """The base model as transformers loads it, with the adapter."""
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    # only this program puts the scaling that was trained beside its adapters
    config = AutoConfig.from_pretrained(adapter if (adapter / "config.json").exists() else base)
    model = AutoModelForCausalLM.from_pretrained(base, config=config, dtype=dtype)
    if dtype == torch.float64:
        angles_in_f64(model)
    return PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).to(dtype).eval()


def check_is_whole(model, adapter):
    """What PEFT would save of the model is what the file has, bit by bit."""
    theirs = get_peft_model_state_dict(model, save_embedding_layers=False)
    file = load_file(adapter / "adapter_model.safetensors")
    if wrong := {name for name in theirs.keys() | file.keys()
                 if name not in theirs or name not in file or not torch.equal(theirs[name], file[name])}:
        sys.exit(f"{adapter}: missing, unknown or other in PEFT: {sorted(wrong)}")


@torch.no_grad()
def logits_of(model, ids, positions):
    x = torch.tensor([ids])
    out = model(input_ids=x, position_ids=torch.tensor([positions]), attention_mask=torch.ones_like(x), use_cache=False)
    return out.logits[0].double().numpy()


def relative(x, y):
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


def worst_tensor(theirs, merged):
    file = load_file(merged / "model.safetensors")
    if "lm_head.weight" not in file:
        # tied to the embedding
        file["lm_head.weight"] = file["model.embed_tokens.weight"]
    theirs = theirs.state_dict()
    if file.keys() != theirs.keys():
        sys.exit(f"{merged}: not the tensors of PEFT's merged model: {sorted(file.keys() ^ theirs.keys())}")
    return max(relative(file[name].double().numpy(), theirs[name].double().numpy()) for name in file)


def compare(adapter):
    """The errors of a row, with what the adapter changes in the logits as the last number."""
    model = in_peft(adapter, torch.float32)
    check_is_whole(model, adapter)
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, TOKENS).tolist()
    at = (ids, positions_of(TOKENS, TARGET))
    here, f32, f64 = ours(adapter, *at), logits_of(model, *at), logits_of(in_peft(adapter, torch.float64), *at)
    with model.disable_adapter():
        changed = relative(f32, logits_of(model, *at))
    model = model.merge_and_unload()
    merged = adapter.with_name(f"{adapter.name}-merged")
    return [relative(here, f32), relative(here, f64), relative(ours(merged, *at), logits_of(model, *at)),
            worst_tensor(model, merged), changed]


def table(adapters):
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    wrong = False
    for adapter in adapters:
        *errors, changed = compare(adapter)
        # not above, so that a NaN is wrong too; an adapter that changes nothing would show nothing
        wrong |= not (all(error <= BOUND for error in errors) and changed > 0.1)
        print(f"| {adapter.name} | {' | '.join(f'{error:.1e}' for error in errors)} | {changed:.2f} |", flush=True)
    sys.exit(wrong)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("make")
    p.add_argument("base", type=pathlib.Path)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--rank", type=int, required=True)
    p.add_argument("--alpha", type=float, required=True)
    p.add_argument("--rslora", action="store_true")
    p.add_argument("--full", action="store_true", help=f"{', '.join(FULL)} are trained in full")
    p = commands.add_parser("compare")
    p.add_argument("adapters", type=pathlib.Path, nargs="+")
    a = parser.parse_args()
    if a.command == "make":
        make(a.base, a.out, a.rank, a.alpha, a.rslora, a.full)
    else:
        table(a.adapters)


if __name__ == "__main__":
    main()
