#!/usr/bin/env python3
"""Hold the logits of a saved model against transformers: same token ids, same (PoSE) positions.

    python3 -m venv .venv && .venv/bin/pip install torch==2.15.0 transformers==5.23.0
    cargo build --release --locked
    .venv/bin/python scripts/compare_transformers.py MODEL_DIR [--text FILE] [--target 32768] [--tokens 384]

Three chunks of a text's tokens (random tokens without --text), the last one ending at position target - 1. pose-engine computes in float32. transformers
computes in float32 and, to tell whose rounding a difference is, in float64 with its rotary angles in float64 too. An
all-ones mask is passed: without mask and cache transformers takes a jump in position_ids for the start of another packed
document and cuts attention there. Errors are relative, ||a - b|| / ||b||. transformers rounds position * frequency to
float32, which alone is worth 1e-4 at positions of tens of thousands; so exit status 1 means that pose-engine is more than
1e-4 from float64, or further from float32 than 1e-4 and float32's own error together explain.
"""
import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = pathlib.Path(__file__).resolve().parent.parent


def positions_of(tokens, target):
    """Chunks start at 0, a third and two thirds; skipping biases 0, half of what there is, all of it."""
    third, room = tokens // 3, target - tokens
    bias = [0] * third + [room // 2] * third + [room] * (tokens - 2 * third)
    return [t + u for t, u in enumerate(bias)]


def ours(model, ids, positions):
    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        (tmp / "ids.json").write_text(json.dumps([ids]))
        (tmp / "positions.json").write_text(json.dumps([positions]))
        engine = shlex.split(os.environ.get("POSE_ENGINE", str(ROOT / "target/release/pose-engine")))
        command = [*engine, "logits", "--model", model, "--dtype", "f32", "--quiet",
                   "--ids", tmp / "ids.json", "--positions", tmp / "positions.json", "--out", tmp / "logits.npy"]
        subprocess.run(command, check=True)
        return np.load(tmp / "logits.npy")[0].astype(np.float64)


def angles_in_f64(model):
    """transformers computes rotary angles in float32 whatever the model's dtype; this gives the exact ones."""
    rotary = model.model.rotary_emb
    inv_freq = rotary.inv_freq.double()

    def forward(x, position_ids, **_):
        angles = position_ids[0].double()[:, None] * inv_freq[None]
        angles = torch.cat([angles, angles], -1)[None]
        return angles.cos() * rotary.attention_scaling, angles.sin() * rotary.attention_scaling

    rotary.forward = forward


@torch.no_grad()
def theirs(model, ids, positions, dtype):
    model, loading = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, output_loading_info=True)
    if wrong := {kind: names for kind, names in loading.items() if names}:
        sys.exit(f"the checkpoint does not fit transformers' model: {wrong}")
    model.eval()
    if dtype == torch.float64 and hasattr(getattr(model, "model", None), "rotary_emb"):
        angles_in_f64(model)  # GPT-J's angles are float32 in any dtype
    x = torch.tensor([ids])
    out = model(input_ids=x, position_ids=torch.tensor([positions]), attention_mask=torch.ones_like(x), use_cache=False)
    return out.logits[0].double().numpy(), model.config.vocab_size


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("model")
    p.add_argument("--target", type=int, default=32768)
    p.add_argument("--tokens", type=int, default=384)
    p.add_argument("--text", help="a text file to take the tokens from")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    vocab = json.loads((pathlib.Path(a.model) / "config.json").read_text())["vocab_size"]
    if a.text:
        text = open(a.text, encoding="utf-8").read()[: 20 * a.tokens]
        ids = AutoTokenizer.from_pretrained(a.model)(text, add_special_tokens=False)["input_ids"][: a.tokens]
    else:
        ids = np.random.default_rng(a.seed).integers(0, vocab, a.tokens).tolist()
    positions = positions_of(a.tokens, a.target)
    engine = ours(a.model, ids, positions)
    f32, _ = theirs(a.model, ids, positions, torch.float32)
    f64, _ = theirs(a.model, ids, positions, torch.float64)

    def relative(x, y):
        return float(np.linalg.norm(x - y) / np.linalg.norm(y))

    error, exact, rounding = relative(engine, f32), relative(engine, f64), relative(f32, f64)
    print(json.dumps({
        "tokens": a.tokens, "largest_position": positions[-1], "pose_engine_to_transformers_f32": error,
        "pose_engine_to_f64": exact, "transformers_f32_to_f64": rounding,
        "largest_difference": float(np.abs(engine - f32).max()),
    }, indent=1))
    sys.exit(0 if exact <= 1e-4 and error <= 1e-4 + rounding else 1)


if __name__ == "__main__":
    main()
