"""The sections of the report: numbers of `study.summaries` as sentences and tables of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm

from study.cubes import Runs, target_of
from study.drawing import Picture
from study.figures_main import title_of
from study.names import COMMON, MEASURES, TUNED, VARIANT_LABELS, label_of, measure_label
from study.statistics import DRAWS, SEED, coverage_of_mean
from study.summaries import PROCESS, QUALITY
from study.tables import Frame, Table, Tables
from study.text import NONE, Grid, bracket, number, plus_minus, share
from study.text import interval as interval_text
from study.verdicts import STATEMENTS, Verdict

Z_BOUND, Z_NOTABLE = 5.0, 2.0
HEADS = {
    **{name: measure_label(name) for name in MEASURES},
    "alignment": "E[φ]",
    "kl_policy_base": "KL(π‖a) (nats)",
    "entropy": "entropy (nats)",
    "distinct_share": "distinct share",
    "self_bleu": "Self-BLEU over characters",
    "samples_to_half": "samples to half of D(a‖p)",
    "gradient_norm": "gradient norm",
    "gradient_norm_above_1": "share of steps with norm above 1",
    "gradient_signal_to_noise": "signal to noise",
}


class Section(NamedTuple):
    """A heading and what stands under it: paragraphs, tables and pictures."""

    title: str
    blocks: Sequence[str | Grid | Picture]


def verdict_grid(verdicts: Sequence[Verdict]) -> Grid:
    """Return the table of all verdicts."""
    rows = tuple(
        (one.name, one.statement, one.study, one.verdict, number(one.effect), _limits(one))
        for one in verdicts
    )
    heads = ("", "hypothesis", "study", "verdict", "effect", "95 % interval")
    return Grid("", heads, rows)


def hypothesis_sections(
    verdicts: Sequence[Verdict], pictures: Mapping[str, Sequence[Picture]]
) -> list[Section]:
    """Return a section a hypothesis: what it says, its verdicts, its pictures."""
    found = []
    for name, statement in STATEMENTS.items():
        mine = [one for one in verdicts if one.name == name]
        lines = [f"{one.study}: **{one.verdict}**. {one.sentence}" for one in mine]
        found.append(Section(f"{name}. {statement}", [*lines, *pictures.get(name, ())]))
    return found


def task_sections(runs: Runs, main: Frame, base: Frame) -> list[Section]:
    """Return a section a task: ends at both rates, and how the runs got there."""
    return [
        Section(title_of(runs.tasks, task), _task_grids(runs, main, base, task))
        for task in main["task"].unique()
    ]


def regret_grid(table: Frame) -> Grid:
    """Return the regrets in the table's order."""
    rows = tuple(
        (
            f"{row.study}, {row.rate} rate",
            label_of(row.method),
            interval_text(row.regret, row.low, row.high),
            share(row.pairs_won, 1.0),
        )
        for row in table.itertuples()
    )
    heads = ("study", "objective", "mean regret (nats of logarithm)", "pairs won")
    return Grid("Regret over tasks (problems) and measures.", heads, rows)


def stability_grid(table: Frame) -> Grid:
    """Return Kendall's W over tasks, seeds and sizes."""
    rows = tuple(
        (row.over, str(row.raters), number(row.w), bracket(row.low, row.high))
        for row in table.itertuples()
    )
    heads = ("over", "raters", "Kendall's W", "95 % interval")
    return Grid("Rank stability of the five objectives by mean regret.", heads, rows)


def ablation_grid(table: Frame) -> Grid:
    """Return what each variant does to the own measure."""
    rows = tuple(
        (
            f"{row.task} {row.size}",
            VARIANT_LABELS.get(str(row.variant), str(row.variant)),
            label_of(row.method),
            str(row.seeds),
            interval_text(row.log_ratio, row.low, row.high),
        )
        for row in table.itertuples()
    )
    heads = ("task", "variant", "objective", "seeds", "log[variant / default]")
    return Grid("The own measure against the default's, paired by seed.", heads, rows)


def agreement_table(tables: Tables) -> Frame:
    """Return how the z of sampled against exact values are spread, by stored table."""
    rows = []
    for table in tables.stored:
        if "z" not in table.frame:
            continue
        frame = table.frame
        # A run that serves as tuned and as common is one run.
        keys = [name for name in ("run", "step", "quantity", "estimator") if name in frame]
        z = (frame.drop_duplicates(keys) if "run" in keys else frame)["z"].dropna().abs()
        if len(z):
            above = int((z > Z_NOTABLE).sum())
            rows.append((table.name, len(z), float(z.max()), above, above / len(z)))
    columns = ["table", "count", "largest", "above_2", "share_above_2"]
    return pd.DataFrame(rows, columns=columns)


def agreement_section(table: Frame) -> Section:
    """Return what `agreement_table` says, and whether the bound holds."""
    expected = 2.0 * norm.sf(Z_NOTABLE)
    rows = tuple(
        (
            row.table,
            str(row.count),
            number(row.largest),
            str(row.above_2),
            f"{100 * row.share_above_2:.1f} %",
        )
        for row in table.itertuples()
    )
    heads = ("table", "comparisons", "largest |z|", "above 2", "share above 2")
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


