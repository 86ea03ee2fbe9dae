"""The table of a target: base and target first, then a row for each line; for people.

The same cells serve the terminal, the page and Markdown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from fdpg_ref.display import NONE, color_of, number, plus_minus
from lm.features.registry import short_name
from lm.report.terminal import new_table
from lm.run.records import FOUR
from lm.sweep.promises import Check
from lm.sweep.results import Line, Measured, Outcome, mean_of

SHORT = dict(zip(FOUR, ("KL(p‖π)", "KL(π‖p)", "TV", "JS"), strict=True))
SIDES = {"by p": "target_samples", "by π": "policy_samples"}
# Between two columns; and at the two edges of a table.
GAP = 2
NOTE = (
    "Mean over the seeds ± standard error: the larger of the measurement's own and of the spread "
    "between the seeds. z: sampled against exact, in standard errors, where enough is expected."
)
# Cells of base, target and every line, by the column's heading.
Columns = dict[str, list[str]]


def row_labels(outcome: Outcome) -> list[str]:
    """Return the first column: base, target, and what was descended."""
    return ["base a", "target p", *(line.label for line in outcome.lines)]


def groups(outcome: Outcome) -> dict[str, Columns]:
    """Return all columns of a target's table, in groups that belong together.

    Parameters
    ----------
    outcome
        The runs toward one target.

    Returns
    -------
    dict
        Alignment, divergences, diversity, health of the estimates, descent.
    """
    target, first = outcome.description, outcome.lines[0]

    def column(quantity: str, given: str = NONE, start: str = "") -> list[str]:
        if quantity not in first.evaluations[0]["estimates"]:
            return [NONE, given, *[NONE] * len(outcome.lines)]
        base = start or plus_minus(*first.start(quantity))
        return [base, given, *(plus_minus(*line.end(quantity)) for line in outcome.lines)]

    def by_line(cell: Callable[[Line], str]) -> list[str]:
        return [NONE, NONE, *map(cell, outcome.lines)]

    alignment: Columns = {}
    for row in target["features"]:
        alignment |= _moments(outcome, row)
    distances = {SHORT[name]: column(name, "0") for name in FOUR}
    from_base = column("kl_policy_base", plus_minus(*first.start("kl_target_base")), "0")

    # The standard error of log Z is the relative error of Z.
    z, *zs = _by(outcome, "log_z", "sampled")
    weights = {
        "ESS\nshare": column("ess_share", "1"),
        "Ẑ": [number(math.exp(log.value)) for log in (z, Measured(target["log_z"]), *zs)],
        "error\nof Ẑ": [f"{z.error:.1%}", NONE, *(f"{log.error:.1%}" for log in zs)],
        "largest\nsample": column("largest_share"),
    }
    sides: Columns = {}
    for name in FOUR:
        for side, estimator in SIDES.items():
            if any(estimator in found for found in outcome.estimates(name)):
                base, *ends = (plus_minus(*pair) for pair in _by(outcome, name, estimator))
                sides[f"{SHORT[name]}\n{side}"] = [base, NONE, *ends]
    if sides:
        sides["unseen\nof p"] = column("unseen_share", NONE)

    return {
        "alignment": alignment,
        "divergence to p, and KL from a (nats; TV has no unit)": distances | {"KL(π‖a)": from_base},
        **({"from both sides: samples of p, samples of π alone": sides} if sides else {}),
        "diversity": {
            "entropy\n(nats)": column("entropy", plus_minus(*outcome.target_entropy)),
            "distinct\nshare": column("distinct_share"),
        },
        "importance weights p/π (in row p: Z in use)": weights,
        "descent": {
            "left of\nits own": by_line(_left),
            "samples\nto half": by_line(lambda line: _half(line.samples_to_half)),
            "seconds\nto half": by_line(lambda line: _half(line.seconds_to_half)),
            "steps\nper s": by_line(lambda line: number(line.steps_per_second)),
        },
    }


def terminal_tables(outcome: Outcome, width: int) -> Iterator[Table]:
    """Yield the table of a target, in as many parts as the width of a line makes necessary."""
    labels, parts, room = row_labels(outcome), [], 0
    for name, columns in groups(outcome).items():
        for heading, cells in columns.items():
            needed = max(map(cell_len, (*heading.split("\n"), *cells))) + GAP
            if needed > room:
                parts.append([])
                room = width - 2 * GAP - max(map(cell_len, labels))
            parts[-1].append((name, heading, cells))
            room -= needed

    styles = ["bold", "bold", *(color_of(line.divergence) for line in outcome.lines)]
    for part in parts:
        table = new_table("; ".join(dict.fromkeys(name for name, *_ in part)))
        table.add_column(no_wrap=True)
        for _, heading, _ in part:
            table.add_column(Text(heading), justify="right", no_wrap=True)
        for row, (label, style) in enumerate(zip(labels, styles, strict=True)):
            texts = [Text(cells[row]) for *_, cells in part]
            table.add_row(Text(label, style=style), *texts, end_section=row == 1)
        yield table


def check_table(checks: Sequence[Check]) -> Table:
    """Return what must hold, with the verdicts."""
    table = new_table("What must hold")
    for heading in ("", "statement", "measured"):
        table.add_column(heading)
    for check in checks:
        mark = Text("pass", style="bold green") if check.passed else Text("FAIL", style="bold red")
        table.add_row(mark, Text(check.statement), Text(check.detail))
    return table


def markdown_table(outcome: Outcome) -> str:
    """Return the table of a target as Markdown."""
    columns = {"": row_labels(outcome)}
    for group in groups(outcome).values():
        columns |= group
    heads = [heading.replace("\n", " ").replace("|", "\\|") for heading in columns]
    lines = [heads, ["---"] * len(heads), *zip(*columns.values(), strict=True)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _moments(outcome: Outcome, row: dict[str, Any]) -> Columns:
    """Return exact and sampled expectation of a feature, and how far the two are apart."""
    quantity, name = f"feature/{row['feature']}", f"E[{short_name(row['feature'])}]"
    entries = outcome.estimates(quantity)
    found: Columns = {}
    targets = {"exact": number(row["target"], 4), "sampled": NONE}
    for estimator, target in targets.items():
        if estimator in entries[0]:
            base, *ends = (plus_minus(*pair) for pair in _by(outcome, quantity, estimator))
            found[f"{name}\n{estimator}"] = [base, target, *ends]
    zs = [entry["sampled"].get("z", math.nan) for entry in entries]
    if not all(map(math.isnan, zs)):
        base, *ends = (NONE if math.isnan(z) else f"{z:+.1f}" for z in zs)
        found[f"{name}\nz"] = [base, NONE, *ends]
    return found


def _by(outcome: Outcome, quantity: str, estimator: str) -> list[Measured]:
    """Return a quantity of the base and at the end of each line, by one estimator."""
    entries = [found.get(estimator, {}) for found in outcome.estimates(quantity)]
    keys = ("value", "standard_error")
    return [Measured(*(entry.get(key, math.nan) for key in keys)) for entry in entries]


def _left(line: Line) -> str:
    return f"{line.end(line.divergence).value / line.start(line.divergence).value:.0%}"


def _half(drawn: Sequence[float]) -> str:
    missed = sum(map(math.isinf, drawn))
    if missed:
        return "never" if missed == len(drawn) else f"{len(drawn) - missed} of {len(drawn)} runs"
    mean = mean_of([Measured(value) for value in drawn])
    # One run says nothing of its own spread.
    return plus_minus(mean.value, mean.error or math.nan)
