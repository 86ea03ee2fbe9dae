"""The page of a sweep: one HTML file with its pictures inside, for desktop and phone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from fdpg_ref import display
from fdpg_ref.display import color_of
from lm.features.census import census_names
from lm.features.registry import feature_values
from lm.report import figures
from lm.report.page import STYLE as REPORT_STYLE
from lm.report.page import figure_part, header, section, table_part
from lm.run.files import write_output
from lm.run.records import best
from lm.sweep.promises import Check, Finding
from lm.sweep.results import Line, Outcome
from lm.sweep.summary import NOTE, groups, markdown_table, row_labels

STYLE = """
main { max-width: 70rem; }
.pair { display: grid; gap: 0 1.2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
.pair > *, figure { min-width: 0; }
table.grid td, table.grid th { text-align: right; white-space: nowrap; padding: .35rem .55rem; }
table.grid th:first-child, table.grid td:first-child { text-align: left; position: sticky; left: 0;
  background: #fff; }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .45em; }
dl dt { font-weight: 600; margin-top: .8rem; } dl dd { margin: .15rem 0 0; }
.names { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 1rem; }
h3 { font-size: 1rem; margin: 1rem 0 .3rem; }
.names h3 { margin-top: 0; }
.names div > span { display: inline-block; margin: .12rem; padding: .1rem .45rem;
  border-radius: 6px; font: .9rem ui-monospace, Menlo, Consolas, monospace; background: #eef1f5; }
.names div > .hit { background: #fdebc0; }
.names div > .invented { font-style: italic; color: #6d7787;
  background: none; outline: 1px dashed #b6bec9; }
"""
TRAJECTORY = (
    "Every run from the base (square) to its end (large mark; its bar is two standard errors), and "
    "the target (star)."
)
DISTANCES = (
    "Each divergence to the target against the training samples drawn: mean over the seeds with a "
    "band of two standard errors. The thick line descends the panel's own measure."
)
# By these a page and its summary are known again, and no other file is replaced by them.
MARK = "<!-- a page of python -m lm sweep -->"
SUMMARY_KEYS = ("settings", "tables", "checks", "findings")
MULTIPLIERS = "How the target was fitted: damped Newton on the convex dual, exact sums."


@dataclass(frozen=True)
class Story:
    """Everything that a sweep has to tell.

    Parameters
    ----------
    title, about
        Heading and paragraphs.
    outcomes, checks, findings
        What was measured, what must hold, what was found.
    settings
        Label and value of what was run.
    warnings
        What the runs warned of, a line each.
    """

    title: str
    about: Sequence[str]
    outcomes: Sequence[Outcome]
    checks: Sequence[Check]
    findings: Sequence[Finding]
    settings: Mapping[str, str]
    warnings: Sequence[str] = ()


def write_page(story: Story, page: Path) -> None:
    """Write the page, its pictures to ``figures`` beside it, and ``summary.json``.

    Parameters
    ----------
    story
        What it tells.
    page
        HTML; it needs no network and no other file.
    """
    pictures = [_draw(outcome, page.parent / "figures") for outcome in story.outcomes]
    pairs = list(zip(story.outcomes, pictures, strict=True))
    about = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in story.about)
    paths = [figure_part(TRAJECTORY, drawn["trajectory"]) for drawn in pictures]
    findings = "".join(
        f"<dt>{escape(item.question)}</dt><dd>{escape(item.answer)}</dd>" for item in story.findings
    )
    warnings = "".join(f"<li>{escape(line)}</li>" for line in story.warnings)

    body = [
        MARK,
        header(story.title, about + _verdict(story.checks)),
        f"<div class=pair>{''.join(paths)}</div>",
        section("What was found", f"<dl>{findings}</dl>") if findings else "",
        *(part for outcome, drawn in pairs for part in _outcome(outcome, drawn)),
        section("What must hold", _checks(story.checks)) if story.checks else "",
        section("Warnings", f"<ul>{warnings}</ul>") if warnings else "",
        section("Settings", table_part((escape(k), escape(v)) for k, v in story.settings.items())),
    ]
    text = display.html_page(story.title, "".join(body), REPORT_STYLE + STYLE)
    write_output(page, text.encode("utf-8"))
    write_output(page.with_name("summary.json"), summary(story).encode("utf-8"))


def summary(story: Story) -> str:
    """Return the tables, checks, findings and warnings as JSON."""
    parts = (
        story.settings,
        {o.name: {"rows": row_labels(o), **groups(o)} for o in story.outcomes},
        [check._asdict() for check in story.checks],
        [finding._asdict() for finding in story.findings],
    )
    content = {**dict(zip(SUMMARY_KEYS, parts, strict=True)), "warnings": list(story.warnings)}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def markdown(story: Story) -> str:
    """Return settings, tables, checks, findings and warnings as Markdown."""
    parts = [f"# {story.title}", *story.about]
    parts.append("\n".join(f"- {name}: {value}" for name, value in story.settings.items()))
    for outcome in story.outcomes:
        parts += [f"## {outcome.title}", markdown_table(outcome)]
    parts += [NOTE, *(f"**{item.question}** {item.answer}" for item in story.findings)]
    held = [f"- {'pass' if c.passed else 'FAIL'}: {c.statement}: {c.detail}" for c in story.checks]
    parts += ["## What must hold", "\n".join(held)] if held else []
    warnings = [f"- {line}" for line in story.warnings]
    parts += ["## Warnings", "\n".join(warnings)] if warnings else []
    return "\n\n".join(parts) + "\n"


def _draw(outcome: Outcome, folder: Path) -> dict[str, Path]:
    """Draw and save the pictures of a target."""
    folder.mkdir(parents=True, exist_ok=True)
    features, base = outcome.features, outcome.lines[0]
    axis = f"feature/{features[0]}" if features else "jensen_shannon"
    alignment = outcome.description["features"][0]["target"] if features else 0.0

    # Every seed is a path of its own; the distances are drawn as means over the seeds.
    paths = [
        figures.Curve(line.label, line.divergence, run["evaluations"])
        for line in outcome.lines
        for run in line.runs
    ]
    means = [figures.Curve(line.label, line.divergence, line.evaluations) for line in outcome.lines]
    star = alignment, best(base.evaluations[0], "entropy_target")[0]
    drawn = {
        "trajectory": figures.alignment_figure(paths, axis, target=star, title=outcome.title),
        "divergences": figures.divergence_figure(means, title=outcome.title),
        "divergences-tall": figures.divergence_figure(means, title=outcome.title, columns=1),
    }
    if outcome.description["fit"] is not None:
        drawn["multipliers"] = figures.multiplier_figure(outcome.description)
    return {
        # trajectory-rare.png, divergences-rare-tall.png
        name: figures.save_figure(figure, folder / f"{_file_name(name, outcome.name)}.png")
        for name, figure in drawn.items()
    }


def _file_name(picture: str, outcome: str) -> str:
    kind, *suffix = picture.split("-")
    return "-".join([kind, outcome, *suffix])


def _outcome(outcome: Outcome, drawn: Mapping[str, Path]) -> list[str]:
    about = f"<p>{escape(outcome.task.about)}</p>" if outcome.task.about else ""
    note = f"<p class=muted>{escape(NOTE)}</p>"
    parts = [
        section(outcome.title, about + _tables(outcome) + note),
        figure_part(DISTANCES, drawn["divergences"], drawn["divergences-tall"]),
        section("Samples before and after", _samples(outcome)),
    ]
    if "multipliers" in drawn:
        parts.append(figure_part(MULTIPLIERS, drawn["multipliers"]))
    return parts


def _tables(outcome: Outcome) -> str:
    """Return the table of a target, a part for each group of columns."""
    dots = ["", "", *(_dot(line) for line in outcome.lines)]
    labels = [dot + escape(label) for dot, label in zip(dots, row_labels(outcome), strict=True)]
    parts = ""
    for name, columns in groups(outcome).items():
        rows = zip(labels, *(map(escape, cells) for cells in columns.values()), strict=True)
        heads = ["", *(escape(heading).replace("\n", "<br>") for heading in columns)]
        parts += f"<h3>{escape(name)}</h3>{table_part(rows, heads=heads, css='grid')}"
    return parts


def _dot(line: Line) -> str:
    return f'<span class=dot style="background:{color_of(line.divergence)}"></span>'


def _verdict(checks: Sequence[Check]) -> str:
    if not checks:
        return ""
    held = sum(check.passed for check in checks)
    word = "good" if held == len(checks) else "bad"
    return f"<p><span class='verdict {word}'>{held} of {len(checks)} promises hold</span></p>"


def _checks(checks: Sequence[Check]) -> str:
    words = {True: "<span class='verdict good'>pass", False: "<span class='verdict bad'>fail"}
    return table_part(
        (f"{words[check.passed]}</span>", escape(check.statement), escape(check.detail))
        for check in checks
    )


def _samples(outcome: Outcome) -> str:
    """Show the first texts of the base and of each line, listed names apart from invented ones."""
    first = [line.runs[0]["texts"] for line in outcome.lines]
    columns = [("", "base a", first[0][0])]
    columns += [
        (_dot(line), line.label, after)
        for line, (_, after) in zip(outcome.lines, first, strict=True)
    ]
    names = "list_mass" in outcome.lines[0].evaluations[0]["estimates"]
    feature = outcome.features[0] if names and outcome.features else ""
    shown = "".join(
        f"<div><h3>{mark}{escape(label)}</h3>{_chips(texts, feature, names=names)}</div>"
        for mark, label, texts in columns
    )
    note = "The first samples of the first seed, none picked; all with the same random numbers."
    note += f" Yellow: {feature}." if feature else ""
    note += " Dashed: invented, not a listed name." if names else ""
    return f"<div class=names>{shown}</div><p class=muted>{escape(note)}</p>"


def _chips(texts: Sequence[str], feature: str, *, names: bool) -> str:
    # A share of one half or more: the census lists some names for both sexes.
    hits = feature_values((feature,), texts)[:, 0] >= 0.5 if feature else [False] * len(texts)
    chips = []
    for text, hit in zip(texts, hits, strict=True):
        invented = names and text not in census_names().names
        css = " ".join(["hit"] * bool(hit) + ["invented"] * invented)
        chips.append(f"<span class='{css}'>{escape(text) or '(empty)'}</span>")
    return " ".join(chips)
