"""llamacpp_nll.py MODEL.gguf OUT_DIR: the mean loss of OUT_DIR/ids.json in one window, by llama.cpp."""
import json
import pathlib
import sys

import numpy as np
from llama_cpp import Llama

BATCH = 512


def main(gguf, out):
    out = pathlib.Path(out)
    ids = json.loads((out / "ids.json").read_text())
    model = Llama(gguf, n_ctx=len(ids), n_batch=BATCH, logits_all=True, verbose=False)
    model.eval(ids)
    loss = 0.0
    for at in range(0, len(ids) - 1, BATCH):
        end = min(at + BATCH, len(ids) - 1)
        logits = model.scores[at:end].astype(np.float64)
        top = logits.max(-1)
        sums = np.log(np.exp(logits - top[:, None]).sum(-1)) + top
        loss += (sums - logits[np.arange(end - at), ids[at + 1 : end + 1]]).sum()
    (out / "llama.cpp.json").write_text(json.dumps({"nll": loss / (len(ids) - 1), "tokens": len(ids)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
