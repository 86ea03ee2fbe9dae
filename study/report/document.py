"""The report: judge everything, draw everything, and write it as Markdown with its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
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
from study.report.figures.all import draw_all
from study.report.figures.drawing import save
from study.report.figures.sides import sides_figure
from study.report.findings import findings
from study.report.provenance import limitations, method_section, provenance_grid
from study.report.second_edition import grids_of, matched_grid, sides_grid, sides_table, slopes_grid
from study.rules.judge import judge
from study.rules.judge_second import judge_second
from study.rules.verdicts import Verdict
from study.tables.cubes import Runs
from study.tables.selections import study_tables
from study.tables.stored import Frame, NotJudgedError, Tables

TITLE = "What the f-DPG paper claims, judged on exact problems and small transformers"
FIRST_FILE = "REPORT-first.md"
EARLIER = (
    f"The first edition's verdicts, by rules that were found wanting, are in "
    f"[{FIRST_FILE}]({FIRST_FILE})."
)
NO_SECOND: dict[str, None] = dict.fromkeys(("pilot2", "main2", "scale2", "ablations2"))
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
    """The verdicts, the pictures, the bounds that were exceeded, and the files written."""

    verdicts: Sequence[Verdict]
    pictures: Sequence[Picture]
    failures: Sequence[str]
    files: Sequence[str]


class Document(NamedTuple):
    """One edition's report: its file, its folder of pictures, and what it says."""

    file: str
    figures: str
    introduction: str
    content: Sequence[Section]
    pictures: Sequence[Picture]


def write_report(tables: Tables, folder: Path) -> Report:
    """Judge everything, and write REPORT.md and its figures; the first edition's beside it.

    Parameters
    ----------
    tables
        What is stored.
    folder
        Where to; it must exist.

    Returns
    -------
    Report
        The same tables give the same files, byte by byte. Its verdicts are those of the edition
        that REPORT.md is about: the second where one of its sweeps was run.
    """
    again = second_tables(tables)
    verdicts, document = first_edition(replace(tables, **NO_SECOND), alone=again is None)
    documents = [document]
    failures = agreement_failures(agreement_table(tables)) + target_side_failures(tables)
    if again is not None:
        verdicts, document = second_edition(tables, again)
        documents.insert(0, document)

    # The text and its pictures.
    for document in documents:
        for picture in document.pictures:
            save(picture, folder / document.figures)
        text = markdown(TITLE, document.introduction, document.content, document.figures)
        (folder / document.file).write_text(text, encoding="utf-8")
    pictures = [picture for document in documents for picture in document.pictures]
    return Report(verdicts, pictures, failures, [document.file for document in documents])


def second_tables(tables: Tables) -> Tables | None:
    """Return the second edition's sweeps under the names of the first, None if none was run."""
    found = {name: getattr(tables, f"{name}2") for name in ("pilot", "main", "scale", "ablations")}
    # The pilot judges nothing.
    if not any(found[name] for name in ("main", "scale", "ablations")):
        return None
    return replace(tables, **NO_SECOND, **found)


def first_edition(tables: Tables, *, alone: bool) -> tuple[list[Verdict], Document]:
    """Return the first edition's verdicts and report.

    Parameters
    ----------
    tables
        The first edition's.
    alone
        Whether there is no second one: then it is what REPORT.md says.
    """
    sweeps = study_tables(tables)
    verdicts = judge(tables, sweeps)
    numbers = collect(tables, sweeps)
    pictures = draw_all(tables, sweeps, numbers["regret"])

    content = first_content(tables, sweeps, verdicts, numbers, pictures)
    file, figures = ("REPORT.md", "figures") if alone else (FIRST_FILE, "figures-first")
    return verdicts, Document(file, figures, introduction(tables), content, pictures)


def first_content(
    tables: Tables,
    sweeps: Mapping[str, Runs],
    verdicts: Sequence[Verdict],
    numbers: Mapping[str, Frame],
    pictures: Sequence[Picture],
) -> list[Section]:
    """Return the first edition's verdicts with their pictures, and the numbers behind them."""
    content = [Section("Verdicts of the first edition", [FIRST, parts.verdict_grid(verdicts)])]
    content += parts.hypothesis_sections(verdicts, _placed(pictures))
    return content + number_sections(tables, sweeps, numbers)


def second_edition(tables: Tables, again: Tables) -> tuple[list[Verdict], Document]:
    """Return the second edition's verdicts and report: findings, pictures, then tables.

    Parameters
    ----------
    tables
        Everything stored.
    again
        The second edition's, by `second_tables`.
    """
    sweeps = study_tables(again)
    verdicts = judge_second(tables)
    numbers = collect(again, sweeps)
    sides = sides_table(again.main) if again.main is not None else None

    # The finding first, among the pictures, too.
    pictures = draw_all(again, sweeps, numbers["regret"])
    shown = sides_figure(sides) if sides is not None and len(sides) else None
    pictures = pictures if shown is None else [shown, *pictures]

    kept, compared, without = target_side_share(tables)
    words = "; ".join(target_side_failures(tables)) or "that is enough"
    instrument = (
        f"**Can samples of the target be trusted?** They were held against exact values: "
        f"|z| < 5 in {kept:,} of {compared:,} comparisons ({words}). In {without:,} more, few "
        "samples carry the estimate, and there is no z."
    )
    content = [
        Section("Findings", [SECOND, *findings(verdicts), instrument, EARLIER]),
        Section("Pictures", pictures),
        Section("Verdicts", [parts.verdict_grid(verdicts)]),
        Section("The numbers of each verdict", parts.verdict_sentences(verdicts)),
    ]

    # What only this edition looks at, and what both do.
    own = [sides_grid(sides)] if sides is not None and len(sides) else []
    own += grids_of([(matched_grid, sweeps.get("main")), (slopes_grid, sweeps.get("scale"))])
    content += [Section("Both sides, matched alignment, and size", own)] if own else []
    content += number_sections(again, sweeps, numbers)
    return verdicts, Document("REPORT.md", "figures", introduction(again), content, pictures)


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


def number_sections(
    tables: Tables, sweeps: Mapping[str, Runs], numbers: Mapping[str, Frame]
) -> list[Section]:
    """Return the tables of an edition, and how far to trust them."""
    content = []
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
        "hand. The rules are those of docs/hypotheses.md and, for the first edition, of "
        "docs/hypotheses-first.md."
    )


def _placed(pictures: Sequence[Picture]) -> dict[str, list[Picture]]:
    by_name = {picture.name: picture for picture in pictures}
    return {name: [by_name[key] for key in keys if key in by_name] for name, keys in PLACES.items()}
