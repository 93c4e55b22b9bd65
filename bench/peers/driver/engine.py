"""pose-engine's side: builds it, runs it, reads what it says."""
import itertools
import json
import shutil
import subprocess

from .arithmetic import median
from .process import json_lines, run
from .setting import REPOSITORY
from .work import Failure

WARM_UP_STEPS = 1
GIGA = 1e9


class Engine:
    def __init__(self, setting):
        self.setting = setting
        self.numbers = itertools.count()

    def build(self):
        """Before anything else is called."""
        self.program, self.kernels = built("pose-engine", "kernels")

    def run(self, threads, command, *flags):
        """Runs a command of pose-engine; its JSON and its peak of resident memory in GB."""
        path = self.setting.scratch / f"{command}-{next(self.numbers)}.json"
        command = [self.program, command, *flags, "--threads", threads, "--device", "cpu", "--quiet", "--json", path]
        cache = {"POSE_CACHE": str(self.setting.scratch / "cache")}
        finished = run(command, threads, cache)
        return json.loads(path.read_text()), finished.peak_bytes / GIGA

    def train(self, *flags, steps, threads=None):
        """Trains a fresh model of SmolLM2-135M's shape, a row a step."""
        out = self.setting.scratch / f"train-{next(self.numbers)}"
        try:
            _, peak = self.run(
                threads or self.setting.threads, "train", "--preset", "smollm2-135m", "--data", self.setting.text,
                "--out", out, "--steps", WARM_UP_STEPS + steps, "--batch", 1, *flags,
            )
            lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        finally:
            shutil.rmtree(out, ignore_errors=True)
        timed = lines[WARM_UP_STEPS:]
        return {
            "speed": median([line["tokens_per_second"] for line in timed]),
            "memory": peak,
        }

    def read(self):
        """Reads the text in one window, with the loss of every token."""
        tokens = self.setting.sizes.reading
        result, peak = self.run(
            self.setting.threads, "eval-ppl", "--model", self.setting.model, "--data", self.setting.text,
            "--windows", tokens, "--tokens", tokens, "--mode", "truncate", "--bos", "off",
        )
        report = result["results"][0]
        return {"speed": report["tokens"] / report["seconds"], "memory": peak, "nll": report["nll"]}

    def bench(self, group):
        """GFLOP/s by (dtype, name) of the kernels of a group at SmolLM2-135M's shapes."""
        command = [self.kernels, "--bench", group, "--shape", "SmolLM2", "--threads", self.setting.threads, "--json"]
        rows = json_lines(run(command, self.setting.threads).output)
        return {(row["dtype"], row["name"]): row["gflops"] for row in rows if "name" in row}


def built(program, bench):
    """Builds both in one go and returns the paths of the executables, which cargo alone knows."""
    command = ["cargo", "build", "--release", "--locked", "--bin", program, "--bench", bench]
    messages = [*command, "--message-format", "json-render-diagnostics"]
    try:
        done = subprocess.run(messages, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    except OSError as problem:
        raise Failure(f"cargo: {problem.strerror}") from problem
    artifacts = [message for message in json_lines(done.stdout) if message.get("executable")]
    paths = {artifact["target"]["name"]: artifact["executable"] for artifact in artifacts}
    if done.returncode != 0 or not {program, bench} <= paths.keys():
        raise Failure(f"`{' '.join(command)}` failed")
    return paths[program], paths[bench]
