"""The report: judge everything, draw everything, and write it as Markdown with its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from study.report import sections as parts
from study.report import summaries
from study.report.agreement import agreement_failures, agreement_section, agreement_table
from study.report.blocks import Picture, Section, markdown
from study.report.drawing import save
from study.report.figures import draw_all
from study.report.provenance import limitations, method_section, provenance_grid
from study.rules.judge import judge
from study.rules.verdicts import Verdict
from study.tables.cubes import Runs
from study.tables.selections import study_tables
from study.tables.stored import Frame, NotJudgedError, Tables

TITLE = "What the f-DPG paper claims, judged on exact problems and small transformers"
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
    return Report(verdicts, pictures, agreement_failures(numbers["agreement"]))


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
    content = [Section("Verdicts", [parts.verdict_grid(verdicts)])]
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


def introduction(tables: Tables) -> str:
    """Return from which tables the report is, and who wrote it."""
    names = [f"{table.name}.parquet" for table in tables.stored]
    names += ["unification.json"] if tables.unification is not None else []
    return (
        f"From {', '.join(names)}. Written by `python -m study report`; no number is typed by "
        "hand. The rules are those of docs/hypotheses.md."
    )
