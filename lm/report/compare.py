"""Several runs on one page: what differs, where they ended, their curves, their texts, their time.

A measure is a distance to a target, which is made of a base model. So runs are compared within
groups of the same base, vocabulary, prompts and target, and across groups not at all: that is said.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fdpg_ref import display
from fdpg_ref.display import NONE, plus_minus, title_of
from lm.config.options import flatten
from lm.errors import border
from lm.features.registry import short_name
from lm.report import ADVICE, SEVERAL, figures
from lm.report.build import HEADLINE, read_run
from lm.report.outcome import outcome_of_run
from lm.report.page import STYLE, bullets, figure_part, header, sample_part, section, table_part
from lm.report.sides import sides_of
from lm.report.texts import as_html
from lm.run.records import FOUR, best, read_seconds

# Colours that are told apart by everybody, one a run: a page of more runs is read by nobody.
PAINTS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#000000", "#8C564B", "#6A3D9A")
MARKS = "os^vDPX*"
MOST_RUNS = len(PAINTS)
# Keys that say where and how a run was made, and nothing of what it is.
BESIDE = ("name", "output", "overwrite", "resume", "plan", "report", "tracker", "checkpoint")
TEXTS_SHOWN = 8
SIDES = {"target": "by samples of the target", "policy": "by samples of the policy alone"}
CURVES = (
    "The divergences to the target against samples drawn; a thick line descends the panel's own. "
    "Bands are two standard errors."
)
FEATURES = "Expected features of the policies: sampled, and exact where there is a list."


class Run(NamedTuple):
    """A run on the page.

    Attributes
    ----------
    label
        Its number and its name, which headings and legends show.
    content
        As `lm.report.build.read_run` returns it.
    seconds
        Of its steps and of its evaluations, by the clock.
    identity
        What must be the same for two runs to be compared, in words, by what it is.
    """

    label: str
    content: Mapping[str, Any]
    seconds: tuple[float, float]
    identity: Mapping[str, str]

    @property
    def last(self) -> Mapping[str, Any]:
        """The last evaluation."""
        return self.content["evaluations"][-1]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read the runs of a page.

    Parameters
    ----------
    folders
        Of finished runs.
    """
    runs = []
    for number, folder in enumerate(folders, 1):
        label = f"{number}: {folder.resolve().name}"
        with border(f"reading the run {folder}", ADVICE):
            content, seconds = read_run(folder), read_seconds(folder)
            runs.append(Run(label, content, seconds, _identity(folder, content["config"])))
    return runs


def comparison_page(runs: Sequence[Run], place: Path) -> str:
    """Return the page as HTML that needs nothing outside it.

    Parameters
    ----------
    runs
        Two or more.
    place
        An empty folder, for pictures that are then inside the page.
    """
    groups = grouped(runs)
    body = [SEVERAL, header(f"{len(runs)} runs", _outcomes(runs))]
    if len(groups) > 1:
        body.append(section("What is not compared", _apart(groups)))
    body.append(section("Settings that differ", _settings(runs)))
    for number, group in enumerate(groups, 1):
        of = f" of {_numbers(group)}" if len(groups) > 1 else ""
        body.append(section(f"Where they ended{of}", _measures(group)))
        if len(group) > 1:
            inside = place / str(number)
            inside.mkdir()
            body += _pictures(group, inside)
    body.append(section("Samples of the policies", _texts(runs)))
    body.append(section("Time", _time(runs)))
    return display.html_page(f"{len(runs)} runs", "".join(body), STYLE)


