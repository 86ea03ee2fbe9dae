"""The words of `python -m lm report`. Needs no torch, so that help and errors come at once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lm.errors import UsageError
from lm.report import SEVERAL
from lm.run.owned import holds_text, require_replaceable_file


def report_words(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[list[Path], Path]:
    """Return the runs, and the page that shows several of them.

    Parameters
    ----------
    parser
        Of the command; gets its words.
    words
        What was given.

    Raises
    ------
    UsageError
        A run is named twice, or the page may not be written there.
    """
    parser.add_argument("run", type=Path, nargs="+", help="run folder; several go on one page")
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="that page (comparison.html, beside the first run)",
    )
    options = parser.parse_args(words)
    runs: list[Path] = options.run
    if len(runs) == 1:
        if options.output is not None:
            raise UsageError("--output is the page of several runs; one has its own report.html")
        return runs, runs[0] / "report.html"

    places = [run.resolve() for run in runs]
    twice = [str(run) for run, place in zip(runs, places, strict=True) if places.count(place) > 1]
    if twice:
        raise UsageError(f"{twice[-1]} is named twice: every run once")
    output = options.output or places[0].parent / "comparison.html"
    if not output.absolute().parent.is_dir():
        raise UsageError(f"{output} cannot be written: its folder does not exist")
    require_replaceable_file(output, "a page of several runs", holds_text(SEVERAL))
    return runs, output
