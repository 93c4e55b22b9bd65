"""Baichuan2-7B in plain PyTorch, for make_fixtures.py: transformers has no such model. Written from its published config.json and
report (2309.10305): LLaMA's block, q, k and v in one matrix W_pack, rotation of base 10000, and a head whose rows are brought
to unit length. Nothing here is fast, and there is no cache."""
import json
import math
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from torch import nn

LEAST_LENGTH = 1e-12  # of a row of the head


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotate(x, positions, base=10000.0):
    """x [heads, tokens, c]: element i and element i + c/2 are turned by position * base^(-2i/c)."""
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, dtype=x.dtype) / half)
    angle = positions.to(x.dtype)[:, None] * frequency
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, f = c.hidden_size, c.intermediate_size
        linear = lambda outputs, inputs: nn.Linear(inputs, outputs, bias=False)
        self.self_attn, self.mlp = nn.Module(), nn.Module()
        self.self_attn.W_pack, self.self_attn.o_proj = linear(3 * d, d), linear(d, d)
        self.mlp.gate_proj, self.mlp.up_proj, self.mlp.down_proj = linear(f, d), linear(f, d), linear(d, f)
        self.input_layernorm, self.post_attention_layernorm = nn.Module(), nn.Module()
        for norm in (self.input_layernorm, self.post_attention_layernorm):
            norm.weight = nn.Parameter(torch.ones(d))
        self.c = c

    def forward(self, x, positions):
        tokens, heads = x.shape[0], self.c.num_attention_heads
        normed = rms_norm(x, self.input_layernorm.weight, self.c.rms_norm_eps)
        q, k, v = (part.view(tokens, heads, -1).transpose(0, 1) for part in self.self_attn.W_pack(normed).chunk(3, -1))
        q, k = rotate(q, positions), rotate(k, positions)
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        later = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        seen = torch.softmax(scores.masked_fill(later, -math.inf), -1) @ v
        x = x + self.self_attn.o_proj(seen.transpose(0, 1).reshape(tokens, -1))
        normed = rms_norm(x, self.post_attention_layernorm.weight, self.c.rms_norm_eps)
        return x + self.mlp.down_proj(nn.functional.silu(self.mlp.gate_proj(normed)) * self.mlp.up_proj(normed))


class PlainBaichuan(nn.Module):
    """What make_fixtures.py asks of a model of transformers, and no more."""

    def __init__(self, config):
        super().__init__()
        self.config, d, vocab = config, config.hidden_size, config.vocab_size
        self.model, self.lm_head = nn.Module(), nn.Linear(d, vocab, bias=False)
        self.model.embed_tokens = nn.Embedding(vocab, d)
        self.model.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.model.norm = nn.Module()
        self.model.norm.weight = nn.Parameter(torch.ones(d))

    def forward(self, input_ids, position_ids, **_):
        x = self.model.embed_tokens(input_ids[0])
        for layer in self.model.layers:
            x = layer(x, position_ids[0])
        rows = self.lm_head.weight
        rows = rows / rows.norm(dim=-1, keepdim=True).clamp_min(LEAST_LENGTH)
        return SimpleNamespace(logits=(rms_norm(x, self.model.norm.weight, self.config.rms_norm_eps) @ rows.T)[None])

    def save_pretrained(self, directory):
        save_file({name: p.detach().contiguous() for name, p in self.named_parameters()}, directory / "model.safetensors",
                  metadata={"format": "pt"})
        (directory / "config.json").write_text(json.dumps(vars(self.config), indent=2) + "\n")

    def tie_weights(self):
        pass

    def set_attn_implementation(self, _):
        pass


def baichuan_config(**keys):
    """The keys of a config.json; rotation is not among them."""
    assert keys.pop("rope_parameters")["rope_type"] == "default"
    return SimpleNamespace(architectures=["BaichuanForCausalLM"], model_type="baichuan", torch_dtype="float32", **keys)


def without_packing(gradients):
    """W_pack as the three matrices that it holds, one below the other."""
    parts = {}
    for name, gradient in gradients.items():
        if "W_pack" in name:
            thirds = gradient.reshape(3, -1, gradient.shape[-1])
            parts.update({name.replace("W_pack", f"{part}_proj"): third.copy() for part, third in zip("qkv", thirds)})
        else:
            parts[name] = gradient
    return parts
