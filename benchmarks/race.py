"""A race on names: seconds and samples to half and to a tenth of KL(a‖p), lm's loop beside TRL.

RLHF's target a exp(r / beta) / Z on the small model of names, where log Z is exact. lm's loop, our
FDPGTrainer, stock GRPO and stock RLOO have the same beta, batch, length, optimiser and fused
activation; each runs at the best of three rates, by runs on pilot seeds; the contenders take turns
within a seed, in a rotating order. Every run is a process and a file: the same command goes on
where it was stopped. Writes race.json, .md and .png to benchmarks/results.

Needs TRL: ``python -m benchmarks.race`` in the environment that ``make engines`` installs.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks._race_run import BETA, CONTENDERS, LENGTH, SHARE, Run
from benchmarks._results import RESULTS, machine, write_results

RATES = (1e-4, 3e-4, 1e-3)
PILOTS, SEEDS = (100, 101), (0, 1, 2, 3, 4)
SHARES = {"half": 0.5, "a tenth": SHARE}
# What a point of a curve has, beside the divergence that is left.
COSTS = {"samples": "samples", "cpu": "seconds of CPU", "wall": "seconds"}
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
        Of `Run`: steps, every, batch_size, samples, base, threads.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], **settings: Any) -> None:
        self.folder, self.say, self.settings = folder, say, settings
        folder.mkdir(parents=True, exist_ok=True)

    def curve(self, contender: str, rate: float, seed: int) -> Curve:
        """Return the curve of a run, which is made if it is not there."""
        run = Run(contender, rate, seed, **self.settings)
        path = self.folder / f"{contender.replace(' ', '_')}-{rate:g}-{seed}.json"
        done = path.with_suffix(".done.json")
        if not done.exists():
            self.say(f"{contender}, rate {rate:g}, seed {seed}")
            _ = path.write_text(json.dumps(asdict(run)), encoding="utf-8")
            made = subprocess.run(
                [sys.executable, "-m", "benchmarks._race_run", str(path)],
                capture_output=True,
                text=True,
                check=False,
            )
            if made.returncode:
                raise RuntimeError(f"{contender} has died:\n{made.stderr[-3000:]}")

        record = json.loads(done.read_text(encoding="utf-8"))
        if record["run"] != json.loads(json.dumps(asdict(run))):
            raise ValueError(f"{done} is of other settings: name another --folder, or remove it")
        return record["points"]

    def run(
        self, rates: Sequence[float], pilots: Sequence[int], seeds: Sequence[int]
    ) -> dict[str, Any]:
        """Run pilots, choose rates, race, and return the record."""
        chosen = {
            name: best_rate({r: [self.curve(name, r, s) for s in pilots] for r in rates})
            for name in CONTENDERS
        }
        curves: dict[str, list[Curve]] = {name: [] for name in CONTENDERS}
        for lap, seed in enumerate(seeds):
            # Rotate: no contender always follows the same one.
            first = lap % len(CONTENDERS)
            for name in [*CONTENDERS[first:], *CONTENDERS[:first]]:
                curves[name].append(self.curve(name, chosen[name], seed))
        return {
            "machine": machine("torch", "transformers", "trl"),
            "settings": self.settings | {"beta": BETA, "length": LENGTH},
            "rates": list(rates),
            "seeds": {"pilot": list(pilots), "race": list(seeds)},
            "chosen": chosen,
            "curves": curves,
        }


def table(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the page's table: medians over seeds, and the range."""
    heads = [f"{COSTS[cost]} to {name}" for name in SHARES for cost in COSTS]
    yield f"| contender | rate | {' | '.join(heads)} |"
    yield "|---" * (len(heads) + 2) + "|"
    for name, curves in record["curves"].items():
        cells = [
            _spread([cost_to(curve, share, cost) for curve in curves])
            for share in SHARES.values()
            for cost in COSTS
        ]
        yield f"| {name} | {record['chosen'][name]:g} | {' | '.join(cells)} |"


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
    settings, seeds = record["settings"], record["seeds"]
    start = statistics.median(c[0]["kl"] for c in record["curves"]["lm"])
    lines = [
        "# The race on names",
        "",
        f"{record['machine']}. KL(a‖p) is {start:.3g} nats at the start, beta {settings['beta']}, "
        f"{settings['batch_size']} samples of at most {settings['length']} tokens a step, "
        f"{settings['threads']} thread. The best of the rates "
        f"{', '.join(f'{r:g}' for r in record['rates'])} by {len(seeds['pilot'])} pilot seeds; "
        f"medians of {len(seeds['race'])} seeds with their range. Measurements are on no clock.",
        "",
        *table(record),
        "",
        "Over lm on the same seed, seconds of CPU to a tenth:",
        "",
    ]

    # A seed on which one of both never got there is counted, and has no ratio.
    for name, found in ratios(record, SHARE, "cpu").items():
        if name == "lm":
            continue
        missing = len(seeds["race"]) - len(found)
        got = f"{_spread(found)} times" if found else "no seed on which both got there"
        lines.append(f"- {name}: {got}{f'; {missing} seeds without' if missing and found else ''}")

    goal = f"The goal was {FASTER_THAN_TRL} times against stock TRL."
    return "\n".join([*lines, "", goal, "", "![the race](race.png)", ""])


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Draw what is left against seconds of CPU and against samples."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, cost in zip(axes, ("cpu", "samples"), strict=True):
        for place, (name, curves) in enumerate(record["curves"].items()):
            for seed, curve in enumerate(curves):
                axis.plot(
                    [point[cost] for point in curve],
                    [point["kl"] for point in curve],
                    color=f"C{place}",
                    linewidth=1,
                    label=None if seed else name,
                )
        axis.set_yscale("log")
        axis.set_xlabel(COSTS[cost])
    axes[0].set_ylabel("KL(π‖p), nats")
    axes[1].legend(frameon=False)
    figure.savefig(path, dpi=150)


def _spread(values: Sequence[float]) -> str:
    low, middle, high = map(_short, (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def _short(value: float) -> str:
    if math.isinf(value):
        return "never"
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def main(arguments: list[str] | None = None) -> int:
    """Race, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.race", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/race"), help="of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables")
    parser.add_argument("--steps", type=int, default=400, help="of a run, at most")
    parser.add_argument("--every", type=int, default=5, help="steps between measurements")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--samples", type=int, default=2048, help="of a measurement")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--pilots", type=int, nargs="+", default=PILOTS, help="seeds")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--base", type=json.loads, default={}, help="of BaseConfig, as JSON")
    options = parser.parse_args(arguments)
    settings = {
        name: getattr(options, name)
        for name in ("steps", "every", "batch_size", "samples", "threads", "base")
    }

    race = Race(options.folder, lambda line: print(line, flush=True), **settings)
    record = race.run(options.rates, options.pilots, options.seeds)
    text = page(record)
    write_results(options.results, "race", record, text)
    draw(record, options.results / "race.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
