"""Reading a text in one window by llama.cpp: its prefill, which makes logits of a batch's last token alone.

That leaves out the head for all other tokens, which pose-engine and PyTorch compute: about a fifth of the products.
"""
import argparse
import json
import time

from llama_cpp import Llama

WARM_UP = 64


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--threads", type=int, required=True)
    p.add_argument("--gguf", required=True)
    p.add_argument("--text", required=True)
    p.add_argument("--tokens", type=int, required=True)
    p.add_argument("--flash", action="store_true")
    args = p.parse_args()
    model = Llama(
        args.gguf, n_ctx=args.tokens, n_batch=512, n_threads=args.threads, n_threads_batch=args.threads, verbose=False,
        flash_attn=args.flash,
    )
    with open(args.text, "rb") as text:
        ids = model.tokenize(text.read(), add_bos=False)[: args.tokens]
    model.eval(ids[:WARM_UP])
    model.reset()
    start = time.perf_counter()
    model.eval(ids)
    print(json.dumps({"speed": len(ids) / (time.perf_counter() - start)}))


if __name__ == "__main__":
    main()
