"""Execute every notebook as a reader finds it, and then the solutions of its exercises.

    python tools/run_notebooks.py [NOTEBOOK ...] [--write]

An error is fatal, and so is a warning. As found, a cell tagged "grader" must fail. After the last
cell, each cell tagged "exercise" is answered from ``notebooks/solutions/NAME.py``, where its grader
must pass. The committed file is only read, unless ``--write`` stores the outputs as found.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
SECONDS_A_CELL = 300
# A cell that is shown without its code until a reader asks for it. Jupyter Book knows the tag.
FOLDED = "hide-input"
# What a student writes or must see is never folded.
OPEN = {"exercise", "grader", "prediction"}


class Outcome(NamedTuple):
    """What happened to one notebook: its seconds, and everything that is wrong."""

    name: str
    seconds: float
    problems: list[str]


def main(arguments: list[str] | None = None) -> int:
    """Run the notebooks and print a summary; 1 if anything is wrong, 2 for an unknown file."""
    parser = argparse.ArgumentParser(prog="python tools/run_notebooks.py", description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all in notebooks/")
    parser.add_argument("--write", action="store_true", help="store outputs, if all is well")
    options = parser.parse_args(arguments)
    paths = options.notebooks or sorted(FOLDER.glob("[0-9]*.ipynb"))
    for path in paths:
        if not path.is_file():
            parser.error(f"there is no notebook {path}")
    _prepare_environment()
    outcomes = [run(path, write=True) for path in paths] if options.write else run_all(paths)
    _print_summary(outcomes, Console(stderr=False))
    return int(not outcomes or any(outcome.problems for outcome in outcomes))


def run_all(paths: Sequence[Path]) -> list[Outcome]:
    """Return what `run` finds in each notebook, as many at once as there are cores."""
    workers = min(len(paths), os.cpu_count() or 1)
    # A kernel a core: its threads would only get into each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        # The later ones take longest, so they begin first.
        begun = [pool.submit(run, path) for path in reversed(paths)]
        return [future.result() for future in reversed(begun)]


def run(path: Path, *, write: bool = False) -> Outcome:
    """Execute one notebook as found and its solutions, and check what is stored in it.

    Parameters
    ----------
    path : pathlib.Path
        The notebook.
    write : bool
        Store the outputs as found, if nothing is wrong.

    Returns
    -------
    Outcome
        Time and problems; a stored copy that is out of date is a problem unless it is rewritten.
    """
    stored = nbformat.read(path, as_version=4)
    try:
        solved = with_solutions(
            stored, read_solutions(path.parent / "solutions" / f"{path.stem}.py")
        )
    except ValueError as error:
        return Outcome(path.name, 0.0, [str(error)])
    executed, seconds, problems = execute(solved, path.parent)

    found = len(stored.cells)
    answered = copy.copy(executed)
    answered.cells, executed.cells = executed.cells[found:], executed.cells[:found]
    more = [f"as found: {problem}" for problem in check_graders(executed, solved=False)]
    more += [f"with solutions: {problem}" for problem in check_graders(answered, solved=True)]
    # After an error nothing more was executed, so the graders would only say it again.
    problems = problems or more
    if write and not problems:
        nbformat.write(normalise(executed), path)
        stored = nbformat.read(path, as_version=4)
    problems += [f"stored: {problem}" for problem in check_stored(stored)]
    return Outcome(path.name, seconds, problems)


def execute(notebook: NotebookNode, folder: Path) -> tuple[NotebookNode, float, list[str]]:
    """Return an executed copy of a notebook, its seconds, and errors and warnings on the way."""
    executed = copy.deepcopy(notebook)
    start = time.perf_counter()
    problems: list[str] = []

    with tempfile.TemporaryDirectory() as sockets:
        # A socket file of ours, not a TCP port: no other process can talk to the kernel.
        kernel = AsyncKernelManager(
            kernel_name="python3", transport="ipc", ip=str(Path(sockets, "kernel"))
        )
        client = NotebookClient(
            executed,
            km=kernel,
            timeout=SECONDS_A_CELL,
            record_timing=False,
            resources={"metadata": {"path": str(folder)}},
        )
        try:
            client.execute(cleanup_kc=True)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            problems.append(_plain(str(error)).strip())

    # A warning is as bad as an error: it would be stored with the outputs.
    seconds = time.perf_counter() - start
    problems += [
        f"{cell.source.splitlines()[0]!r} warns: {output.text.strip()}"
        for cell in _code_cells(executed)
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stderr"
    ]
    return executed, seconds, problems


def read_solutions(path: Path) -> dict[str, str]:
    """Return the solutions of a notebook by cell id, from the sections ``# %% id`` of a file."""
    if not path.is_file():
        return {}
    parts = re.split(r"^# %% (\S+)\n", path.read_text("utf-8"), flags=re.MULTILINE)
    return {name: source.strip() for name, source in zip(parts[1::2], parts[2::2], strict=True)}


