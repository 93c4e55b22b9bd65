"""What is computed from the rounds: median, spread, and how many times better one contender did than another."""
from statistics import median

__all__ = ["median", "spread", "ratios"]


def spread(values):
    """(largest - smallest) / median: with three rounds there are no quartiles to speak of."""
    return (max(values) - min(values)) / median(values)


def ratios(reference, values, higher_is_better):
    """How many times better `reference` did, round by round: above 1 the reference is ahead.

    The two lists are indexed by round; None stands for a round that failed, and its pair is left out. Dividing within a
    round, not the medians, cancels what the machine did meanwhile.
    """
    pairs = [(r, v) for r, v in zip(reference, values) if r is not None and v is not None]
    return [r / v if higher_is_better else v / r for r, v in pairs]
