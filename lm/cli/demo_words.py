"""The words of `python -m lm demo`, of names or of a pretrained model. Needs no torch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lm.config import RunConfig, resolve
from lm.config.options import parse_config
from lm.demo.command import DemoConfig, run_demo
from lm.errors import UsageError
from lm.phases import speaking
from lm.run.owned import json_object
from lm.run.start import partial_folder

# Of the run, as the recipe says it.
NAME = "demo-llm"
RECIPE = Path(__file__).parents[1] / "demo" / "llm.yaml"


def demo_of(words: Sequence[str], load: Callable[[], Any]) -> int:
    """Run the demonstration that is asked for: the word llm takes a pretrained model.

    Parameters
    ----------
    words
        ``[llm] [--key value ...]``; after llm the keys are those of ``python -m lm train``.
    load
        Imports what needs torch.

    Returns
    -------
    int
        0, or 1 if what must hold does not.
    """
    if words[:1] != ["llm"]:
        config = parse_config(DemoConfig, words, program="python -m lm demo")
        return run_demo(config, command=" ".join(["python -m lm demo", *words]))
    recipe = parse_config(RunConfig, [str(RECIPE), *words[1:]], program="python -m lm demo llm")
    config = resolve(recipe)
    _require_gain(config)
    _require_demonstration(config)
    with speaking(sys.stderr):
        load()
        return importlib.import_module("lm.cli.demo_llm").run_demo_llm(config)


def _require_gain(config: RunConfig) -> None:
    """Refuse a target of which nothing could be said in the end."""
    if not (config.measure or config.target).features:
        raise UsageError(
            "the demonstration says by how much a feature rose, but this target has none: give "
            "one that has, or use python -m lm train"
        )


def _require_demonstration(config: RunConfig) -> None:
    """Refuse to start over where another run lies: the recipe replaces what is there."""
    final = Path(config.output or "")
    for folder in (final, partial_folder(final)) if config.overwrite else ():
        name = json_object(folder / "config.json").get("name", NAME)
        if name not in {NAME, config.name}:
            raise UsageError(
                f"{folder} holds the run {name!r:.60}, which is no demonstration, so it is not "
                "started over: choose another --output"
            )
