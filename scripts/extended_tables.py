#!/usr/bin/env python3
"""The tables of docs/results.md, from what scripts/extend-real-model left in OUT_DIR, of as many models as were measured.

    python3 scripts/extended_tables.py OUT_DIR
    python3 scripts/extended_tables.py RESULT.json...     perplexities that eval-ppl left, of models by themselves
"""

import json
import math
import pathlib
import statistics
import sys

MODELS = {
    "before": "before",
    "untrained": "scaled by YaRN, not trained",
    "plain": "plain control, YaRN",
    "full-8k": "full length at 8k, not scaled",
    "pose-yarn": "PoSE to 32k, YaRN",
    "pose-linear": "PoSE to 32k, linear",
}
TRAININGS = [name for name in MODELS if name not in ("before", "untrained")]


def main(out: pathlib.Path) -> None:
    for part in [trainings, cost, perplexity, books, passkey, claims, owed]:
        part(out)


def row(*cells: object) -> None:
    print("|", " | ".join(map(str, cells)), "|")


def heading(*cells: object) -> None:
    print()
    row(*cells)
    row(*["---"] * len(cells))


def size(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)


def trainings(out: pathlib.Path) -> None:
    """The median step is what other work beside the training disturbs least."""
    heading("training", "steps", "tokens", "loss, first 20 steps", "last 20", "median step, s", "tokens/s")
    for name in TRAININGS:
        if not (steps := steps_of(out / name)):
            continue
        loss, seconds = [step["loss"] for step in steps], median_seconds(steps)
        tokens = steps[-1]["tokens"]
        ends = [f"{statistics.mean(part):.3f}" for part in (loss[:20], loss[-20:])]
        row(MODELS[name], len(steps), f"{tokens:,}", *ends, f"{seconds:.1f}", f"{tokens / len(steps) / seconds:.0f}")


def steps_of(training: pathlib.Path) -> list[dict]:
    file = training / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def median_seconds(steps: list[dict]) -> float:
    return statistics.median(step["seconds"] for step in steps)


def cost(out: pathlib.Path) -> None:
    """An example that reaches 32k, by a window of 8k with skips and at full length: steps of one row each, one training after the other."""
    pose, full = (steps_of(out / name) for name in ("cost-pose", "cost-full"))
    if not pose or not full:
        return
    heading("an example that reaches 32k", "s", "of PoSE's", "GiB resident", "of PoSE's")
    memory = [json.loads((out / name / "summary.json").read_text())["peak_bytes"] for name in ("cost-pose", "cost-full")]
    for name, steps, peak in zip(["PoSE, windows of 8k", "full length"], (pose, full), memory):
        seconds = median_seconds(steps)
        row(name, f"{seconds:.1f}", f"{seconds / median_seconds(pose):.2f}x", f"{peak / 2**30:.2f}", f"{peak / memory[0]:.2f}x")


def results(out: pathlib.Path, kind: str) -> dict[str, dict]:
    files = {name: out / f"{kind}-{name}.json" for name in MODELS}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def perplexity(out: pathlib.Path) -> None:
    """Over all scored tokens of all books; +/- is of the mean over books, which are few and differ."""
    measured = results(out, "ppl")
    if not measured:
        return
    windows = [result["window"] for result in next(iter(measured.values()))["results"]]
    heading("perplexity, window", *map(size, windows))
    for name, of_model in measured.items():
        row(MODELS[name], *(f"{result['ppl']:.3f}" for result in of_model["results"]))


def by_themselves(files: list[pathlib.Path]) -> None:
    measured = {file.stem: {r["window"]: r["ppl"] for r in json.loads(file.read_text())["results"]} for file in files}
    windows = sorted(set().union(*measured.values()))
    heading("perplexity, window", *map(size, windows), f"{size(windows[-1])} over 8k")
    for name, ppl in measured.items():
        cells = (f"{ppl[window]:.3f}" if window in ppl else "" for window in windows)
        row(name, *cells, percent(ppl[windows[-1]] / ppl[8192]))


