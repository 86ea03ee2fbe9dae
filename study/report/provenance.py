"""How the numbers came about: intervals, commands and commits, and what they do not say."""

from __future__ import annotations

from collections.abc import Sequence

from fdpg_ref.display import NONE
from study.names import FIVE, label_of
from study.report.blocks import Grid, Section
from study.rules.rates import chosen_rates
from study.statistics import DRAWS, SEED, coverage_of_mean
from study.tables.stored import Table, Tables
from study.text import share


def method_section(seeds: Sequence[int]) -> Section:
    """Return how intervals are made, and what they are worth with so few seeds."""
    covered = ", ".join(f"{share(coverage_of_mean(n), 1.0)} with {n}" for n in seeds)
    blocks = [
        f"Intervals: 95 %, percentile bootstrap, {DRAWS:,} draws, seed {SEED}. In the toy problems "
        "are drawn; on transformers tasks, and seeds within each drawn task; on one task its "
        "seeds. A drawn cell carries all objectives, so that differences are paired. Verdicts: "
        "the rules of docs/hypotheses-first.md, which study/rules/hypotheses.py holds as code; "
        "those of the second edition are in study/rules/second_edition.py."
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
                str(len(table.failed)),
                table.said("command"),
                _seeds_of(table),
                NONE if table.name == "toy_study" else table.said("log"),
                table.commit,
                table.said("started"),
                _duration(table, "wall_seconds"),
                _duration(table, "cpu_seconds"),
                ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
            )
        )

    # The comparison of updates is no table: it says less of itself.
    if tables.unification is not None:
        command, commit = (str(tables.unification.get(key, NONE)) for key in ("command", "commit"))
        unknown = (NONE,) * 4
        rows.append(("unification.json", *unknown[:3], command, "0", NONE, commit, *unknown))

    heads = (
        *("table", "rows", "runs", "failed", "command", "seeds", "log", "commit", "started"),
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
        "A seed reproduces a run on one machine only. On another processor sums round otherwise, "
        "and the samples part: a run stored here with 0.716 ended elsewhere with 1.024, after the "
        "two had agreed to 1e-4 at step 20. Single runs are not to be compared over machines.",
        "All seeds of a size in the first edition start from one base: its intervals say nothing "
        "of another base.",
        "The power calculation counts the spread over seeds; intervals here hold that between "
        "tasks, too, and are wider.",
    ]

    # What the stored tables show.
    if tables.pilot is not None:
        chosen = chosen_rates(tables.pilot)
        edge = sum(choice.at_edge for choice in chosen)
        found.append(
            f"{edge} of {len(chosen)} chosen learning rates lie at an edge of what was tried, and "
            "most rest on one run of one task of the kind: a choice can be bad luck "
            "(rates.md)."
        )
    if tables.main is not None:
        frame = tables.main.frame
        whole = set(frame["task"])
        for name in FIVE:
            absent = whole - set(frame.loc[frame["method"] == name, "task"])
            if absent and absent != whole:
                found.append(
                    f"{label_of(name)[0].upper()}{label_of(name)[1:]} has no run on "
                    f"{', '.join(sorted(absent))}: its means are over the other tasks."
                )
    if any((tables.main, tables.scale, tables.ablations)):
        found.append(
            "The transformers are small and their texts are names: nothing here was run on a "
            "large language model."
        )

    # What failed, and what was not run.
    found += [
        f"{table.name}: the run {cell} failed ({reason}) and is missing from every mean."
        for table in tables.stored
        for cell, reason in table.failed.items()
    ]
    missing = [
        name
        for name in ("pilot", "main", "scale", "ablations", "toy", "unification")
        if getattr(tables, name) is None
    ]
    if missing:
        found.append(f"Not run, and so not judged: {', '.join(missing)}.")
    return found


def _seeds_of(table: Table) -> str:
    if "seed" in table.frame:
        return ", ".join(map(str, sorted(table.frame["seed"].unique())))
    return str(table.metadata.get("settings", {}).get("seed", NONE))


def _runs_in(table: Table) -> int | str:
    for column in ("run", "cell", "problem"):
        if column in table.frame:
            return table.frame[column].nunique()
    return NONE


def _duration(table: Table, key: str) -> str:
    seconds = table.metadata.get(key)
    return NONE if seconds is None else f"{float(seconds) / 60:.1f} min"
