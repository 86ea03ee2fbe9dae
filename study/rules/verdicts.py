"""A verdict on a hypothesis: the words, the numbers behind them, and how both are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from study.tables.stored import NotJudgedError
from study.text import interval

HOLDS, PARTLY, DOES_NOT, NOT_JUDGED = "holds", "holds partly", "does not hold", "not judged"
# The second edition knows no "partly", and says where its intervals are too wide.
UNDECIDED = "undecided"
STATEMENTS = {
    "H1": "RL with a KL penalty is reverse-KL f-DPG, and DPG is forward-KL f-DPG: the same updates",
    "H2": "No objective is best everywhere",
    "H3": "On rare tasks alignment costs diversity, and reverse KL is less diverse than forward KL",
    "H4": "Jensen-Shannon is a good balance",
    "H5": "Jensen-Shannon often beats forward KL on forward KL's own measure, by a wide margin",
    "H6": "The differences persist with scale",
    "H7": "With the target inside the family, reverse KL's diversity dips and recovers",
    "H8": "The signal-to-noise ratio of the gradient explains the order",
    "H9": "A larger batch does not save forward KL",
    "H10": "A baseline helps, and reverse KL most",
    "H11": "Alpha traces a frontier from coverage to precision",
    "H12": "One common rate gives the same order as tuned rates",
}

# Those of docs/hypotheses.md, the second edition.
SECOND_STATEMENTS = {
    **STATEMENTS,
    "H3": "Reverse KL is less diverse than forward KL at the same alignment",
    "H5": "Jensen-Shannon beats forward KL on forward KL's own measure, by a wide margin",
    "H12": "One common rate changes no order",
    "H13": "The published estimate favours what drops modes",
}

# Those of docs/hypotheses-language.md.
LANGUAGE_STATEMENTS = {
    "L1": "Jensen-Shannon beats forward KL on forward KL's own measure, by a wide margin",
    "L2": "The published estimate favours what drops modes",
    "L3": "RL with a KL penalty is less diverse than forward KL at the same alignment",
    "L4": "Every objective does what it is for",
    "L5": "It carries over to signatures that were never trained on",
    "L6": "A pretrained model learns it in minutes",
    "L7": "The order persists with size",
}
ALL_STATEMENTS = {**SECOND_STATEMENTS, **LANGUAGE_STATEMENTS}


@dataclass(frozen=True)
class Effect:
    """A measured effect: what it is, its value and the ends of its interval."""

    label: str
    value: float
    low: float = float("nan")
    high: float = float("nan")

    def __str__(self) -> str:
        """Return label, value and interval."""
        return f"{self.label} {interval(self.value, self.low, self.high)}"


@dataclass(frozen=True)
class Verdict:
    """What became of a hypothesis in one study.

    Attributes
    ----------
    name, study, statement
        Which hypothesis, judged where, and what it says.
    measured, effect, low, high
        The first of the effects that the rule looks at: what it is, its value and its interval.
    verdict
        One of holds, holds partly, does not hold, not judged.
    sentence
        The numbers behind it, or the reason why it is not judged.
    """

    name: str
    study: str
    statement: str
    measured: str
    effect: float
    low: float
    high: float
    verdict: str
    sentence: str


def not_judged(name: str, study: str, reason: str, *, second: bool = False) -> Verdict:
    """Return the verdict that says why there is none."""
    nan = float("nan")
    statement = ALL_STATEMENTS[name] if second else STATEMENTS[name]
    return Verdict(name, study, statement, "", nan, nan, nan, NOT_JUDGED, f"{reason}.")


def decide_three(
    name: str,
    study: str,
    effects: Sequence[Effect],
    *,
    holds: bool,
    fails: bool,
    more: str = "",
) -> Verdict:
    """Return the verdict of a rule of the second edition: what is neither is undecided.

    Parameters
    ----------
    name, study, effects, more
        As for `decide`.
    holds, fails
        What the rule says; both at once is a contradiction in the rule.

    Raises
    ------
    NotJudgedError
        An effect is undefined.
    ValueError
        The rule contradicts itself.
    """
    if holds and fails:
        raise ValueError(f"the rule of {name} says that it holds and that it does not")
    word = HOLDS if holds else DOES_NOT if fails else UNDECIDED
    return _verdict(name, study, effects, word=word, more=more, statement=ALL_STATEMENTS[name])


def decide(
    name: str,
    study: str,
    effects: Sequence[Effect],
    *,
    holds: bool,
    partly: bool,
    more: str = "",
) -> Verdict:
    """Return the verdict of a rule that gives the first two words; all else does not hold.

    Parameters
    ----------
    name, study
        Which hypothesis, judged where.
    effects
        What the rule looked at, the one of the table first.
    holds, partly
        What the rule says.
    more
        Further numbers, as whole sentences.

    Raises
    ------
    NotJudgedError
        An effect is undefined, so that no comparison with it means anything.
    """
    word = HOLDS if holds else PARTLY if partly else DOES_NOT
    return _verdict(name, study, effects, word=word, more=more, statement=STATEMENTS[name])


def _verdict(
    name: str, study: str, effects: Sequence[Effect], *, word: str, more: str, statement: str
) -> Verdict:
    if any(math.isnan(effect.value) for effect in effects):
        raise NotJudgedError("the effect is undefined: all objectives tie, or too few were run")
    first = effects[0]
    sentence = f"{'; '.join(map(str, effects))}. {more}".strip()
    sentence = sentence[0].upper() + sentence[1:]
    return Verdict(
        name, study, statement, first.label, first.value, first.low, first.high, word, sentence
    )
