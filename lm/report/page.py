"""The HTML page and the model card of a run, as text: no template engine, no external resource."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fdpg_ref import display
from fdpg_ref.display import title_of
from lm.config.options import flatten
from lm.features.registry import short_name
from lm.report.outcome import outcome_of_run
from lm.report.sides import disagreement, drawn_sentence, side_rows
from lm.run.records import PROMPT_MARK

CAPTIONS = {
    "alignment": "Alignment against diversity along the run: from the base (square) toward the "
    "target (star). Higher is more diverse.",
    "divergences": "The divergences between policy and target. Bands are two standard errors.",
    "features": "Expected features of the policy: sampled, and exact where there is a list.",
    "multipliers": "How the target was fitted: moments, and the certificate of the multipliers.",
    "estimator": "Health of the estimator, batch by batch: partition function, weights, gradient.",
}
# Beside what every page has.
STYLE = """
figure { background: #fff; border-radius: 10px; padding: 1.1rem 1.2rem; margin: 0 0 1.2rem;
  box-shadow: 0 1px 3px rgb(20 30 50 / 12%); }
img { width: 100%; }
td.number { white-space: nowrap; }
.texts { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.texts ul { list-style: none; margin: 0; padding: 0; columns: 2;
  font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .92rem; }
.texts.long ul { columns: 1; }
.texts.long li { margin: 0 0 .45rem; overflow-wrap: anywhere; }
table.along td:first-child { text-align: right; white-space: nowrap; }
table.along td { overflow-wrap: anywhere; }
.prompt { color: #5b6675; }
pre { overflow-x: auto; background: #f4f5f7; border-radius: 6px; padding: .8rem;
  font-size: .82rem; line-height: 1.4; }
@media (max-width: 36rem) {
  .texts { grid-template-columns: 1fr; }
  h1 { font-size: 1.35rem; }
  .result tr:first-child { display: none; }
  .result tr { display: block; border-bottom: 1px solid #e8ebef; padding: .35rem 0; }
  .result td { display: block; border: 0; padding: 0; }
  .result td.number::before { content: attr(data-label) ": "; color: #5b6675; }
}
"""
SIDES = (
    "Samples of a policy cannot show what the policy has dropped, and their standard error cannot "
    "know of it. Where the two columns differ, believe the samples of the target."
)
VERDICTS = {"unbiased": "good", "proportional": "partly", "biased": "bad"}
# Samples longer than this get a line of their own.
LONG_TEXT = 24
# Backslashes too: one before the bar of a table would undo the bar's own.
ESCAPE_MARKS = str.maketrans({mark: f"\\{mark}" for mark in "\\`*"})


def html_page(
    run: Mapping[str, Any],
    rows: Sequence[Mapping[str, str]],
    pictures: Mapping[str, Path],
    limitations: Iterable[str],
    along: Iterable[str] = (),
) -> str:
    """Return one HTML page with its pictures inside, which needs no network.

    Parameters
    ----------
    run
        Configuration, environment, status, target, evaluations and sample texts of the run.
    rows
        The headline table, as `lm.report.build.headline_rows` returns it.
    pictures
        PNG files by the name of the figure.
    limitations
        One sentence each.
    along
        Sections with sample texts along the run, as HTML.

    Returns
    -------
    str
        The document.
    """
    config = run["config"]

    def drawn(name: str) -> str:
        return figure_part(CAPTIONS[name], pictures[name]) if name in pictures else ""

    outcome = outcome_of_run(run["evaluations"], run["config"])
    result = f"<p><strong>{html.escape(outcome.sentence)}</strong></p>"
    body = [
        header(title(run), f"<p>{html.escape(subtitle(run))}</p>{result}"),
        section("Result", _table(rows) + _warnings(run["evaluations"])),
        *_sides(run["evaluations"][-1]),
        *map(drawn, ("alignment", "divergences", "features")),
        section("Samples before and after", _texts(run)),
        *along,
        section("What is proven about the gradient", _status(run)),
        *map(drawn, ("multipliers", "estimator")),
        section("Target", _target(run)),
        section("Limitations", bullets(limitations)),
        section("Versions and configuration", _versions(run["environment"], config)),
    ]
    return display.html_page(title(run), "".join(body), STYLE)


def header(heading: str, content: str) -> str:
    """Return the top of a page; its content is HTML."""
    return f"<header><h1>{html.escape(heading)}</h1>{content}</header>"


def section(heading: str, content: str) -> str:
    """Return a section of a page; its content is HTML."""
    return f"<section><h2>{html.escape(heading)}</h2>{content}</section>"


def figure_part(caption: str, wide: Path, tall: Path | None = None) -> str:
    """Return a figure with its PNG inside, and another one for the width of a phone."""
    caption = html.escape(caption)
    image = f'<img alt="{caption}" src="{_data(wide)}">'
    if tall is not None:
        source = f'<source media="(max-width: 40rem)" srcset="{_data(tall)}">'
        image = f"<picture>{source}{image}</picture>"
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def table_part(rows: Iterable[Sequence[str]], *, heads: Sequence[str] = (), css: str = "") -> str:
    """Return a table that scrolls where the page is narrow; its cells are HTML."""
    top = f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>" if heads else ""
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class=scroll><table class='{css}'>{top}{lines}</table></div>"


def bullets(items: Iterable[str]) -> str:
    """Return a list of plain texts."""
    return f"<ul>{''.join(f'<li>{html.escape(item)}</li>' for item in items)}</ul>"


def model_card(
    run: Mapping[str, Any], rows: Sequence[Mapping[str, str]], limitations: Iterable[str]
) -> str:
    """Return the model card of the trained policy, in Markdown.

    Parameters
    ----------
    run, rows, limitations
        As for `html_page`.

    Returns
    -------
    str
        The document.
    """
    status = run["status"]
    factor = f", factor {markdown(status['factor'])}" if status["factor"] else ""
    parts = [
        f"# {markdown(title(run))}",
        markdown(subtitle(run)),
        markdown(outcome_of_run(run["evaluations"], run["config"]).sentence),
        *map(markdown, filter(None, [disagreement(run["evaluations"][-1])])),
        "`policy/` is a plain Hugging Face folder of a causal language model; `fdpg_ref.json` in "
        "it holds the token ids. Load it with `lm.policy.load_policy`.",
        headline_table(rows),
        f"Gradient estimator: **{markdown(status['verdict'])}**{factor}. "
        f"{markdown(as_sentence(status['reason']))}",
        "## Intended use",
        _intended_use(run),
        "## Limitations",
        "\n".join(f"- {sentence}" for sentence in limitations),
    ]
    return "\n\n".join(parts) + "\n"


def title(run: Mapping[str, Any]) -> str:
    """Return the heading of a run."""
    return f"{run['config']['name']}: {title_of(run['config']['divergence'])}"


def named(row: Mapping[str, str]) -> str:
    """Return the quantity of a row of the headline table, with its unit in brackets."""
    return f"{row['quantity']} ({row['unit']})" if row["unit"] else row["quantity"]


def _giver(run: Mapping[str, Any]) -> str:
    """Return what gives log P where no feature does: a function, or a teacher."""
    return run["target"]["score"] or run["config"]["target"]["teacher"]


def subtitle(run: Mapping[str, Any]) -> str:
    """Return one sentence on what was trained toward what."""
    config, last, target = run["config"], run["evaluations"][-1], run["target"]
    model = f"The model {config['model']}" if config["model"] else "A language model of first names"
    kind = config["target"]["kind"].replace("_", " ")
    wanted = (
        ", ".join(
            f"E[{short_name(row['feature'])}] from {row['base']:.3g} to {row['target']:.3g}"
            for row in target["features"]
        )
        or f"log P by {short_name(_giver(run))}"
    )
    prompts = target.get("contexts", 0)
    rank = config.get("lora", {}).get("rank", 0)
    adapter = f" by an adapter of rank {rank}" if rank else ""
    each = f", for each of {prompts} prompts," if prompts else ""
    return (
        f"{model}, trained toward a target ({kind}: {wanted}){each} in "
        f"{last['step']} steps of {config['batch_size']} samples{adapter}, seed {config['seed']}."
    )


def _intended_use(run: Mapping[str, Any]) -> str:
    if "list_mass" in run["evaluations"][-1]["estimates"]:
        return (
            "Teaching and checking f-divergence policy gradients. Not for decisions about people: "
            "the model spells first names, and its features are census frequencies."
        )
    return (
        "That of the base model, whose licence and limits it inherits. The training aimed at the "
        "target above and checked nothing else about it."
    )


def as_sentence(reason: str) -> str:
    """Return a reason with a capital letter and a point."""
    return f"{reason[:1].upper()}{reason[1:]}."


def _data(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def markdown(text: str) -> str:
    """Return a text that came from a file as words of Markdown: one line, no HTML and no link."""
    plain = html.escape(" ".join(text.split()), quote=False)
    return plain.translate(ESCAPE_MARKS).replace("](", "]\\(")


def table_cell(text: str) -> str:
    """Return a text that came from a file as a cell of a table in Markdown."""
    return markdown(text).replace("|", "\\|")


def headline_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return the headline table of a run in Markdown: base, policy, by which estimator."""
    table = ["| quantity | base | policy | estimator |", "|---|---|---|---|"]
    for row in rows:
        cells = (named(row), row["base"], row["policy"], row["estimator"])
        table.append(f"| {' | '.join(map(table_cell, cells))} |")
    return "\n".join(table)


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    head = "<tr><th>quantity</th><th>base</th><th>policy</th><th>estimator</th></tr>"
    lines = [
        f"<tr><td>{html.escape(row['quantity'])} <span class=muted>{html.escape(row['unit'])}"
        f"</span></td><td class=number data-label=base>{html.escape(row['base'])}</td>"
        f"<td class=number data-label=policy>{html.escape(row['policy'])}</td>"
        f"<td class=muted>{html.escape(row['estimator'])}</td></tr>"
        for row in rows
    ]
    note = (
        "<p class=muted>± is one standard error. A z compares the sampled estimate with the better "
        "one beside it: far outside ±4, the samples missed rare texts that carry much of the sum, "
        "and their standard error cannot know.</p>"
    )
    return f"<div class=scroll><table class=result>{head}{''.join(lines)}</table></div>{note}"


def _sides(record: Mapping[str, Any]) -> list[str]:
    """Return the section that holds samples of the target against those of the policy alone."""
    rows = side_rows(record)
    if not rows:
        return []
    heads = ("quantity", "samples of the target", "of the policy alone", "difference in errors")
    cells = [[html.escape(cell) for cell in row] for row in rows]
    sentences = [SIDES, drawn_sentence(record)]
    content = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences if sentence)
    return [section("From both sides", content + table_part(cells, heads=heads))]


def _warnings(evaluations: Sequence[Mapping[str, Any]]) -> str:
    found = [f"step {r['step']}: {text}" for r in evaluations for text in r["warnings"]]
    return f"<h2>Warnings</h2>{bullets(found)}" if found else ""


def _texts(run: Mapping[str, Any]) -> str:
    columns = [
        f"<div><h2 class=muted>{name}</h2>"
        f"<ul>{''.join(f'<li>{sample_part(text)}</li>' for text in run[key])}</ul></div>"
        for name, key in (("base", "samples_before"), ("policy", "samples_after"))
    ]
    texts = [*run["samples_before"], *run["samples_after"]]
    long = " long" if max(map(len, texts), default=0) > LONG_TEXT else ""
    turns = ", the prompts in turn" if run["target"].get("contexts", 0) else ""
    note = f"<p class=muted>The first samples of each evaluation{turns}, none picked.</p>"
    return f"<div class='texts{long}'>{''.join(columns)}</div>{note}"


def sample_part(text: str) -> str:
    """Return a line of a file of samples, its prompt set apart."""
    prompt, mark, completion = text.partition(PROMPT_MARK)
    if not mark:
        return html.escape(text)
    return f"<span class=prompt>{html.escape(prompt + mark)}</span>{html.escape(completion)}"


def _status(run: Mapping[str, Any]) -> str:
    status, config = run["status"], run["config"]
    colour = VERDICTS.get(status["verdict"], "none")
    factor = f" Factor: <code>{html.escape(status['factor'])}</code>." if status["factor"] else ""
    composition = (
        f"{title_of(config['divergence'])}, Z {config['partition']['policy']}, baseline "
        f"{config['baseline']['kind'].replace('_', ' ')}"
    )
    return (
        f"<p><span class='verdict {colour}'>{html.escape(status['verdict'])}</span> for "
        f"{html.escape(composition)}.{factor}</p>"
        f"<p>{html.escape(as_sentence(status['reason']))}</p>"
        "<p class=muted>Verified by enumerating all batches of small problems: "
        "<code>python -m toy verify</code>.</p>"
    )


def _target(run: Mapping[str, Any]) -> str:
    target = run["target"]
    prompts = target.get("contexts", 0)
    mean = f", mean over the prompts of the evaluations, of {prompts:d} in all" if prompts else ""
    source = html.escape(target["log_z_source"])
    z = f"<p>log Z = {target['log_z']:.6g} nats, {source}{mean}.</p>"
    if not target["features"]:
        return f"<p>log P(x) is given by <code>{html.escape(_giver(run))}</code>.</p>{z}"
    rows = [
        [
            html.escape(row["feature"]),
            f"{row['base']:.5g}",
            "–" if row["wanted"] is None else f"{row['wanted']:.5g}",
            f"{row['target']:.5g}",
            f"{row['weight']:.5g}",
        ]
        for row in target["features"]
    ]
    return table_part(rows, heads=("feature", "base", "asked for", "target", "weight")) + z


def _versions(environment: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    parts = ", ".join(f"{name} {value}" for name, value in environment.items() if value is not None)
    lines = "\n".join(f"{key}: {value}" for key, value in flatten(config).items())
    return f"<p>{html.escape(parts)}</p><pre>{html.escape(lines)}</pre>"
