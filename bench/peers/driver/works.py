"""The pieces of work, in the order of the tables."""
from . import peers
from .work import Contender, Figure, Work

SPEED = Figure("speed", "tokens/s", higher_is_better=True)
MEMORY = Figure("memory", "GB resident at the peak", higher_is_better=False)

# The products of a block and of the head: outputs x inputs of each weight.
PRODUCTS = {"q": (576, 576), "k": (192, 576), "up": (1536, 576), "down": (576, 1536), "head": (49152, 576)}
# y = x·wᵀ forward, dx = dy·w, dw = dyᵀ·x
LAYOUTS = ["nt", "nn", "tn"]
DTYPES = ["bf16", "f32"]


def all_works(engine, setting):
    return [
        step(engine, setting),
        attention(engine, setting),
        matmul(engine, setting),
        reading(engine, setting),
        threads(engine, setting),
    ]


def step(engine, setting):
    sizes = setting.sizes

    def ours(dtype):
        flags = ["--train-len", sizes.window, "--target-len", 16 * sizes.window, "--dtype", dtype]
        return Contender(f"pose-engine {dtype}", lambda: engine.train(*flags, steps=sizes.steps))

    def theirs(mode, *flags, against):
        flags = ["--tokens", sizes.window, "--steps", sizes.steps, *flags]
        return Contender(f"PyTorch {mode}", lambda: peers.torch(setting, "torch_step.py", *flags), against)

    contenders = [
        ours("bf16"),
        theirs("bf16", "--kind", "bf16", against="pose-engine bf16"),
        theirs("bf16, compiled", "--kind", "bf16", "--compile", against="pose-engine bf16"),
        theirs("amp", "--kind", "amp", against="pose-engine bf16"),
        theirs("amp, compiled", "--kind", "amp", "--compile", against="pose-engine bf16"),
        ours("f32"),
        theirs("f32", "--kind", "f32", against="pose-engine f32"),
        theirs("f32, compiled", "--kind", "f32", "--compile", against="pose-engine f32"),
    ]
    title = f"training step, SmolLM2-135M's shape, 1 x {sizes.window} tokens"
    return Work("step", title, [SPEED, MEMORY], contenders)


def attention(engine, setting):
    tokens = setting.sizes.attention

    def ours():
        of = engine.bench("attention")
        size = f"{tokens} of {tokens}"
        return {
            "forward": of["bf16", f"attention {size}, 9/3 heads of 64"],
            "backward": of["bf16", f"attention_backward {size}"],
        }

    def theirs(name, layout):
        flags = ["--tokens", tokens, "--repeats", setting.sizes.repeats, "--layout", layout]
        return Contender(name, lambda: peers.torch(setting, "torch_attention.py", *flags), "pose-engine")

    figures = [Figure(name, "GFLOP/s", higher_is_better=True) for name in ["forward", "backward"]]
    contenders = [
        Contender("pose-engine", ours),
        theirs("PyTorch SDPA, enable_gqa", "gqa"),
        theirs("PyTorch SDPA, 9 key/value heads", "expanded"),
    ]
    title = f"causal attention, 9 heads of 64 with 3 key/value heads, {tokens} tokens, bf16"
    return Work("attention", title, figures, contenders)


def product_name(dtype, layout, weight):
    outputs, inputs = PRODUCTS[weight]
    return f"{dtype} {layout} {weight} {outputs} x {inputs}"


def matmul(engine, setting):
    cases = [(layout, weight) for layout in LAYOUTS for weight in PRODUCTS]
    named = [(dtype, layout, weight) for dtype in DTYPES for layout, weight in cases]

    def ours():
        # a name is "matmul_nt q 2048x576x576" or "matmul_nn q"; those of one token are another matter
        rows = {(dtype, *name.split()): gflops for (dtype, name), gflops in engine.bench("matmul").items()}
        of = {key[:3]: gflops for key, gflops in rows.items() if key[-1] != "token"}
        return {product_name(*case): of[case[0], f"matmul_{case[1]}", case[2]] for case in named}

    def theirs():
        products = [":".join([layout, weight, "x".join(map(str, PRODUCTS[weight]))]) for layout, weight in cases]
        return peers.torch(setting, "torch_matmul.py", "--repeats", setting.sizes.repeats, *products)

    figures = [Figure(product_name(*case), "GFLOP/s", higher_is_better=True) for case in named]
    contenders = [Contender("pose-engine", ours), Contender("PyTorch", theirs, "pose-engine")]
    title = "products of 2048 tokens with weights of outputs x inputs: nt is y = x·wᵀ, nn is dx = dy·w, tn is dw = dyᵀ·x"
    return Work("matmul", title, figures, contenders)


def reading(engine, setting):
    tokens = setting.sizes.reading
    common = ["--text", setting.text, "--tokens", tokens]

    def pytorch(name, *flags):
        flags = [*common, "--model", setting.model, *flags]
        return Contender(name, lambda: peers.torch(setting, "torch_reading.py", *flags), "pose-engine bf16")

    def llamacpp(gguf, flash):
        flags = [*common, "--gguf", gguf, *(["--flash"] if flash else [])]
        # SmolLM2-135M-Instruct.Q4_1.gguf
        weights = gguf.stem.rpartition(".")[2]
        name = f"llama.cpp {weights}{', flash_attn' if flash else ''}"
        return Contender(name, lambda: peers.llamacpp(setting, "llamacpp_reading.py", *flags), "pose-engine bf16")

    contenders = [
        Contender("pose-engine bf16", engine.read),
        *(llamacpp(gguf, flash) for gguf in setting.gguf for flash in [False, True]),
        pytorch("PyTorch bf16"),
        pytorch("PyTorch bf16, compiled", "--compile"),
    ]
    # llama.cpp, which is asked for no loss, has none
    nll = Figure("nll", "nats per token", higher_is_better=None)
    title = f"reading {tokens} tokens in one window, SmolLM2-135M"
    return Work("reading", title, [SPEED, MEMORY, nll], contenders)


def threads(engine, setting):
    sizes = setting.sizes

    def ours(dtype, count):
        flags = ["--train-len", sizes.window, "--target-len", 16 * sizes.window, "--dtype", dtype]
        name = f"{dtype}, {count} thread{'s' if count > 1 else ''}"
        against = f"{dtype}, 2 threads" if count == 1 else None
        return Contender(name, lambda: engine.train(*flags, steps=sizes.steps, threads=count), against)

    contenders = [ours(dtype, count) for dtype in DTYPES for count in [2, 1]]
    return Work("threads", f"pose-engine's training step, 1 x {sizes.window} tokens, by threads", [SPEED], contenders)
