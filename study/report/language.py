"""LANGUAGE.md: verdicts on docs/hypotheses-language.md, what the runs gave, and one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fdpg_ref.display import NONE, number
from study.names import (
    DEFAULT,
    FIVE,
    REINFORCEMENT,
    TUNED,
    label_of,
    method_order,
    size_order,
)
from study.report.blocks import Grid, Picture, Section, markdown
from study.report.figures.drawing import save
from study.report.figures.main import alignment_figure
from study.report.figures.sides import sides_figure
from study.report.second_edition import sides_grid, sides_table
from study.report.sections import verdict_grid, verdict_sentences
from study.report.texts import texts_section
from study.rules.language import ERRORS, judge_language
from study.rules.verdicts import NOT_JUDGED, UNDECIDED, Verdict
from study.tables.cubes import Runs, chosen, policy_side, runs_of
from study.tables.language import SEEDS, SMALL, Chosen, gains_in_errors, tuned_by_others
from study.tables.selections import with_alignment
from study.tables.stored import LM_COLUMNS, Frame, NotJudgedError, StudyError, Table, read_table

FILES = {"code": "lm_language_code.parquet", "SmolLM2": "lm_language_smollm2.parquet"}
REPORT = "LANGUAGE.md"
# Heading, and the quantity at the end of a run.
SHOWN = {
    "TV": "total_variation",
    "JS": "jensen_shannon",
    "entropy": "entropy",
    "distinct texts": "distinct_share",
    "Self-BLEU": "self_bleu",
    "KL(π‖a)": "kl_policy_base",
}
BOTH = {"KL(p‖π)": "forward_kl", "KL(π‖p)": "reverse_kl"}
INTRODUCTION = (
    "What came of the hypotheses that "
    "[hypotheses-language.md](../../docs/hypotheses-language.md) registered before these runs; it "
    "also says what was trimmed before anything ran, such as a word near 0.1 %. Values are means "
    "over seeds; *policy side* is what samples of the policy alone say, as published."
)


def write_language(results: Path, folder: Path) -> list[Verdict]:
    """Judge every hypothesis on language, and write LANGUAGE.md and its picture.

    Parameters
    ----------
    results
        The folder of the tables.
    folder
        Where to; it is made if need be.

    Returns
    -------
    list of Verdict
        The same tables give the same files, byte by byte.

    Raises
    ------
    StudyError
        Neither table is there, or one is damaged.
    """
    found = {
        name: read_table(results / file, LM_COLUMNS)
        for name, file in FILES.items()
        if (results / file).is_file()
    }
    if not found:
        raise StudyError(
            f"no table of language in {results}: run `python -m lm sweep "
            "study/sweeps/language_code.yaml`"
        )
    verdicts = judge_language(found.get("code"), found.get("SmolLM2"))
    content = [
        Section("Verdicts", [verdict_grid(verdicts), *verdict_sentences(verdicts)]),
        Section("What could not be decided", [_undecided(verdicts)]),
    ]
    pictures: list[Picture] = []
    shown: list[Table] = []
    if "code" in found:
        best = tuned_by_others(found["code"])
        content.append(_code(best, pictures))
        shown.append(best.table)
    if "SmolLM2" in found:
        content.append(_smollm2(found["SmolLM2"]))
        shown.append(found["SmolLM2"])
    content += texts_section(shown)
    content.append(Section("Where the numbers come from", [_provenance(list(found.values()))]))

    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        _ = save(picture, folder / "figures")
    text = markdown("Language", INTRODUCTION, content)
    _ = (folder / REPORT).write_text(text, encoding="utf-8")
    return verdicts


def ends_grid(best: Runs, side: Runs | None, caption: str) -> Grid:
    """Return what runs ended with, by task, size and objective.

    Parameters
    ----------
    best
        Runs at one rate each.
    side
        The same by samples of the policy alone; None where there are none.
    caption
        Above the table.
    """
    starts = chosen(with_alignment(best.starts, best))
    ends = chosen(with_alignment(best.ends, best))
    seen = None if side is None else chosen(side.ends)

    # A row for each task, size and objective.
    rows = []
    places = sorted(
        {tuple(place) for place in ends[["task", "size", "method"]].to_numpy()},
        key=lambda place: (place[0], size_order(place[1]), method_order(place[2])),
    )
    for place in places:
        start, end = (_at(frame, place) for frame in (starts, ends))
        cells = [_mean(start, "alignment"), _mean(end, "alignment")]
        for quantity in BOTH.values():
            cells += [_mean(end, quantity)]
            cells += [NONE if seen is None else _mean(_at(seen, place), quantity)]
        cells += [_mean(end, quantity) for quantity in SHOWN.values()]
        task, size, method = place
        rows.append((task, size, label_of(method), *cells))

    both = [head for name in BOTH for head in (name, f"{name}, policy side")]
    heads = ("task", "size", "objective", "E[φ] of the base", "E[φ]", *both, *SHOWN)
    return Grid(caption, heads, tuple(rows))


def _code(found: Chosen, pictures: list[Picture]) -> Section:
    """Return the section on models of code, and add its picture."""
    runs = runs_of(found.table)
    caption = (
        "At the rate that the other seeds choose; "
        f"{found.edges} of {found.number} chosen rates lie at an end of the three tried."
    )
    blocks: list[str | Grid | Picture] = [ends_grid(runs, _side(found.table), caption)]
    known = runs._replace(steps=runs.steps[runs.steps["method"].isin((*FIVE, *REINFORCEMENT))])
    picture = alignment_figure(known) if "entropy_target" in known.steps else None
    if picture is not None:
        pictures.append(picture._replace(name="language"))
        blocks.append(pictures[-1])

    # The comparison of L1 and L2, task by task.
    try:
        sides = sides_table(found.table, {SMALL: (TUNED, DEFAULT)}, least=SEEDS)
    except NotJudgedError:
        return Section("Models of code", blocks)
    drawn = sides_figure(sides) if len(sides) else None
    if drawn is not None:
        blocks.append(sides_grid(sides))
        caption = drawn.caption.replace("by exact values", "by samples of the target")
        pictures.append(drawn._replace(name="language-sides", caption=caption))
        blocks.append(pictures[-1])
    return Section("Models of code", blocks)


def _smollm2(table: Table) -> Section:
    """Return the section on the pretrained model: both seeds of every task and objective."""
    caption = (
        f"Two seeds; *errors* is the gain in standard errors of the samples, {ERRORS:g} asked."
    )
    try:
        found = gains_in_errors(table)
    except NotJudgedError as error:
        return Section("SmolLM2", [f"Nothing to show: {error}."])

    rows = tuple(
        (
            str(row.task),
            label_of(str(row.method)),
            str(row.seed),
            *(number(float(value), 3) for value in (row.before, row.after, row.errors)),
        )
        for row in found.itertuples()
    )
    heads = ("task", "objective", "seed", "E[φ] of the base", "E[φ]", "errors")
    runs = runs_of(table)
    grid = ends_grid(runs, _side(table), "The same runs, means over both seeds.")
    return Section("SmolLM2", [Grid(caption, heads, rows), grid])


def _side(table: Table) -> Runs | None:
    try:
        return policy_side(table)
    except NotJudgedError:
        return None


def _undecided(verdicts: Sequence[Verdict]) -> str:
    lines = [
        f"- {one.name}, {one.study}: {one.verdict}. {one.sentence}"
        for one in verdicts
        if one.verdict in {UNDECIDED, NOT_JUDGED}
    ]
    return "\n".join(lines) or "Nothing: every rule gave an answer."


def _provenance(tables: Sequence[Table]) -> Grid:
    heads = ("table", "command", "runs", "failed", "commit", "processor seconds")
    rows = tuple(
        (
            f"{table.name}.parquet",
            table.said("command"),
            table.said("runs"),
            str(len(table.failed)),
            table.commit,
            table.said("cpu_seconds"),
        )
        for table in tables
    )
    return Grid("", heads, rows)


def _at(frame: Frame, place: tuple[str, str, str]) -> Frame:
    task, size, method = place
    return frame[(frame["task"] == task) & (frame["size"] == size) & (frame["method"] == method)]


def _mean(rows: Frame, quantity: str) -> str:
    """Return the mean over seeds; infinite if it is for one of them."""
    values = rows[quantity].dropna().to_numpy(dtype=float) if quantity in rows else np.array([])
    return number(float(values.mean()), 3) if values.size else NONE
