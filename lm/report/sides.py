"""What samples of the target and samples of the policy alone say, side by side, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from fdpg_ref.display import NONE, plus_minus, title_of
from lm.run.records import FOUR, ROUNDING

# Standard errors of the difference beyond which the two sides are said to disagree.
DISAGREE = 3.0
# A share of the target below which nothing is said to have been dropped.
WORTH_SAYING = 0.01


class Sides(NamedTuple):
    """A divergence from both sides.

    Attributes
    ----------
    name
        Its key.
    target, policy
        Value and standard error by samples of the target, and by samples of the policy alone.
    difference
        The policy's less the target's, in standard errors; NaN where either is infinite.
    """

    name: str
    target: tuple[float, float]
    policy: tuple[float, float]
    difference: float


def sides_of(record: Mapping[str, Any]) -> list[Sides]:
    """Return the divergences that an evaluation knows from both sides; none of an older one."""
    found = []
    for name in FOUR:
        entries = record["estimates"].get(name, {})
        if {"target_samples", "policy_samples"} <= entries.keys():
            target, policy = (_of(entries[by]) for by in ("target_samples", "policy_samples"))
            error = math.hypot(target[1], policy[1])
            apart = policy[0] - target[0]
            known = math.isfinite(apart) and error > 0
            difference = apart / math.hypot(error, ROUNDING) if known else math.nan
            found.append(Sides(name, target, policy, difference))
    return found


def side_rows(record: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return title, target's side, policy's side and difference of each, as text."""
    return [
        (
            title_of(one.name),
            plus_minus(*one.target),
            plus_minus(*one.policy),
            NONE if math.isnan(one.difference) else f"{one.difference:+.1f}",
        )
        for one in sides_of(record)
    ]


def drawn_sentence(record: Mapping[str, Any]) -> str:
    """Say how many samples of the target there are and what they cost, or why there are none."""
    facts = record.get("target_samples")
    if facts is None:
        return ""
    if facts["samples"] == 0:
        return f"No samples of the target: {facts['reason']}."
    words = f"{facts['samples']:,} samples of the target"
    if "acceptance" in facts:
        share = f"{facts['acceptance']:.2g}" if facts["acceptance"] < 0.01 else ""
        share = share or f"{facts['acceptance']:.0%}"
        words += f", from {facts['drawn']:,} draws of which {share} were accepted"
    return f"{words}{'; ' + facts['reason'] if 'reason' in facts else ''}."


def disagreement(record: Mapping[str, Any]) -> str | None:
    """Say where samples of the policy alone mislead, or None where both sides agree.

    Parameters
    ----------
    record
        An evaluation.

    Returns
    -------
    str or None
        About the divergence whose two values are farthest apart, if by more than three standard
        errors.
    """
    known = [one for one in sides_of(record) if not math.isnan(one.difference)]
    worst = max(known, key=lambda one: abs(one.difference), default=None)
    if worst is None or abs(worst.difference) <= DISAGREE:
        return None
    unseen = record["estimates"].get("unseen_share", {}).get("target_samples")
    dropped = ""
    if unseen is not None and worst.difference < 0 and float(unseen["value"]) >= WORTH_SAYING:
        dropped = (
            f": the policy has dropped about {float(unseen['value']):.0%} of the target, which its "
            "own samples cannot show"
        )
    return (
        f"{title_of(worst.name)} is {plus_minus(*worst.target)} by samples of the target and "
        f"{plus_minus(*worst.policy)} by samples of the policy alone, "
        f"{abs(worst.difference):.0f} standard errors apart{dropped}."
    )


def _of(entry: Mapping[str, Any]) -> tuple[float, float]:
    return float(entry["value"]), float(entry.get("standard_error", math.nan))
