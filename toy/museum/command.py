"""``python -m toy museum``: options and exit codes.

Importing this module needs no torch; running the museum does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from toy.files import require_writable, write_text

if TYPE_CHECKING:
    from toy.museum.records import Record

MISTAKEN = 1


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the museum to a parser."""
    parser.add_argument(
        "--show", type=int | None, default=None, help="print exhibit N beside its corrected twin"
    )
    parser.add_argument(
        "--json", type=str | None, default=None, help="also write the records to this file"
    )
    parser.add_argument(
        "--markdown", type=str | None, default=None, help="also write a page about all exhibits"
    )


def run(options: Namespace) -> int:
    """Measure the exhibits, print them, and write what was asked for.

    Parameters
    ----------
    options : jsonargparse.Namespace
        From a parser with `add_arguments`.

    Returns
    -------
    int
        0 if every exhibit is flagged and no twin is, else 1.

    Raises
    ------
    ValueError
        If there is no such exhibit, or a file cannot be named so.
    """
    files = _files(options)
    # torch takes seconds to import: only after the options have been found right.
    from toy.museum.exhibits import EXHIBITS, run_museum  # noqa: PLC0415
    from toy.museum.records import look_at  # noqa: PLC0415
    from toy.museum.report import print_exhibit, print_museum  # noqa: PLC0415

    if options.show is not None:
        if options.show not in EXHIBITS:
            raise ValueError(f"there is no exhibit {options.show}: choose 1 to {max(EXHIBITS)}")
        records = [look_at(EXHIBITS[options.show])]
        print_exhibit(records[0], Console())
    else:
        records = run_museum()
        _write(records, files)
        console = Console()
        print_museum(records, console)
        for path in files.values():
            console.print(f"written: {path}", soft_wrap=True, highlight=False)
    return 0 if all(record.passes for record in records) else MISTAKEN


def _files(options: Namespace) -> dict[str, Path]:
    """Return the files asked for by suffix, all of them writable."""
    asked = {".json": options.json, ".md": options.markdown}
    files = {suffix: Path(name) for suffix, name in asked.items() if name is not None}
    if options.show is not None and files:
        raise ValueError("--show prints one exhibit and writes no file: leave out one of the two")
    for suffix, path in files.items():
        require_writable(path, suffix=suffix)
    return files


def _write(records: Sequence[Record], files: dict[str, Path]) -> None:
    from toy.museum.report import as_json, as_markdown  # noqa: PLC0415

    contents = {".json": as_json, ".md": as_markdown}
    for suffix, path in files.items():
        write_text(path, contents[suffix](records))
