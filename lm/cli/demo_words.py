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
from lm.phases import speaking

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
    with speaking(sys.stderr):
        load()
        return importlib.import_module("lm.cli.demo_llm").run_demo_llm(resolve(recipe))
