"""The page of the demonstration: one HTML file with its pictures inside, for desktop and phone."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm.demo.figures import sample_columns
from lm.demo.pictures import Picture
from lm.demo.results import Outcome
from lm.demo.tables import NOTE, SHORT, Column, Group, groups, hard_rows, row_labels
from lm.demo.verdicts import Check, Finding
from lm.report.figures import COLORS, LABELS
from lm.report.page import STYLESHEET
from lm.run.records import FOUR

INTRODUCTION = (
    "A small language model of first names (the base, <i>a</i>) is moved toward a target "
    "distribution <i>p</i> by four f-divergences. Everything but the divergence is the same: base, "
    "samples, steps, learning rate and seeds. The target’s partition function, its multipliers and "
    "the policy’s moments are exact sums over the 5,163 listed names."
)
INTUITION = (
    "Picture a target with two peaks and a policy that can make only one. <b>Forward KL</b> "
    "charges for target mass that the policy misses: the policy spreads over both peaks and the "
    "valley between them. <b>Reverse KL</b> charges for policy mass where the target has little: "
    "the policy settles on one peak and forgets the other. <b>Total variation</b> and "
    "<b>Jensen–Shannon</b> charge a bounded price for either mistake. A policy that can represent "
    "the target meets all four at the same point, but not on the same path, and not in the same "
    "number of samples. What happened here:"
)
STYLE = """
.demo { max-width: 70rem; }
.pair { display: grid; gap: 0 1.2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
.pair > *, figure { min-width: 0; }
table.grid td, table.grid th { text-align: right; white-space: nowrap; padding: .35rem .55rem; }
table.grid th:first-child, table.grid td:first-child { text-align: left; position: sticky; left: 0;
  background: #fff; }
table.grid { margin-bottom: 1.2rem; } table.grid th.group { text-align: center; color: #1c2430;
  border-bottom: none; }
table.grid tr.last-given td { border-bottom: 2px solid #9aa5b1; }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .45em; }
.pass { background: #d9f2e3; color: #0b5a33; } .fail { background: #fbd9d6; color: #8a1206; }
dl.findings dt { font-weight: 600; margin-top: .8rem; } dl.findings dd { margin: .15rem 0 0; }
.names { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 1rem; }
.names h3 { font-size: 1rem; margin: 0 0 .4rem; }
.names div > span { display: inline-block; margin: .12rem; padding: .1rem .45rem;
  border-radius: 6px; font: .9rem ui-monospace, Menlo, Consolas, monospace;
  background: #eef1f5; }
.names div > .hit { background: #fdebc0; }
.names div > .invented { font-style: italic; color: #6d7787;
  background: none; outline: 1px dashed #b6bec9; }
@media (max-width: 36rem) { section, figure { padding: .9rem .8rem; } body { font-size: 15px; } }
"""


class Story(NamedTuple):
    """Everything that the page tells.

    Attributes
    ----------
    outcomes
        Both targets.
    checks, findings
        What must hold, and what was found.
    pictures
        By name: ``trajectory-KEY`` and ``divergences-KEY`` for each target, and ``multipliers``.
    hard
        Evaluations against the hard target, by policy.
    refusal
        What reverse KL is told there.
    settings
        Label and value of what was run, for the last section.
    is_listed, satisfies
        Whether a text is a listed name; whether it has the feature of a target (by its key).
    """

    outcomes: Sequence[Outcome]
    checks: Sequence[Check]
    findings: Sequence[Finding]
    pictures: Mapping[str, Picture]
    hard: Mapping[str, Mapping[str, Any]]
    refusal: str
    settings: Mapping[str, str]
    is_listed: Callable[[str], bool]
    satisfies: Mapping[str, Callable[[str], bool]]


def demo_page(story: Story) -> str:
    """Return the page as text; it needs no network and no other file.

    Parameters
    ----------
    story
        What it tells.

    Returns
    -------
    str
        An HTML document.
    """
    title = "Four divergences, two targets, one base"
    paths = [_figure(story.pictures[f"trajectory-{o.target.key}"]) for o in story.outcomes]
    body = [
        f"<header><h1>{title}</h1><p>{INTRODUCTION}</p>{_verdict(story.checks)}</header>",
        f"<div class=pair>{''.join(paths)}</div>",
        _section("What was found", f"<p>{INTUITION}</p>{_findings(story.findings)}"),
        *(part for outcome in story.outcomes for part in _target(story, outcome)),
        _figure(story.pictures["multipliers"]),
        _section("The hard version of (i)", _hard(story)),
        _section("What must hold", _checks(story.checks)),
        _section("Settings", _settings(story.settings)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLESHEET}{STYLE}</style></head>"
        f"<body><main class=demo>{''.join(body)}</main></body></html>\n"
    )


def _target(story: Story, outcome: Outcome) -> list[str]:
    key = outcome.target.key
    alignment, divergences, diversity, weights, speed = groups(outcome)
    table = _grid([alignment, diversity, speed]) + _grid([divergences, weights])
    sentence = f"<p>{html.escape(outcome.target.sentence)}</p>"
    note = f"<p class=muted>{html.escape(NOTE)}</p>"
    return [
        _section(outcome.target.title, sentence + table + note),
        _figure(story.pictures[f"divergences-{key}"]),
        _section("Samples before and after", _samples(story, outcome)),
    ]


def _grid(parts: Sequence[Group]) -> str:
    labels = row_labels()
    columns = [column for part in parts for column in part.columns]
    over = "".join(
        f"<th class=group colspan={len(part.columns)}>{html.escape(part.name)}</th>"
        for part in parts
    )
    heads = "".join(
        f"<th>{html.escape(column.heading.strip()).replace(chr(10), '<br>')}</th>"
        for column in (labels, *columns)
    )
    lines = []
    for number in range(len(labels.cells)):
        cells = "".join(f"<td>{html.escape(column.cells[number])}</td>" for column in columns)
        css = " class=last-given" if number == 1 else ""
        lines.append(f"<tr{css}><td>{_row_label(labels, number)}</td>{cells}</tr>")
    head = f"<tr><th></th>{over}</tr><tr>{heads}</tr>"
    return f"<div class=scroll><table class=grid>{head}{''.join(lines)}</table></div>"


def _row_label(labels: Column, number: int) -> str:
    text = html.escape(labels.cells[number])
    return f"<b>{text}</b>" if number < 2 else _dot(FOUR[number - 2]) + text


def _dot(divergence: str) -> str:
    return f'<span class=dot style="background:{COLORS[divergence]}"></span>'


def _verdict(checks: Sequence[Check]) -> str:
    held = sum(check.passed for check in checks)
    word = "pass" if held == len(checks) else "fail"
    return f"<p><span class='verdict {word}'>{held} of {len(checks)} promises hold</span></p>"


def _checks(checks: Sequence[Check]) -> str:
    lines = []
    for check in checks:
        word = "pass" if check.passed else "fail"
        lines.append(
            f"<tr><td><span class='verdict {word}'>{word}</span></td>"
            f"<td>{html.escape(check.statement)}</td><td>{html.escape(check.detail)}</td></tr>"
        )
    return f"<div class=scroll><table>{''.join(lines)}</table></div>"


def _findings(findings: Iterable[Finding]) -> str:
    items = "".join(
        f"<dt>{html.escape(item.question)}</dt><dd>{html.escape(item.answer)}</dd>"
        for item in findings
    )
    return f"<dl class=findings>{items}</dl>"


def _hard(story: Story) -> str:
    heads = "".join(f"<th>{html.escape(SHORT[name])}</th>" for name in FOUR)
    lines = []
    for label, cells in hard_rows(story.hard):
        name = _dot(label) + html.escape(LABELS[label]) if label in LABELS else f"<b>{label}</b>"
        numbers = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(f"<tr><td>{name}</td>{numbers}</tr>")
    table = f"<table class=grid><tr><th>policy</th>{heads}</tr>{''.join(lines)}</table>"
    return (
        "<p>Here p is the base restricted to listed names that end in i. The policies are those "
        "trained on the soft target; the numbers are exact sums.</p>"
        f"<div class=scroll>{table}</div>"
        "<p>Asked to descend reverse KL there, the program refuses: "
        f"<q>{html.escape(story.refusal)}</q></p>"
    )


def _samples(story: Story, outcome: Outcome) -> str:
    satisfies = story.satisfies[outcome.target.key]
    columns = []
    for label, texts in sample_columns(outcome).items():
        head = _dot(label) + html.escape(LABELS[label]) if label in LABELS else html.escape(label)
        chips = " ".join(_chip(text, story.is_listed(text), satisfies(text)) for text in texts)
        columns.append(f"<div><h3>{head}</h3>{chips}</div>")
    note = (
        f"<p class=muted>The first samples, none picked; all columns use the same random numbers. "
        f"Yellow: {outcome.target.feature}. Dashed: invented, not a listed name.</p>"
    )
    return f"<div class=names>{''.join(columns)}</div>{note}"


def _chip(text: str, listed: bool, satisfied: bool) -> str:
    css = ("" if listed else " invented") + (" hit" if satisfied else "")
    attribute = f" class='{css.strip()}'" if css else ""
    return f"<span{attribute}>{html.escape(text) or '(empty)'}</span>"


def _settings(settings: Mapping[str, str]) -> str:
    lines = "".join(
        f"<tr><td class=muted>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>"
        for key, value in settings.items()
    )
    return f"<div class=scroll><table>{lines}</table></div>"


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{html.escape(heading)}</h2>{content}</section>"


def _figure(picture: Picture) -> str:
    caption = html.escape(picture.caption)
    image = f'<img alt="{caption}" src="{_data(picture.wide)}">'
    if picture.tall is not None:
        source = f'<source media="(max-width: 40rem)" srcset="{_data(picture.tall)}">'
        image = f"<picture>{source}{image}</picture>"
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _data(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