def grouped(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs that can be compared with one another, group by group, in order."""
    groups: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.identity.items()), []).append(run)
    return list(groups.values())


def _identity(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Return what makes the base and the target of a run, as far as its folder names it."""
    words = {
        "base model": config["model"] or config["base"],
        "vocabulary": _vocabulary(folder / "policy"),
        "length limit": config["max_new_tokens"],
        "sampling law": "none" if config["off_policy"] else config["sampling"],
        "prompts": {name: value for name, value in config["prompts"].items() if name != "per_step"},
        "target": config.get("measure") or config["target"],
    }
    return {name: json.dumps(value, sort_keys=True) for name, value in words.items()}


def _vocabulary(policy: Path) -> list[Any]:
    """Return what tells the tokens of a saved policy from others."""
    ids = json.loads((policy / "fdpg_ref.json").read_text("utf-8"))
    found: list[Any] = [ids[name] for name in ("bos_id", "eos_ids", "letters")]
    tokenizer = policy / "tokenizer.json"
    if tokenizer.is_file():
        found.append(json.loads(tokenizer.read_text("utf-8")).get("model"))
    return found


def _numbers(group: Sequence[Run]) -> str:
    return ", ".join(run.label.partition(":")[0] for run in group)


def _outcomes(runs: Sequence[Run]) -> str:
    sentences = []
    for run in runs:
        outcome = outcome_of_run(run.content["evaluations"], run.content["config"])
        sentences.append(f"{run.label}: {outcome.sentence}")
    return bullets(sentences)


def _apart(groups: Sequence[Sequence[Run]]) -> str:
    first = groups[0][0].identity
    differ = [
        name for name in first if any(group[0].identity[name] != first[name] for group in groups)
    ]
    which = " and ".join(f"runs {_numbers(group)}" for group in groups)
    sentence = (
        f"{which} have another {', another '.join(differ)}. A divergence is a distance to a "
        "target, and a target is made of its base: no number of one group says anything about "
        "the other. So each has a table of its own, and no picture shows both."
    )
    return f"<p><strong>{html.escape(sentence)}</strong></p>"


def _settings(runs: Sequence[Run]) -> str:
    flat = [flatten(run.content["config"]) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = []
    for key in keys:
        values = [json.dumps(one.get(key), ensure_ascii=False) for one in flat]
        if key.split(".")[0] not in BESIDE and len(set(values)) > 1:
            rows.append([html.escape(key), *map(as_html, values)])
    if not rows:
        return "<p>None: they are the same run.</p>"
    return table_part(rows, heads=_heads("key", runs))


def _measures(group: Sequence[Run]) -> str:
    names = dict.fromkeys(key for run in group for key in run.last["estimates"])
    features = [key for key in names if key.startswith("feature/")]
    labels = {key: (f"E[{short_name(key.removeprefix('feature/'))}]", "") for key in features}
    labels |= {key: (label, unit) for key, label, unit in HEADLINE if key in names}
    sides = [{one.name: one for one in sides_of(run.last)} for run in group]

    rows = []
    for key, (label, unit) in labels.items():
        cells = [_best(run.content["evaluations"][0], key) for run in group[:1]]
        cells += [_best(run.last, key) for run in group]
        rows.append([f"{as_html(label)} <span class=muted>{html.escape(unit)}</span>", *cells])
        for side, words in SIDES.items():
            if key in FOUR and any(key in one for one in sides):
                stored = [getattr(one[key], side) if key in one else None for one in sides]
                cells = [NONE if pair is None else plus_minus(*pair) for pair in stored]
                rows.append([f"<span class=muted>… {words}</span>", NONE, *map(html.escape, cells)])
    note = (
        "<p class=muted>± is one standard error, of one seed each: differences between seeds are "
        "not in it. Samples of the policy alone cannot show what it has dropped.</p>"
    )
    heads = _heads("quantity", group)
    return table_part(rows, heads=[heads[0], "base", *heads[1:]]) + note


def _best(record: Mapping[str, Any], key: str) -> str:
    return html.escape(plus_minus(*best(record, key)) if key in record["estimates"] else NONE)


def _pictures(group: Sequence[Run], place: Path) -> list[str]:
    curves = []
    for run, paint, mark in zip(group, PAINTS, MARKS, strict=False):
        divergence, records = run.content["config"]["divergence"], run.content["evaluations"]
        curves.append(figures.Curve(run.label, divergence, records, paint, mark))

    # Each divergence, then each feature.
    drawn = [(CURVES, figures.divergence_figure(curves))]
    rows = group[0].content["target"]["features"]
    if rows:
        drawn.append((FEATURES, figures.feature_figure(curves, rows)))
    return [
        figure_part(words, figures.save_figure(figure, place / f"{number}.png"))
        for number, (words, figure) in enumerate(drawn)
    ]


def _texts(runs: Sequence[Run]) -> str:
    columns = [run.content["samples_after"][:TEXTS_SHOWN] for run in runs]
    longest = max(map(len, columns))
    rows = [
        [sample_part(column[place]) if place < len(column) else "" for column in columns]
        for place in range(longest)
    ]
    table = table_part(rows, heads=_heads("", runs)[1:])
    return f"<p class=muted>The first samples of each last evaluation, none picked.</p>{table}"


def _time(runs: Sequence[Run]) -> str:
    rows, machines = [], set[str]()
    for run in runs:
        steps, evaluations = run.seconds
        number = int(run.last["step"])
        environment = run.content["environment"]
        names = ("system", "gpu", "cpu_count", "torch_threads", "torch")
        machine = ", ".join(
            f"{name} {environment[name]}" for name in names if environment.get(name)
        )
        machines.add(machine)
        times = (f"{steps:.4g} s", f"{steps / max(number, 1):.3g} s", f"{evaluations:.4g} s")
        drawn = f"{int(run.last['samples']):,}"
        rows.append([as_html(run.label), *times, drawn, as_html(machine)])
    heads = ("run", "steps", "a step", "evaluations", "samples drawn", "machine")
    note = "Times of different machines are not compared." if len(machines) > 1 else ""
    return table_part(rows, heads=heads) + (f"<p>{note}</p>" if note else "")


def _heads(first: str, runs: Sequence[Run]) -> list[str]:
    titles = [title_of(run.content["config"]["divergence"]) for run in runs]
    labels = [
        f"{as_html(run.label)}<br>{as_html(title)}" for run, title in zip(runs, titles, strict=True)
    ]
    return [first, *labels]
