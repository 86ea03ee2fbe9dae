"""``python -m lm demo llm``: a pretrained model before and after, and what it gained."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.markup import escape

from lm.cli.commands import run_train
from lm.config import RunConfig
from lm.phases import duration
from lm.report.terminal import new_table, print_table
from lm.run.records import PROMPT_MARK, printable, read_records

# What the demonstration promises: so many standard errors.
PROMISED = 5.0
SHOWN = 8


class Gain(NamedTuple):
    """What a feature's expectation was and is.

    Attributes
    ----------
    name
        Of the feature.
    before, after
        Value and standard error, from samples of their own.
    """

    name: str
    before: tuple[float, float]
    after: tuple[float, float]

    @property
    def errors(self) -> float:
        """By how many standard errors it rose; NaN where no error is known."""
        error = math.hypot(self.before[1], self.after[1])
        return (self.after[0] - self.before[0]) / error if error > 0 else math.nan

    @property
    def sentence(self) -> str:
        """What happened, for people."""
        (before, first), (after, last) = self.before, self.after
        word = "up" if after > before else "down"
        return (
            f"E[{self.name}] was {before:.2f} ± {first:.2f} and is {after:.2f} ± {last:.2f}: "
            f"{word} by {abs(self.errors):.1f} standard errors"
        )


def run_demo_llm(config: RunConfig) -> int:
    """Train, then show texts before and after, and what was gained.

    Parameters
    ----------
    config
        Of the run: lm/demo/llm.yaml and what was changed of it.

    Returns
    -------
    int
        0 if the target's first feature rose by more than five standard errors, else 1.
    """
    begun = time.monotonic()
    run_train(config)
    if config.plan:
        return 0
    folder = Path(config.output or "")
    show_texts(folder)
    gain = gain_of((config.measure or config.target).features[0], *_ends(folder))
    print(gain.sentence)
    print(f"{duration(time.monotonic() - begun)} in all", flush=True)
    if not gain.errors > PROMISED:
        print(f"that is not more than {PROMISED:g}: train longer (--steps), or measure on more")
        return 1
    return 0


def gain_of(feature: str, first: Mapping[str, Any], last: Mapping[str, Any]) -> Gain:
    """Return what a feature's expectation was and is, from two evaluations.

    Parameters
    ----------
    feature
        Its name.
    first, last
        Records of an evaluation each.
    """

    def estimate(record: Mapping[str, Any]) -> tuple[float, float]:
        found = record["estimates"][f"feature/{feature}"]["sampled"]
        return float(found["value"]), float(found["standard_error"])

    return Gain(feature, estimate(first), estimate(last))


def show_texts(folder: Path) -> None:
    """Print what the model wrote before and after training, line beside line."""
    table = new_table("the same prompt, before and after")
    for heading in ("before", "after"):
        table.add_column(heading, ratio=1)
    before, after = (
        (folder / name).read_text(encoding="utf-8").splitlines()[:SHOWN]
        for name in ("samples_before.txt", "samples_after.txt")
    )
    for texts in zip(before, after, strict=True):
        table.add_row(*map(_cell, texts))
    print_table(table)


def _cell(text: str) -> str:
    """Return what follows the one prompt; a model may write what rich takes for markup."""
    return escape(printable(text.partition(PROMPT_MARK)[2] or text))


def _ends(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    evaluations = read_records(folder, "evaluation")
    return evaluations[0], evaluations[-1]
