"""A race: seconds and samples to half and to a tenth of KL(a‖p), lm's loop beside TRL.

RLHF's target a exp(r / beta) / Z on a small model of names, where log Z is exact, or of code, where
it comes from many samples of the base. lm's loop, our FDPGTrainer, stock GRPO and stock RLOO have
the same beta, batch, length, optimiser and fused activation; each runs at the best of three rates,
by runs on pilot seeds; the contenders take turns within a seed, in a rotating order. Every run is a
process and a file: the same command goes on where it was stopped. Writes race_TASK.json, .md and
.png to benchmarks/results.

Needs TRL: ``python -m benchmarks.race`` in the environment that ``make engines`` installs.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import _race_run
from benchmarks._race_run import CONTENDERS, SHARE, TASKS, Run
from benchmarks._results import RESULTS, machine, write_results

RATES = (1e-4, 3e-4, 1e-3)
PILOTS, SEEDS = (100, 101), (0, 1, 2, 3, 4)
SHARES = {"half": 0.5, "a tenth": SHARE}
# What a point of a curve has, beside the divergence that is left and seconds of a wall clock, which
# count what other programs do as well.
COSTS = {"samples": "samples", "cpu": "seconds of CPU"}
# Imported once, and not by each of the processes, which are forked from one that has them.
PRELOADED = (
    "benchmarks._race_run",
    "trl.trainer.grpo_trainer",
    "trl.trainer.rloo_trainer",
    "lm.train",
)
# The goals, which the page compares with.
FASTER_THAN_TRL = 1.5

Curve = Sequence[Mapping[str, float]]


def cost_to(curve: Curve, share: float, cost: str) -> float:
    """Return what a curve took until a share of its first divergence was left; inf if it never was.

    Parameters
    ----------
    curve
        Points with ``kl`` and the costs.
    share
        Between 0 and 1.
    cost
        A key of `COSTS`; interpolated between two measurements.
    """
    goal = share * curve[0]["kl"]
    for before, after in pairwise(curve):
        if after["kl"] <= goal:
            part = (before["kl"] - goal) / (before["kl"] - after["kl"])
            return before[cost] + part * (after[cost] - before[cost])
    return math.inf


def best_rate(curves: Mapping[float, Sequence[Curve]]) -> float:
    """Return the rate whose pilot runs need the fewest samples to a tenth, in the median.

    Where none gets there, the one that ends nearest to the target.
    """

    def rank(rate: float) -> tuple[float, float]:
        samples = [cost_to(curve, SHARE, "samples") for curve in curves[rate]]
        left = [curve[-1]["kl"] for curve in curves[rate]]
        return statistics.median(samples), statistics.median(left)

    return min(curves, key=rank)


class Race:
    """The runs, each made once.

    Parameters
    ----------
    folder
        Holds a file for each run.
    say
        Told what is made.
    settings
        Of `Run`: task, steps, every, batch_size, samples, base, threads.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], **settings: Any) -> None:
        self.folder, self.say, self.settings = folder, say, settings
        folder.mkdir(parents=True, exist_ok=True)

    def curve(self, contender: str, rate: float, seed: int, *, steps: int | None = None) -> Curve:
        """Return the curve of a run, which is made if it is not there.

        Parameters
        ----------
        contender, rate, seed
            Of `Run`.
        steps
            Other than those of the settings.
        """
        run = Run(contender, rate, seed, **self.settings)
        if steps is not None:
            run = replace(run, steps=steps)
        path = self.folder / f"{contender.replace(' ', '_')}-{rate:g}-{seed}.json"
        done = path.with_suffix(".done.json")
        if not done.exists():
            self.say(f"{contender}, rate {rate:g}, seed {seed}")
            _ = path.write_text(json.dumps(asdict(run)), encoding="utf-8")
            if not make_run(path):
                log = path.with_suffix(".log").read_text(encoding="utf-8")
                raise RuntimeError(f"{contender} has died:\n{log[-3000:]}")

        record = json.loads(done.read_text(encoding="utf-8"))
        if record["run"] != json.loads(json.dumps(asdict(run))):
            raise ValueError(f"{done} is of other settings: name another --folder, or remove it")
        return record["points"]

    def run(
        self,
        rates: Sequence[float],
        pilots: Sequence[int],
        seeds: Sequence[int],
        *,
        pilot_steps: int | None = None,
    ) -> dict[str, Any]:
        """Run pilots, choose rates, race, and return the record.

        Parameters
        ----------
        rates
            Of which each contender gets its best.
        pilots, seeds
            Of the runs that choose, and of those that race.
        pilot_steps
            Of a pilot run; by default those of the settings.
        """

        def pilot(name: str, rate: float) -> list[Curve]:
            return [self.curve(name, rate, seed, steps=pilot_steps) for seed in pilots]

        chosen = {name: best_rate({r: pilot(name, r) for r in rates}) for name in CONTENDERS}
        curves: dict[str, list[Curve]] = {name: [] for name in CONTENDERS}
        for lap, seed in enumerate(seeds):
            # Rotate: no contender always follows the same one.
            first = lap % len(CONTENDERS)
            for name in [*CONTENDERS[first:], *CONTENDERS[:first]]:
                curves[name].append(self.curve(name, chosen[name], seed))
        log_z = self.folder / "log_z.json"
        return {
            "machine": machine("torch", "transformers", "trl"),
            "settings": self.settings | asdict(TASKS[self.settings["task"]]),
            "pilot_steps": pilot_steps or self.settings["steps"],
            "log_z": json.loads(log_z.read_text(encoding="utf-8")) if log_z.exists() else None,
            "rates": list(rates),
            "seeds": {"pilot": list(pilots), "race": list(seeds)},
            "chosen": chosen,
            "curves": curves,
        }


