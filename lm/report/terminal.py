"""Tables on a terminal, and whole in a log file."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

WIDEST = 200


def new_table(title: str) -> Table:
    """Return an empty table of the house's style, for `print_table`."""
    return Table(
        title=escape(title), title_justify="left", title_style="dim", box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )  # fmt: skip


def print_table(table: Table) -> None:
    """Print a table: as wide as the terminal, or as wide as it is where there is none.

    Parameters
    ----------
    table
        Its cells are printed as they are, markup included.
    """
    console = Console()
    if not console.is_terminal:
        # rich would fold everything into 80 columns; a file has room.
        unbounded = console.options.update(max_width=WIDEST)
        console.width = max(console.width, console.measure(table, options=unbounded).maximum)
    console.print(table)