def with_solutions(notebook: NotebookNode, solutions: dict[str, str]) -> NotebookNode:
    """Return a copy that goes on, after its last cell, with each solution and its grader.

    Raises
    ------
    ValueError
        If the exercises and the solutions are not the same set.
    """
    longer = copy.deepcopy(notebook)
    exercises = {cell.id for cell in _code_cells(notebook) if "exercise" in _tags(cell)}
    if exercises != set(solutions):
        raise ValueError(
            f"exercises {sorted(exercises)} but solutions {sorted(solutions)}: each exercise cell "
            "needs a section `# %% id` in notebooks/solutions/"
        )
    for cell in _code_cells(notebook):
        if not {"exercise", "grader"} & set(_tags(cell)):
            continue
        again = copy.deepcopy(cell)
        again.id += "-solved"
        again.source = solutions.get(cell.id, cell.source)
        # Here no cell may fail.
        again.metadata["tags"] = [tag for tag in _tags(cell) if tag != "raises-exception"]
        longer.cells.append(again)
    return longer


def check_graders(executed: NotebookNode, *, solved: bool) -> list[str]:
    """Return a complaint for every grader that passed an open exercise or refused its solution."""
    problems = []
    for cell in _code_cells(executed):
        if "grader" not in _tags(cell):
            continue
        errors = [output.ename for output in cell.outputs if output.output_type == "error"]
        if solved and (errors or not cell.outputs):
            problems.append(f"{cell.id} refuses the solution")
        elif not solved and errors != ["NotSolved"]:
            problems.append(f"{cell.id} should say that its exercise is open, but gave {errors}")
    return problems


def check_stored(notebook: NotebookNode) -> list[str]:
    """Return what is wrong with the outputs of a committed notebook."""
    problems = []
    cells = _code_cells(notebook)
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        problems.append("not every cell was executed once, in order")
    if notebook.metadata.get("fdpg_ref", {}).get("sources_sha256") != _digest(notebook):
        problems.append("the outputs are older than the cells; run with --write")
    outputs = [output for cell in cells for output in cell.outputs]
    if not any("image/png" in output.get("data", {}) for output in outputs):
        problems.append("there is no picture in it")
    final = [cell for cell in cells if "assertions" in _tags(cell)]
    if not final or final[-1] is not cells[-1] or "hold" not in _text(final[-1]):
        problems.append('it does not end in assertions that ran (a last cell tagged "assertions")')
    unfolded = [c.id for c in cells if _draws(c) and FOLDED not in _tags(c)]
    unfolded += [c.id for c in notebook.cells if c.metadata != _metadata(_tags(c))]
    problems += [f'cell {name} is not folded: tag it "{FOLDED}", use --write' for name in unfolded]
    failed = [c.id for c in cells if "grader" not in _tags(c) and "error" in _kinds(c)]
    problems += [f"cell {name} shows an error" for name in failed]
    return problems


def normalise(executed: NotebookNode) -> NotebookNode:
    """Return a copy that differs from run to run only where results differ."""
    clean = copy.deepcopy(executed)
    clean.metadata = NotebookNode(
        fdpg_ref={"sources_sha256": _digest(executed)},
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    for cell in clean.cells:
        cell.metadata = _metadata(_tags(cell))
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                output.traceback = [_plain(line) for line in output.traceback]
    return clean


def _prepare_environment() -> None:
    # The inline backend of the kernel draws the pictures; a backend from outside would hide them.
    os.environ.pop("MPLBACKEND", None)
    os.environ["PYTHONHASHSEED"] = "0"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")


def _print_summary(outcomes: list[Outcome], console: Console) -> None:
    table = Table(title="Notebooks, executed from top to bottom")
    table.add_column("notebook", overflow="fold")
    table.add_column("seconds", justify="right")
    table.add_column("verdict")
    for name, seconds, problems in outcomes:
        verdict = "[red]wrong" if problems else "[green]ok"
        table.add_row(name, f"{seconds:.1f}", verdict)
    console.print(table)
    for outcome in outcomes:
        for problem in outcome.problems:
            console.print(f"{outcome.name}: {problem}", style="red", markup=False)
    if not outcomes:
        console.print(f"no notebook found in {FOLDER}", style="red", markup=False)


def _digest(notebook: NotebookNode) -> str:
    sources = [[cell.cell_type, cell.source] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def _code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def _draws(cell: NotebookNode) -> bool:
    return "plt.show()" in cell.source and not OPEN & set(_tags(cell))


def _metadata(tags: list[str]) -> NotebookNode:
    """Return what a cell with these tags stores: JupyterLab and Colab fold it by other names."""
    fold = {"cellView": "form", "jupyter": {"source_hidden": True}} if FOLDED in tags else {}
    return NotebookNode({"tags": tags} | fold if tags else {})


def _kinds(cell: NotebookNode) -> set[str]:
    return {output.output_type for output in cell.outputs}


def _text(cell: NotebookNode) -> str:
    return "".join(o.text for o in cell.outputs if o.output_type == "stream")


def _plain(text: str) -> str:
    """Return a text without terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


if __name__ == "__main__":
    sys.exit(main())
