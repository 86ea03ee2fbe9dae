"""The model card of an exported folder: README.md with the front matter of the Hugging Face hub.

Made from the records of a run alone: of all files that the recipe names the licence of the base is
read, and of a function's file no more than the function's name is written.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fdpg_ref.display import title_of
from lm.config.base import PRETRAINED
from lm.config.code_model import code_model
from lm.features.registry import short_name
from lm.report.build import headline_rows, limitations
from lm.report.outcome import outcome_of_run
from lm.report.page import as_sentence, headline_table, markdown, table_cell
from lm.report.sides import disagreement, side_rows
from lm.run.records import read_records, read_seconds

NAME = "README.md"
# What a name on the hub looks like.
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Words that stand in the text of a licence, and what the hub calls it.
LICENCES = {
    ("Apache License", "Version 2.0"): "apache-2.0",
    ("MIT License", "Permission is hereby granted"): "mit",
    ("BSD 3-Clause", "Redistribution and use"): "bsd-3-clause",
}
LOAD = """```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("FOLDER")
```"""
SIGN = "<!-- fdpg-ref {} -->"


class Source(NamedTuple):
    """What was exported.

    Attributes
    ----------
    name
        Of its folder.
    run
        Folder of the run; None for a model of which none is known.
    step
        Steps done where the run is not complete.
    """

    name: str
    run: Path | None
    step: int | None = None


def card_of(source: Source) -> str:
    """Return the model card of an exported policy.

    Parameters
    ----------
    source
        Whose weights they are. Records that cannot be read make a shorter card, which says so.
    """
    front: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    parts = [f"# {markdown(source.name)}", "Which run made this model is not known.", *_loading()]
    if source.run is not None:
        try:
            front, parts = _of_run(source.run, source.step, front)
        # Whatever reading files raises that somebody changed: the weights are worth more.
        except Exception as error:
            said = f"The records of its run cannot be read ({type(error).__name__})."
            parts = [f"# {markdown(source.name)}", said, *_loading()]
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    text = f"---\n{head}---\n\n" + "\n\n".join(parts) + "\n"
    return f"{text}\n{SIGN.format(_digest(text))}\n"


def is_unchanged(path: Path) -> bool:
    """Return whether a model card is as this program wrote it; people write in theirs."""
    text, _, sign = path.read_text(encoding="utf-8", errors="replace").rpartition("\n<!--")
    return f"<!--{sign}" == SIGN.format(_digest(text)) + "\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _of_run(
    folder: Path, step: int | None, front: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return the front matter and the paragraphs of a run's policy."""
    names = ("config", "environment", "status", "target")
    run = {name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in names}
    config = run["config"]
    known = read_records(folder, "evaluation")
    run["evaluations"] = [one for one in known if step is None or one["step"] <= step]
    divergence, last = config["divergence"], run["evaluations"][-1]
    base, hub, licence = _base(config["model"])

    # What the hub reads.
    found = dict(front)
    if hub is not None:
        found |= {"base_model": hub, "base_model_relation": "finetune"}
    if licence is not None:
        found["license"] = licence
    found["tags"] = ["f-dpg", str(divergence)]

    # What people read.
    outcome = outcome_of_run(run["evaluations"], config)
    status = run["status"]
    begun = step is not None and step < config["steps"]
    unfinished = [] if step is None or not begun else [_unfinished(step, int(last["step"]), config)]
    return found, [
        f"# {markdown(config['name'])}: {title_of(divergence)}",
        _training(config, base),
        *unfinished,
        markdown(outcome.sentence),
        "## Target",
        _target(config, run["target"]),
        "## Measures",
        _measures(run["evaluations"]),
        f"Gradient estimator: **{markdown(status['verdict'])}**. "
        f"{markdown(as_sentence(status['reason']))}",
        *_loading(config),
        "## Licence",
        _licence_words(config["model"], licence),
        "## Machine",
        _machine(run["environment"], folder),
        "## Limitations",
        "\n".join(f"- {sentence}" for sentence in limitations(run)),
    ]


