"""How every package shows the same things: names, colours, numbers, and the frame of a page.

Strings and plain dicts only. The packages that draw hand `STYLE` to matplotlib themselves.
"""

from __future__ import annotations

import math
from html import escape
from typing import Any

from fdpg_ref.divergences import DIVERGENCES, FDivergence, find_divergence

# One colour for each divergence, in every picture: Okabe and Ito's palette and its neighbours,
# distinguishable without colour vision. Alpha 1/2 is twice the squared Hellinger distance.
COLORS = {
    "forward_kl": "#0072B2",
    "reverse_kl": "#D55E00",
    "total_variation": "#009E73",
    "jensen_shannon": "#A1478B",
    "pearson_chi2": "#CC79A7",
    "neyman_chi2": "#8C8C8C",
    "squared_hellinger": "#56B4E9",
    "jeffreys": "#222222",
    "le_cam": "#B8A800",
    "alpha_0.25": "#2B9FD9",
    "alpha_0.5": "#56B4E9",
    "alpha_0.75": "#E69F6E",
}
# A divergence that has none of its own.
OTHER_COLOR = "#9AA5B1"
# Shape says the same as colour, for pictures in grey.
MARKERS = {
    "forward_kl": "o",
    "reverse_kl": "v",
    "total_variation": "s",
    "jensen_shannon": "D",
    "alpha_0.25": "<",
    "alpha_0.5": "^",
    "alpha_0.75": ">",
}
OTHER_MARKER = "h"
TARGET_COLOR = "#E6A100"
INK, MUTED = "#1c2430", "#5b6675"
# For lines that are no divergences: told apart, and never taken for one.
SERIES = (INK, "#8C564B", TARGET_COLOR, "#9AA5B1")

# What matplotlib's rc_context is given for every picture.
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.use": True,
}

# What every page begins with. Pages append what they alone have.
STYLESHEET = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f5f7; color: #1c2430;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
header { border-left: 6px solid #e6a100; padding-left: 1rem; margin-bottom: 1.5rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 0 0 .7rem; }
p { margin: .5rem 0; overflow-wrap: anywhere; }
section { background: #fff; border-radius: 10px; padding: 1.1rem 1.2rem; margin: 0 0 1.2rem;
  box-shadow: 0 1px 3px rgb(20 30 50 / 12%); }
figure { margin: 1rem 0 0; }
img { max-width: 100%; height: auto; display: block; }
figcaption, .muted { color: #5b6675; font-size: .92rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid #e8ebef;
  vertical-align: top; }
th { font-weight: 600; color: #5b6675; font-size: .9rem; }
.verdict { display: inline-block; border-radius: 99px; padding: .1rem .75rem; font-weight: 600; }
.good { background: #d9f2e3; color: #0b5a33; } .partly { background: #fdf0cd; color: #6b4a00; }
.bad { background: #fbd9d6; color: #8a1206; } .none { background: #e8ebef; color: #5b6675; }
@media (max-width: 36rem) { section { padding: .9rem .8rem; } body { font-size: 15px; } }
"""

# A cell without a number.
NONE = "–"
# Of a value: smaller spreads are rounding.
ROUNDING = 1e-9


def divergence_called(name: str) -> FDivergence | None:
    """Return the divergence of a name, None for what is no divergence.

    Parameters
    ----------
    name : str
        Such as ``forward_kl``, ``alpha_0.5``, or a quantity such as ``entropy``.

    Returns
    -------
    FDivergence or None
        As `fdpg_ref.find_divergence` finds it.
    """
    known = name in DIVERGENCES or name.startswith("alpha_")
    return find_divergence(name) if known else None


def title_of(name: str) -> str:
    """Return what people call a divergence; any other name as it is.

    Parameters
    ----------
    name : str
        As in a configuration or a table.

    Returns
    -------
    str
        Such as "forward KL".
    """
    divergence = divergence_called(name)
    return name if divergence is None else divergence.title


def unit_of(name: str) -> str:
    """Return the unit of a divergence, ready to follow its title on an axis.

    Parameters
    ----------
    name : str
        As `find_divergence` knows it.

    Returns
    -------
    str
        " (nats)", or nothing for a pure number.
    """
    unit = find_divergence(name).unit
    return f" ({unit})" if unit else ""


def color_of(name: str) -> str:
    """Return the colour of a divergence, a neutral one for what has none.

    Parameters
    ----------
    name : str
        As in a configuration or a table.

    Returns
    -------
    str
        As HTML and matplotlib write it.
    """
    return COLORS.get(name, OTHER_COLOR)


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, without a power of ten if it can.

    Parameters
    ----------
    value : float
        NaN is a dash.
    digits : int
        How many.

    Returns
    -------
    str
        Such as "0.0123", "∞" or "1.2e-07".
    """
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


def plus_minus(value: float, spread: float, *, digits: int = 3, rounding: float = ROUNDING) -> str:
    """Return a value and its spread, with the decimals that two digits of the spread allow.

    Parameters
    ----------
    value, spread : float
        A spread that is NaN, or rounding only, is left out.
    digits : int
        Of a value without a spread.
    rounding : float
        Spreads below this share of the value are rounding; values below it are zero.

    Returns
    -------
    str
        Such as "0.123 ± 0.012".
    """
    if abs(value) < rounding:
        return "0"
    if not math.isfinite(value) or math.isnan(spread) or spread <= rounding * abs(value):
        return number(value, digits)
    decimals = 1 - math.floor(math.log10(spread))
    if decimals > 6:
        return f"{number(value, digits)} ± {number(spread, 2)}"
    return f"{value:.{max(0, decimals)}f} ± {spread:.{max(0, decimals)}f}"


def html_page(title: str, body: str, style: str = "") -> str:
    """Return a whole HTML document that needs nothing outside it.

    Parameters
    ----------
    title : str
        Plain text.
    body : str
        HTML.
    style : str
        CSS after `STYLESHEET`.

    Returns
    -------
    str
        For a screen of any width.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLESHEET}{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )
