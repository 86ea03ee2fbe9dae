"""What the runs measured: read back from their folders, averaged over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lm.demo.study import DemoTarget
from lm.report.build import samples_to_half
from lm.run.records import FOUR, best, read_records

# Beyond this many standard errors a difference is called one.
CLEAR = 3.0


class Measured(NamedTuple):
    """A value with its standard error; both may be NaN where nothing was measured."""

    value: float
    error: float = 0.0

    def minus(self, other: Measured) -> Measured:
        """Return the difference of two independent measurements."""
        return Measured(self.value - other.value, math.hypot(self.error, other.error))

    @property
    def in_errors(self) -> float:
        """The value in units of its standard error; signed infinity if that is 0."""
        if self.error > 0:
            return self.value / self.error
        return math.copysign(math.inf, self.value) if self.value else 0.0


@dataclass(frozen=True)
class Run:
    """One finished run of the demonstration, as its folder tells it.

    Parameters
    ----------
    divergence, seed
        Which run.
    evaluations
        Evaluation records, in order; the first is the base.
    description
        Content of target.json.
    steps_per_second
        Training steps over the seconds spent in them; evaluations are not counted.
    before, after
        First sample texts of the base and of the trained policy.
    folder
        Where the rest is.
    """

    divergence: str
    seed: int
    evaluations: Sequence[Mapping[str, Any]]
    description: Mapping[str, Any]
    steps_per_second: float
    before: Sequence[str]
    after: Sequence[str]
    folder: Path

    @property
    def first(self) -> Mapping[str, Any]:
        """The evaluation of the base."""
        return self.evaluations[0]

    @property
    def last(self) -> Mapping[str, Any]:
        """The evaluation after the last step: there is no stopping on a metric."""
        return self.evaluations[-1]

    @property
    def samples_to_half(self) -> float:
        """Training samples until the descended divergence was halved; infinity if it never was."""
        drawn = samples_to_half(self.evaluations, self.divergence)
        return math.inf if drawn is None else drawn


@dataclass(frozen=True)
class Outcome:
    """All runs toward one target.

    Parameters
    ----------
    target
        The target.
    runs
        Every divergence with every seed.
    """

    target: DemoTarget
    runs: Sequence[Run]

    def of(self, divergence: str) -> list[Run]:
        """Return the runs that descend a divergence, one a seed."""
        return [run for run in self.runs if run.divergence == divergence]

    @property
    def description(self) -> Mapping[str, Any]:
        """Features, moments, multipliers and log Z of the target: the same in every run."""
        return self.runs[0].description

    def trained(self, divergence: str, quantity: str) -> Measured:
        """Return a quantity at the end of training, averaged over seeds."""
        return over_seeds([run.last for run in self.of(divergence)], quantity)

    def base(self, quantity: str) -> Measured:
        """Return a quantity of the base, averaged over the seeds of its measurement."""
        return over_seeds([run.first for run in self.of(FOUR[0])], quantity)

    def target_entropy(self) -> Measured:
        """Return the entropy of p, as measured beside the base.

        Off the list p is proportional to a, so that samples of the base tell most about it.
        """
        return self.base("entropy_target")


def read_run(folder: Path) -> Run:
    """Read a finished run.

    Parameters
    ----------
    folder
        A run folder.

    Returns
    -------
    Run
        What tables and figures need of it.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    lines = (folder / "timings.jsonl").read_text(encoding="utf-8").splitlines()
    seconds = [record["seconds"] for record in map(json.loads, lines) if "seconds" in record]
    return Run(
        divergence=config["divergence"],
        seed=config["seed"],
        evaluations=read_records(folder, "evaluation"),
        description=json.loads((folder / "target.json").read_text(encoding="utf-8")),
        steps_per_second=len(seconds) / sum(seconds),
        before=(folder / "samples_before.txt").read_text(encoding="utf-8").splitlines(),
        after=(folder / "samples_after.txt").read_text(encoding="utf-8").splitlines(),
        folder=folder,
    )


def over_seeds(records: Sequence[Mapping[str, Any]], quantity: str) -> Measured:
    """Average the best estimate of a quantity over evaluations of different seeds.

    Parameters
    ----------
    records
        One evaluation a seed.
    quantity
        A key of its estimates.

    Returns
    -------
    Measured
        As `mean_of`.
    """
    return mean_of([Measured(*best(record, quantity)) for record in records])


def sampled_over_seeds(records: Sequence[Mapping[str, Any]], quantity: str) -> Measured:
    """Average the purely sampled estimate of a quantity, with its measurement error only."""
    entries = [record["estimates"][quantity].get("sampled", {}) for record in records]
    values = [float(entry.get("value", math.nan)) for entry in entries]
    errors = [float(entry.get("standard_error", math.nan)) for entry in entries]
    return Measured(_mean(values), math.hypot(*errors) / len(errors))


def mean_of(values: Sequence[Measured]) -> Measured:
    """Average measurements over seeds.

    Parameters
    ----------
    values
        One a seed, independent of each other.

    Returns
    -------
    Measured
        The mean. Its error is the larger of two: what the measurements' errors give, and what the
        spread between the seeds gives, for a seed is a draw of training too.
    """
    mean = _mean([pair.value for pair in values])
    measured = math.hypot(*(pair.error for pair in values)) / len(values)
    if len(values) < 2 or not math.isfinite(mean):
        return Measured(mean, measured)
    squares = sum((pair.value - mean) ** 2 for pair in values)
    between = math.sqrt(squares / (len(values) - 1) / len(values))
    return Measured(mean, max(measured, between))


def mean_over(runs: Sequence[Run], number: Callable[[Run], float]) -> float:
    """Average a number over runs."""
    return _mean([number(run) for run in runs])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
