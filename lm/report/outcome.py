"""The outcome of a run in one sentence: whether the divergence that it descended fell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fdpg_ref import find_divergence
from fdpg_ref.display import plus_minus, title_of
from lm.run.records import best

__all__ = ["CLOSER", "FARTHER", "UNDECIDED", "Outcome", "outcome_of", "outcome_of_run"]

CLOSER, FARTHER, UNDECIDED = "closer", "farther", "undecided"
# Standard errors of a difference that make it more than noise.
BEYOND = 3.0
# Beside the values an exact difference is more than rounding: log-probabilities of float32 models
# are good to some 1e-6 of themselves.
ROUNDING = 1e-5


class Outcome(NamedTuple):
    """What became of the descended divergence.

    Attributes
    ----------
    verdict
        `CLOSER`, `FARTHER` or `UNDECIDED`.
    sentence
        The same in words, with the numbers.
    best_step
        Step of the evaluation with the least value; of the last one where no value is known.
    """

    verdict: str
    sentence: str
    best_step: int


def outcome_of(
    evaluations: Sequence[Mapping[str, Any]], divergence: str, *, measured: bool
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
        Undecided if the difference lies within `BEYOND` standard errors or within rounding, or if
        a value or its error is not known.
    """
    name = title_of(divergence)
    if any(divergence not in record["estimates"] for record in evaluations):
        sentence = f"{name} was not measured, so whether it fell cannot be told."
        return Outcome(UNDECIDED, sentence, int(evaluations[-1]["step"]))
    pairs = [best(record, divergence) for record in evaluations]
    (first, first_error), (last, last_error) = pairs[0], pairs[-1]
    known = [place for place, (value, _) in enumerate(pairs) if not math.isnan(value)]
    least = min(known, key=lambda place: pairs[place][0], default=len(pairs) - 1)
    best_step = int(evaluations[least]["step"])
    fell, rose = _is_less(pairs[-1], pairs[0]), _is_less(pairs[0], pairs[-1])
    verdict = CLOSER if fell else FARTHER if rose else UNDECIDED

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
    if _is_less(pairs[least], pairs[-1]) and verdict != UNDECIDED:
        sentence += f" It was lowest at step {best_step}: {plus_minus(*pairs[least])}{unit}."
    return Outcome(verdict, sentence, best_step)


def outcome_of_run(evaluations: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> Outcome:
    """Return the outcome of a run whose configuration is as its folder has it.

    Parameters
    ----------
    evaluations
        As for `outcome_of`.
    config
        Says what was descended, and whether another target was measured.
    """
    measured = config.get("measure") is not None
    return outcome_of(evaluations, config["divergence"], measured=measured)


def _is_less(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Return whether a value is below another by more than their errors and rounding.

    The errors are added: all evaluations of a run look at the same samples of the base, so they
    are not independent, and whatever their correlation, a difference has no larger error.
    """
    (low, low_error), (high, high_error) = one, other
    if not math.isfinite(low):
        return False
    error = BEYOND * (low_error + high_error)
    # A difference or an error that is NaN is beyond nothing.
    return high - low > error and (
        math.isinf(high) or high - low > ROUNDING * max(abs(low), abs(high))
    )
