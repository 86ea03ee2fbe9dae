"""Choose learning rates from the pilot: ``python -m study rates``.

Every kind of task, method and size gets the rate whose runs end lowest on their own measure, by the
geometric mean over pilot tasks and seeds. Runs of the pilot are used for nothing else.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from fdpg_ref.display import NONE, number
from study.names import DEFAULT, GROUP_LABELS, REINFORCEMENT, label_of, method_order, size_order
from study.tables.cubes import FLOOR, OWN, runs_of
from study.tables.stored import Frame, StudyError, Table
from study.text import markdown_table

# Whose rate the objectives without a measure of their own take.
LENDER = "reverse_kl"
COMMAND = "python -m study rates"
RateKey = tuple[str, str, str, float]


class Tried(NamedTuple):
    """One learning rate that was tried: the geometric mean of the own measures it ended at.

    Attributes
    ----------
    group, method, size
        What it was tried on.
    rate
        The learning rate.
    score
        Infinite where a run failed or diverged, and where the rates share no run.
    runs
        How many the score is over: those that every rate of the group has.
    """

    group: str
    method: str
    size: str
    rate: float
    score: float
    runs: int


class Choice(NamedTuple):
    """The best of the rates tried, and whether it lies at an edge of the grid."""

    best: Tried
    at_edge: bool


def tried_rates(
    ends: Frame, failed: Collection[RateKey] = (), variant: str = DEFAULT
) -> list[Tried]:
    """Score every rate of the pilot.

    Parameters
    ----------
    ends
        Last rows of the pilot's runs.
    failed
        Where a run failed: see `failed_rates`.
    variant
        Of the runs.

    Returns
    -------
    list of Tried
        By group, method, size and rate.
    """
    rows = ends[(ends["variant"] == variant) & ~ends["method"].isin(REINFORCEMENT)]
    found = []
    for (group, method, size), part in rows.groupby(["group", "method", "size"], sort=False):
        # Rates are compared on the tasks and seeds that all of them have, or easier ones would win.
        table = part.pivot(index=["task", "seed"], columns="learning_rate", values=OWN)
        present = part.pivot(index=["task", "seed"], columns="learning_rate", values="step")
        shared = table[present.notna().all(axis=1)]
        for rate, values in shared.items():
            key = group, method, size, float(rate)
            score = float("inf") if key in failed else _score(values)
            found.append(Tried(*key, score, len(values)))
    return sorted(found, key=_order)


def failed_rates(pilot: Table, ends: Frame, variant: str = DEFAULT) -> set[RateKey]:
    """Return the group, method, size and rate of the pilot's runs that failed.

    Parameters
    ----------
    pilot
        Says which cells failed, by names of task, method, size, rate, variant and seed.
    ends
        Last rows of the runs that did not: a rate at which all failed is none that was tried.
    variant
        Of the runs.

    Returns
    -------
    set of (group, method, size, rate)
        A rate that fails on one seed would win on the others.
    """
    found = set()
    broken = {tuple(cell.split()[:5]) for cell in pilot.failed}
    keys = ends[["group", "method", "size", "rate", "learning_rate"]].drop_duplicates()
    for group, method, size, label, rate in keys.itertuples(index=False):
        tasks = {name for name, task in pilot.tasks.items() if task.get("group") == group}
        for task, *place, which in broken:
            place[1] = place[1].partition("b")[0]  # a size is one, whatever its base
            if task in tasks and place == [method, size, label] and which == variant:
                found.add((group, method, size, float(rate)))
    return found


def choose(tried: Sequence[Tried]) -> list[Choice]:
    """Return the best rate of every group, method and size.

    Parameters
    ----------
    tried
        All scores.

    Returns
    -------
    list of Choice
        In the order of the scores.

    Raises
    ------
    StudyError
        At no rate of one of them did all runs end at a finite value.
    """
    grids: dict[tuple[str, str, str], list[Tried]] = {}
    for one in tried:
        grids.setdefault(one[:3], []).append(one)
    found = []
    for keys, grid in grids.items():
        usable = [one for one in grid if np.isfinite(one.score)]
        if not usable:
            raise StudyError(f"no learning rate of {', '.join(keys)} ended at a finite value")
        best = min(usable, key=lambda one: one.score)
        found.append(Choice(best, best.rate in (grid[0].rate, grid[-1].rate)))
    return found


def nested_rates(choices: Sequence[Choice]) -> dict[str, dict[str, dict[str, float]]]:
    """Return {group: {method: {size: rate}}}; RL takes reverse KL's."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for best, _ in choices:
        found.setdefault(best.group, {}).setdefault(best.method, {})[best.size] = float(best.rate)
    for methods in found.values():
        if LENDER in methods:
            methods |= {name: dict(methods[LENDER]) for name in REINFORCEMENT}
    return found


