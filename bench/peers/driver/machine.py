"""What a reader must know of the machine and the versions to make sense of a run."""
import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path

from .setting import LLAMACPP_PYTHON, REPOSITORY, TORCH_PYTHON

FLAGS_OF_INTEREST = ("avx", "amx", "fma", "f16c")


def describe(setting, arguments):
    cpu = cpu_info()
    flags = cpu.get("flags", "").split()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(["bench/peers/run", *arguments]),
        "commit": said("git", "-C", REPOSITORY, "rev-parse", "HEAD"),
        "uncommitted changes": bool(said("git", "-C", REPOSITORY, "status", "--porcelain", "--untracked-files=no")),
        "cpu": cpu.get("model name", platform.processor()),
        "cpu family, model": f"{cpu.get('cpu family')}, {cpu.get('model')}",
        "cpu flags": " ".join(flag for flag in flags if flag.startswith(FLAGS_OF_INTEREST)),
        "cores of this run": len(os.sched_getaffinity(0)),
        "threads": setting.threads,
        "memory, GB": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "load before": os.getloadavg()[0],
        "kernel": platform.release(),
        "rustc": said("rustc", "--version"),
        "compiler of llama.cpp and torch.compile": said("c++", "--version").partition("\n")[0],
        "PyTorch's packages": packages(TORCH_PYTHON),
        "llama.cpp's packages": packages(LLAMACPP_PYTHON),
    }


def cpu_info():
    """The first processor's lines of /proc/cpuinfo."""
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def packages(python):
    return said(python, "-m", "pip", "freeze", "--disable-pip-version-check").splitlines()


def said(*command):
    """What a program printed; nothing where it is not there or fails."""
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
