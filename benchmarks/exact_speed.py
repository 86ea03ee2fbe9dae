"""Time of the exact sum against scipy's, at two spreads of the log-ratio, for n up to 1e7.

Forward KL is compared with scipy.special.rel_entr(p, q).sum(), Jensen-Shannon with
scipy.spatial.distance.jensenshannon: from the same linear probabilities, from log-probabilities
(which scipy would have to exponentiate first), and compiled by torch where it is installed. Ours
and scipy's are timed in alternation, in one thread, and the median of the ratios is reported, so
that a busy machine slows both. Writes exact_speed.json, .md and .png to benchmarks/results. Run
``python -m benchmarks.exact_speed``; it takes about two minutes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr

from benchmarks._results import RESULTS, machine, write_results
from fdpg_ref import (
    FORWARD_KL,
    JENSEN_SHANNON,
    FDivergence,
    exact_divergence,
    exact_divergence_from_probabilities,
)

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
SPREADS = (1.0, 0.05)

# Ratios to reach for n >= LARGE, by spread; those of numpy's forward KL are bounds.
LARGE = 100_000
BOUND = "forward KL, numpy"
GOALS = {
    BOUND: {1.0: 1.0, 0.05: 2.0},
    "forward KL, torch.compile": {1.0: 0.6, 0.05: 1.8},
    "Jensen-Shannon, numpy": {1.0: 1.5, 0.05: 1.5},
}

Evaluate = Callable[[np.ndarray, np.ndarray], Any]
Prepare = Callable[[np.ndarray], Any]


class Contender(NamedTuple):
    """An implementation, what it makes of a numpy array beforehand, and scipy's counterpart."""

    name: str
    evaluate: Callable[[Any, Any], Any]
    prepare: Prepare
    scipy: Evaluate


class Row(NamedTuple):
    """Medians over the pairs of one run."""

    implementation: str
    spread: float
    n: int
    pairs: int
    nanoseconds: float  # an element
    scipy_nanoseconds: float
    ratio: float
    goal: float | None