def _base(model: str | None) -> tuple[str, str | None, str | None]:
    """Return what people call a base, and, where known, its name on the hub and its licence."""
    if model is None:
        return "A small model of first names", None, None
    pretrained = PRETRAINED.get(model)
    if pretrained is not None:
        return model, pretrained.hub, _licence(pretrained.folder())
    folder = Path(model)
    if folder.is_dir():  # where it lies is nobody's business
        return folder.name, None, _licence(folder)
    return folder.name, model if HUB_NAME.fullmatch(model) else None, None


def _licence_words(model: str | None, licence: str | None) -> str:
    if model is None:
        return (
            "The base was trained by this project, whose code is under Apache-2.0, on names of the "
            "US census of 1990."
        )
    if code_model(model) is not None:
        return (
            "The base was trained by this project, whose code is under Apache-2.0, on functions of "
            "Python's standard library, which is under the licence of the Python Software "
            "Foundation."
        )
    if licence is None:
        return "That of the base, which is not known here: look it up before you share this model."
    return f"That of the base: {licence}."


def _licence(folder: Path) -> str | None:
    path = folder / "LICENSE"
    text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    return next((name for words, name in LICENCES.items() if all(w in text for w in words)), None)


def _training(config: Mapping[str, Any], base: str) -> str:
    rank = config.get("lora", {}).get("rank", 0)
    adapter = f", by an adapter of rank {rank:d} that is merged into the weights" if rank else ""
    return markdown(
        f"{base}, trained by f-DPG: samples of the model itself, along the gradient of an "
        f"f-divergence to a target, here {title_of(config['divergence'])}. {config['steps']:d} "
        f"steps of {config['batch_size']:d} samples, learning rate {config['optimizer']['lr']:g}, "
        f"seed {config['seed']:d}{adapter}."
    )


def _unfinished(step: int, measured: int, config: Mapping[str, Any]) -> str:
    return (
        f"**The run is not complete**: these are its weights after step {step:d} of "
        f"{config['steps']:d}. The measures are those after step {measured:d}."
    )


def _target(config: Mapping[str, Any], target: Mapping[str, Any]) -> str:
    kind = str(config["target"]["kind"])
    lines = [f"Kind: {markdown(kind.replace('_', ' '))}."]
    if kind == "reward_tilted":
        lines.append(f"The base times exp(reward / beta), beta {float(target['beta']):g}.")
    if target["features"]:
        rows = [
            f"| {table_cell(short_name(row['feature']))} | {row['base']:.4g} | {row['target']:.4g} "
            f"| {row['weight']:.4g} |"
            for row in target["features"]
        ]
        head = "| feature | base | target | weight |\n|---|---|---|---|"
        return " ".join(lines) + "\n\n" + "\n".join([head, *rows])
    giver = target["score"] or Path(str(config["target"]["teacher"])).name
    return " ".join([*lines, f"log P by {markdown(short_name(giver))}."])


def _measures(evaluations: Sequence[Mapping[str, Any]]) -> str:
    parts = [headline_table(headline_rows(evaluations)), "± is one standard error."]
    sides = side_rows(evaluations[-1])
    if sides:
        both = [
            "| quantity | by samples of the target | by samples of the policy alone | difference |"
        ]
        both += [
            "|---|---|---|---|",
            *(f"| {' | '.join(map(table_cell, row))} |" for row in sides),
        ]
        parts.append("\n".join(both))
    if (sentence := disagreement(evaluations[-1])) is not None:
        parts.append(markdown(sentence))
    return "\n\n".join(parts)


def _loading(config: Mapping[str, Any] | None = None) -> list[str]:
    words = (
        "`generate` draws as in training: start and end tokens, length limit and sampling law are "
    )
    words += "in `generation_config.json`."
    prompted = config is not None and any(config["prompts"].get(name) for name in ("file", "text"))
    asked = " It was trained to continue prompts." if prompted else ""
    return ["## How to load it", LOAD, words + asked]


def _machine(environment: Mapping[str, Any], folder: Path) -> str:
    facts = [f"{name} {value}" for name, value in environment.items() if value is not None]
    seconds = sum(read_seconds(folder))
    return markdown(f"{', '.join(facts)}. Steps and evaluations took {seconds:.3g} s.")
