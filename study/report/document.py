"""The report: judge everything, draw everything, and write it as Markdown with its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from study.report import sections as parts
from study.report import summaries
from study.report.agreement import (
    agreement_failures,
    agreement_section,
    agreement_table,
    target_side_failures,
    target_side_share,
)
from study.report.blocks import Picture, Section, markdown
from study.report.drawing import save
from study.report.figures import draw_all
from study.report.provenance import limitations, method_section, provenance_grid
from study.rules.judge import judge
from study.rules.judge_second import judge_second
from study.rules.verdicts import Verdict
from study.tables.cubes import Runs
from study.tables.selections import study_tables
from study.tables.stored import Frame, NotJudgedError, Tables

TITLE = "What the f-DPG paper claims, judged on exact problems and small transformers"
SECOND = (
    "By the rules of docs/hypotheses.md, the second edition. Intervals are of Student's t, over "
    "tasks with the task as unit, or over seeds where tasks are taken one by one; claims about "
    "single tasks are corrected by Holm. *Policy side*: from samples of the policy alone, as "
    "published."
)
FIRST = (
    "By the rules of docs/hypotheses-first.md, as they were. docs/hypotheses.md says what was "
    "found wrong with them: H2, H3, H5 and H7 can be passed by chance or by every objective, and "
    "H4 and H5 on transformers rest on one pilot run. A registered rule failed here: |z| < 5 did "
    "not hold in 48 runs, and another rule took its place (docs/decisions/0014)."
)
# Which pictures belong to which hypothesis.
PLACES = {
    "H2": ("measures", "toy_wins"),
    "H3": ("alignment",),
    "H4": ("regret",),
    "H6": ("scale",),
    "H7": ("teacher",),
    "H8": ("toy_noise",),
    "H10": ("ablations",),
    "H11": ("frontier",),
    "H12": ("rates",),
}
# The tables over all tasks, in their order, and how each is printed.
GRIDS = {
    "regret": parts.regret_grid,
    "toy_wins": parts.wins_grid,
    "stability": parts.stability_grid,
    "scale": parts.scale_grid,
    "frontier": parts.frontier_grid,
    "ablations": parts.ablation_grid,
}


class Report(NamedTuple):
    """What was written: the verdicts, the pictures, and the bounds that were exceeded."""

    verdicts: Sequence[Verdict]
    pictures: Sequence[Picture]
    failures: Sequence[str]


def write_report(tables: Tables, folder: Path) -> Report:
    """Judge everything, and write REPORT.md and its figures.

    Parameters
    ----------
    tables
        What is stored.
    folder
        Where to; it must exist.

    Returns
    -------
    Report
        The same tables give the same REPORT.md, byte by byte.
    """
    sweeps = study_tables(tables)
    verdicts = judge(tables, sweeps)
    numbers = collect(tables, sweeps)
    pictures = draw_all(tables, sweeps, numbers["regret"])
    for picture in pictures:
        save(picture, folder / "figures")

    content = compose(tables, sweeps, verdicts, numbers, pictures)
    text = markdown(TITLE, introduction(tables), content)
    (folder / "REPORT.md").write_text(text, encoding="utf-8")
    failures = agreement_failures(numbers["agreement"]) + target_side_failures(tables)
    return Report(verdicts, pictures, failures)


def collect(tables: Tables, sweeps: Mapping[str, Runs]) -> dict[str, Frame]:
    """Return the numbers behind the report, each table as a DataFrame, by its name.

    Parameters
    ----------
    tables, sweeps
        What is stored, and its sweeps of transformers by `study.tables.selections.study_tables`.

    Returns
    -------
    dict of str to DataFrame
        Those that the stored tables allow.
    """
    main, scale, ablations = (sweeps.get(name) for name in ("main", "scale", "ablations"))
    found = {
        "regret": summaries.regret_table(tables, main),
        "stability": summaries.stability_table(main, scale),
        "agreement": agreement_table(tables),
    }
    if main is not None:
        found |= {"main": summaries.main_table(main), "base": summaries.base_table(main)}
    if scale is not None:
        found["scale"] = summaries.scale_table(scale)
    if ablations is not None:
        found["ablations"] = summaries.ablation_table(ablations)
        with suppress(NotJudgedError):  # the verdict on H11 says what is missing
            found["frontier"] = summaries.frontier_table(ablations)
    if tables.toy is not None:
        found["toy_wins"] = summaries.toy_wins(tables.toy.frame)
    return found


def compose(
    tables: Tables,
    sweeps: Mapping[str, Runs],
    verdicts: Sequence[Verdict],
    numbers: Mapping[str, Frame],
    pictures: Sequence[Picture],
) -> list[Section]:
    """Return the sections of the report in their order."""
    # The verdicts, with the pictures of each hypothesis.
    by_name = {picture.name: picture for picture in pictures}
    placed = {
        name: [by_name[key] for key in keys if key in by_name] for name, keys in PLACES.items()
    }
    content = second_edition(tables)
    content += [Section("Verdicts of the first edition", [FIRST, parts.verdict_grid(verdicts)])]
    content += parts.hypothesis_sections(verdicts, placed)

    # The numbers behind them.
    main = sweeps.get("main")
    if main is not None:
        content += parts.task_sections(main, numbers["main"], numbers["base"])
    grids = [grid(numbers[name]) for name, grid in GRIDS.items() if len(numbers.get(name, ()))]
    content += [Section("Over tasks, sizes and variants", grids)] if grids else []

    # How far to trust them.
    if len(numbers["agreement"]):
        content.append(agreement_section(numbers["agreement"]))
    swept = [table for table in (tables.main, tables.scale, tables.ablations) if table is not None]
    content.append(method_section(sorted({table.frame["seed"].nunique() for table in swept})))
    moved = "Commands are as they were given then; the sweeps have been in study/sweeps since."
    content.append(Section("Provenance", [provenance_grid(tables), moved]))
    content.append(Section("Limitations", limitations(tables)))
    return content


def second_edition(tables: Tables) -> list[Section]:
    """Return the verdicts of the second edition, and whether its instrument agrees with itself.

    Parameters
    ----------
    tables
        What is stored.

    Returns
    -------
    list of Section
        Empty where none of its sweeps was run: the same rules on the first edition's tables would
        be judged by what they were made from.
    """
    if not any((tables.main2, tables.scale2, tables.ablations2)):
        return []
    verdicts = judge_second(tables)
    kept, compared, without = target_side_share(tables)
    words = "; ".join(target_side_failures(tables)) or "that is enough"
    instrument = (
        f"Samples of the target against exact values: |z| < 5 in {kept:,} of {compared:,} "
        f"comparisons ({words}); {without:,} more have no z, as few samples carry the estimate."
    )
    sentences = [f"{one.name}, {one.study}: **{one.verdict}**. {one.sentence}" for one in verdicts]
    return [
        Section("Verdicts", [SECOND, parts.verdict_grid(verdicts), instrument]),
        Section("The second edition in sentences", sentences),
    ]


def introduction(tables: Tables) -> str:
    """Return from which tables the report is, and who wrote it."""
    names = [f"{table.name}.parquet" for table in tables.stored]
    names += ["unification.json"] if tables.unification is not None else []
    return (
        f"From {', '.join(names)}. Written by `python -m study report`; no number is typed by "
        "hand. The rules are those of docs/hypotheses.md and, for the first edition, of "
        "docs/hypotheses-first.md."
    )
