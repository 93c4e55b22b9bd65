"""Multiple-choice questions in the fields of seven data sets, cut from a text: OUT_DIR/FORMAT.jsonl for each.

The right answer is what follows in the text, the wrong ones are from elsewhere in it, so a language model is better than
chance at them. Spaces, brackets and capitals are as untidy as in the data sets, whose formats clean some of it.

    python3 make_questions.py TEXT QUESTIONS OUT_DIR
"""

import json
import pathlib
import random
import re
import sys


def main(text: str, questions: int, out: pathlib.Path) -> None:
    random.seed(1)
    sentences = [s for s in re.split(r"(?<=[.!?])\s+", " ".join(text.split())) if 8 <= len(s.split()) <= 40]
    for name, line in FORMATS.items():
        lines = [line(i, sentences) for i in range(questions)]
        (out / f"{name}.jsonl").write_text("".join(json.dumps(fields) + "\n" for fields in lines))


def endings(sentences: list[str], wrong: int) -> tuple[str, list[str], int]:
    """The beginning of a sentence, several ends, and which of these is its own."""
    whole, *others = random.sample(sentences, wrong + 1)
    halves = [(words[: len(words) // 2], words[len(words) // 2 :]) for words in map(str.split, [whole, *others])]
    ends = [" ".join(end) for _, end in halves]
    right = random.randrange(wrong + 1)
    ends[0], ends[right] = ends[right], ends[0]
    return " ".join(halves[0][0]), ends, right


def boolq(_: int, sentences: list[str]) -> dict:
    passage = " ".join(random.sample(sentences, 3))
    asked = random.choice(sentences).rstrip(".!?").lower()
    return {"passage": passage, "question": f"does it say that {asked}", "label": random.randrange(2)}


def piqa(_: int, sentences: list[str]) -> dict:
    goal, ends, right = endings(sentences, 1)
    return {"goal": goal, "sol1": ends[0], "sol2": ends[1], "label": right}


def winogrande(_: int, sentences: list[str]) -> dict:
    sentence = random.choice(sentences)
    words = sentence.split()
    at = random.randrange(1, len(words) - 1)
    other = random.choice(random.choice(sentences).split())
    names = [words[at], other]
    right = random.randrange(2)
    names[0], names[right] = names[right], names[0]
    gap = " ".join([*words[:at], "_", *words[at + 1 :]])
    return {"sentence": gap.replace("__", "_"), "option1": names[0], "option2": names[1], "answer": str(right + 1)}


def truthfulqa(_: int, sentences: list[str]) -> dict:
    start, ends, right = endings(sentences, 4)
    ends[0], ends[right] = ends[right], ends[0]
    one = {"choices": ends, "labels": [1, 0, 0, 0, 0]}
    several = {"choices": ends, "labels": [1, 1, 0, 0, 0]}
    return {"question": f"What follows: {start}?", "mc1_targets": one, "mc2_targets": several}


def arc(i: int, sentences: list[str]) -> dict:
    start, ends, right = endings(sentences, 3)
    names = ["A", "B", "C", "D"] if i % 2 else ["1", "2", "3", "4"]
    return {"question": start, "choices": {"text": ends, "label": names}, "answerKey": names[right]}


def hellaswag(i: int, sentences: list[str]) -> dict:
    start, ends, right = endings(sentences, 3)
    words = start.split()
    marks = ["[header] ", "", "[title]  "]
    ends = [f"{random.choice(['', ' [step] ', '[substeps] '])}{end.replace(',', ' [title]', i % 2)}" for end in ends]
    return {
        "activity_label": random.choice(["Baking cookies", "reading", "Home and Garden"]),
        "ctx_a": marks[i % 3] + " ".join(words[: len(words) // 2]),
        "ctx_b": " ".join(words[len(words) // 2 :]),
        "endings": ends,
        "label": str(right),
    }


FORMATS = {
    "boolq": boolq,
    "piqa": piqa,
    "winogrande": winogrande,
    "truthfulqa-mc1": truthfulqa,
    "truthfulqa-mc2": truthfulqa,
    "arc": arc,
    "hellaswag": hellaswag,
}

if __name__ == "__main__":
    text, questions, out = sys.argv[1:]
    main(pathlib.Path(text).read_text(), int(questions), pathlib.Path(out))
