"""Sweep of the demonstration's learning rates, on a seed that the demonstration does not use.

Every run has the demonstration's budget and schedule; only the peak of the learning rate changes.
A rate is judged by the worst of the four divergences, for they share it. Writes
benchmarks/results/demo_learning_rates.csv and .md. Run ``python -m benchmarks.demo_sweep``; it
takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from lm.config.run import EvaluationConfig
from lm.demo.results import Run, read_run
from lm.demo.study import TARGETS, DemoConfig, DemoTarget, run_config
from lm.demo.verdicts import LARGEST_SHARE_LEFT, MOMENT_TOLERANCE
from lm.report.figures import LABELS
from lm.run.files import write_atomic
from lm.run.records import FOUR, best
from lm.sweep.workers import Job, Progress, Workers, train_base_job, train_job

RATES = (1e-4, 3e-4, 1e-3)
SEED = 2
RESULTS = Path(__file__).parent / "results"


class Row(NamedTuple):
    """The end of one run."""

    target: str
    divergence: str
    learning_rate: float
    seed: int
    start: float
    end: float
    standard_error: float
    share_left: float
    feature: str
    exact_moment: float
    wanted_moment: float
    entropy: float


def main(arguments: list[str] | None = None) -> int:
    """Run the sweep and write its two files; 1 if a shipped rate fails where it must not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_sweep", description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the two files")
    parser.add_argument("--steps", type=int, help="of each run; default: the demonstration's")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        steps = DemoConfig().steps if options.steps is None else options.steps
        ends = EvaluationConfig(every=steps)
        config = DemoConfig(output=scratch, seeds=(SEED,), steps=steps, evaluation=ends)
        rows = sweep(config)
    options.output.mkdir(parents=True, exist_ok=True)
    for suffix, text in (("csv", csv_text(rows)), ("md", markdown(rows, config))):
        write_atomic(options.output / f"demo_learning_rates.{suffix}", text.encode("utf-8"))
    print(markdown(rows, config))
    shipped = [row for row in rows if row.learning_rate == _shipped(row.target)]
    return 0 if all(holds(row) for row in shipped) else 1


def sweep(config: DemoConfig) -> list[Row]:
    """Make every run: targets, rates, divergences."""
    cases = [
        (target, rate, divergence) for target in TARGETS for rate in RATES for divergence in FOUR
    ]
    jobs = []
    for target, rate, divergence in cases:
        case = replace(config, output=f"{config.output}/{rate:g}")
        run = run_config(case, target, divergence, SEED, learning_rate=rate)
        jobs.append(Job(f"{target.key} {divergence} {rate:g}", train_job, (run,)))
    with Workers(config.workers, _say) as workers:
        workers.run([Job("base", train_base_job, (config.base,))])
        folders = workers.run(jobs)
    return [
        _row(target, rate, read_run(folder))
        for (target, rate, _), folder in zip(cases, folders, strict=True)
    ]


def holds(row: Row) -> bool:
    """Say whether a run keeps what the demonstration promises of its runs."""
    near = abs(row.exact_moment - row.wanted_moment) <= MOMENT_TOLERANCE
    return row.share_left <= LARGEST_SHARE_LEFT and (row.target != "balance" or near)


def csv_text(rows: Sequence[Row]) -> str:
    """Return all rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows)
    return text.getvalue()


def markdown(rows: Sequence[Row], config: DemoConfig) -> str:
    """Return one table a target: what is left of the descended divergence, and the moment."""
    parts = [
        "# Learning rates of the demonstration",
        "",
        f"Seed {SEED}, {config.steps} steps of {config.batch_size} samples, Adam with betas "
        f"{config.betas}, {config.warmup_steps} steps of warm-up, then a cosine to zero. A cell is "
        "the descended divergence at the end over its start, and the exact E of the feature; * "
        "marks what misses the demonstration's acceptance (at most half; on target (ii) within "
        f"{MOMENT_TOLERANCE} of the wanted moment). The shipped rate is bold: one a target, the "
        "same for all divergences, chosen by the worst of them. "
        "Written by `python -m benchmarks.demo_sweep`.",
    ]
    for target in TARGETS:
        heads = " | ".join(LABELS[name] for name in FOUR)
        parts += ["", f"## {target.title}", "", f"| learning rate | {heads} |", "|---" * 5 + "|"]
        for rate in RATES:
            label = f"**{rate:g}**" if rate == target.learning_rate else f"{rate:g}"
            cells = [_cell(_find(rows, target, name, rate)) for name in FOUR]
            parts.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join([*parts, ""])


def _say(message: Progress) -> None:
    if message.step == message.steps:
        print(f"{message.label}: done", flush=True)


def _row(target: DemoTarget, rate: float, run: Run) -> Row:
    start, end = best(run.first, run.divergence)[0], best(run.last, run.divergence)
    wanted = next(
        row["target"] for row in run.description["features"] if row["feature"] == target.feature
    )
    return Row(
        target=target.key,
        divergence=run.divergence,
        learning_rate=rate,
        seed=run.seed,
        start=start,
        end=end[0],
        standard_error=end[1],
        share_left=end[0] / start,
        feature=target.feature,
        exact_moment=best(run.last, f"feature/{target.feature}")[0],
        wanted_moment=wanted,
        entropy=best(run.last, "entropy")[0],
    )


def _find(rows: Sequence[Row], target: DemoTarget, divergence: str, rate: float) -> Row:
    wanted = target.key, divergence, rate
    return next(row for row in rows if (row.target, row.divergence, row.learning_rate) == wanted)


def _cell(row: Row) -> str:
    mark = "" if holds(row) else " *"
    return f"{row.share_left:.2f}, {row.exact_moment:.3f}{mark}"


def _shipped(key: str) -> float:
    return next(target.learning_rate for target in TARGETS if target.key == key)


if __name__ == "__main__":
    sys.exit(main())