def make_run(path: Path) -> bool:
    """Make the run of a file in a process of its own; what it prints is kept beside the file."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    process = context.Process(target=_logged_run, args=(path,))
    process.start()
    process.join()
    return process.exitcode == 0


def _logged_run(path: Path) -> None:
    with path.with_suffix(".log").open("w", encoding="utf-8") as log:
        for descriptor in (1, 2):
            _ = os.dup2(log.fileno(), descriptor)
        _ = _race_run.main([str(path)])


def table(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the page's table: medians over seeds, and the range."""
    heads = [f"{COSTS[cost]} to {name}" for name in SHARES for cost in COSTS]
    yield f"| contender | rate | seconds of CPU a step | {' | '.join(heads)} |"
    yield "|---" * (len(heads) + 3) + "|"
    for name, curves in record["curves"].items():
        cells = [
            _spread([cost_to(curve, share, cost) for curve in curves])
            for share in SHARES.values()
            for cost in COSTS
        ]
        step = _spread([curve[-1]["cpu"] / curve[-1]["step"] for curve in curves])
        yield f"| {name} | {record['chosen'][name]:g} | {step} | {' | '.join(cells)} |"


def ratios(record: Mapping[str, Any], share: float, cost: str) -> dict[str, list[float]]:
    """Return what each contender took over what lm took on the same seed.

    A seed on which either never got there has no ratio.
    """
    found = {}
    for name, curves in record["curves"].items():
        pairs = [
            (cost_to(other, share, cost), cost_to(ours, share, cost))
            for other, ours in zip(curves, record["curves"]["lm"], strict=True)
        ]
        both = [(other, ours) for other, ours in pairs if math.isfinite(other + ours)]
        found[name] = [other / ours for other, ours in both]
    return found


def page(record: Mapping[str, Any]) -> str:
    """Return the results for readers."""
    settings, seeds, log_z = record["settings"], record["seeds"], record["log_z"]
    start = statistics.median(c[0]["kl"] for c in record["curves"]["lm"])
    rewards = ", ".join(f"{weight:g} for {name}" for name, weight in settings["reward"].items())
    rates = ", ".join(f"{rate:g}" for rate in record["rates"])

    # What is known of Z.
    known = "exact"
    if log_z is not None:
        known = (
            f"{log_z['log_z']:.3f} with a standard error of {log_z['error']:.3f}, from "
            f"{log_z['samples']:,} samples of the base"
        )

    lines = [
        f"# The race on {settings['task']}",
        "",
        f"{record['machine']}. The reward is {rewards}; beta {settings['beta']}. KL(a‖p) is "
        f"{start:.3g} nats at the start, log Z is {known}. {settings['batch_size']} samples of at "
        f"most {settings['length']} tokens a step, at most {settings['steps']} steps, "
        f"{settings['threads']} thread. The best of the rates {rates} by "
        f"{len(seeds['pilot'])} pilot seed(s) of {record['pilot_steps']} steps; medians of "
        f"{len(seeds['race'])} seeds, with their range. "
        "KL(π‖p) is measured between steps, on no clock. Seconds are of CPU: other programs ran "
        "beside.",
        "",
        *table(record),
        "",
        "Over lm on the same seed, in seconds of CPU:",
        "",
        *_against_lm(record),
        "",
        *_goal(record),
        "",
        f"![what is left of the divergence](race_{settings['task']}.png)",
    ]
    return "\n".join([*lines, ""])


