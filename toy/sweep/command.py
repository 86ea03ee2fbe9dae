"""``python -m toy study``: its options, its progress bar, and what it prints and writes."""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from toy.files import require_writable
from toy.sweep.config import StudyConfig
from toy.sweep.provenance import Stopwatch
from toy.sweep.report import print_report
from toy.sweep.run import run_study
from toy.sweep.table import is_table, metadata, to_frame, write_table


def add_study_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    parser.add_argument("--problems", type=int, default=3000, help="number of random problems")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that is random")
    parser.add_argument(
        "--output", type=str | None, default=None, help="also write the table to this Parquet file"
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="processes; the results do not depend on it"
    )


def run(options: Namespace) -> int:
    """Run the study as configured, write the table, print what it says, and return the exit code.

    Raises
    ------
    ValueError, OSError
        For settings that mean nothing, or a file that cannot be written; before any work is done.
    """
    config = StudyConfig(problems=options.problems, seed=options.seed)
    # The table needs them at the end: better missed now than after the work.
    for library in ("pandas", "pyarrow"):
        import_module(library)

    path = None if options.output is None else Path(options.output)
    if path is not None:
        require_writable(path, suffix=".parquet", ours=is_table)

    # Run, with a progress bar on a terminal.
    watch = Stopwatch()
    with _progress() as progress:
        task = progress.add_task("study", total=1.0)
        results = run_study(
            config, workers=options.workers, advance=lambda share: progress.advance(task, share)
        )

    # Say what came out, and write the table.
    frame = to_frame(results.columns)
    console = Console()
    print_report(frame, console)
    if path is not None:
        # Workers and the name of the file are left out: the content does not depend on them.
        command = f"python -m toy study --problems {config.problems} --seed {config.seed}"
        about = metadata(results, asdict(config), command) | watch.facts()
        write_table(frame, about, path)
        console.print(f"table: {path}", soft_wrap=True, highlight=False)
    return 0


def _progress() -> Progress:
    """Return a progress bar on stderr, silent where that is not a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    )
