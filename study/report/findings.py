"""The first page of the second edition: what was asked, and what came out, in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from fdpg_ref.display import number
from study.rules.verdicts import DOES_NOT, HOLDS, NOT_JUDGED, UNDECIDED, Verdict

# In the order in which a reader wants them: the finding first.
QUESTIONS = {
    "H13": "Does the published way of measuring KL(p‖π) favour policies that drop modes?",
    "H5": "Does Jensen-Shannon beat forward KL on KL(p‖π), by a wide margin?",
    "H4": "Is Jensen-Shannon a good balance?",
    "H2": "Is every objective worse than another somewhere?",
    "H3": "Is reverse KL less diverse than forward KL at the same alignment?",
    "H11": "Does alpha lead from coverage to precision?",
    "H6": "Do the differences persist as models grow?",
    "H9": "Does forward KL stay behind Jensen-Shannon even with a batch four times as large?",
    "H12": "Does one common learning rate change no order?",
    "H10": "Does a baseline help, and reverse KL most?",
    "H7": "Does reverse KL's diversity dip and recover where the target lies inside the family?",
    "H8": "Does the gradient's signal-to-noise ratio explain the order?",
    "H1": "Is RL with a KL penalty f-DPG with reverse KL, and GDC's DPG f-DPG with forward KL?",
}
ANSWERS = {HOLDS: "yes", DOES_NOT: "no", UNDECIDED: "undecided", NOT_JUDGED: "not judged"}


def findings(verdicts: Sequence[Verdict]) -> list[str]:
    """Return one paragraph per question: the answer in each study, with its interval in words.

    Parameters
    ----------
    verdicts
        Of the second edition.

    Returns
    -------
    list of str
        A question nobody judged says so in one line.
    """
    paragraphs = []
    for name, question in QUESTIONS.items():
        mine = [one for one in verdicts if one.name == name]
        judged = [one for one in mine if one.verdict != NOT_JUDGED]
        lines = [f"- {one.study}: **{ANSWERS[one.verdict]}**. {_words(one)}" for one in judged]
        missing = [f"{one.study}: {one.sentence}" for one in mine if one.verdict == NOT_JUDGED]
        if missing:
            lines.append(f"- not judged: {' '.join(missing)}")
        paragraphs.append("\n".join([f"**{question}** ({name})", "", *lines]))
    return paragraphs


def times(verdict: Verdict) -> str:
    """Return the effect of a verdict, a logarithm of a ratio, as "2.0 times (95 %: 1.5 to 2.7)"."""
    value, low, high = (_factor(one) for one in (verdict.effect, verdict.low, verdict.high))
    return f"{value} times (95 %: {low} to {high})"


def _factor(logarithm: float) -> str:
    return number(math.exp(logarithm), 2)


def _words(verdict: Verdict) -> str:
    write = _WORDS.get(verdict.name)
    return verdict.sentence if write is None else f"{write(verdict)} {_rest(verdict)}".strip()


def _rest(verdict: Verdict) -> str:
    """Return what the sentence adds to its effects: of how many tasks each claim stands."""
    start = verdict.sentence.find("Of ")
    return verdict.sentence[start:] if start >= 0 else ""


def _beats(verdict: Verdict) -> str:
    seen = "By samples of the policy alone, KL" if "policy side" in verdict.study else "KL"
    return f"{seen}(p‖π) after Jensen-Shannon is {times(verdict)} what it is after forward KL."


def _favours(verdict: Verdict) -> str:
    value, low, high = (_factor(one) for one in (verdict.effect, verdict.low, verdict.high))
    return (
        "Measured by samples of the policy alone, KL(p‖π) after Jensen-Shannon relative to forward "
        f"KL comes out {value} times as large as it is (95 %: {low} to {high})."
    )


def _large_batch(verdict: Verdict) -> str:
    return (
        f"KL(p‖π) after forward KL with batches of 1024 is {times(verdict)} what it is after "
        "Jensen-Shannon with 256."
    )


_WORDS: dict[str, Callable[[Verdict], str]] = {
    "H5": _beats,
    "H9": _large_batch,
    "H13": _favours,
}