def _against_lm(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each contender and share: how many times lm's seconds it took."""
    for name in record["curves"]:
        for share in SHARES if name != "lm" else ():
            found = ratios(record, SHARES[share], "cpu")[name]
            # A seed on which one of both never got there is counted, and has no ratio.
            missing = len(record["seeds"]["race"]) - len(found)
            got = f"{_spread(found)} times" if found else "no seed on which both got there"
            without = (
                f"; {missing} seed(s) on which one of both did not" if found and missing else ""
            )
            yield f"- {name}, to {share}: {got}{without}"


def _goal(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield what became of the goal, for each stock trainer."""
    yield f"The goal was {FASTER_THAN_TRL} times against stock TRL to a tenth."
    seeds = len(record["seeds"]["race"])
    for name in (one for one in record["curves"] if one.startswith("TRL")):
        ours, theirs = (
            sum(math.isfinite(cost_to(curve, SHARE, "cpu")) for curve in record["curves"][one])
            for one in ("lm", name)
        )
        found = ratios(record, SHARE, "cpu")[name]
        if found:
            times = statistics.median(found)
            met = "met" if times >= FASTER_THAN_TRL else "not met"
            yield f"Against {name} it is {met}: {times:.3g} times."
        else:
            yield (
                f"Against {name} there is no ratio: lm got to a tenth on {ours} of {seeds} seeds, "
                f"{name} on {theirs}."
            )


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Draw what is left against seconds of CPU and against samples."""
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import LogLocator, NullFormatter  # noqa: PLC0415

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    start = statistics.median(curve[0]["kl"] for curve in record["curves"]["lm"])
    for axis, cost in zip(axes, COSTS, strict=True):
        for place, (name, curves) in enumerate(record["curves"].items()):
            for seed, curve in enumerate(curves):
                axis.plot(
                    [point[cost] for point in curve],
                    [point["kl"] for point in curve],
                    color=f"C{place}",
                    # Two of them may make the same steps.
                    linestyle="-" if place < len(record["curves"]) - 1 else "--",
                    linewidth=1,
                    label=None if seed else name,
                )

        # What the table asks for, beside a scale of its own.
        for name, share in SHARES.items():
            axis.axhline(share * start, color="0.6", linewidth=0.8, linestyle=":")
            axis.text(
                1.0,
                share * start,
                f"{name} ",
                ha="right",
                va="top",
                color="0.4",
                fontsize=8,
                transform=axis.get_yaxis_transform(),
            )
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.xaxis.set_major_formatter("{x:,g}")
        axis.set_xlabel(COSTS[cost])
    axes[0].set_ylabel("KL(π‖p), nats")
    handles, names = axes[0].get_legend_handles_labels()
    _ = figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.suptitle(
        f"{record['settings']['task']}: a line for each of {len(record['seeds']['race'])} seeds"
    )
    figure.savefig(path, dpi=150)


def _spread(values: Sequence[float]) -> str:
    low, middle, high = map(_short, (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def _short(value: float) -> str:
    if math.isinf(value):
        return "never"
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def main(arguments: list[str] | None = None) -> int:
    """Race, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.race", description=__doc__)
    parser.add_argument("--task", choices=TASKS, default="names")
    parser.add_argument("--folder", type=Path, help="of the runs; by default runs/race_TASK")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables")
    parser.add_argument("--steps", type=int, default=400, help="of a run, at most")
    parser.add_argument("--every", type=int, default=5, help="steps between measurements")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--samples", type=int, default=2048, help="of a measurement")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--pilots", type=int, nargs="+", default=PILOTS, help="seeds")
    parser.add_argument("--pilot-steps", type=int, help="of a pilot run; by default --steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--base", type=json.loads, default={}, help="its sizes and steps, as JSON")
    options = parser.parse_args(arguments)
    settings = {
        name: getattr(options, name)
        for name in ("task", "steps", "every", "batch_size", "samples", "threads", "base")
    }

    name = f"race_{options.task}"
    folder = options.folder or Path("runs") / name
    race = Race(folder, lambda line: print(line, flush=True), **settings)
    record = race.run(options.rates, options.pilots, options.seeds, pilot_steps=options.pilot_steps)
    text = page(record)
    write_results(options.results, name, record, text)
    draw(record, options.results / f"{name}.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
