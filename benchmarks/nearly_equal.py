"""Relative error of KL and Jensen-Shannon between nearly equal distributions, ours and others'.

``python -m benchmarks.nearly_equal`` prints the table that notebook 01 draws.
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

from toy.lesson.nearly_equal import DISTANCES, measure


def main(arguments: list[str] | None = None) -> int:
    """Print the table side by side."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nearly_equal", description=__doc__)
    parser.parse_args(arguments)
    table = Table(title="Relative error, float64, 1,000 outcomes, distributions at distance d")
    for heading in ("", "implementation", *(f"d = {d:g}" for d in DISTANCES), "went negative"):
        table.add_column(heading)
    for row in measure():
        errors = (f"{e:.1e}" for e in row.errors)
        table.add_row(row.quantity, row.implementation, *errors, "yes" if row.negative else "")
    Console(width=110).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
