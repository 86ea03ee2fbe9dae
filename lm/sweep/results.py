"""What the runs of a sweep measured: by task and size, averaged over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fdpg_ref.display import title_of
from lm.report.build import samples_to_half
from lm.run.records import best
from lm.sweep.cells import Cell, Labels
from lm.sweep.config import SweepConfig, TaskConfig

# Beyond this many standard errors a difference is called one, by the degrees of freedom that the
# seeds leave: Student's t at the level of 3 errors of a normal law, 0.27 %. Two seeds tell little
# of their spread. Without a second seed (0) the errors are those of measuring, and known better.
CLEAR = (3.0, 235.81, 19.21, 9.22, 6.63, 5.51, 4.91, 4.54, 4.28, 4.1, 3.96)
Record = Mapping[str, Any]


class Measured(NamedTuple):
    """A value with its standard error; both may be NaN where nothing was measured."""

    value: float
    error: float = 0.0

    def minus(self, other: Measured) -> Measured:
        """Return the difference, with the largest error that it can have.

        Runs of one seed share the base's samples, so the errors are not independent.
        """
        return Measured(self.value - other.value, self.error + other.error)

    @property
    def in_errors(self) -> float:
        """The value in units of its standard error; signed infinity if that is 0, NaN if none."""
        if math.isnan(self.value) or math.isnan(self.error):
            return math.nan
        if self.error > 0:
            return self.value / self.error
        return math.copysign(math.inf, self.value) if self.value else 0.0


@dataclass(frozen=True)
class Line:
    """The runs that differ in nothing but their seed: a row of a table, a line of a picture.

    Parameters
    ----------
    label
        For people: the method, and what else tells it from the other lines of its table.
    divergence
        That is descended.
    rate
        Key of its learning rate.
    runs
        What `lm.sweep.records` kept of each seed, in order.
    evaluations
        Their evaluations, averaged over the seeds.
    """

    label: str
    divergence: str
    rate: str
    runs: Sequence[Record]
    evaluations: Sequence[Record]

    def start(self, quantity: str) -> Measured:
        """Return a quantity of the base."""
        return Measured(*best(self.evaluations[0], quantity))

    def end(self, quantity: str) -> Measured:
        """Return a quantity after the last step: there is no stopping on a metric."""
        return Measured(*best(self.evaluations[-1], quantity))

    @property
    def samples_to_half(self) -> list[float]:
        """Training samples of each seed until the descended divergence was halved, or infinity."""
        halves = [samples_to_half(run["evaluations"], self.divergence) for run in self.runs]
        return [math.inf if half is None else half for half in halves]

    @property
    def seconds_to_half(self) -> list[float]:
        """Seconds of training until then, the last step by its share."""
        found = []
        for run, samples in zip(self.runs, self.samples_to_half, strict=True):
            seconds, steps = run["seconds"], samples / run["config"]["batch_size"]
            whole = int(min(steps, len(seconds) - 1))
            found.append(sum(seconds[:whole]) + (steps - whole) * seconds[whole])
        return found

    @property
    def steps_per_second(self) -> float:
        """Training steps over the seconds spent in them; evaluations are not counted."""
        seconds = [second for run in self.runs for second in run["seconds"]]
        return len(seconds) / sum(seconds)


@dataclass(frozen=True)
class Outcome:
    """All lines toward one target from one base.

    Parameters
    ----------
    name
        Key of the task; with the size where the sweep has several.
    title
        The same for people.
    task
        As the sweep describes it.
    description
        Features, moments, multipliers and log Z of the target: the same in every run.
    lines
        In the order of the sweep.
    """

    name: str
    title: str
    task: TaskConfig
    description: Record
    lines: Sequence[Line]

    @property
    def short_title(self) -> str:
        """The title up to its colon."""
        return self.title.partition(":")[0]

    @property
    def features(self) -> list[str]:
        """Names of the target's features; the first one is the axis of alignment."""
        return [row["feature"] for row in self.description["features"]]

    def estimates(self, quantity: str) -> list[dict[str, Any]]:
        """Return the estimates of a quantity: the base's, and those at the end of each line."""
        ends = [line.evaluations[-1] for line in self.lines]
        return [r["estimates"][quantity] for r in (self.lines[0].evaluations[0], *ends)]

    @property
    def target_entropy(self) -> Measured:
        """The entropy of p, as measured beside the base.

        Off the list p is proportional to a, so that samples of the base tell most about it.
        """
        return self.lines[0].start("entropy_target")


