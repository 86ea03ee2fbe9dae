"""The table of a target: base and target first, then one row a divergence.

The same cells serve the terminal and the page. On the terminal the table is one where the window is
wide enough, and is split between groups of columns where it is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from lm.demo.results import Measured, Outcome, mean_over, sampled_over_seeds
from lm.demo.verdicts import Check
from lm.report.figures import COLORS, LABELS
from lm.run.records import FOUR

SHORT = {
    "forward_kl": "KL(p‖π)",
    "reverse_kl": "KL(π‖p)",
    "total_variation": "TV",
    "jensen_shannon": "JS",
}
NONE = "–"
# More decimals than these are of no use to a reader; an error below half of the last is left out.
DECIMALS = 4
NEGLIGIBLE = 0.5e-4
# Between two columns; and at the two edges of a table.
GAP = 2
NOTE = (
    "Mean over the seeds. In brackets: standard error of the last digits, the larger of the "
    "measurement's own and of the spread between the seeds. z: sampled against exact."
)


class Column(NamedTuple):
    """A heading, and one cell for the base, the target and each divergence."""

    heading: str
    cells: tuple[str, ...]

    @property
    def width(self) -> int:
        """Characters that the widest cell needs, and the gap after it."""
        lines = [*self.heading.split("\n"), *self.cells]
        return max(cell_len(line) for line in lines) + GAP


class Group(NamedTuple):
    """Columns that stay together, and what they are about."""

    name: str
    columns: tuple[Column, ...]


def row_labels() -> Column:
    """Return the first column: base, target, and the four divergences."""
    return Column("", ("base a", "target p", *(LABELS[name] for name in FOUR)))


def groups(outcome: Outcome) -> tuple[Group, ...]:
    """Return all columns of a target's table, in groups that belong together.

    Parameters
    ----------
    outcome
        The runs toward one target.

    Returns
    -------
    tuple of Group
        Alignment, divergences, diversity, health of the estimates, speed.
    """
    features = [row["feature"] for row in outcome.description["features"]]
    alignment = [column for name in features for column in _feature_columns(outcome, name)]
    distances = [_column(outcome, SHORT[name], name, "0") for name in FOUR]
    known = concise(outcome.base("kl_target_base"))
    distances.append(_column(outcome, "KL(π‖a)", "kl_policy_base", known, start="0"))
    entropy = concise(outcome.target_entropy())
    diversity = [
        _column(outcome, "entropy\n(nats)", "entropy", entropy),
        _column(outcome, "distinct\nshare", "distinct_share", NONE),
    ]
    return (
        Group("alignment", tuple(alignment)),
        Group("divergence to p, and KL from a (nats; TV has no unit)", tuple(distances)),
        Group("diversity", tuple(diversity)),
        Group("importance weights p/π (in row p: exact Z)", _weight_columns(outcome)),
        Group("speed", _speed_columns(outcome)),
    )


def target_tables(outcome: Outcome, width: int) -> list[Table]:
    """Lay the table of a target out for a terminal.

    Parameters
    ----------
    outcome
        The runs toward one target.
    width
        Characters of a line.

    Returns
    -------
    list of Table
        One, or as many as the width makes necessary.
    """
    labels = row_labels()
    parts: list[list[Group]] = []
    for group in groups(outcome):
        joined = [*parts[-1], group] if parts else [group]
        needed = GAP + labels.width + sum(c.width for part in joined for c in part.columns)
        if parts and needed <= width:
            parts[-1].append(group)
        else:
            parts.append([group])
    return [_rich_table(labels, part) for part in parts]


def hard_table(records: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the table of the hard version of target (i).

    Parameters
    ----------
    records
        Evaluations against the hard target, by label (base, or a key of the divergences).

    Returns
    -------
    Table
        Exact forward KL, total variation and Jensen-Shannon; reverse KL is infinite.
    """
    table = Table(title="The hard version of (i): p = a restricted to names in i. All exact.")
    _plain(table)
    table.add_column("policy, trained on the soft (i)")
    for name in FOUR:
        table.add_column(SHORT[name], justify="right")
    for label, cells in hard_rows(records):
        table.add_row(Text(LABELS.get(label, label), style=COLORS.get(label, "bold")), *cells)
    return table


