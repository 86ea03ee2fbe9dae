"""Deliberate mistakes that the tests must notice: ``python tests/mutants.py`` proves that they do.

Each is a mistake that somebody makes: a sign, a direction, a swapped dual, a missing weight or
detach, a factor of two, a mask off by one, a dropped end token, a mean for a leave-one-out mean.
They are listed in tests/mistakes, by package.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import as_completed
from pathlib import Path

from mistakes import core, lm_policy, lm_target, lm_training, lm_users, study, toy
from mutation import (
    OUT_OF_TIME,
    ROOT,
    Mutant,
    Result,
    check_unmutated,
    occurrences,
    try_mutant,
    worker_pool,
)
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

MUTANTS = [
    mutant
    for package in (core, toy, lm_policy, lm_target, lm_training, lm_users, study)
    for mutant in package.MUTANTS
]

# How far back a file counts as recently changed.
LAST_COMMITS = 10
# Mutants per worker between two checks that their tests pass as they are.
ROUND = 12


class UnmutatedFailure(Exception):
    """Tests that are to notice mutants fail without one."""


def main() -> int:
    """Run the mutants and print one row each; 1 if any survives or breaks."""
    parser = argparse.ArgumentParser(prog="python tests/mutants.py", description=__doc__)
    _ = parser.add_argument("--list", action="store_true", help="print the list and stop")
    _ = parser.add_argument("--only", default="", metavar="SUBSTRING", help="of file or reason")
    _ = parser.add_argument("--jobs", type=int, default=cores(), metavar="N")
    _ = parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="stop after this time; mutants of recently changed files come first",
    )
    _ = parser.add_argument("--not-reached", type=Path, metavar="FILE", help="what time cut off")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if options.only in m.file or options.only in m.why]
    console = Console(width=None if sys.stdout.isatty() else 160)
    if not chosen:
        parser.error(f"no mutant has {options.only!r} in its file or reason")
    if options.list:
        console.print(_table("Mutants", [Result(m, "", "", 0.0) for m in chosen]))
        console.print(counted(chosen))
        return 0
    for mutant in chosen:
        if (count := occurrences(mutant)) != 1:
            console.print(f"{mutant.file}: found {count} times, not once:\n{mutant.before}")
            return 1

    end = math.inf
    if options.seconds is not None:
        end = time.monotonic() + options.seconds
        chosen = recent_first(chosen)
    console.print(f"{counted(chosen)}, {options.jobs} at a time")
    try:
        results = _run_all(chosen, options.jobs, end, console)
    except UnmutatedFailure as error:
        console.print(f"The unmutated selection does not pass:\n{error}", markup=False)
        return 1

    tried = [result for result in results if result.verdict != OUT_OF_TIME]
    alive = [result for result in tried if result.verdict != "killed"]
    console.print(_table("Mutants", tried))
    console.print(f"{len(tried) - len(alive)} of {len(tried)} mutants killed")
    if late := [result.mutant for result in results if result.verdict == OUT_OF_TIME]:
        console.print(f"not reached within the time: {counted(late)}")
        if options.not_reached:
            _ = options.not_reached.write_text(f"{counted(late)}\n", encoding="utf-8")
    return int(bool(alive))


def cores() -> int:
    """Return the number of cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def counted(mutants: Sequence[Mutant]) -> str:
    """Say how many mutants there are, and of which packages."""
    packages = Counter(mutant.file.partition("/")[0] for mutant in mutants)
    parts = ", ".join(f"{name} {number}" for name, number in sorted(packages.items()))
    return f"{len(mutants)} mutants ({parts})"


def recent_first(mutants: Sequence[Mutant]) -> list[Mutant]:
    """Return the mutants of files that the last commits changed, and then the others.

    Both in an order drawn from the commit: where time is short, each commit tries other ones.
    """
    commit = _git("rev-parse", "HEAD")
    changed = set(_git("log", f"-{LAST_COMMITS}", "--name-only", "--format=").split())
    drawn = random.Random(commit).sample(mutants, len(mutants))
    return sorted(drawn, key=lambda mutant: mutant.file not in changed)


def _git(*words: str) -> str:
    """Return what git prints; nothing without git, or outside of a repository."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _run_all(mutants: Sequence[Mutant], jobs: int, end: float, console: Console) -> list[Result]:
    results: list[Result] = []
    checked: set[str] = set()
    with Progress(console=console) as progress, worker_pool(jobs) as pool:
        task = progress.add_task("mutants", total=len(mutants))
        for start in range(0, len(mutants), ROUND * jobs):
            some = mutants[start : start + ROUND * jobs]

            # A test that fails without a mutant kills none.
            tests = sorted({test for mutant in some for test in mutant.tests} - checked)
            parts = split(tests, jobs)
            for found in pool.map(check_unmutated, parts, [end] * len(parts)):
                if found not in ("", OUT_OF_TIME):
                    raise UnmutatedFailure(found)
            checked |= set(tests)

            for future in as_completed([pool.submit(try_mutant, mutant, end) for mutant in some]):
                results.append(future.result())
                progress.advance(task)
    return sorted(results, key=lambda result: mutants.index(result.mutant))


def split(tests: Sequence[str], parts: int) -> list[list[str]]:
    """Split tests into at most so many parts; a file stays whole, for the sake of its fixtures."""
    found: list[list[str]] = [[] for _ in range(parts)]
    for _, group in itertools.groupby(sorted(tests), key=lambda test: test.partition("::")[0]):
        min(found, key=len).extend(group)
    return [part for part in found if part]


def _table(title: str, results: list[Result]) -> Table:
    table = Table(title=title)
    for heading in ("file", "mistake", "verdict", "by", "s"):
        table.add_column(heading)
    for mutant, verdict, detail, seconds in results:
        style = None if verdict in ("killed", "") else "bold red"
        took = f"{seconds:.0f}" if seconds else ""
        table.add_row(mutant.file, mutant.why, verdict, detail, took, style=style)
    return table


if __name__ == "__main__":
    sys.exit(main())
