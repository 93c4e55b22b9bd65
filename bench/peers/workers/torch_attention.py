"""Causal attention in bf16 by PyTorch's scaled_dot_product_attention: 9 heads of 64.

Layouts: gqa, with 3 key/value heads and enable_gqa; expanded, where keys and values have 9 heads from the start, and the
time to copy them there and to add up their gradients is not counted.
"""
import torch
import torch.nn.functional as F
import torch_common

HEADS, KV_HEADS, HEAD_DIM = 9, 3, 64


def main():
    p = torch_common.parser(__doc__)
    p.add_argument("--tokens", type=int, required=True)
    p.add_argument("--repeats", type=int, required=True)
    p.add_argument("--layout", choices=["gqa", "expanded"], required=True)
    args = torch_common.parse(p)
    gqa = args.layout == "gqa"

    def operand(heads):
        return torch_common.uniform(1, heads, args.tokens, HEAD_DIM).to(torch.bfloat16).requires_grad_()

    q, k, v = operand(HEADS), operand(KV_HEADS if gqa else HEADS), operand(KV_HEADS if gqa else HEADS)
    slope = torch_common.uniform(1, HEADS, args.tokens, HEAD_DIM).to(torch.bfloat16)

    def attention():
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa)

    forward = torch_common.seconds(attention, args.repeats)
    graph = {}
    backward = torch_common.seconds(
        lambda: torch.autograd.grad(graph["o"], (q, k, v), slope), args.repeats, lambda: graph.update(o=attention()),
    )
    operations = 4 * HEADS * HEAD_DIM * args.tokens**2 / 2
    torch_common.report({"forward": operations / forward / 1e9, "backward": 2.5 * operations / backward / 1e9})


if __name__ == "__main__":
    main()
