#!/usr/bin/env python3
"""Makes tests/fixtures: what transformers says about rotary frequencies and about tiny models of every family.

    python3 -m venv .venv && .venv/bin/pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    .venv/bin/python scripts/make_fixtures.py                 # writes tests/fixtures, about 1.5 MB, in some seconds
    .venv/bin/python scripts/make_fixtures.py --check         # writes nothing; fails where the files would differ

The versions above are the ones that made the committed files; the script refuses others unless --any-version is given.
Seeds are fixed and one thread is used, so that two runs give the same numbers. tests/fixtures/README.md says what each
file holds.

Two things are done to transformers, both here in the open:

1. It computes in float64, rotary angles included. Its code of a family names float32 in some places (inverse frequencies,
   angles, RMSNorm, softmax), so a model in double is not a double computation. `Float64Torch` stands in for the `torch`
   module inside the files that do this, and answers float64 when asked for float32, as a tensor's float() does then. No formula
   changes.
2. An explicit all-ones attention mask goes with every call. Without mask and cache, transformers 5.x takes a jump in
   position_ids for the start of another packed document and cuts attention there
   (masking_utils.find_packed_sequence_indices): exactly the attention that PoSE trains.
"""
import argparse, copy, json, math, os, sys, tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers import (GPTJConfig, GPTJForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)
from transformers import modeling_rope_utils
from transformers.models.gptj import modeling_gptj
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

from plain_baichuan import PlainBaichuan, baichuan_config, without_packing

PINNED = {"torch": "2.15.0", "transformers": "5.23.0"}
FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures"


class Float64Torch:
    """The torch module, but float and float32 are float64."""

    float = float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


class in_float64:
    """Within this block the code of transformers has no float32 left."""

    modules = (modeling_rope_utils, modeling_gptj, modeling_llama, modeling_mistral, modeling_qwen2, modeling_qwen3)

    def __enter__(self):
        for module in self.modules:
            module.torch = Float64Torch()
        self.to_float, torch.Tensor.float = torch.Tensor.float, torch.Tensor.double
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *_):
        for module in self.modules:
            module.torch = torch
        torch.Tensor.float = self.to_float
        torch.set_default_dtype(torch.float32)


# ---------------------------------------------------------------------------------------------------------------------
# Rotary frequencies

THETAS_AND_DIMS = [(10000.0, 8), (10000.0, 20), (100000.0, 64), (500000.0, 128)]
ROPE_TYPES = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 2048},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192, "beta_fast": 16.0, "beta_slow": 2.0},
    {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 8192, "truncate": False},
    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096, "attention_factor": 1.25},
    {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 1.0, "mscale_all_dim": 0.707},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
]

# Types whose frequencies depend on the length of what is read: (parameters, max_position_embeddings, lengths).
LENGTHWISE = [
    ({"rope_type": "dynamic", "factor": 1.0}, 2048, [100, 2048, 2049, 8192]),
    ({"rope_type": "dynamic", "factor": 8.0}, 4096, [4096, 32768]),
    ({"rope_type": "longrope", "original_max_position_embeddings": 4096}, 131072, [100, 4096, 4097, 131072]),
    ({"rope_type": "longrope", "original_max_position_embeddings": 8192, "factor": 4.0}, 131072, [8192, 32768]),
    ({"rope_type": "longrope", "original_max_position_embeddings": 4096, "attention_factor": 1.19}, 131072, [5000]),
]


def with_factors(parameters, dim):
    """Longrope's two lists, made up: one factor for each pair."""
    if parameters["rope_type"] != "longrope":
        return parameters
    pairs = range(dim // 2)
    return {**parameters, "short_factor": [1 + i / 64 for i in pairs], "long_factor": [1 + i * i / 16 for i in pairs]}


def frequencies(theta, dim, parameters, positions=131072, length=None):
    """(inverse frequencies, attention factor) as the LLaMA model of transformers would compute them."""
    config = LlamaConfig(
        hidden_size=4 * dim, num_attention_heads=4, head_dim=dim, max_position_embeddings=positions,
        rope_parameters={"rope_theta": theta, **parameters},
    )
    if parameters["rope_type"] == "default":
        inv, attention = modeling_llama.LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        inv, attention = modeling_rope_utils.ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, None, seq_len=length)
    return inv.numpy(), float(attention)


