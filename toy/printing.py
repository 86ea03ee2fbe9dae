"""The style of the toy's tables on a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table


def titled_table(title: str, **options: Any) -> Table:
    """Return a table with a bold title on the left and lines between its sections only.

    Parameters
    ----------
    title : str
        Of the table.
    **options
        Of `rich.table.Table`, such as its padding.
    """
    options = {"box": box.HORIZONTALS, "show_edge": False} | options
    return Table(title=title, title_justify="left", title_style="bold", **options)
