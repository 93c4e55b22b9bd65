"""A training step of SmolLM2-135M's shape by PyTorch and transformers: forward, backward, clipping, AdamW.

Kinds: f32; bf16, where weights, gradients and moments are bf16 too; amp, f32 weights under autocast to bf16, which is what
pose-engine's bf16 keeps. Random weights and tokens. Positions jump as PoSE's do, under an all-ones mask: without it
transformers takes the jump for the start of another packed document and cuts attention there.
"""
import contextlib
import statistics
import time

import torch
import torch_common
from transformers import LlamaConfig, LlamaForCausalLM

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "amp": torch.float32}
WARM_UP_STEPS = 1
SHAPE = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "max_position_embeddings": 8192,
    "tie_word_embeddings": True, "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "attn_implementation": "sdpa",
}


def inputs(tokens):
    ids = torch.randint(0, SHAPE["vocab_size"], (1, tokens))
    positions = torch.arange(tokens)
    positions[tokens // 3 :] += 20000
    return {
        "input_ids": ids, "labels": ids, "position_ids": positions[None], "attention_mask": torch.ones_like(ids),
        "use_cache": False,
    }


def main():
    p = torch_common.parser(__doc__)
    p.add_argument("--kind", choices=DTYPES, required=True)
    p.add_argument("--compile", action="store_true")
    p.add_argument("--tokens", type=int, required=True)
    p.add_argument("--steps", type=int, required=True)
    args = torch_common.parse(p)
    model = LlamaForCausalLM._from_config(LlamaConfig(**SHAPE), dtype=DTYPES[args.kind]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    run = torch.compile(model) if args.compile else model
    batch = inputs(args.tokens)

    def step():
        with torch.autocast("cpu", torch.bfloat16) if args.kind == "amp" else contextlib.nullcontext():
            loss = run(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    times = []
    for _ in range(WARM_UP_STEPS + args.steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    torch_common.report({"speed": args.tokens / statistics.median(times[WARM_UP_STEPS:])})


if __name__ == "__main__":
    main()