def revised(theta, dim, parameters):
    """YaRN as the PoSE authors' code has it, from what transformers gives: the ramp mask m is read off its blend
    (1-m)*inv/s + m*inv, then wavelengths are blended instead of frequencies: inv / ((1-m)*s + m)."""
    blend, attention = frequencies(theta, dim, parameters)
    inv, _ = frequencies(theta, dim, {"rope_type": "default"})
    s = parameters["factor"]
    m = np.clip((blend - inv / s) / (inv - inv / s), 0.0, 1.0)
    return inv / ((1 - m) * s + m), attention


def rope_fixture():
    cases = []
    for theta, dim in THETAS_AND_DIMS:
        for parameters in ROPE_TYPES:
            with in_float64():
                inv, attention = frequencies(theta, dim, parameters)
            shipped, _ = frequencies(theta, dim, parameters)
            case = {"theta": theta, "dim": dim, "parameters": parameters, "attention_factor": attention}
            case["inv_freq"] = inv.tolist()
            case["inv_freq_f32"] = shipped.astype(np.float64).tolist()
            if parameters["rope_type"] == "yarn":
                with in_float64():
                    case["revised_inv_freq"] = revised(theta, dim, parameters)[0].tolist()
            cases.append(case)
        for parameters, positions, lengths in LENGTHWISE:
            parameters = with_factors(parameters, dim)
            for length in lengths:
                with in_float64():
                    inv, attention = frequencies(theta, dim, parameters, positions, length)
                shipped, _ = frequencies(theta, dim, parameters, positions, length)
                cases.append({"theta": theta, "dim": dim, "parameters": parameters, "attention_factor": attention,
                              "max_position_embeddings": positions, "length": length, "inv_freq": inv.tolist(),
                              "inv_freq_f32": shipped.astype(np.float64).tolist()})
        # NTK is a changed base: transformers has no such type, its numbers are the plain ones at that base.
        factor = 8.0
        changed = theta * factor ** (dim / (dim - 2))
        with in_float64():
            inv, _ = frequencies(changed, dim, {"rope_type": "default"})
        cases.append({"theta": theta, "dim": dim, "parameters": {"rope_type": "ntk", "factor": factor},
                      "attention_factor": 1.0, "inv_freq": inv.tolist(), "changed_theta": changed})
    return {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0], "cases": cases}


# ---------------------------------------------------------------------------------------------------------------------
# Models

COMMON = dict(num_hidden_layers=2, rms_norm_eps=1e-5, max_position_embeddings=131072, bos_token_id=1, eos_token_id=2,
              initializer_range=0.02, hidden_act="silu")


class Tiny:
    """A tiny model: its classes in transformers, its config without rope, and the cases that are computed."""

    def __init__(self, config, model, cases, gradients, common=COMMON, **shape):
        self.config, self.model, self.cases, self.gradients = config, model, cases, gradients
        self.shape = {**common, **shape}

    def hf_config(self, parameters):
        rope = {"rope_parameters": {"rope_theta": 10000.0, **parameters}} if self.config is not GPTJConfig else {}
        return self.config(**self.shape, **rope, use_cache=False)


