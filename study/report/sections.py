"""The sections of the report: the numbers of `study.report.summaries` as tables of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fdpg_ref.display import NONE, number, plus_minus
from study.names import COMMON, FIVE, MEASURES, TUNED, VARIANT_LABELS, label_of, measure_label
from study.report.blocks import Grid, Picture, Section
from study.report.figures.main import task_title
from study.report.summaries import PROCESS, QUALITY
from study.rules.verdicts import STATEMENTS, Verdict
from study.tables.cubes import Runs, target_of
from study.tables.selections import COVERED, PASS
from study.tables.stored import Frame
from study.text import bracket, share
from study.text import interval as interval_text

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


def verdict_grid(verdicts: Sequence[Verdict]) -> Grid:
    """Return the table of all verdicts."""
    rows = tuple(
        (
            f"{one.name} {one.statement}",
            one.study,
            one.verdict,
            one.measured,
            number(one.effect),
            _limits(one),
        )
        for one in verdicts
    )
    heads = ("hypothesis", "study", "verdict", "effect", "value", "95 % interval")
    return Grid("", heads, rows)


def verdict_sentences(verdicts: Sequence[Verdict]) -> list[str]:
    """Return one paragraph per verdict: the numbers that its rule looked at."""
    return [f"{one.name}, {one.study}: **{one.verdict}**. {one.sentence}" for one in verdicts]


def hypothesis_sections(
    verdicts: Sequence[Verdict], pictures: Mapping[str, Sequence[Picture]]
) -> list[Section]:
    """Return one section per hypothesis: what it says, its verdicts, its pictures."""
    found = []
    for name, statement in STATEMENTS.items():
        mine = [one for one in verdicts if one.name == name]
        lines = [f"{one.study}: **{one.verdict}**. {one.sentence}" for one in mine]
        found.append(Section(f"{name}. {statement}", [*lines, *pictures.get(name, ())]))
    return found


def task_sections(runs: Runs, main: Frame, base: Frame) -> list[Section]:
    """Return one section per task: ends at both rates, and how the runs got there."""
    return [
        Section(task_title(runs.tasks, task), _task_grids(runs, main, base, task))
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


def wins_grid(table: Frame) -> Grid:
    """Return who ends lowest how often on the exact problems."""
    groups = table.groupby(["phase", "measure"], sort=False)
    rows = tuple(
        (phase, label_of(measure), f"{part['problems'].iloc[0]:,}", *map(_percent, part["share"]))
        for (phase, measure), part in groups
    )
    heads = ("phase", "measure", "problems", *map(label_of, FIVE))
    return Grid("Exact problems: the share on which an objective ends lowest.", heads, rows)


def scale_grid(table: Frame) -> Grid:
    """Return the measures at the end by size."""
    quantities = (*MEASURES, "alignment")
    groups = table.groupby(["task", "size", "method"], sort=False)
    rows = tuple(
        (f"{task} {size}", label_of(method), *_cells(part, quantities))
        for (task, size, method), part in groups
    )
    heads = ("task, size", "objective", *(HEADS[name] for name in quantities))
    caption = "Sizes (layers x width), tuned rate: mean ± standard deviation over the seeds."
    return Grid(caption, heads, rows)


def frontier_grid(table: Frame) -> Grid:
    """Return precision and coverage along alpha."""
    rows = []
    for (task, method), part in table.groupby(["task", "method"], sort=False):
        known = part.set_index("quantity")[["mean", "low", "high"]]
        cells = [interval_text(*known.loc[name]) for name in (PASS, COVERED)]
        rows.append((task, label_of(method), *cells))
    heads = ("task", "objective", "pass@1", "coverage of 256 samples")
    return Grid("From coverage to precision along alpha.", heads, tuple(rows))


def _percent(part: float) -> str:
    return share(part, 1.0)


def _task_grids(runs: Runs, main: Frame, base: Frame, task: str) -> list[Grid]:
    rows = main[main["task"] == task]
    feature, moment = target_of(runs.tasks, task)
    first = base[base["task"] == task]
    tuned, common = (rows[rows["rate"] == rate] for rate in (TUNED, COMMON))
    seeds = " to ".join(str(n) for n in sorted({rows["seeds"].min(), rows["seeds"].max()}))
    ends = _rows(tuned, QUALITY)

    # The row of the target: what is known of it, and zero distance to itself.
    entropy = first.loc[first["quantity"] == "entropy_target", "mean"].mean()
    distance = first.loc[first["quantity"] == "kl_target_base", "mean"].mean()
    known = {"alignment": moment, "entropy": entropy, "kl_policy_base": distance}
    target = tuple(number(known.get(name, 0.0 if name in MEASURES else np.nan)) for name in QUALITY)

    grids = [
        Grid(
            f"At the end, tuned rate: mean ± standard deviation over the seeds ({seeds}); φ is "
            f"{feature or 'not known'}.",
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
