"""Questions of make_questions.py asked by the LM evaluation harness: its tasks as they are, over the files in OUT_DIR.

Writes OUT_DIR/harness.json: for each format the measures, and each choice's log-likelihood in nats.

    python harness_tasks.py MODEL_DIR OUT_DIR
"""

import json
import os
import pathlib
import sys

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import lm_eval  # noqa: E402
import lm_eval.tasks  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402

TASKS = {
    "boolq": "super_glue/boolq/default",
    "piqa": "piqa/piqa",
    "winogrande": "winogrande/default",
    "truthfulqa-mc1": "truthfulqa/truthfulqa_mc1",
    "truthfulqa-mc2": "truthfulqa/truthfulqa_mc2",
    "arc": "arc/arc_easy",
    "hellaswag": "hellaswag/hellaswag",
}


def main(model: str, out: pathlib.Path) -> None:
    lm = HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=1)
    (out / "harness.json").write_text(json.dumps({name: asked(lm, name, out) for name in TASKS}))


def asked(lm: HFLM, name: str, out: pathlib.Path) -> dict:
    """A task of the harness over our file: its measures, and log p of each choice of each question."""
    questions = dict.fromkeys(["train", "validation", "test"], str(out.resolve() / f"{name}.jsonl"))
    task = {
        "include": str(pathlib.Path(lm_eval.tasks.__file__).parent / f"{TASKS[name]}.yaml"),
        "task": name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": questions},
    }
    file = out / f"{name}.yaml"
    file.write_text(json.dumps(task))
    results = lm_eval.simple_evaluate(model=lm, tasks=[str(file)], num_fewshot=0, bootstrap_iters=0, log_samples=True)
    of_task = results["results"][name]
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    return {
        "measures": {key.split(",")[0]: value for key, value in of_task.items() if key.endswith(",none")},
        "log_likelihoods": [[float(choice[0]) for choice in sample["filtered_resps"]] for sample in samples],
    }


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
