"""Numbers as the report prints them, and Markdown tables of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

__all__ = ["interval"]

NONE = "–"
ROUNDING = 1e-9


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, without a power of ten if it can."""
    if math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}" if decimals else f"{value:.0f}"


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


def plus_minus(value: float, spread: float) -> str:
    """Return a value and its spread, with two digits of the spread; rounding errors are zero."""
    if abs(value) < ROUNDING:
        return "0"
    if not math.isfinite(value) or math.isnan(spread) or spread <= ROUNDING * abs(value):
        return number(value)
    decimals = 1 - math.floor(math.log10(spread))
    if decimals > 6:
        return f"{number(value)} ± {number(spread, 2)}"
    return f"{value:.{max(0, decimals)}f} ± {spread:.{max(0, decimals)}f}"


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
