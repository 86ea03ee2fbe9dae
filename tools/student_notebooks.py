"""Write notebooks 01 to 04 as students get them: ``make student`` puts them into build/student/.

No output is stored, so a prediction is made before its answer is seen; cells that only draw are
folded; the solutions stay here. Beside the copies lies what they import.
"""

from __future__ import annotations

import shutil
import sys
from copy import deepcopy
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS, STUDENT = ROOT / "notebooks", ROOT / "build" / "student"
# Those that need the toy alone; 05 to 07 need transformers and the stored tables of this clone.
FIRST, LAST = "01", "04"
# What they import and no installation brings; a notebook looks in its own folder first.
BESIDE = ("notebooks/lesson.py", "benchmarks/__init__.py", "benchmarks/nearly_equal.py")
# What a student writes or must see is never folded.
_OPEN = {"exercise", "grader", "prediction"}


def student_copy(notebook: NotebookNode) -> NotebookNode:
    """Return a notebook without outputs, its drawing cells folded.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
        As it is committed.

    Returns
    -------
    nbformat.NotebookNode
        A copy.
    """
    copy = deepcopy(notebook)
    for cell in copy.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs, cell.execution_count = [], None
        tags = set(cell.metadata.get("tags", []))
        if "plt.show()" in cell.source and not tags & _OPEN:
            cell.metadata["jupyter"] = {"source_hidden": True}
    return copy


def write(folder: Path = STUDENT) -> list[Path]:
    """Write the copies, and the modules that they import, into a folder.

    Parameters
    ----------
    folder : pathlib.Path
        Made if it is missing. Notebooks in it are replaced, so hand out copies of them.

    Returns
    -------
    list of pathlib.Path
        The notebooks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        if not FIRST <= path.name[:2] <= LAST:
            continue
        copy = student_copy(nbformat.read(path, as_version=4))
        nbformat.write(copy, folder / path.name)
        written.append(folder / path.name)
    for name in BESIDE:
        target = folder / name.removeprefix("notebooks/")
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    return written


if __name__ == "__main__":
    for written in write(Path(sys.argv[1]) if len(sys.argv) > 1 else STUDENT):
        print(f"written: {written}")