def read_outcomes(
    sweep: SweepConfig, cells: Sequence[Cell], records: Mapping[str, Record]
) -> list[Outcome]:
    """Put the records of a sweep together.

    Parameters
    ----------
    sweep, cells
        What was run.
    records
        By run, without those that failed.

    Returns
    -------
    list of Outcome
        Tasks and sizes in the order of the sweep.
    """
    # By task and size, then by everything but the seed.
    groups: dict[tuple[str, str], dict[Labels, list[Cell]]] = {}
    for cell in cells:
        if cell.run in records:
            labels = cell.labels
            lines = groups.setdefault((labels.task, labels.size), {})
            lines.setdefault(labels._replace(seed=0), []).append(cell)

    # A label says what differs within its table, and nothing else.
    outcomes, one_size = [], len({size for _, size in groups}) == 1
    for (key, size), group in groups.items():
        varying = [i for i in range(3, 5) if len({labels[i] for labels in group}) > 1]
        lines = []
        for labels, members in group.items():
            words = [title_of(labels.method), *(str(labels[i]) for i in varying)]
            lines.append(_line(", ".join(words), members, records))
        task, description = sweep.tasks[key], lines[0].runs[0]["description"]
        name, title = (key, task.title) if one_size else (f"{key}-{size}", f"{task.title}, {size}")
        outcomes.append(Outcome(name, title, task, description, lines))
    return outcomes


def mean_record(records: Sequence[Record]) -> dict[str, Any]:
    """Average evaluations of different seeds.

    Parameters
    ----------
    records
        One evaluation for each seed, all after the same step.

    Returns
    -------
    dict
        An evaluation. Every estimate is a mean with the error of `mean_of`; a z combines those of
        the seeds, which are independent. What one of the seeds could not give has no mean.
    """
    first = records[0]
    estimates: dict[str, dict[str, Any]] = {}
    for quantity, entries in first["estimates"].items():
        for estimator in entries:
            # Where no sample of a seed has any target mass, that seed has no shares of weights.
            of_seeds = [record["estimates"].get(quantity, {}) for record in records]
            if not all(estimator in of_seed for of_seed in of_seeds):
                continue

            found = [of_seed[estimator] for of_seed in of_seeds]
            exact = 0.0 if estimator == "exact" else math.nan
            values = [float(entry["value"]) for entry in found]
            errors = [float(entry.get("standard_error", exact)) for entry in found]
            mean = mean_of([Measured(*pair) for pair in zip(values, errors, strict=True)])
            averaged: dict[str, float] = {"value": mean.value, "standard_error": mean.error}
            if all("z" in entry for entry in found):
                total = sum(float(entry["z"]) for entry in found)
                averaged["z"] = total / math.sqrt(len(found))
            estimates.setdefault(quantity, {})[estimator] = averaged
    return {"step": first["step"], "samples": first["samples"], "estimates": estimates}


def mean_of(values: Sequence[Measured]) -> Measured:
    """Average measurements over seeds.

    Parameters
    ----------
    values
        One for each seed, independent of each other.

    Returns
    -------
    Measured
        The mean. Its error is the larger of two: what the measurements' errors give, and what the
        spread between the seeds gives, for a seed is a draw of training too.
    """
    mean = sum(pair.value for pair in values) / len(values)
    measured = math.hypot(*(pair.error for pair in values)) / len(values)
    if len(values) < 2 or not math.isfinite(mean):
        return Measured(mean, measured)
    squares = sum((pair.value - mean) ** 2 for pair in values)
    between = math.sqrt(squares / (len(values) - 1) / len(values))
    return Measured(mean, max(measured, between))


def clear_from(*lines: Line) -> float:
    """Return beyond how many standard errors a difference between lines is called one."""
    freedom = sum(len(line.runs) - 1 for line in lines)
    return CLEAR[min(freedom, len(CLEAR) - 1)]


def _line(label: str, members: Sequence[Cell], records: Mapping[str, Record]) -> Line:
    runs = [records[cell.run] for cell in members]
    steps = zip(*(run["evaluations"] for run in runs), strict=True)
    config = members[0].config
    evaluations = [mean_record(same_step) for same_step in steps]
    return Line(label, config.divergence, members[0].labels.rate, runs, evaluations)
