"""The report of a run: pictures, one self-contained HTML page and a model card.

Everything is made from the run folder alone, so that `python -m lm report RUN` can make it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fdpg_ref.display import NONE, plus_minus, title_of
from lm.features.registry import short_name
from lm.phases import phase
from lm.report import figures
from lm.report.outcome import outcome_of_run
from lm.report.page import html_page, model_card
from lm.report.texts import read_texts, texts_section
from lm.run.files import write_atomic
from lm.run.records import FOUR, best, best_estimator, read_records

HEADLINE = (
    ("forward_kl", "forward KL(p‖π)", "nats"),
    ("reverse_kl", "reverse KL(π‖p)", "nats"),
    ("total_variation", "total variation", ""),
    ("jensen_shannon", "Jensen–Shannon", "nats"),
    ("kl_policy_base", "KL(π‖a), distance from the base", "nats"),
    ("entropy", "entropy", "nats per text"),
    ("entropy_normalised", "entropy per token, 1 = uniform", ""),
    ("distinct_share", "distinct texts within a group", "share"),
    ("self_bleu", "Self-BLEU over tokens", "share"),
    ("length", "length", "tokens"),
    ("ess_share", "effective samples p/π", "share"),
    ("largest_share", "largest single weight", "share"),
    ("kept_mass", "mass kept by the sampling transform", "per token"),
)
# Between the better estimator and how far the sampled one is from it.
Z_MARK = "; sampled z = "
ALWAYS = (
    "Base samples of the evaluations are drawn once a run: its errors are correlated over time.",
    "Self-BLEU and Distinct-n are over the model's own tokens and within groups of samples: they "
    "are not comparable with word-level figures, nor between models with other tokens.",
    "One seed is one draw. Compare divergences over several seeds before believing an ordering.",
)
ON_THE_LIST = (
    "List and remainder: listed names are summed exactly, only the rest is estimated.",
    "The census counted people of 1990 in the United States; sex is its binary record.",
)
OFF_THE_LIST = (
    "Every figure here is an estimate from samples: texts that none of them shows are not in it, "
    "and a standard error cannot know of them. Divergences rest on the estimate of Z.",
)
OF_PROMPTS = (
    "Standard errors are over prompts. Z is estimated for each prompt on its own: look at its "
    "error and its largest share before trusting a divergence.",
)


@phase("drawing the report")
def finish_run(folder: Path) -> Path:
    """Write summary, figures, model card and report of a run whose records are complete.

    Parameters
    ----------
    folder
        The run folder, finished or still partial.

    Returns
    -------
    Path
        The HTML report.
    """
    run = read_run(folder)
    _write_json(folder / "summary.json", summarise(run["evaluations"], run["config"]))
    pictures = _draw(folder, run)
    rows = headline_rows(run["evaluations"])
    sentences = limitations(run)
    card = model_card(run, rows, sentences)
    write_atomic(folder / "README.md", card.encode("utf-8"))
    report = folder / "report.html"
    along = texts_section(run["shown"])
    write_atomic(report, html_page(run, rows, pictures, sentences, along).encode("utf-8"))
    return report


def summarise(
    evaluations: Sequence[Mapping[str, Any]], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return first, last and halving point of a run.

    Parameters
    ----------
    evaluations
        Records of kind evaluation, in order.
    config
        Of the run, as its folder has it.

    Returns
    -------
    dict
        ``outcome`` (closer, farther or undecided), ``best_step`` (of the least value of the
        descended divergence), ``first`` and ``last`` estimates, ``samples_to_half`` of the
        descended divergence (null if it was never halved) and all ``warnings``.
    """
    first, last = evaluations[0], evaluations[-1]
    divergence = config["divergence"]
    outcome = outcome_of_run(evaluations, config)
    return {
        "divergence": divergence,
        "outcome": outcome.verdict,
        "best_step": outcome.best_step,
        "steps": last["step"],
        "samples": last["samples"],
        "samples_to_half": samples_to_half(evaluations, divergence),
        "first": first["estimates"],
        "last": last["estimates"],
        "warnings": [
            f"step {record['step']}: {warning}"
            for record in evaluations
            for warning in record["warnings"]
        ],
    }