def distributions(n: int, spread: float, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return (policy, target) of n outcomes with log-ratios of the given standard deviation."""
    rng = np.random.default_rng(seed)
    target = np.exp(rng.standard_normal(n))
    policy = target * np.exp(spread * rng.standard_normal(n))
    return policy / policy.sum(), target / target.sum()


def measure(sizes: tuple[int, ...] = SIZES, *, seconds: float = 1.0) -> Iterator[Row]:
    """Yield one row a contender, spread and size; each takes about ``seconds``, or 5 pairs."""
    # glibc returns freed pages to the system, and page faults then dominate both sides at random,
    # until it has seen a large array freed.
    np.ones(4_000_000)
    for contender in _contenders():
        goals = GOALS.get(contender.name, {})
        for n in sizes:
            for spread in SPREADS:
                times = _pairs(contender, *distributions(n, spread), seconds)
                yield Row(
                    contender.name,
                    spread,
                    n,
                    pairs=len(times),
                    nanoseconds=1e9 / n * statistics.median(ours for ours, _ in times),
                    scipy_nanoseconds=1e9 / n * statistics.median(theirs for _, theirs in times),
                    ratio=statistics.median(ours / theirs for ours, theirs in times),
                    goal=goals.get(spread) if n >= LARGE else None,
                )


def _pairs(
    contender: Contender, policy: np.ndarray, target: np.ndarray, seconds: float
) -> list[tuple[float, float]]:
    ours = contender.prepare(policy), contender.prepare(target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.compile remarks on cached functions
        contender.evaluate(*ours)
    times, end = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        mine = _seconds(contender.evaluate, *ours)
        times.append((mine, _seconds(contender.scipy, policy, target)))
    return times


def _seconds(function: Callable[[Any, Any], Any], policy: Any, target: Any) -> float:
    start = time.perf_counter()
    function(policy, target)
    return time.perf_counter() - start


def _contenders() -> Iterator[Contender]:
    pairs: tuple[tuple[str, FDivergence, Evaluate], ...] = (
        ("forward KL", FORWARD_KL, lambda q, p: rel_entr(p, q).sum()),
        ("Jensen-Shannon", JENSEN_SHANNON, jensenshannon),
    )
    for name, divergence, scipy in pairs:

        def linear(q: Any, p: Any, divergence: FDivergence = divergence) -> Any:
            return exact_divergence_from_probabilities(q, p, divergence=divergence)

        def logs(q: Any, p: Any, divergence: FDivergence = divergence) -> Any:
            return exact_divergence(q, p, divergence=divergence)

        yield Contender(f"{name}, numpy", linear, np.asarray, scipy)
        yield Contender(f"{name}, numpy, log inputs", logs, np.log, scipy)
        yield from _compiled(f"{name}, torch.compile", linear, scipy)


def _compiled(name: str, evaluate: Evaluate, scipy: Evaluate) -> Iterator[Contender]:
    try:
        import torch  # noqa: PLC0415 - torch is optional here: without it two rows are missing
    except ImportError:
        return
    torch.set_num_threads(1)
    yield Contender(name, torch.compile(evaluate, fullgraph=True), torch.from_numpy, scipy)


def _markdown(rows: list[Row], machine: str) -> str:
    lines = [
        f"Exact divergences in float64, one thread, ratio of times to scipy's. {machine}.",
        "",
        "| implementation | spread | n | ns/element | scipy | ratio | goal |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(f"| {' | '.join(_cells(row))} |" for row in rows), ""])


def _cells(row: Row) -> tuple[str, ...]:
    times = f"{row.nanoseconds:.3g}", f"{row.scipy_nanoseconds:.3g}", f"{row.ratio:.2f}"
    goal = "" if row.goal is None else f"{row.goal:g}"
    return row.implementation, f"{row.spread:g}", f"{row.n:.0e}".replace("+0", ""), *times, goal


def _figure(rows: list[Row]) -> Figure:
    """Draw the cost of an element against n, a panel a spread, scipy's dashed."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, len(SPREADS), sharey=True)
    for panel, spread in zip(panels, SPREADS, strict=True):
        names = dict.fromkeys(row.implementation for row in rows)
        for i, name in enumerate(names):
            line = [row for row in rows if (row.implementation, row.spread) == (name, spread)]
            sizes = [row.n for row in line]
            panel.loglog(sizes, [row.nanoseconds for row in line], f"C{i}o-", ms=3, label=name)
            if name.endswith("numpy"):
                label = "scipy rel_entr" if name == BOUND else "scipy jensenshannon"
                times = [row.scipy_nanoseconds for row in line]
                panel.loglog(sizes, times, f"C{i}x--", ms=4, label=label)
        panel.set(title=f"log-ratios of spread {spread:g}", xlabel="outcomes n")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("nanoseconds an element")
    panels[0].legend(fontsize=7)
    return figure


def main(arguments: list[str] | None = None) -> int:
    """Print the table and write the three files; 1 if numpy's forward KL breaks its bound."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exact_speed", description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the three files")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row of the table")
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="largest n")
    options = parser.parse_args(arguments)
    sizes = tuple(n for n in SIZES if n <= options.largest)
    rows = list(measure(sizes, seconds=options.seconds))

    where = machine("numpy", "scipy")
    table = Table(title="Exact divergences: ratio of times to scipy's", caption=where)
    for heading in ("implementation", "spread", "n", "ns/element", "scipy", "ratio", "goal"):
        table.add_column(heading)
    for row in rows:
        missed = row.goal is not None and row.ratio > row.goal
        table.add_row(*_cells(row), style="red" if missed else None)
    Console(width=120).print(table)

    # Write the three files.
    record = {"machine": where, "rows": [row._asdict() for row in rows]}
    write_results(options.output, "exact_speed", record, _markdown(rows, where))
    _figure(rows).savefig(options.output / "exact_speed.png", dpi=110)
    bounds = [row for row in rows if row.implementation == BOUND and row.goal is not None]
    return int(any(row.ratio > row.goal for row in bounds if row.goal is not None))


if __name__ == "__main__":
    sys.exit(main())
