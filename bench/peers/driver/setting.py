"""Where things are, how large the work is, and with how many threads."""
from dataclasses import dataclass
from pathlib import Path

PEERS = Path(__file__).resolve().parent.parent
REPOSITORY = PEERS.parent.parent
WORKERS = PEERS / "workers"
# one for each peer: their requirements need not agree
TORCH_PYTHON = PEERS / ".venv-torch/bin/python"
LLAMACPP_PYTHON = PEERS / ".venv-llamacpp/bin/python"
SETUP_HINT = "run bench/peers/setup"


@dataclass(frozen=True)
class Sizes:
    window: int
    """Tokens of a training step."""
    steps: int
    """Timed in each round, after the warm-up."""
    reading: int
    """Tokens read in one window."""
    attention: int
    """Tokens of attention: one of those that `cargo bench --bench kernels` times."""
    repeats: int
    """Timed calls of a kernel at least."""


REAL = Sizes(window=2048, steps=3, reading=8192, attention=8192, repeats=5)
SMOKE = Sizes(window=128, steps=1, reading=512, attention=2048, repeats=1)


@dataclass(frozen=True)
class Setting:
    sizes: Sizes
    threads: int
    model: Path
    """SmolLM2-135M as a Hugging Face directory."""
    gguf: list[Path]
    """The same model for llama.cpp, once for each type of its weights."""
    text: Path
    """What is trained on and read."""
    scratch: Path
    """For output directories that nobody wants to keep."""
