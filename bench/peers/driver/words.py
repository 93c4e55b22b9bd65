"""A text to train on and to read: any will do, since the time does not depend on what it says."""
import random

WORDS = (
    "the a of and to in he she it was were had said would could time day night house road river hand eye door window "
    "light voice man woman child king ship city mountain letter word story morning evening winter summer old young "
    "long little great dark bright cold warm quiet slowly never always again before after under over between against"
).split()


def make(path, length):
    """Sentences of random words, always the same, of at least `length` bytes."""
    draw = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        written = 0
        while written < length:
            sentence = " ".join(draw.choices(WORDS, k=draw.randint(5, 15))).capitalize() + ". "
            written += file.write(sentence)
