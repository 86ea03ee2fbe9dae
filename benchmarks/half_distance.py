"""Samples and seconds until half of D(a‖p) is left, by divergence, on the rare target.

Each of four divergences is descended with the demonstration's settings for its target (i), from the
same base, once a seed, and measured every second step; where it first falls below half of its start
is interpolated. Seconds are of training alone, on one thread. Writes half_distance.json and .md to
benchmarks/results. Run ``python -m benchmarks.half_distance``; it takes about four minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from benchmarks.exact_speed import RESULTS
from lm.config.run import EvaluationConfig, RunConfig
from lm.demo.study import RARE, DemoConfig, run_config
from lm.report.figures import LABELS
from lm.run.records import FOUR, best
from lm.sweep.workers import Job, Progress, Workers, train_base_job

# Half is reached within 30 steps or so; later ones are measured rarely.
MEASURED = tuple(range(2, 80, 2))
EVERY = 40
SEEDS = 5
# 97.5 % points of Student's t with 1, 2, ... degrees of freedom (R: qt(0.975, 1:9)).
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class Row(NamedTuple):
    """One run: where it was half way.

    Steps and samples are fractional, by interpolation; None where it never got there.
    """

    divergence: str
    seed: int
    start: float
    steps: float | None
    samples: float | None
    seconds: float | None
    cpu_over_wall: float


class _HalfWay(Exception):
    """The run has gone far enough."""


def half_way_job(config: RunConfig) -> Row:
    """Train until half of the divergence is left, and say when that was."""
    from lm.train import StepRecord, train  # noqa: PLC0415 - torch is for workers only

    measured: list[tuple[int, float]] = []
    start = time.perf_counter(), time.process_time()

    def on_step(report: StepRecord) -> None:
        if report.evaluation is None:
            return
        measured.append((report.step, best(report.evaluation, config.divergence)[0]))
        if measured[-1][1] < measured[0][1] / 2:
            raise _HalfWay

    with contextlib.suppress(_HalfWay):
        train(config, on_step=on_step)
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    steps = crossing(measured)
    return Row(
        config.divergence,
        config.seed,
        start=measured[0][1],
        steps=steps,
        samples=None if steps is None else steps * config.batch_size,
        seconds=None if steps is None else _training_seconds(Path(config.output or ""), steps),
        cpu_over_wall=cpu / wall,
    )


def crossing(measured: Sequence[tuple[int, float]]) -> float | None:
    """Return the step at which the value first falls below half of the first one.

    Parameters
    ----------
    measured
        Steps, ascending, and values.

    Returns
    -------
    float or None
        Interpolated between two measurements; None if it never does.
    """
    half = measured[0][1] / 2
    for (step, value), (later, lower) in pairwise(measured):
        if lower < half:
            return step + (later - step) * (value - half) / (value - lower)
    return None


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half-width of its 95 % interval by Student's t."""
    if len(values) < 2:
        return statistics.fmean(values), math.nan
    error = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), STUDENT[len(values) - 2] * error


def measure(config: DemoConfig) -> list[Row]:
    """Make every run: divergences, seeds."""
    runs = [run_config(config, RARE, name, seed) for name in FOUR for seed in config.seeds]
    jobs = [Job(f"{run.divergence} {run.seed}", half_way_job, (run,)) for run in runs]
    with Workers(config.workers, _say) as workers:
        workers.run([Job("base", train_base_job, (config.base,))])
        return workers.run(jobs)


def markdown(rows: Sequence[Row], config: DemoConfig, command: str) -> str:
    """Return one table, a row a divergence."""
    lines = [
        "# Half of the distance",
        "",
        f"Target: listed names that end in i, wanted in 95 % of the samples. Batches of "
        f"{config.batch_size}, Adam at {RARE.learning_rate:g} after {config.warmup_steps} steps of "
        f"warm-up, {config.workers} runs at a time on one thread each; {len(config.seeds)} seeds, "
        "mean and 95 % interval of the mean. Each divergence is measured by itself: half of one is "
        f"not half of another. Written by `{command}`.",
        "",
        "| descended | D(a‖p), nats | samples to half of it | seconds | cpu/wall |",
        "|---|---|---|---|---|",
    ]
    for name in FOUR:
        of_name = [row for row in rows if row.divergence == name]
        cells = [
            f"{statistics.fmean(row.start for row in of_name):.3f}",
            _cell([row.samples for row in of_name], ",.0f"),
            _cell([row.seconds for row in of_name], ".2f"),
            f"{statistics.fmean(row.cpu_over_wall for row in of_name):.2f}",
        ]
        lines.append(f"| {LABELS[name]} | {' | '.join(cells)} |")
    note = (
        "Samples do not depend on the machine's load; seconds do: at a cpu/wall below 0.95 the "
        "machine was not idle, and they say too much."
    )
    return "\n".join([*lines, "", note, ""])


def _cell(values: Sequence[float | None], form: str) -> str:
    reached = [value for value in values if value is not None]
    if len(reached) < len(values):
        return f"reached by {len(reached)} of {len(values)} runs"
    mean, half = interval(reached)
    return f"{mean:{form}} ± {half:{form}}"


def _training_seconds(folder: Path, steps: float) -> float:
    """Sum the seconds of the first steps, the last one by its share."""
    # An interrupted run is still under its temporary name.
    partial = folder.with_name(f".{folder.name}.partial")
    path = (folder if folder.exists() else partial) / "timings.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    seconds = [record["seconds"] for record in records if "seconds" in record]
    whole = int(steps)
    return sum(seconds[:whole]) + (steps - whole) * (seconds[whole] if steps > whole else 0.0)


def _say(message: Progress) -> None:
    print(f"{message.label}: {message.step} of {message.steps}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Make the runs, print the table and write its files; 1 if a run never got half way."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.half_distance", description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the two files")
    parser.add_argument("--seeds", type=int, default=SEEDS, choices=range(2, 11))
    parser.add_argument("--steps", type=int, default=DemoConfig().steps, help="of each schedule")
    options = parser.parse_args(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    with tempfile.TemporaryDirectory() as scratch:
        config = DemoConfig(
            output=scratch,
            seeds=tuple(range(options.seeds)),
            steps=options.steps,
            evaluation=EvaluationConfig(every=EVERY, early=MEASURED, samples=1024),
        )
        rows = measure(config)
    command = " ".join(["python -m benchmarks.half_distance", *given])
    page = markdown(rows, config, command)
    print(page)
    options.output.mkdir(parents=True, exist_ok=True)
    record = {"command": command, "rows": [row._asdict() for row in rows]}
    text = json.dumps(record, indent=1) + "\n"
    (options.output / "half_distance.json").write_text(text, encoding="utf-8")
    (options.output / "half_distance.md").write_text(page, encoding="utf-8")
    return int(any(row.steps is None for row in rows))


if __name__ == "__main__":
    sys.exit(main())
