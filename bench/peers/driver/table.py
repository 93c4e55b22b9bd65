"""Outcomes as text."""
from .arithmetic import median, ratios, spread


def work_table(work, outcomes):
    """A title, and a block of lines for each figure: one a contender."""
    blocks = [figure_lines(work, outcomes, figure) for figure in work.figures]
    head = ["", "median", "spread", "ahead of it"]
    lines = aligned([head] + [line for block in blocks for line in block])
    return "\n".join([f"{work.name}: {work.title}", *lines, *failure_lines(outcomes)])


def figure_lines(work, outcomes, figure):
    lines = [[f"{figure.name}, {figure.unit}", "", "", ""]]
    for contender in work.contenders:
        values = outcomes[contender.name].values(figure.name)
        reference = outcomes[contender.against].values(figure.name) if contender.against else None
        lines.append([f"  {contender.name}", *cells(values, reference, contender.against, figure)])
    return lines


def cells(values, reference, against, figure):
    """Median, spread and ratio of one contender; dashes where no round gave the figure."""
    known = [value for value in values if value is not None]
    if not known:
        return ["-", "-", "-"]
    better = ""
    if reference is not None and figure.higher_is_better is not None:
        of_rounds = ratios(reference, values, figure.higher_is_better)
        better = f"{against}: {ratio_text(of_rounds)}" if of_rounds else "-"
    return [number(median(known)), f"{100 * spread(known):.1f}%", better]


def ratio_text(of_rounds):
    """The median of the rounds' ratios, and the smallest and largest of them."""
    middle, low, high = median(of_rounds), min(of_rounds), max(of_rounds)
    return f"{middle:.2f}x ({low:.2f} to {high:.2f})"


def number(value):
    """Four significant digits, never in scientific notation."""
    if value == 0:
        return "0"
    digits = 3
    while digits > 0 and abs(value) >= 10 ** (4 - digits):
        digits -= 1
    return f"{value:.{digits}f}"


def failure_lines(outcomes):
    lines = []
    for name, outcome in outcomes.items():
        failed = [failure for failure in outcome.failures if failure]
        if failed:
            lines.append(f"FAILED in {len(failed)} of {len(outcome.failures)} rounds: {name}: {failed[-1]}")
    return lines


def aligned(rows):
    """The first column to the left, numbers to the right, the last column as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        f"{row[0]:{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip() for row in rows
    ]
