"""The table of scripts/tasks-elsewhere, from what both wrote to OUT_DIR; exit 1 where they differ.

    python3 compare_tasks.py OUT_DIR
"""

import json
import pathlib
import sys

NATS = 1e-3


def main(out: pathlib.Path) -> int:
    wrong = 0
    print("| format | choices | log p differs at most by, nats | measure | pose-engine | harness |")
    print("|---|---|---|---|---|---|")
    for name, theirs in json.loads((out / "harness.json").read_text()).items():
        ours = json.loads((out / f"{name}.json").read_text())["results"]
        questions = [question["log_probabilities"] for question in ours["questions"]]
        pairs = list(zip(sum(questions, []), sum(theirs["log_likelihoods"], []), strict=True))
        apart = max(abs(a - b) for a, b in pairs)
        # not below, so that a NaN is wrong too
        wrong += not apart < NATS
        for measure in ["acc", "acc_norm"]:
            # the harness calls mc2's mean acc
            here = ours["mc2" if name == "truthfulqa-mc2" else measure]["mean"]
            if (there := theirs["measures"].get(measure)) is None:
                continue
            wrong += not abs(here - there) < (NATS if name == "truthfulqa-mc2" else 1e-9)
            called = "mc2" if name == "truthfulqa-mc2" else measure
            print(f"| {name} | {len(pairs)} | {apart:.1e} | {called} | {here:.4f} | {there:.4f} |")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
