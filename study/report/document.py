"""The report: one list of sections, written as Markdown and as one HTML page."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from study.report import sections as parts
from study.report.agreement import agreement_failures, agreement_section, agreement_table
from study.report.blocks import Section
from study.report.drawing import Picture, save
from study.report.figures import draw_all
from study.report.provenance import limitations, method_section, provenance_grid
from study.rules.judge import judge
from study.rules.verdicts import NotJudgedError, Verdict
from study.tables import summaries
from study.tables.cubes import Runs
from study.tables.selections import study_tables
from study.tables.stored import Frame, Table, Tables
from study.text import Grid, html_table, markdown_table

TITLE = "What the f-DPG paper claims, judged on exact problems and small transformers"
# Which pictures stand under which hypothesis; all others come at the end.
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
STYLESHEET = """
:root { color-scheme: light; } * { box-sizing: border-box; }
body { margin: 0; background: #f4f5f7; color: #1c2430;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
header { border-left: 6px solid #e6a100; padding-left: 1rem; margin-bottom: 1.5rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 0 0 .7rem; } p { margin: .5rem 0; overflow-wrap: anywhere; }
section { background: #fff; border-radius: 10px; padding: 1.1rem 1.2rem; margin: 0 0 1.2rem;
  box-shadow: 0 1px 3px rgb(20 30 50 / 12%); }
figure { margin: 1rem 0 0; } img { max-width: 100%; height: auto; display: block; }
figcaption, .muted { color: #5b6675; font-size: .92rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%;
  font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: left; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid #e8ebef;
  vertical-align: top; } th { font-weight: 600; color: #5b6675; }
.verdict { border-radius: 99px; padding: .1rem .7rem; font-weight: 600; white-space: nowrap; }
.holds { background: #d9f2e3; color: #0b5a33; } .partly { background: #fdf0cd; color: #6b4a00; }
.not { background: #fbd9d6; color: #8a1206; } .none { background: #e8ebef; color: #5b6675; }
@media (max-width: 36rem) { section { padding: .9rem .8rem; } body { font-size: 15px; } }
"""
CHIPS = {
    "holds": "holds",
    "holds partly": "partly",
    "does not hold": "not",
    "not judged": "none",
}


class Report(NamedTuple):
    """What was written: the verdicts, the pictures, and the bounds that were exceeded."""

    verdicts: Sequence[Verdict]
    pictures: Sequence[Picture]
    failures: Sequence[str]


def write_report(tables: Tables, folder: Path) -> Report:
    """Judge everything, and write REPORT.md, REPORT.html, figures and tables.

    Parameters
    ----------
    tables
        What is stored.
    folder
        Where to; it must exist.

    Returns
    -------
    Report
        The same tables give the same REPORT.md and the same CSV files, byte by byte.
    """
    sweeps = study_tables(tables)
    verdicts = judge(tables, sweeps)
    numbers = collect(tables, sweeps, verdicts)
    pictures = draw_all(tables, sweeps, numbers["regret"])
    paths = {picture.name: save(picture, folder / "figures") for picture in pictures}
    _write_tables(numbers, folder / "tables")
    content = compose(tables, sweeps, verdicts, numbers, pictures)
    intro = introduction(tables)
    (folder / "REPORT.md").write_text(markdown(intro, content), encoding="utf-8")
    (folder / "REPORT.html").write_text(page(intro, content, paths), encoding="utf-8")
    return Report(verdicts, pictures, agreement_failures(numbers["agreement"]))


def collect(
    tables: Tables, sweeps: Mapping[str, Runs], verdicts: Sequence[Verdict]
) -> dict[str, Frame]:
    """Return every table of numbers that the stored tables allow, by the name of its file."""
    main, scale, ablations = (sweeps.get(name) for name in ("main", "scale", "ablations"))
    found = {
        "verdicts": pd.DataFrame([vars(one) for one in verdicts]),
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
    by_name = {picture.name: picture for picture in pictures}
    placed = {
        name: [by_name[key] for key in keys if key in by_name] for name, keys in PLACES.items()
    }
    content = [Section("Verdicts", [parts.verdict_grid(verdicts)])]
    content += parts.hypothesis_sections(verdicts, placed)
    main = sweeps.get("main")
    if main is not None:
        content += parts.task_sections(main, numbers["main"], numbers["base"])
    grids: list[str | Grid | Picture] = []
    if len(numbers["regret"]):
        grids.append(parts.regret_grid(numbers["regret"]))
    if len(numbers["stability"]):
        grids.append(parts.stability_grid(numbers["stability"]))
    if len(numbers.get("ablations", ())):
        grids.append(parts.ablation_grid(numbers["ablations"]))
    content += [Section("Regret, rank stability, ablations", grids)] if grids else []
    if len(numbers["agreement"]):
        content.append(agreement_section(numbers["agreement"]))
    seeds = sorted({table.frame["seed"].nunique() for table in _swept(tables)})
    content.append(method_section(seeds))
    content.append(Section("Provenance", [provenance_grid(tables)]))
    content.append(Section("Limitations", limitations(tables)))
    return content


def introduction(tables: Tables) -> str:
    """Return from which tables the report is, and who wrote it."""
    names = [f"{table.name}.parquet" for table in tables.stored]
    names += ["unification.json"] if tables.unification is not None else []
    return (
        f"From {', '.join(names)}. Written by `python -m study report`; no number is typed by "
        "hand. The rules stand in docs/hypotheses.md."
    )


def markdown(intro: str, content: Sequence[Section]) -> str:
    """Return the report as Markdown, pictures by their relative paths."""
    lines = [f"# {TITLE}", "", intro, ""]
    for section in content:
        lines += [f"## {section.title}", ""]
        for block in section.blocks:
            lines += [_markdown_block(block), ""]
    return "\n".join(lines).rstrip() + "\n"


def page(intro: str, content: Sequence[Section], paths: Mapping[str, Path]) -> str:
    """Return the report as one HTML page with its pictures inside."""
    body = "".join(
        f"<section><h2>{escape(section.title)}</h2>"
        + "".join(_html_block(block, paths) for block in section.blocks)
        + "</section>"
        for section in content
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(TITLE)}</title><style>{STYLESHEET}</style></head>"
        f"<body><main><header><h1>{escape(TITLE)}</h1><p>{_inline(intro)}</p></header>"
        f"{body}</main></body></html>\n"
    )


def _swept(tables: Tables) -> list[Table]:
    swept = (tables.main, tables.scale, tables.ablations)
    return [table for table in swept if table is not None]


def _write_tables(numbers: Mapping[str, Frame], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in numbers.items():
        text = table.to_csv(index=False, float_format="%.8g", lineterminator="\n")
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")


def _markdown_block(block: str | Grid | Picture) -> str:
    if isinstance(block, Picture):
        return f"![{block.caption}](figures/{block.name}.png)\n\n*{block.caption}*"
    if isinstance(block, Grid):
        caption = f"{block.caption}\n\n" if block.caption else ""
        return caption + markdown_table(block.heads, block.rows).rstrip()
    return block


def _html_block(block: str | Grid | Picture, paths: Mapping[str, Path]) -> str:
    if isinstance(block, Picture):
        data = base64.b64encode(paths[block.name].read_bytes()).decode("ascii")
        caption = escape(block.caption)
        image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
    if isinstance(block, Grid):
        caption = f"<p class=muted>{escape(block.caption)}</p>" if block.caption else ""
        return caption + _with_chips(html_table(block.heads, block.rows))
    return f"<p>{_inline(block)}</p>"


def _inline(text: str) -> str:
    """Turn the two marks that our sentences use into HTML."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    for word, css in CHIPS.items():
        marked = marked.replace(f"**{word}**", _chip(word, css))
    return marked


def _with_chips(table: str) -> str:
    for word, css in CHIPS.items():
        table = table.replace(f"<td>{word}</td>", f"<td>{_chip(word, css)}</td>")
    return table


def _chip(word: str, css: str) -> str:
    return f"<span class='verdict {css}'>{word}</span>"
