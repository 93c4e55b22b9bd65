"""What is measured: a piece of work, the figures it is judged by, and who does it."""
from dataclasses import dataclass, field
from typing import Callable


class Failure(Exception):
    """A contender could not do its work; the message is one sentence for the table."""


@dataclass(frozen=True)
class Figure:
    name: str
    unit: str
    higher_is_better: bool | None
    """None for what is no contest, such as a loss that should be the same."""


@dataclass(frozen=True)
class Contender:
    name: str
    """What the tables call it."""
    measure: Callable[[], dict]
    """Does the work once; figures by name. Raises Failure."""
    against: str | None = None
    """The contender of the same work that it is held against."""


@dataclass(frozen=True)
class Work:
    name: str
    """For --only."""
    title: str
    figures: list[Figure]
    contenders: list[Contender]


@dataclass
class Outcome:
    """A contender's rounds."""

    rounds: list[dict] = field(default_factory=list)
    """Figures by name; empty where the round failed."""
    failures: list[str | None] = field(default_factory=list)
    """Why a round failed; None where it did not."""

    def values(self, figure):
        """By round, None where there is none."""
        return [figures.get(figure) for figures in self.rounds]


def measure(contender):
    """One round: its figures, or why there are none."""
    try:
        return contender.measure(), None
    except Failure as failure:
        return {}, str(failure)


def run_rounds(work, rounds, say):
    """All contenders in turn, `rounds` times, every second time in reverse; outcomes by contender's name.

    Reversing keeps a machine that slowly warms up or fills from favouring whoever comes first.
    """
    outcomes = {contender.name: Outcome() for contender in work.contenders}
    for number in range(rounds):
        for contender in work.contenders[:: -1 if number % 2 else 1]:
            say(f"{work.name}, round {number + 1} of {rounds}: {contender.name}")
            figures, failure = measure(contender)
            outcome = outcomes[contender.name]
            outcome.rounds.append(figures)
            outcome.failures.append(failure)
            if failure:
                say(f"  failed: {failure}")
    return outcomes