ALL_CASES = [(scaling, layout) for scaling in ("none", "linear", "yarn", "llama3") for layout in ("plain", "pose")]
# what rope scalings do does not depend on the family
SOME_CASES = [("none", "plain"), ("none", "pose"), ("yarn", "pose")]
# of families whose own code has no scaling
PLAIN_CASES = [("none", "plain"), ("none", "pose")]
MODELS = {
    "llama-tiny": Tiny(
        LlamaConfig, LlamaForCausalLM, ALL_CASES, "yarn/pose", mlp_bias=False, vocab_size=64, hidden_size=32,
        intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True,
        attention_bias=False),
    # heads * head_dim is not the hidden size, three heads share one, the vocabulary is odd
    "llama-tiny-bias": Tiny(
        LlamaConfig, LlamaForCausalLM, ALL_CASES, "yarn/pose", mlp_bias=False, vocab_size=51, hidden_size=24,
        intermediate_size=40, num_attention_heads=3, num_key_value_heads=1, head_dim=20, tie_word_embeddings=False,
        attention_bias=True),
    "qwen2-tiny": Tiny(
        Qwen2Config, Qwen2ForCausalLM, SOME_CASES, "yarn/pose", vocab_size=40, hidden_size=32, intermediate_size=36,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True),
    # heads * head_dim is not the hidden size
    "qwen3-tiny": Tiny(
        Qwen3Config, Qwen3ForCausalLM, SOME_CASES, "yarn/pose", vocab_size=37, hidden_size=24, intermediate_size=36,
        num_attention_heads=3, num_key_value_heads=1, head_dim=12, tie_word_embeddings=False, attention_bias=False),
    # the window is shorter than two of the three chunks, and reaches across both joins
    "mistral-tiny": Tiny(
        MistralConfig, MistralForCausalLM, SOME_CASES, "yarn/pose", vocab_size=40, hidden_size=32, intermediate_size=36,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, tie_word_embeddings=False, sliding_window=5),
    # half of each head is rotated
    "gptj-tiny": Tiny(
        GPTJConfig, GPTJForCausalLM, PLAIN_CASES, "none/pose", common={}, n_layer=2, n_positions=131072, bos_token_id=1,
        eos_token_id=2, vocab_size=40, n_embd=32, n_head=4, rotary_dim=4, n_inner=36),
    "baichuan2-tiny": Tiny(
        baichuan_config, PlainBaichuan, PLAIN_CASES, "none/pose", vocab_size=40, hidden_size=32, intermediate_size=36,
        num_attention_heads=4, tie_word_embeddings=False, model_max_length=131072),
}
SCALINGS = {
    "none": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 16.0},
    "yarn": {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 8192},
    "llama3": {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192},
}
TOKENS = 24
POSITIONS = {
    "plain": list(range(TOKENS)),
    # three chunks; the biases are 0, 41234 and 131048, so that the last token is rotated as 131071
    "pose": [*range(0, 7), *range(7 + 41234, 16 + 41234), *range(16 + 131048, TOKENS + 131048)],
}


def make_weights(tiny, seed):
    """Random weights, larger than a fresh model's, so that attention is far from uniform and logits depend on rotation."""
    generator = torch.Generator().manual_seed(seed)
    model = tiny.model(tiny.hf_config(SCALINGS["none"]))
    scale = {"norm": 0.2, "ln_": 0.2, "bias": 0.3, "q_proj": 0.5, "k_proj": 0.5, "W_pack": 0.4, "embed": 0.8, "wte": 0.8}
    with torch.no_grad():
        for name, p in model.named_parameters():
            std = next((s for key, s in scale.items() if key in name), 0.25)
            mean = 1.0 if ("norm" in name or "ln_" in name) and "bias" not in name else 0.0
            p.copy_(mean + std * torch.randn(p.shape, generator=generator))
    return model


def evaluate(directory, tiny, parameters, ids, positions, targets):
    """Logits [tokens, vocab], the mean loss over the scored targets, and the gradient of every parameter, in float64."""
    with in_float64():
        model = tiny.model(tiny.hf_config(parameters)).double()
        weights = {k: torch.from_numpy(v).double() for k, v in load_file(directory / "model.safetensors").items()}
        missing, unexpected = model.load_state_dict(weights, strict=False)
        tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
        assert set(missing) <= tied and not unexpected, (missing, unexpected)
        model.tie_weights()
        model.set_attn_implementation("eager")
        x = torch.tensor([ids])
        logits = model(input_ids=x, position_ids=torch.tensor([positions]), attention_mask=torch.ones_like(x),
                       use_cache=False).logits[0]
        assert logits.dtype == torch.float64
        rotary = getattr(getattr(model, "model", None), "rotary_emb", None)
        assert rotary is None or rotary.inv_freq.dtype == torch.float64
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(targets), ignore_index=-100)
        loss.backward()
    gradients = {name: p.grad.numpy().copy() for name, p in model.named_parameters()}
    return logits.detach().numpy(), loss.item(), gradients