def books(out: pathlib.Path) -> None:
    """Each book by itself, at the longest window and the one that the model was made for."""
    measured = results(out, "ppl")
    if not measured:
        return
    titles = [pathlib.Path(book["name"]).stem for book in next(iter(measured.values()))["results"][0]["documents"]]
    heading("perplexity at 8k → 32k", *titles)
    for name, of_model in measured.items():
        by_window = {result["window"]: [book["ppl"] for book in result["documents"]] for result in of_model["results"]}
        pairs = zip(by_window[8192], by_window[32768])
        # a book of one token has no perplexity
        row(MODELS[name], *("-" if None in pair else "{:.2f} → {:.2f}".format(*pair) for pair in pairs))


def passkey(out: pathlib.Path) -> None:
    measured = results(out, "passkey")
    if not measured:
        return
    lengths = [result["length"] for result in next(iter(measured.values()))["by_length"]]
    heading("passkeys, prompt", *map(size, lengths))
    for name, of_model in measured.items():
        row(MODELS[name], *(retrieved(of_model["trials"], length) for length in lengths))


def retrieved(trials: list[dict], length: int) -> str:
    """Of prompts of a length: the share that is answered with the key; in brackets the key's mean log-probability, and how often it is above
    that of one of the 90000 keys at random."""
    of_length = [trial for trial in trials if trial["length"] == length]
    right = statistics.mean(trial["correct"] for trial in of_length)
    logs = [trial["log_probability"] for trial in of_length]
    return f"{100 * right:.0f}% ({statistics.mean(logs):.1f}; {sum(log > -math.log(90000) for log in logs)})"


def claims(out: pathlib.Path) -> None:
    """What an extended model is judged by, where its models were measured."""
    measured = by_window(out)
    if not {"pose-yarn", "plain"} <= measured.keys():
        return
    pose, plain = measured["pose-yarn"], measured["plain"]
    heading("claim, of PoSE with YaRN", "over all tokens", "book by book", "holds")
    for claim, ours, other, most in [
        ("perplexity at 32k, over its own at 8k", pose[32768], pose[8192], 1),
        ("at 32k, over the plain control's", pose[32768], plain[32768], 1),
        ("at 2k, over the plain control's (at most +3%)", pose[2048], plain[2048], 1.03),
    ]:
        ratio = ours["ppl"] / other["ppl"]
        row(claim, percent(ratio), paired(ours, other), ratio < most)


def by_window(out: pathlib.Path) -> dict[str, dict[int, dict]]:
    return {name: {r["window"]: r for r in of_model["results"]} for name, of_model in results(out, "ppl").items()}


def owed(out: pathlib.Path) -> None:
    """What the domain, the scaling and the skips do within the window that the model was made for, book by book: each training beside the one
    without that."""
    measured = by_window(out)
    if not {"before", "full-8k", "plain", "pose-yarn"} <= measured.keys():
        return
    windows = [2048, 8192]
    heading("perplexity that is owed to", "", *map(size, windows))
    for what, ours, other in [("the novels", "full-8k", "before"), ("the scaling", "plain", "full-8k"), ("the skips", "pose-yarn", "plain")]:
        of = f"{MODELS[ours]}, over {MODELS[other]}"
        row(what, of, *(paired(measured[ours][window], measured[other][window]) for window in windows))


def paired(ours: dict, other: dict) -> str:
    """Mean over books of log ppl less the other's of the same book, and its standard error: books differ, but to both alike."""
    pairs = zip(ours["documents"], other["documents"], strict=True)
    logs = [a["nll"] - b["nll"] for a, b in pairs if a["scored"] and b["scored"]]
    if len(logs) < 2:
        return "-"
    error = statistics.stdev(logs) / math.sqrt(len(logs))
    return f"{percent(math.exp(statistics.mean(logs)))} ± {100 * error:.2f}"


def percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.2f}%" if math.isfinite(ratio) else "?"


if __name__ == "__main__":
    arguments = [pathlib.Path(argument) for argument in sys.argv[1:]]
    if arguments and all(argument.suffix == ".json" for argument in arguments):
        by_themselves(arguments)
    elif len(arguments) == 1:
        main(arguments[0])
    else:
        sys.exit(__doc__)
