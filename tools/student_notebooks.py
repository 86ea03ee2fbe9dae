"""Write the notebooks as students get them: ``make student`` puts them into notebooks/student/.

No output is stored, and the text after a prediction's run is folded, so a prediction is made
before its answer is seen; the solutions stay where they are. The copies are under version control:
they are what the README links.
"""

from __future__ import annotations

import re
import sys
from copy import deepcopy
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
STUDENT = NOTEBOOKS / "student"

# Where a text has answered the last question: at a heading, or at the next question.
_NEXT = re.compile(r"^(?:#{1,6} |\*\*Predict)", re.MULTILINE)


def student_copy(notebook: NotebookNode) -> NotebookNode:
    """Return a notebook without outputs, with answers folded and links from a folder below.

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
    copy.metadata.pop("fdpg_ref", None)  # of which run the outputs were
    asked = False
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            asked = asked or "prediction" in cell.metadata.get("tags", [])
        else:
            text = cell.source.replace("](../", "](../../")
            cell.source, asked = folded(text) if asked else text, False
    return copy


def folded(text: str) -> str:
    """Return a text that answers a prediction, folded up to what asks the next one.

    Parameters
    ----------
    text : str
        Markdown.

    Returns
    -------
    str
        Markdown, with the answer in a ``details`` element; the blank lines keep it Markdown.
    """
    following = _NEXT.search(text)
    end = following.start() if following else len(text)
    answer, rest = text[:end].strip(), text[end:]
    if not answer:
        return text
    opened = f"<details><summary>After your run</summary>\n\n{answer}\n\n</details>"
    return f"{opened}\n\n{rest}" if rest else opened


def write(folder: Path = STUDENT) -> list[Path]:
    """Write the copies into a folder.

    Parameters
    ----------
    folder : pathlib.Path
        Made if it is missing. Notebooks in it are replaced, so work in copies of them.

    Returns
    -------
    list of pathlib.Path
        The notebooks, by number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        nbformat.write(student_copy(nbformat.read(path, as_version=4)), folder / path.name)
        written.append(folder / path.name)
    return written


if __name__ == "__main__":
    for written in write(Path(sys.argv[1]) if len(sys.argv) > 1 else STUDENT):
        print(f"written: {written}")