def check_gradient(directory, tiny, case, gradients, name, index):
    """The gradient that autograd gives, against a central difference of the loss in the same arithmetic."""
    with tempfile.TemporaryDirectory() as work:
        weights = {k: v.astype(np.float64) for k, v in load_file(directory / "model.safetensors").items()}
        losses = []
        for step in (1e-5, -1e-5):
            moved = copy.deepcopy(weights)
            moved[name][index] += step
            save_file(moved, Path(work) / "model.safetensors")
            losses.append(evaluate(Path(work), tiny, *case)[1])
    difference = (losses[0] - losses[1]) / 2e-5
    assert math.isclose(difference, gradients[name][index], rel_tol=1e-5, abs_tol=1e-9), (name, difference)


def model_fixture(out, name, seed):
    tiny, directory = MODELS[name], out / name
    directory.mkdir(parents=True, exist_ok=True)
    make_weights(tiny, seed).save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    vocab = tiny.shape["vocab_size"]
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, vocab, TOKENS).tolist()
    targets = [*ids[1:], -100]
    targets[6] = -100  # the label that crosses the first join of chunks, as an option of ours leaves it out
    arrays, cases = {}, []
    for scaling, layout in tiny.cases:
        key, parameters = f"{scaling}/{layout}", SCALINGS[scaling]
        case = (parameters, ids, POSITIONS[layout], targets)
        logits, loss, gradients = evaluate(directory, tiny, *case)
        arrays[f"{key}/logits"] = logits
        whole, gradients = gradients, without_packing(gradients)
        norms = {n: float(np.sqrt((g**2).sum())) for n, g in gradients.items()}
        cases.append({"key": key, "rope_parameters": {"rope_theta": 10000.0, **parameters}, "positions": layout,
                      "loss": loss, "gradient_norms": norms})
        if key == tiny.gradients:
            arrays.update({f"{key}/gradients/{n}": g for n, g in gradients.items()})
            for part, index in (("q_proj.weight", "W_pack"), (3, 5)), (("embed", "wte"), (ids[4], 2)):
                name = next(n for n in whole if any(key in n for key in part))
                check_gradient(directory, tiny, case, whole, name, index)
    plain = arrays["none/pose/logits"]
    spread = [np.abs(arrays[f"{s}/{p}/logits"] - plain).max() for s, p in tiny.cases if (s, p) != ("none", "pose")]
    assert min(spread) > 0.01, f"scalings or positions hardly change the logits: {spread}"
    save_file(arrays, directory / "expected.safetensors")
    description = {"ids": ids, "targets": targets, "positions": POSITIONS, "full_gradients": tiny.gradients, "cases": cases,
                   "transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
    (directory / "cases.json").write_text(json.dumps(description, indent=1) + "\n")


def build(out):
    out.mkdir(parents=True, exist_ok=True)
    (out / "rope.json").write_text(json.dumps(rope_fixture()) + "\n")
    for seed, name in enumerate(MODELS, start=1):
        model_fixture(out, name, seed)


def same(a, b):
    """Equal, numbers up to what another CPU's order of summation may change."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and a.dtype == b.dtype and np.allclose(a, b, rtol=1e-10, atol=1e-12)
    return math.isclose(a, b, rel_tol=1e-10, abs_tol=1e-12) if isinstance(a, float) else a == b


def differences(ours, committed):
    for path in sorted(p for p in ours.rglob("*") if p.is_file()):
        other = committed / path.relative_to(ours)
        read = load_file if path.suffix == ".safetensors" else lambda p: json.loads(p.read_text())
        if not other.exists() or not same(read(path), read(other)):
            yield str(path.relative_to(ours))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the committed files differ")
    parser.add_argument("--any-version", action="store_true", help="run with other versions than the pinned ones")
    args = parser.parse_args()
    found = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    if found != PINNED and not args.any_version:
        sys.exit(f"this script is pinned to {PINNED}, found {found}; --any-version runs it all the same")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not args.check:
        return build(FIXTURES)
    with tempfile.TemporaryDirectory() as work:
        build(Path(work))
        wrong = list(differences(Path(work), FIXTURES))
    sys.exit(f"these files differ: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
