"""An audit for people (tables, a figure of f') and for programs (JSON)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.text import Text

from fdpg_ref import DIVERGENCES
from fdpg_ref.display import INK, color_of, title_of
from toy.audit.findings import MINIMUM, TRIED, AuditReport
from toy.audit.losses import DESCRIPTIONS
from toy.audit.sentence import batch_sentence, details, headline, short_verdict
from toy.audit.signal import FLAT, centred
from toy.files import write_text
from toy.printing import titled_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from toy.audit.signal import Signal


def print_audit(report: AuditReport, console: Console, *, hints: Sequence[str] = ()) -> None:
    """Print the verdict, what is descended, hints, and the numbers beside each divergence.

    Parameters
    ----------
    report : AuditReport
        The findings.
    console : rich.console.Console
        Where to.
    hints : sequence of str
        From `toy.audit.hints.hints`.
    """
    good = report.at_reference in (MINIMUM, TRIED) and report.uses_reference
    console.print(Text(headline(report), style="bold green" if good else "bold red"))
    console.print(Text(details(report)))
    for hint in hints:
        console.print(Text.assemble(("Hint: ", "bold"), hint))

    # The numbers.
    found = report.comparison
    if found.cosine is not None and found.relative_residual is not None:
        table = titled_table(
            "expected gradient against grad D(policy‖reference)", padding=(0, 1, 0, 0)
        )
        for heading in ("divergence", "cosine", "relative residual"):
            table.add_column(heading, justify="left" if heading == "divergence" else "right")
        for name, residual in found.relative_residual.items():
            style = "bold" if name == found.best_match else ""
            cells = title_of(name), f"{found.cosine[name]:+.6f}", f"{residual:.1e}"
            table.add_row(*cells, style=style)
        console.print(table)
    sizes = ", ".join(map(str, (report.batch_size, *report.batch_change)))
    if not report.batch_change:
        console.print("batch size: not varied, since a scalar in the reward is one sample's value")
    elif not batch_sentence(report):
        console.print(f"batch size: no effect (n = {sizes})")


def print_all(reports: Sequence[AuditReport], console: Console) -> None:
    """Print one line per report: what a penalty descends in each use of it."""
    table = titled_table(
        "What does a KL penalty minimise? u = log policy/reference", padding=(0, 1, 0, 0)
    )
    table.add_column("", justify="right")
    table.add_column("penalty", no_wrap=True)
    table.add_column("in the", no_wrap=True)
    table.add_column("samples", no_wrap=True)
    table.add_column("the expected gradient", ratio=1)
    table.add_column("residual", justify="right", no_wrap=True)

    # One section per row of the dictionary.
    last = None
    for report in reports:
        if report.row != last:
            table.add_section()
        residual = report.comparison.relative_residual
        table.add_row(
            "" if report.row == last else str(report.row),
            report.name,
            report.placement,
            report.samples.replace("_", "-"),
            Text(short_verdict(report), style=_colour(report)),
            "" if residual is None else f"{min(residual.values()):.0e}",
        )
        last = report.row

    console.print(table)
    console.print(
        "none: of no named divergence to the reference.\n"
        "residual: what the nearest single divergence leaves of the gradient, rescaled.",
        style="dim",
    )


def print_penalties(console: Console) -> None:
    """Print the named penalties, one line each, with u = log policy/reference."""
    table = titled_table("named penalties, u = log policy/reference", padding=(0, 2, 0, 0))
    table.add_column("name", no_wrap=True)
    table.add_column("value", ratio=1)
    for name, says in DESCRIPTIONS.items():
        table.add_row(name, says)
    console.print(table)
    console.print("python -m toy audit NAME, or --all for what each descends.", style="dim")


def write_json(record: dict[str, Any] | list[dict[str, Any]], path: Path) -> None:
    """Write a record, or a list of them, whole or not at all.

    Parameters
    ----------
    record : dict or list of dict
        From `AuditReport.record`.
    path : pathlib.Path
        Where to; missing folders are made.
    """
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False))


def plot_signals(reports: Sequence[AuditReport]) -> Figure:
    """Draw the recovered f'(t) of each report, and over it that of what it matches.

    Parameters
    ----------
    reports : sequence of AuditReport
        Each with a signal.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per report.
    """
    columns = min(len(reports), 4)
    rows = math.ceil(len(reports) / columns)
    size = (6.0, 4.2) if len(reports) == 1 else (3.4 * columns, 2.7 * rows)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, report in zip(panels, reports, strict=False):
        if report.signal is not None:
            _draw(axes, report, report.signal, alone=len(reports) == 1)
    for axes in list(figure.axes)[len(reports) :]:
        axes.set_axis_off()
    return figure


def _draw(axes: Axes, report: AuditReport, signal: Signal, *, alone: bool) -> None:
    t = np.exp(signal.log_ratio)
    label = "recovered" if signal.of_ratio else "recovered: no function of t"
    for index, marker in enumerate("ox"[: 1 if signal.of_ratio else 2]):
        axes.plot(
            t,
            signal.values[index],
            marker,
            color=INK,
            markersize=4,
            label=label if index == 0 else "the same, other masses",
        )

    # Over it, the signal of what was matched.
    parts = _matched(report)
    if parts:
        curve = np.sum(
            [c * DIVERGENCES[name].signal(signal.log_ratio) for c, name in parts], axis=0
        )
        colour = color_of(report.comparison.best_match or "a sum of several")
        axes.plot(t, centred(curve), color=colour, zorder=0, label=short_verdict(report))

    # Where f' is zero, at t = 1, and the axes.
    axes.axhline(0, color="#BBBBBB", linewidth=0.8, zorder=-1)
    axes.axvline(1, color="#BBBBBB", linewidth=0.8, zorder=-1)
    axes.set_xscale("log")
    if signal.shape == FLAT:
        axes.set_ylim(-1, 1)
    title = f"{report.title} in the {report.placement}, {report.samples.replace('_', '-')}"
    axes.set_title(title, fontsize=11 if alone else 9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("t = policy/reference", fontsize=10 if alone else 8)
    axes.set_ylabel("f'(t) - f'(1)", fontsize=10 if alone else 8)
    axes.legend(frameon=False, fontsize=9 if alone else 7)


def _matched(report: AuditReport) -> tuple[tuple[float, str], ...]:
    found = report.comparison
    if found.best_match is not None and found.scale is not None:
        return ((found.scale, found.best_match),)
    return found.combination


def _colour(report: AuditReport) -> str:
    if report.comparison.zero_gradient or report.ascends:
        return "red"
    return "green" if report.comparison.best_match is not None else "yellow"
