"""``python -m toy measurement``: how far the ways to measure a divergence can be trusted."""

from __future__ import annotations

from math import isnan
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.markup import escape

from fdpg_ref import FORWARD_KL, JENSEN_SHANNON, TOTAL_VARIATION, FDivergence, find_divergence
from fdpg_ref.display import title_of
from toy.checks import check_choice
from toy.files import is_picture, require_writable
from toy.measurement.exact import chance_to_see, median_report, quality
from toy.measurement.ways import WAYS
from toy.measurement.worlds import DROPPED, World, check_finite, dropping
from toy.printing import titled_table

MEASURES = tuple(f.name for f in (FORWARD_KL, TOTAL_VARIATION, JENSEN_SHANNON))
_SIZES = (64, 1024, 16_384, 100_000)
# Of the right panel, which is about one number of samples: that of the study.
_STUDY_SIZE = 1024


def add_measurement_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command to a parser. The defaults are a policy like the study's."""
    parser.add_argument(
        "--share", type=float, default=0.28, help="share of the target that the policy dropped"
    )
    parser.add_argument(
        "--seen", type=float, default=2e-4, help="mass that the policy still has there"
    )
    parser.add_argument(
        "--outside", type=float, default=0.05, help="mass of the policy outside the target"
    )
    parser.add_argument(
        "--base_rate", type=float, default=3.7e-3, help="mass of the base on the (hard) target"
    )
    parser.add_argument(
        "--divergence", type=str, default="forward_kl", help=f"one of {', '.join(MEASURES)}"
    )
    parser.add_argument(
        "--output", type=str, default="runs/toy/measurement.png", help="PNG file to write"
    )


def run(options: Namespace) -> int:
    """Print the table, write the picture, and return the exit code.

    Raises
    ------
    ValueError, OSError
        For masses that mean nothing or a file that cannot be written; before any work is done.
    """
    check_choice("divergence", options.divergence, MEASURES)
    divergence, path = find_divergence(options.divergence), Path(options.output)
    require_writable(path, suffix=".png", ours=is_picture)

    def world_of_mass(seen: float) -> World:
        return dropping(options.share, seen, outside=options.outside, base_rate=options.base_rate)

    world = world_of_mass(options.seen)
    check_finite(world, divergence)
    console = Console()
    _print(world, divergence, console)

    # matplotlib takes half a second to import: only after the options have been found right.
    from toy.measurement.picture import draw, save  # noqa: PLC0415

    save(draw(world_of_mass, options.seen, _STUDY_SIZE, divergence=divergence), path)
    console.print(f"picture: {path}", soft_wrap=True, highlight=False)
    return 0


def _print(world: World, divergence: FDivergence, console: Console) -> None:
    truth = world.divergence(divergence)
    title = f"{title_of(divergence.name)} of policy to target: {truth:.4g}, exactly"
    table = titled_table(title, padding=(0, 1, 0, 0))
    table.add_column("samples of", no_wrap=True)
    for column in ("n", "mean", "true sd", "mean SE", "typical", "covers", "shown"):
        table.add_column(column, justify="right")

    undefined = 0.0
    for way in WAYS.values():
        for n in _SIZES:
            found = quality(world, way, n, divergence=divergence)
            value, error = median_report(world, way, n, divergence=divergence)
            undefined = max(undefined, found.undefined)
            table.add_row(
                escape(way.title) if n == _SIZES[0] else "",
                f"{n}",
                f"{found.mean:.3f}",
                f"{found.deviation:.3f}",
                f"{found.error:.3f}",
                "undefined" if isnan(value) else f"{value:.3f} ± {2 * error:.3f}",
                f"{found.coverage:.1%}",
                f"{chance_to_see(world, way, n, DROPPED):.1%}",
                end_section=n == _SIZES[-1],
            )

    console.print(table)
    console.print(
        "All numbers are exact sums. typical: the median report, ± 2 of its SE. covers: how often "
        "such an interval holds the exact value. shown: how often the samples show at all what the "
        "policy dropped."
    )
    # Means and spreads are over the others.
    if undefined > 0.0005:
        console.print(f"Without any target mass an estimate is undefined: up to {undefined:.1%}.")
