"""The outcome of a run in one sentence: whether the divergence that it descended fell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fdpg_ref import find_divergence
from fdpg_ref.display import plus_minus, title_of
from lm.run.records import best

__all__ = ["CLOSER", "FARTHER", "UNDECIDED", "Outcome", "outcome_of"]

CLOSER, FARTHER, UNDECIDED = "closer", "farther", "undecided"
# Standard errors of the difference between first and last that make it more than noise.
BEYOND = 3.0


class Outcome(NamedTuple):
    """What became of the descended divergence.

    Attributes
    ----------
    verdict
        `CLOSER`, `FARTHER` or `UNDECIDED`.
    sentence
        The same in words, with the numbers.
    best_step
        Step of the evaluation with the least value.
    """

    verdict: str
    sentence: str
    best_step: int


def outcome_of(
    evaluations: Sequence[Mapping[str, Any]], divergence: str, *, measured: bool = False
) -> Outcome:
    """Compare the last value of the descended divergence with the first one.

    Parameters
    ----------
    evaluations
        Records of kind evaluation, in order, at least one.
    divergence
        The one that was descended.
    measured
        Whether the run was measured against another target than it descended.

    Returns
    -------
    Outcome
        Undecided if the difference lies within `BEYOND` standard errors, or none is known.
    """
    name = title_of(divergence)
    if any(divergence not in record["estimates"] for record in evaluations):
        sentence = f"{name} was not measured, so whether it fell cannot be told."
        return Outcome(UNDECIDED, sentence, int(evaluations[-1]["step"]))
    pairs = [best(record, divergence) for record in evaluations]
    (first, first_error), (last, last_error) = pairs[0], pairs[-1]
    least = min(range(len(pairs)), key=lambda place: pairs[place][0])
    best_step = int(evaluations[least]["step"])

    # A difference that is NaN, as of two infinities, is beyond no error.
    error = BEYOND * math.hypot(first_error, last_error)
    fall = first - last
    verdict = CLOSER if fall > error else FARTHER if -fall > error else UNDECIDED

    whose = "the target that it is measured against" if measured else "its target"
    values = f"from {plus_minus(first, first_error)} to {plus_minus(last, last_error)}"
    unit = find_divergence(divergence).unit
    unit = f" {unit}" if unit else ""
    words = {
        CLOSER: f"{name} fell {values}{unit}: the policy ended closer to {whose} than the base is.",
        FARTHER: f"{name} rose {values}{unit}: the policy ended farther from {whose} than the base "
        "is. Try a smaller learning rate, or more samples per step.",
        UNDECIDED: f"{name} went {values}{unit}: whether the policy ended closer to {whose} than "
        "the base is cannot be told.",
    }
    sentence = words[verdict]
    if least != len(pairs) - 1 and verdict != UNDECIDED:
        sentence += f" It was lowest at step {best_step}: {plus_minus(*pairs[least])}{unit}."
    return Outcome(verdict, sentence, best_step)
