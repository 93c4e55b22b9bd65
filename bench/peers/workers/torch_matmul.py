"""Matrix products by PyTorch, into memory that is there already.

A product is LAYOUT:WEIGHT:OUTPUTSxINPUTS: nt is y = x·wᵀ, nn is dx = dy·w, tn is dw = dyᵀ·x, for 2048 tokens.
"""
import torch
import torch_common

TOKENS = 2048
DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


def operands(layout, outputs, inputs):
    """Two of x [tokens, inputs], dy [tokens, outputs] and w [outputs, inputs], and how a product views them."""
    x, dy = torch_common.uniform(TOKENS, inputs), torch_common.uniform(TOKENS, outputs)
    w = torch_common.uniform(outputs, inputs)
    return {
        "nt": (x, w, lambda x, w: (x, w.t())),
        "nn": (dy, w, lambda dy, w: (dy, w)),
        "tn": (dy, x, lambda dy, x: (dy.t(), x)),
    }[layout]


def gflops(layout, outputs, inputs, dtype, repeats):
    first, second, views = operands(layout, outputs, inputs)
    a, b = views(first.to(dtype), second.to(dtype))
    out = torch.empty(a.shape[0], b.shape[1], dtype=dtype)
    return 2 * TOKENS * outputs * inputs / torch_common.seconds(lambda: torch.mm(a, b, out=out), repeats) / 1e9


@torch.no_grad()
def main():
    p = torch_common.parser(__doc__)
    p.add_argument("--repeats", type=int, required=True)
    p.add_argument("products", nargs="+")
    args = torch_common.parse(p)
    figures = {}
    for product in args.products:
        layout, weight, size = product.split(":")
        outputs, inputs = map(int, size.split("x"))
        for name, dtype in DTYPES.items():
            figures[f"{name} {layout} {weight} {outputs} x {inputs}"] = gflops(layout, outputs, inputs, dtype, args.repeats)
    torch_common.report(figures)


if __name__ == "__main__":
    main()
