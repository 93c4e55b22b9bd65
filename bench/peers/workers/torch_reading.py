"""Reading a text in one window by PyTorch and transformers in bf16: the loss of every token.

The head and its loss go over the tokens in chunks, so that 8192 x 49152 logits never exist at once. Half a window goes
before as warm-up; with --compile a whole one, since that is compiled for its length.
"""
import time

import torch
import torch.nn.functional as F
import torch_common
from transformers import AutoModelForCausalLM, AutoTokenizer

CHUNK = 1024


def main():
    p = torch_common.parser(__doc__)
    p.add_argument("--model", required=True)
    p.add_argument("--text", required=True)
    p.add_argument("--tokens", type=int, required=True)
    p.add_argument("--compile", action="store_true")
    args = torch_common.parse(p)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    with open(args.text, encoding="utf-8") as text:
        ids = AutoTokenizer.from_pretrained(args.model)(text.read(), add_special_tokens=False)["input_ids"]
    ids = torch.tensor(ids[: args.tokens])
    body = torch.compile(model.model) if args.compile else model.model

    @torch.no_grad()
    def read(ids):
        hidden = body(input_ids=ids[None], use_cache=False).last_hidden_state[0, :-1]
        chunks = zip(hidden.split(CHUNK), ids[1:].split(CHUNK))
        return sum(F.cross_entropy(model.lm_head(h).float(), target, reduction="sum").item() for h, target in chunks)

    read(ids if args.compile else ids[: len(ids) // 2])
    start = time.perf_counter()
    loss = read(ids)
    elapsed = time.perf_counter() - start
    torch_common.report({"speed": len(ids) / elapsed, "nll": loss / (len(ids) - 1)})


if __name__ == "__main__":
    main()
