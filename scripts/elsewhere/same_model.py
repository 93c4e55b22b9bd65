"""same_model.py MODEL_DIR OTHER_DIR: whether two models have the same tensors, bit for bit once widened to f32, and the same scaling."""
import json
import pathlib
import sys

import torch
from safetensors import safe_open


def scaling(model_dir):
    config = json.loads((pathlib.Path(model_dir) / "config.json").read_text())
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    return kind, rope.get("factor"), rope.get("original_max_position_embeddings")


def main(*dirs):
    models = [safe_open(pathlib.Path(d) / "model.safetensors", "pt") for d in dirs]
    names = sorted(set(models[0].keys()) | set(models[1].keys()))

    def same(name):
        if any(name not in m.keys() for m in models):
            return False
        one, other = (m.get_tensor(name).float() for m in models)
        return one.shape == other.shape and torch.equal(one.view(torch.int32), other.view(torch.int32))

    different = [name for name in names if not same(name)]
    scalings = [scaling(d) for d in dirs]
    print(f"read back from GGUF: {len(names) - len(different)} of {len(names)} tensors bit for bit; scaling", *scalings[1])
    if different or scalings[0] != scalings[1]:
        sys.exit(f"same_model: tensors that differ: {', '.join(different) or 'none'}; scaling {scalings[0]} became {scalings[1]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