def method_section(seeds: Sequence[int]) -> Section:
    """Return how intervals are made, and what they are worth with so few seeds."""
    covered = ", ".join(f"{share(coverage_of_mean(n), 1.0)} with {n}" for n in seeds)
    blocks = [
        f"Intervals: 95 %, percentile bootstrap, {DRAWS:,} draws, seed {SEED}. In the toy problems "
        "are drawn; on transformers tasks, and seeds within each drawn task; on one task its "
        "seeds. A drawn cell carries all objectives, so that differences are paired. Verdicts: "
        "the rules of docs/hypotheses.md, which study/hypotheses.py holds as code.",
    ]
    if covered:
        blocks.append(
            f"Few seeds make percentile intervals too narrow. Of normal values, simulated here, "
            f"the interval of a mean that says 95 % covers it in {covered} seeds."
        )
    return Section("Method", blocks)


def provenance_grid(tables: Tables) -> Grid:
    """Return what each table says of how it was made."""
    rows = []
    for table in tables.stored:
        versions = table.metadata.get("versions", {})
        rows.append(
            (
                f"{table.name}.parquet",
                f"{len(table.frame):,}",
                str(_runs_in(table)),
                table.said("command"),
                table.commit,
                table.said("started"),
                _duration(table, "wall_seconds"),
                _duration(table, "cpu_seconds"),
                ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
            )
        )
    if tables.unification is not None:
        said = [str(tables.unification.get(key, NONE)) for key in ("command", "commit")]
        rows.append(("unification.json", NONE, NONE, *said, NONE, NONE, NONE, NONE))
    heads = (
        *("table", "rows", "runs", "command", "commit", "started"),
        *("wall time", "CPU time", "versions"),
    )
    return Grid("", heads, tuple(rows))


def limitations(tables: Tables) -> list[str]:
    """Return what a reader must know before believing the verdicts."""
    found = [
        "Tasks are few and chosen by hand; intervals over tasks say how the result varies among "
        "these, not among all that one could ask of a model.",
        "Learning rates come from a grid: an objective is judged at the best rate tried, not at "
        "the best there is. Every other setting of Adam is the same for all.",
        "Kendall's W of resampled raters leans upward, as a rater drawn twice agrees with itself.",
        "Verdicts are not corrected for their number.",
    ]
    if any((tables.main, tables.scale, tables.ablations)):
        found.append(
            "The transformers are small and their texts are names: nothing here was run on a "
            "large language model."
        )
    missing = [
        name
        for name in ("pilot", "main", "scale", "ablations", "toy", "unification")
        if getattr(tables, name) is None
    ]
    if missing:
        found.append(f"Not run, and so not judged: {', '.join(missing)}.")
    return found


def _task_grids(runs: Runs, main: Frame, base: Frame, task: str) -> list[Grid]:
    rows = main[main["task"] == task]
    feature, moment = target_of(runs.tasks, task)
    first = base[base["task"] == task]
    tuned, common = (rows[rows["rate"] == rate] for rate in (TUNED, COMMON))
    seeds = bracket(rows["seeds"].min(), rows["seeds"].max()) if len(rows) else NONE
    ends = _rows(tuned, QUALITY)
    entropy = first.loc[first["quantity"] == "entropy_target", "mean"].mean()
    distance = first.loc[first["quantity"] == "kl_target_base", "mean"].mean()
    known = {"alignment": moment, "entropy": entropy, "kl_policy_base": distance}
    target = tuple(number(known.get(name, 0.0 if name in MEASURES else np.nan)) for name in QUALITY)
    grids = [
        Grid(
            f"At the end, tuned rate: mean ± standard deviation over seeds (number of seeds, "
            f"least and most: {seeds}); φ is “{feature}”.",
            ("", *(HEADS[name] for name in QUALITY)),
            (("base a", *_cells(first, QUALITY)), ("target p", *target), *ends),
        ),
        Grid("On the way, tuned rate.", ("", *(HEADS[n] for n in PROCESS)), _rows(tuned, PROCESS)),
    ]
    if len(common):
        heads = ("", *(HEADS[name] for name in QUALITY))
        grids.append(Grid("At the end, common rate.", heads, _rows(common, QUALITY)))
    return grids


def _rows(table: Frame, quantities: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    methods = table["method"].unique()
    return tuple(
        (label_of(name), *_cells(table[table["method"] == name], quantities)) for name in methods
    )


def _cells(rows: Frame, quantities: Sequence[str]) -> list[str]:
    known = rows.set_index("quantity")
    return [
        plus_minus(known.at[name, "mean"], known.at[name, "deviation"])
        if name in known.index
        else NONE
        for name in quantities
    ]


def _limits(one: Verdict) -> str:
    return NONE if np.isnan(one.low) else bracket(one.low, one.high)


def _runs_in(table: Table) -> int | str:
    for column in ("run", "cell", "problem"):
        if column in table.frame:
            return table.frame[column].nunique()
    return NONE


def _duration(table: Table, key: str) -> str:
    seconds = table.metadata.get(key)
    return NONE if seconds is None else f"{float(seconds) / 60:.1f} min"
