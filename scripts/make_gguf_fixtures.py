#!/usr/bin/env python3
"""Makes tests/fixtures/gguf: small GGUF files, and what the Python package gguf and the tokenizers' own libraries say of them.

    python3 -m venv .venv && .venv/bin/pip install gguf==0.19.0 numpy==2.4.6 tokenizers==0.23.3 sentencepiece==0.2.3
    .venv/bin/python scripts/make_gguf_fixtures.py            # writes tests/fixtures/gguf in a second or two

llama.gguf   LLaMA, every format that is imported, SentencePiece tokenizer, the rope factors of Llama 3.1
qwen2.gguf   Qwen2 with its biases and a tied head, byte-level BPE, YaRN
Each has a .json beside it: for each tensor of the checkpoint its shape and the CRC-32 of its numbers as little-endian f32,
in the order of transformers; and texts with their token ids.

Quantised tensors are random blocks: every bit pattern is a valid block, only the halves (scales and minima) are drawn as numbers,
since random bits would be NaN now and then.
"""
import json, zlib
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
import tokenizers
from gguf import GGMLQuantizationType as Q
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

OUT = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "gguf"

# Where the halves of a block are, in bytes.
HALVES = {Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0], Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208]}

TEXT = """The grass is green and the sky is blue. In 2026 the 17th ship left the harbour; nobody knew its name.
"Where to?" asked the captain. 'That's what I'd like to know,' said the mate, and they'll never tell.
Größe, naïve, café: words with marks. Emoji too: \U0001F600 and 漢字.

	Tabs, and    many    spaces.   12345 67 8
"""
PROBES = ["", " ", "the", " the grass", "The sky is 12345 blue?", "a\n\n b\t c", "naïve café Größe", "e\u0301 combining",
          "\U0001F600漢字ω", "they'll I'D  like   that's", "<s>the</s>", "<|im_start|>user\nhi<|im_end|>", "x" * 40, " leading and trailing "]


