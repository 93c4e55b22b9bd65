"""transformers_nll.py MODEL_DIR TEXT TOKENS OUT_DIR: the mean loss of a text's first tokens in one window, in float32.

Leaves the token ids in OUT_DIR/ids.json for the others.
"""
import json
import pathlib
import sys

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

CHUNK = 1024


def count(text):
    return int(text[:-1]) * 1024 if text.endswith("k") else int(text)


@torch.no_grad()
def main(model_dir, text, tokens, out):
    out = pathlib.Path(out)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="sdpa").eval()
    content = pathlib.Path(text).read_text(encoding="utf-8")
    ids = AutoTokenizer.from_pretrained(model_dir)(content, add_special_tokens=False)["input_ids"][: count(tokens)]
    (out / "ids.json").write_text(json.dumps(ids))
    ids = torch.tensor(ids)
    hidden = model.model(input_ids=ids[None], use_cache=False).last_hidden_state[0, :-1]
    # the head over some tokens at a time: 16k x 49152 logits never exist at once
    chunks = zip(hidden.split(CHUNK), ids[1:].split(CHUNK))
    loss = sum(F.cross_entropy(model.lm_head(h), target, reduction="sum").double().item() for h, target in chunks)
    (out / "transformers.json").write_text(json.dumps({"nll": loss / (len(ids) - 1), "tokens": len(ids)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
