"""Baichuan2-7B's shape for scripts/families-elsewhere, since transformers has no such model.

    baichuan.py make CONFIG_JSON OUT_DIR                           a model with random weights and the vocabulary of bytes
    baichuan.py compare MODEL_DIR TARGET TOKENS [MODELING_FILE]    its logits at skipped positions, here and there

There is scripts/plain_baichuan.py, a second implementation from the published configuration, in float32 and float64. With
MODELING_FILE it is that file's BaichuanForCausalLM in float32, which must neither miss a tensor nor find one too many.
Prints JSON as compare_transformers.py does.
"""
import importlib
import json
import pathlib
import sys
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from compare_transformers import ours, positions_of
from plain_baichuan import PlainBaichuan

BOUND = 1e-4


def config_of(file):
    return SimpleNamespace(**json.loads(pathlib.Path(file).read_text()))


def make(config, out):
    config = config_of(config)
    config.vocab_size, config.bos_token_id, config.eos_token_id = 264, 256, 257
    # shorter than the target, so that what is saved must say more, and scalings have something to do
    config.max_position_embeddings = config.model_max_length = 64
    torch.manual_seed(7)
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    PlainBaichuan(config).save_pretrained(out)


def plain(model_dir, dtype):
    model = PlainBaichuan(config_of(f"{model_dir}/config.json"))
    model.load_state_dict(load_file(f"{model_dir}/model.safetensors"))
    return model.to(dtype)


def published(model_dir, file):
    file = pathlib.Path(file).resolve()
    # it imports its configuration, which lies beside it, by name
    sys.path.insert(0, str(file.parent))
    cls = importlib.import_module(file.stem).BaichuanForCausalLM
    model, loading = cls.from_pretrained(model_dir, torch_dtype=torch.float32, output_loading_info=True)
    if wrong := {kind: names for kind, names in loading.items() if names}:
        sys.exit(f"the checkpoint does not fit {file.name}'s model: {wrong}")
    return model.eval()


@torch.no_grad()
def compare(model_dir, target, tokens, file=None):
    target, tokens = int(target), int(tokens)
    ids = np.random.default_rng(0).integers(0, config_of(f"{model_dir}/config.json").vocab_size, tokens).tolist()
    positions = positions_of(tokens, target)
    here = ours(model_dir, ids, positions)

    def error(model):
        there = model(input_ids=torch.tensor([ids]), position_ids=torch.tensor([positions]), use_cache=False)
        there = there.logits[0].double().numpy()
        return float(np.linalg.norm(here - there) / np.linalg.norm(there))

    if file:
        errors = {"pose_engine_to_f32": error(published(model_dir, file))}
    else:
        kinds = {"f32": torch.float32, "f64": torch.float64}
        errors = {f"pose_engine_to_{name}": error(plain(model_dir, dtype)) for name, dtype in kinds.items()}
    print(json.dumps({"tokens": tokens, "largest_position": positions[-1], **errors}, indent=1))
    # not above, so that a NaN is wrong too
    sys.exit(0 if all(error <= BOUND for error in errors.values()) else 1)


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    {"make": make, "compare": compare}[command](*arguments)
