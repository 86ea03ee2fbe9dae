"""What `python -m lm report` does: the report of a run again, or several runs on one page."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from lm.errors import RunError, border
from lm.phases import phase
from lm.report import ADVICE
from lm.report.build import finish_run
from lm.report.compare import MOST_RUNS, comparison_page, grouped, read_runs
from lm.run.files import write_output
from lm.run.folder import read_config


def run_report(folders: Sequence[Path], page: Path) -> None:
    """Draw a run's figures and report again from its records, or the page of several.

    Parameters
    ----------
    folders
        Of finished runs.
    page
        Of several: where it is written, at once or not at all.

    Raises
    ------
    RunError
        A folder is no finished run, its records cannot be read, or there are too many.
    """
    for folder in folders:
        _ = read_config(folder)
    if len(folders) == 1:
        with border(f"drawing the report of {folders[0]}", ADVICE):
            report = finish_run(folders[0])
        print(f"report: {report}")
        return

    if len(folders) > MOST_RUNS:
        raise RunError(
            f"{len(folders)} runs are more than the {MOST_RUNS} that a page shows: name fewer, or "
            "make a table of many by python -m lm sweep"
        )
    with border("drawing the page of several runs", ADVICE), phase("drawing the page"):
        runs = read_runs(folders)
        with tempfile.TemporaryDirectory() as place:
            document = comparison_page(runs, Path(place))
    write_output(page, document.encode("utf-8"))
    if len(grouped(runs)) > 1:
        print("not all of them can be compared: the page says which have another target or base")
    print(f"page: {page}")