def random_blocks(rng, format, rows, columns):
    """Bytes of a quantised matrix, [rows, bytes]."""
    numbers, size = gguf.GGML_QUANT_SIZES[format]
    blocks = rng.integers(0, 256, (rows * columns // numbers, size), dtype=np.uint8)
    for at in HALVES[format]:
        blocks[:, at : at + 2] = rng.normal(0, 0.02, (len(blocks), 1)).astype(np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def tensor(rng, format, shape):
    """(what goes into the file, its numbers as f32)."""
    if format == Q.F32:
        data = rng.normal(0, 0.5, shape).astype(np.float32)
        return data, data
    if format == Q.F16:
        data = rng.normal(0, 0.5, shape).astype(np.float16)
        return data, data.astype(np.float32)
    if format == Q.BF16:
        data = gguf.quantize(rng.normal(0, 0.5, shape).astype(np.float32), format)
        return data, gguf.dequantize(data, format)
    data = random_blocks(rng, format, *shape)
    return data, gguf.dequantize(data, format)


def to_halves(values, heads):
    """Rows of each head from pairs side by side to first elements and then second ones."""
    rows = len(values)
    return values.reshape(heads, rows // heads // 2, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


class File:
    def __init__(self, name, architecture, rng):
        self.name, self.rng, self.expected = name, rng, {}
        self.writer = gguf.GGUFWriter(str(OUT / f"{name}.gguf"), architecture)

    def add(self, name, hf_name, format, shape, heads=None):
        data, numbers = tensor(self.rng, format, shape)
        self.writer.add_tensor(name, data, raw_dtype=format)
        if heads:
            numbers = to_halves(numbers, heads)
        numbers = np.ascontiguousarray(numbers, dtype="<f4")
        self.expected[hf_name] = {"shape": list(numbers.shape), "crc32": zlib.crc32(numbers.tobytes()),
                                  "first": [float(x) for x in numbers.ravel()[:2]]}

    def done(self, texts):
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()
        made = {"tensors": self.expected, "texts": texts, "gguf": "0.19.0"}
        (OUT / f"{self.name}.json").write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n")


def llama():
    rng = np.random.default_rng(1)
    model = OUT / "spm"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines() * 4), model_prefix=str(model), vocab_size=380, model_type="bpe",
        byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False,
        num_threads=1, minloglevel=2, user_defined_symbols=["<|im_start|>", "<|im_end|>"])
    spm = sentencepiece.SentencePieceProcessor(model_file=f"{model}.model")
    for suffix in ("model", "vocab"):
        Path(f"{model}.{suffix}").unlink()
    vocab = spm.vocab_size()
    hidden, heads, kv_heads, head_dim, ffn = 256, 4, 2, 16, 64
    f = File("llama", "llama", rng)
    w = f.writer
    w.add_block_count(2); w.add_context_length(131072); w.add_embedding_length(hidden); w.add_feed_forward_length(ffn)
    w.add_head_count(heads); w.add_head_count_kv(kv_heads); w.add_key_length(head_dim); w.add_value_length(head_dim)
    w.add_rope_dimension_count(head_dim); w.add_rope_freq_base(500000.0); w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(vocab)

    def kind(i):
        tests = [(spm.is_unknown, gguf.TokenType.UNKNOWN), (spm.is_control, gguf.TokenType.CONTROL), (spm.is_byte, gguf.TokenType.BYTE)]
        if spm.id_to_piece(i) in ("<|im_start|>", "<|im_end|>"):
            return gguf.TokenType.USER_DEFINED
        return next((t for test, t in tests if test(i)), gguf.TokenType.NORMAL)

    w.add_tokenizer_model("llama"); w.add_tokenizer_pre("default")
    w.add_token_list([spm.id_to_piece(i) for i in range(vocab)])
    w.add_token_scores([spm.get_score(i) for i in range(vocab)])
    w.add_token_types([kind(i) for i in range(vocab)])
    w.add_bos_token_id(1); w.add_eos_token_id(2); w.add_unk_token_id(0); w.add_add_bos_token(True)
    # Llama 3.1's factors, as its converter computes them
    inv = 500000.0 ** -(np.arange(0, head_dim, 2) / head_dim)
    wavelength, low, high = 2 * np.pi / inv, 8192 / 1.0, 8192 / 4.0
    smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
    factors = np.where(wavelength < high, 1.0, np.where(wavelength > low, 8.0, 1 / ((1 - smooth) / 8.0 + smooth)))
    w.add_tensor("rope_freqs.weight", factors.astype(np.float32))
    f.add("token_embd.weight", "model.embed_tokens.weight", Q.Q4_K, (vocab, hidden))
    formats = iter([Q.Q4_K, Q.Q5_K, Q.Q6_K, Q.Q4_0, Q.Q8_0, Q.Q5_0, Q.Q4_1, Q.Q5_1, Q.F16, Q.BF16, Q.Q5_1, Q.Q6_K, Q.Q4_K, Q.F32])
    for layer in range(2):
        ours, theirs = f"model.layers.{layer}", f"blk.{layer}"
        f.add(f"{theirs}.attn_norm.weight", f"{ours}.input_layernorm.weight", Q.F32, (hidden,))
        f.add(f"{theirs}.attn_q.weight", f"{ours}.self_attn.q_proj.weight", next(formats), (heads * head_dim, hidden), heads)
        f.add(f"{theirs}.attn_k.weight", f"{ours}.self_attn.k_proj.weight", next(formats), (kv_heads * head_dim, hidden), kv_heads)
        f.add(f"{theirs}.attn_v.weight", f"{ours}.self_attn.v_proj.weight", next(formats), (kv_heads * head_dim, hidden))
        f.add(f"{theirs}.attn_output.weight", f"{ours}.self_attn.o_proj.weight", next(formats), (hidden, heads * head_dim))
        f.add(f"{theirs}.ffn_norm.weight", f"{ours}.post_attention_layernorm.weight", Q.F32, (hidden,))
        f.add(f"{theirs}.ffn_gate.weight", f"{ours}.mlp.gate_proj.weight", next(formats), (ffn, hidden))
        f.add(f"{theirs}.ffn_up.weight", f"{ours}.mlp.up_proj.weight", next(formats), (ffn, hidden))
        f.add(f"{theirs}.ffn_down.weight", f"{ours}.mlp.down_proj.weight", next(formats), (hidden, ffn))
    f.add("output_norm.weight", "model.norm.weight", Q.F32, (hidden,))
    f.add("output.weight", "lm_head.weight", Q.Q4_0, (vocab, hidden))
    # special tokens in a text are recognised here, and not by SentencePiece itself
    plain = [text for text in [*PROBES, *TEXT.splitlines()] if "<" not in text and text]
    f.done({text: spm.encode(text) for text in plain})


QWEN_2_WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def qwen2():
    rng = np.random.default_rng(2)
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_2_WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe.train_from_iterator(TEXT.splitlines(keepends=True), trainers.BpeTrainer(
        vocab_size=340, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    made = json.loads(bpe.to_str())["model"]
    vocab = sorted(made["vocab"], key=made["vocab"].get)
    padded = len(vocab) + 4  # the embedding has spare rows, as Qwen2's does
    hidden, heads, kv_heads, ffn = 64, 4, 2, 96
    f = File("qwen2", "qwen2", rng)
    w = f.writer
    w.add_block_count(1); w.add_context_length(32768); w.add_embedding_length(hidden); w.add_feed_forward_length(ffn)
    w.add_head_count(heads); w.add_head_count_kv(kv_heads); w.add_rope_freq_base(1000000.0); w.add_layer_norm_rms_eps(1e-6)
    w.add_rope_scaling_type(gguf.RopeScalingType.YARN); w.add_rope_scaling_factor(4.0); w.add_rope_scaling_orig_ctx_len(8192)
    w.add_tokenizer_model("gpt2"); w.add_tokenizer_pre("qwen2")
    w.add_token_list(vocab)
    w.add_token_types([gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in vocab])
    w.add_token_merges([" ".join(pair) for pair in made["merges"]])
    w.add_eos_token_id(2); w.add_pad_token_id(0); w.add_add_bos_token(False)
    w.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    f.add("token_embd.weight", "model.embed_tokens.weight", Q.Q8_0, (padded, hidden))
    f.add("blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight", Q.F32, (hidden,))
    head_dim = hidden // heads
    for ours, name, rows, format in [("attn_q", "q_proj", heads * head_dim, Q.Q4_0), ("attn_k", "k_proj", kv_heads * head_dim, Q.Q8_0),
                                     ("attn_v", "v_proj", kv_heads * head_dim, Q.F16)]:
        f.add(f"blk.0.{ours}.weight", f"model.layers.0.self_attn.{name}.weight", format, (rows, hidden))
        f.add(f"blk.0.{ours}.bias", f"model.layers.0.self_attn.{name}.bias", Q.F32, (rows,))
    f.add("blk.0.attn_output.weight", "model.layers.0.self_attn.o_proj.weight", Q.Q5_0, (hidden, heads * head_dim))
    f.add("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight", Q.F32, (hidden,))
    f.add("blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj.weight", Q.Q4_1, (ffn, hidden))
    f.add("blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight", Q.Q5_1, (ffn, hidden))
    f.add("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight", Q.BF16, (hidden, ffn))
    f.add("output_norm.weight", "model.norm.weight", Q.F32, (hidden,))
    f.done({text: bpe.encode(text, add_special_tokens=False).ids for text in [*PROBES, TEXT]})


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    llama()
    qwen2()
