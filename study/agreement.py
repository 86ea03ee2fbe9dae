"""Do sampled estimates agree with exact values of the same quantity? They must."""

from __future__ import annotations

import pandas as pd
from scipy.stats import norm

from study.blocks import Section
from study.names import label_of
from study.tables import Frame, Tables
from study.text import Grid, number

Z_BOUND, Z_NOTABLE = 5.0, 2.0


def agreement_table(tables: Tables) -> Frame:
    """Return how the z of sampled against exact values are spread, by stored table."""
    rows = []
    for table in tables.stored:
        if "z" not in table.frame:
            continue
        frame = table.frame
        # A run that serves as tuned and as common is one run.
        keys = [name for name in ("run", "step", "quantity", "estimator") if name in frame]
        frame = frame.drop_duplicates(keys) if "run" in keys else frame
        z = frame["z"].dropna().abs()
        if len(z):
            worst = frame.loc[z.idxmax()]
            where = f"{worst['quantity']}: {worst['task']}, {label_of(worst['method'])}"
            above = int((z > Z_NOTABLE).sum())
            rows.append((table.name, len(z), float(z.max()), where, above, above / len(z)))
    columns = ["table", "count", "largest", "where", "above_2", "share_above_2"]
    return pd.DataFrame(rows, columns=columns)


def agreement_section(table: Frame) -> Section:
    """Return what `agreement_table` says, and whether the bound holds."""
    expected = 2.0 * norm.sf(Z_NOTABLE)
    rows = tuple(
        (
            row.table,
            str(row.count),
            number(row.largest),
            row.where,
            str(row.above_2),
            f"{100 * row.share_above_2:.1f} %",
        )
        for row in table.itertuples()
    )
    heads = ("table", "comparisons", "largest |z|", "at", "above 2", "share above 2")
    words = (
        f"Sampled estimates against exact values of the same quantity, in standard errors. "
        f"{100 * expected:.1f} % above {Z_NOTABLE:g} are expected of normal errors; several "
        f"quantities are estimated from the same samples, so they are not independent. Below "
        f"{Z_BOUND:g} must hold: {'; '.join(agreement_failures(table)) or 'it does'}."
    )
    return Section("Agreement of exact and sampled values", [words, Grid("", heads, rows)])


def agreement_failures(table: Frame) -> list[str]:
    """Return one sentence a table whose largest |z| exceeds the bound."""
    return [
        f"{row.table} has |z| = {number(row.largest)}, which must be below {Z_BOUND:g}"
        for row in table.itertuples()
        if not row.largest < Z_BOUND
    ]
