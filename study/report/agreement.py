"""Do sampled estimates agree with exact values of the same quantity? They must."""

from __future__ import annotations

import pandas as pd
from scipy.stats import norm

from fdpg_ref.display import number
from study.names import label_of
from study.report.blocks import Grid, Section
from study.tables.cubes import RUN_KEYS
from study.tables.stored import Frame, Tables

Z_BOUND, Z_NOTABLE = 5.0, 2.0
EXACT, ESTIMATE = "an exact value", "a better estimate"
# Of the comparisons of samples of the target with exact values, so many must keep the bound.
FROM_TARGET, KEPT = "target_samples", 0.9


def agreement_table(tables: Tables) -> Frame:
    """Return how z-scores are spread, by stored table and by what was compared with.

    Parameters
    ----------
    tables
        What is stored.

    Returns
    -------
    DataFrame
        Against exact values, which must agree; and against better estimates. The latter are samples
        too: where a policy has collapsed, and no sample shows what is left of the rest, both
        standard errors are too small, and a large z says so.
    """
    rows = []
    for table in tables.stored:
        if "z" not in table.frame:
            continue
        frame = _compared(table.frame)
        for against, part in frame.groupby("against", sort=True):
            size = part["z"].abs()
            worst = part.loc[size.idxmax()]
            where = f"{worst['quantity']}: {worst['task']}, {label_of(worst['method'])}"
            above = int((size > Z_NOTABLE).sum())
            found = len(part), float(size.max()), where, above, above / len(part)
            rows.append((table.name, against, *found))
    columns = ["table", "against", "comparisons", "largest", "where", "above_2", "share_above_2"]
    return pd.DataFrame(rows, columns=columns)


def target_side_share(tables: Tables) -> tuple[int, int, int]:
    """Return how samples of the target agree with exact values on the second edition's tables.

    Parameters
    ----------
    tables
        What is stored.

    Returns
    -------
    kept, compared, without : int
        Comparisons with |z| below the bound, all comparisons, and values whose gate gives no z.
    """
    kept = compared = without = 0
    for table in (tables.main2, tables.scale2):
        if table is None:
            continue
        keys = ["run"] if "run" in table.frame else RUN_KEYS
        rows = table.frame[table.frame["estimator"] == FROM_TARGET]
        z = rows.drop_duplicates([*keys, "step", "quantity"])["z"].dropna().abs()
        whole = len(rows.drop_duplicates([*keys, "step", "quantity"]))
        kept, compared = kept + int((z < Z_BOUND).sum()), compared + len(z)
        without += whole - len(z)
    return kept, compared, without


def target_side_failures(tables: Tables) -> list[str]:
    """Return a sentence if samples of the target and exact values do not agree, else nothing."""
    kept, compared, without = target_side_share(tables)
    if compared == 0 or kept >= KEPT * compared:
        return []
    return [
        f"samples of the target keep |z| < {Z_BOUND:g} in {kept} of {compared} comparisons with "
        f"exact values ({without} have no z), and must in {100 * KEPT:.0f} %"
    ]


def agreement_section(table: Frame) -> Section:
    """Return what `agreement_table` says, and whether the bound holds."""
    expected = 2.0 * norm.sf(Z_NOTABLE)
    rows = tuple(
        (
            row.table,
            row.against,
            f"{row.comparisons:,}",
            number(row.largest),
            row.where,
            str(row.above_2),
            f"{100 * row.share_above_2:.1f} %",
        )
        for row in table.itertuples()
    )

    heads = ("table", "against", "comparisons", "largest |z|", "at", "above 2", "share above 2")
    blocks = (
        "Sampled estimates against exact values of the same quantity, in standard errors. "
        f"{100 * expected:.1f} % above {Z_NOTABLE:g} are expected of normal errors; several "
        "quantities are estimated from the same samples, so they are not independent. Against "
        f"exact values |z| below {Z_BOUND:g} must hold: "
        f"{'; '.join(agreement_failures(table)) or 'it does'}. Where few samples carry an "
        "estimate it is not normal and has no z-score; docs/decisions/0014 says how this rule came "
        "about while the study ran.",
        f"Against {ESTIMATE}, which is a sample itself, no bound is set: where a policy has "
        "collapsed no sample may show the rest, and both standard errors are then too small.",
        Grid("", heads, rows),
    )

    return Section("Agreement of exact and sampled values", blocks)


def agreement_failures(table: Frame) -> list[str]:
    """Return one sentence per table whose largest |z| against exact values exceeds the bound."""
    return [
        f"{row.table} has |z| = {number(row.largest)} ({row.where}), which must be below "
        f"{Z_BOUND:g}"
        for row in table[table["against"] == EXACT].itertuples()
        if not row.largest < Z_BOUND
    ]


def _compared(frame: Frame) -> Frame:
    """Return the rows with a z, each run once, and what their z compares them with."""
    keys = ["run"] if "run" in frame else RUN_KEYS
    # A run that serves as tuned and as common is one run.
    once = frame.drop_duplicates([*keys, "step", "quantity", "estimator"])
    exact = once[once["estimator"] == "exact"]
    places = [*keys, "step", "quantity"]
    known = pd.MultiIndex.from_frame(exact[places])
    # Samples of the target have a rule of their own: `target_side_failures`.
    rows = once[once["z"].notna() & (once["estimator"] != FROM_TARGET)]
    sure = pd.MultiIndex.from_frame(rows[places]).isin(known)
    return rows.assign(against=[EXACT if one else ESTIMATE for one in sure])