def write_rates(pilot: Table, yaml_path: Path, markdown_path: Path) -> list[Choice]:
    """Choose the rates, and write them for the sweeps and for readers.

    Parameters
    ----------
    pilot
        The pilot's table.
    yaml_path, markdown_path
        Where to.

    Returns
    -------
    list of Choice
        What was chosen.
    """
    tried = _tried_in(pilot)
    choices = choose(tried)
    yaml_path.write_text(rates_yaml(pilot, choices), encoding="utf-8")
    markdown_path.write_text(rates_markdown(pilot, tried, choices), encoding="utf-8")
    return choices


def chosen_rates(pilot: Table) -> list[Choice]:
    """Return what a pilot's table chooses."""
    return choose(_tried_in(pilot))


def _tried_in(pilot: Table) -> list[Tried]:
    ends = runs_of(pilot).ends
    return tried_rates(ends, failed_rates(pilot, ends))


def rates_yaml(pilot: Table, choices: Sequence[Choice]) -> str:
    """Return the rates as YAML, with where they come from at the top."""
    words = (
        f"Written by `{COMMAND}` from {pilot.name}.parquet, which `{pilot.said('command')}` wrote "
        f"(commits {pilot.commit}). The rate that ends lowest on the own measure; {_borrowers()} "
        f"have none here and take {label_of(LENDER)}'s."
    )
    header = textwrap.fill(words, 98, initial_indent="# ", subsequent_indent="# ") + "\n"
    return header + yaml.safe_dump(nested_rates(choices), sort_keys=False)


def rates_markdown(pilot: Table, tried: Sequence[Tried], choices: Sequence[Choice]) -> str:
    """Return the table of all rates tried, the chosen one in bold."""
    rates = sorted({one.rate for one in tried})
    rows = [_row(choice, tried, rates) for choice in choices]
    edges = sum(choice.at_edge for choice in choices)
    heads = ("kind of task", "objective", "size", "runs", *(f"{rate:g}" for rate in rates), "")
    return (
        "# Learning rates tried in the pilot\n\n"
        f"`{COMMAND}`, from {pilot.name}.parquet (`{pilot.said('command')}`, commit "
        f"{pilot.commit}). Geometric mean, over pilot tasks and seeds, of the own "
        "measure at the end, over the runs that every rate has; the least is chosen and stands in "
        f"bold. A dash: not tried; ∞: a run failed or diverged. {_borrowers()} have no measure of "
        f"their own here and take {label_of(LENDER)}'s rate. At an edge of what was tried: "
        f"{edges} of {len(choices)}.\n\n" + markdown_table(heads, rows)
    )


def _row(choice: Choice, tried: Sequence[Tried], rates: Sequence[float]) -> tuple[str, ...]:
    best = choice.best
    scores = {one.rate: one.score for one in tried if one[:3] == best[:3]}
    cells = []
    for rate in rates:
        text = number(scores[rate], 4) if rate in scores else NONE
        cells.append(f"**{text}**" if rate == best.rate else text)
    edge = "at the edge" if choice.at_edge else ""
    group = GROUP_LABELS.get(best.group, best.group)
    return (group, label_of(best.method), best.size, str(best.runs), *cells, edge)


def _score(values: Frame) -> float:
    known = np.asarray(values, dtype=float)
    if not known.size or not np.isfinite(known).all():
        return float("inf")
    return float(np.exp(np.log(np.maximum(known, FLOOR)).mean()))


def _order(one: Tried) -> tuple[object, ...]:
    return one.group, method_order(one.method), size_order(one.size), one.rate


def _borrowers() -> str:
    return " and ".join(map(label_of, REINFORCEMENT))
