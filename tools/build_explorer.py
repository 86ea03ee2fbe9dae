"""Put the parts of docs/explorer/ into its one page: ``python tools/build_explorer.py``.

``{{name}}`` in a part is replaced by the part of that name. Nothing is shortened: the page's own
source stays readable, and needs nothing beside it.
"""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).resolve().parents[1] / "docs" / "explorer"
PAGE, PARTS = HERE / "index.html", HERE / "parts"
_PART = re.compile(r"^\{\{([\w.]+)\}\}$", re.MULTILINE)


def page() -> str:
    """Return the whole page, as the parts say now.

    Returns
    -------
    str
        HTML.

    Raises
    ------
    FileNotFoundError
        If a part names another that does not exist.
    """
    return _filled("page.html")


def _filled(name: str) -> str:
    text = (PARTS / name).read_text(encoding="utf-8")
    return _PART.sub(lambda found: _filled(found[1]).rstrip("\n"), text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE} ({PAGE.stat().st_size:,} bytes)")