def samples_to_half(evaluations: Sequence[Mapping[str, Any]], quantity: str) -> float | None:
    """Return the samples drawn when a quantity first reached half its start, interpolated."""
    values = [best(record, quantity)[0] for record in evaluations]
    half = values[0] / 2
    pairs = zip(evaluations, evaluations[1:], values, values[1:], strict=False)
    for before, after, high, low in pairs:
        if low <= half < high:
            share = (high - half) / (high - low)
            return before["samples"] + share * (after["samples"] - before["samples"])
    return None


def limitations(run: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a reader of this run's figures must know, one sentence each.

    Parameters
    ----------
    run
        Its evaluations and its target count.

    Returns
    -------
    tuple of str
        As the report and the model card print them.
    """
    listed = "list_mass" in run["evaluations"][-1]["estimates"]
    prompts = run["target"].get("contexts", 0) > 0
    return (
        *(ON_THE_LIST if listed else OFF_THE_LIST),
        *(OF_PROMPTS if prompts else ()),
        *ALWAYS,
    )


def headline_rows(evaluations: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the table of the report: quantity, base, policy and estimator, as text."""
    first, last = evaluations[0], evaluations[-1]
    features = [
        (key, f"E[{short_name(key.removeprefix('feature/'))}]", "")
        for key in last["estimates"]
        if key.startswith("feature/")
    ]
    rows = []
    for key, label, unit in (*features, *HEADLINE):
        if key in last["estimates"]:
            rows.append(
                {
                    "quantity": label,
                    "unit": unit,
                    "base": _number(first, key),
                    "policy": _number(last, key),
                    "estimator": _estimator(last, key),
                }
            )
    return rows


def _number(record: Mapping[str, Any], key: str) -> str:
    return plus_minus(*best(record, key)) if key in record["estimates"] else NONE


def _estimator(record: Mapping[str, Any], key: str) -> str:
    entries = record["estimates"][key]
    z = entries.get("sampled", {}).get("z")
    name = best_estimator(record, key)
    words = {"list_and_remainder": "list + remainder", "rao_blackwell": "Rao–Blackwell"}
    return words.get(name, name) + (f"{Z_MARK}{z:+.1f}" if z is not None else "")


def read_run(folder: Path) -> dict[str, Any]:
    """Read what a page shows of a finished run: its files by name, records and texts."""
    names = ("config", "environment", "status", "target")
    run = {name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in names}
    run["evaluations"] = read_records(folder, "evaluation")
    run["steps"] = read_records(folder, "step")
    for name in ("samples_before", "samples_after"):
        run[name] = (folder / f"{name}.txt").read_text("utf-8").splitlines()
    run["shown"] = read_texts(folder)
    return run


def _draw(folder: Path, run: Mapping[str, Any]) -> dict[str, Path]:
    divergence, target = run["config"]["divergence"], run["target"]
    evaluations, features = run["evaluations"], target["features"]
    curves = [figures.Curve(title_of(divergence), divergence, evaluations)]

    # Without features, the distance itself says how aligned the policy is.
    axis = f"feature/{features[0]['feature']}" if features else divergence
    star = features[0]["target"] if features else 0.0, best(evaluations[0], "entropy_target")[0]
    names = tuple(dict.fromkeys((*FOUR, divergence)))
    drawn = {
        "alignment": figures.alignment_figure(curves, axis, target=star),
        "divergences": figures.divergence_figure(curves, names),
        "estimator": figures.estimator_figure(run["steps"], target),
    }
    if features:
        drawn["features"] = figures.feature_figure(curves, features)
    if target["fit"] is not None:
        drawn["multipliers"] = figures.multiplier_figure(target)

    place = folder / "figures"
    return {
        name: figures.save_figure(figure, place / f"{name}.png") for name, figure in drawn.items()
    }


def _write_json(path: Path, content: Any) -> None:
    write_atomic(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode("utf-8"))
