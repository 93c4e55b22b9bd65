"""The peers' side: workers that run in a peer's own virtual environment."""
from .process import json_lines, run
from .setting import LLAMACPP_PYTHON, SETUP_HINT, TORCH_PYTHON, WORKERS
from .work import Failure

GIGA = 1e9


def torch(setting, worker, *flags):
    return work(TORCH_PYTHON, setting, worker, *flags)


def llamacpp(setting, worker, *flags):
    return work(LLAMACPP_PYTHON, setting, worker, *flags)


def work(python, setting, worker, *flags):
    """What the worker printed as its one line of JSON, and its peak of resident memory in GB."""
    if not python.exists():
        raise Failure(f"not installed: {SETUP_HINT}")
    finished = run([python, WORKERS / worker, "--threads", setting.threads, *flags], setting.threads)
    lines = json_lines(finished.output)
    if len(lines) != 1:
        raise Failure(f"{worker} printed {len(lines)} lines of JSON instead of one")
    return {**lines[0], "memory": finished.peak_bytes / GIGA}
