"""Intervals and shares as the report prints them, and Markdown tables of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from fdpg_ref.display import NONE, ROUNDING, number


def interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """Return a value and its interval, with the decimals that the width of the interval allows."""
    if math.isnan(low) or math.isnan(high):
        return number(value, digits)
    width = high - low
    # Narrower than rounding: the interval is a point.
    if not math.isfinite(width) or width <= ROUNDING * abs(value) or not math.isfinite(value):
        return f"{number(value, digits)} {bracket(low, high, digits)}"
    decimals = min(6, max(0, 1 - math.floor(math.log10(width))))
    if abs(value) < 10.0**-decimals or abs(value) >= 1e6:
        return f"{number(value, digits)} {bracket(low, high, digits)}"
    return f"{value:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def bracket(low: float, high: float, digits: int = 3) -> str:
    """Return an interval alone."""
    return f"[{number(low, digits)}, {number(high, digits)}]"


def share(part: float, whole: float) -> str:
    """Return a part of a whole in percent."""
    return NONE if whole == 0 else f"{100.0 * part / whole:.0f} %"


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is left-aligned, the others right."""
    lines = [_line(heads), "|" + "---|" + "---:|" * (len(heads) - 1)]
    return "\n".join([*lines, *(_line(row) for row in rows)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    # A bar inside a cell would end it.
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