def hard_rows(records: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return label and exact divergences of each policy against the hard target."""
    rows = []
    for label, record in records.items():
        exact = [float(record["estimates"][name]["exact"]["value"]) for name in FOUR]
        rows.append((label, ["∞" if math.isinf(value) else f"{value:.4f}" for value in exact]))
    return rows


def check_table(checks: Sequence[Check]) -> Table:
    """Return the acceptance lines with their verdicts."""
    table = Table(title="What must hold")
    _plain(table)
    for heading in ("", "statement", "measured"):
        table.add_column(heading)
    for check in checks:
        mark = Text("pass", style="bold green") if check.passed else Text("FAIL", style="bold red")
        table.add_row(mark, Text(check.statement), Text(check.detail))
    return table


def concise(pair: Measured) -> str:
    """Write a value with its error on the last digits: 0.0595(9) is 0.0595 ± 0.0009.

    Parameters
    ----------
    pair
        A value and its standard error; an error below 0.00005 or NaN is left out.

    Returns
    -------
    str
        Two digits of the error where it begins with 1, else one.
    """
    value, error = pair
    if math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞"
    if not error >= NEGLIGIBLE or math.isinf(error):
        return f"{value:.4g}"
    exponent = math.floor(math.log10(error))
    # Two digits of an error that begins with 1: one alone would be off by up to a third.
    decimals = (1 if error / 10**exponent < 1.95 else 0) - exponent
    decimals = min(max(0, decimals), DECIMALS)
    digits = math.ceil(error * 10**decimals - 0.5)
    return f"{value:.{decimals}f}({digits})"


def _feature_columns(outcome: Outcome, feature: str) -> list[Column]:
    row = next(row for row in outcome.description["features"] if row["feature"] == feature)
    quantity = f"feature/{feature}"
    rows = [[run.first for run in outcome.of(FOUR[0])]]
    rows += [[run.last for run in outcome.of(name)] for name in FOUR]
    sampled = [sampled_over_seeds(records, quantity) for records in rows]
    exact = [outcome.base(quantity), *(outcome.trained(name, quantity) for name in FOUR)]
    scores = [
        f"{(one.value - other.value) / one.error:+.1f}" if one.error > 0 else NONE
        for one, other in zip(sampled, exact, strict=True)
    ]
    return [
        Column(f"E[{feature}]\nexact", _with_target(exact, f"{row['target']:.4g}")),
        Column("\nsampled", _with_target(sampled, NONE)),
        Column("\nz", (scores[0], NONE, *scores[1:])),
    ]


def _weight_columns(outcome: Outcome) -> tuple[Column, ...]:
    lasts = [[run.last for run in outcome.of(name)] for name in FOUR]
    rows = [[run.first for run in outcome.of(FOUR[0])], *lasts]
    estimates = [math.exp(sampled_over_seeds(records, "log_z").value) for records in rows]
    errors = [f"{_mean_error(records):.1%}" for records in rows]
    shares = [f"{_largest_share(records):.1%}" for records in rows]
    z = [f"{value:.3f}" for value in estimates]
    return (
        _column(outcome, "ESS\nshare", "ess_share", "1"),
        Column("Ẑ", (z[0], f"{math.exp(outcome.description['log_z']):.3f}", *z[1:])),
        Column("error\nof Ẑ", (errors[0], NONE, *errors[1:])),
        Column("largest\nsample", (shares[0], NONE, *shares[1:])),
    )


def _speed_columns(outcome: Outcome) -> tuple[Column, ...]:
    halves = [_thousands(mean_over(outcome.of(n), lambda run: run.samples_to_half)) for n in FOUR]
    speeds = [f"{mean_over(outcome.of(n), lambda run: run.steps_per_second):.1f}" for n in FOUR]
    return (
        Column("samples\nto half", (NONE, NONE, *halves)),
        Column("steps\nper s", (NONE, NONE, *speeds)),
    )


def _column(
    outcome: Outcome, heading: str, quantity: str, target: str, *, start: str | None = None
) -> Column:
    trained = [concise(outcome.trained(name, quantity)) for name in FOUR]
    base = concise(outcome.base(quantity)) if start is None else start
    return Column(heading, (base, target, *trained))


def _with_target(pairs: Sequence[Measured], target: str) -> tuple[str, ...]:
    base, *trained = map(concise, pairs)
    return (base, target, *trained)


def _mean_error(records: Sequence[Mapping[str, Any]]) -> float:
    entries = [record["estimates"]["log_z"].get("sampled", {}) for record in records]
    return sum(float(entry.get("standard_error", math.nan)) for entry in entries) / len(entries)


def _largest_share(records: Sequence[Mapping[str, Any]]) -> float:
    """Return the largest share that a single sample has in Zhat, over the seeds."""
    entries = [record["estimates"].get("largest_share") for record in records]
    return max(float(entry["sampled"]["value"]) if entry else math.nan for entry in entries)


def _thousands(samples: float) -> str:
    return f"{samples / 1000:.1f}k" if math.isfinite(samples) else "never"


def _rich_table(labels: Column, parts: Sequence[Group]) -> Table:
    table = Table(title="; ".join(group.name for group in parts))
    _plain(table)
    table.add_column(labels.heading, no_wrap=True)
    columns = [column for group in parts for column in group.columns]
    for column in columns:
        table.add_column(Text(column.heading), justify="right", no_wrap=True)
    for number, label in enumerate(labels.cells):
        style = "bold" if number < 2 else COLORS[FOUR[number - 2]]
        cells = [column.cells[number] for column in columns]
        table.add_row(Text(label, style=style), *map(Text, cells), end_section=number == 1)
    return table


def _plain(table: Table) -> None:
    table.box = box.SIMPLE_HEAD
    table.padding = (0, 1, 0, 0)
    table.title_justify = "left"
    table.title_style = "dim"
