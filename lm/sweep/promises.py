"""What must hold, and what was found: sentences computed from the runs, never written by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from fdpg_ref.display import title_of
from lm.features.registry import short_name
from lm.run.records import FOUR, best
from lm.sweep.results import Line, Measured, Outcome, Record, clear_from

LARGEST_SHARE_LEFT = 0.5


class Check(NamedTuple):
    """A statement that must hold, whether it did, and the numbers behind it."""

    statement: str
    passed: bool
    detail: str


class Finding(NamedTuple):
    """A question, and the measured answer whatever it is."""

    question: str
    answer: str


def checks(outcomes: Sequence[Outcome]) -> list[Check]:
    """Check what a sweep promises, in every seed of every line.

    Parameters
    ----------
    outcomes
        All tasks.

    Returns
    -------
    list of Check
        As `PromiseConfig` of each task asks for.
    """
    found = []
    for outcome in outcomes:
        promised = outcome.task.promises
        lines = [line for line in outcome.lines if line.rate in (promised.rates or [line.rate])]
        if promised.halved is not None:
            found += [_halved(outcome, line, promised.halved) for line in lines]
        for feature, width in promised.moments.items():
            found += [_moment(outcome, line, feature, width) for line in lines]
    return found


def findings(outcomes: Sequence[Outcome]) -> Iterator[Finding]:
    """Answer the questions that the papers raise, where a target was approached by all four.

    Parameters
    ----------
    outcomes
        All tasks.

    Yields
    ------
    Finding
        Whether reverse KL loses diversity, which is lowest on which measure, and whether
        Jensen-Shannon beats forward KL on forward KL.
    """
    for outcome in outcomes:
        lines = {line.divergence: line for line in outcome.lines}
        if set(FOUR) <= set(lines) and len(lines) == len(outcome.lines):
            for question, answer in (
                ("Does reverse KL lose diversity against forward KL?", _diversity(outcome, lines)),
                ("Which divergence ends lowest on each measure?", _lowest(lines)),
                ("Does Jensen–Shannon beat forward KL on forward KL?", _own_measure(lines)),
            ):
                single = all(len(line.runs) == 1 for line in outcome.lines)
                whose = " One seed each: this is said of these runs alone." if single else ""
                yield Finding(f"{outcome.short_title}: {question}", f"{answer}{whose}")


def _halved(outcome: Outcome, line: Line, errors: float) -> Check:
    # By how many standard errors the end lies below half of the start, in the worst seed.
    excesses, shares = [], []
    for run in line.runs:
        first, last = (_measured(run["evaluations"][i], line.divergence) for i in (0, -1))
        half = Measured(LARGEST_SHARE_LEFT * first.value, LARGEST_SHARE_LEFT * first.error)
        excesses.append(last.minus(half).in_errors)
        shares.append(f"{last.value / first.value:.0%}")
    # An excess that is NaN, where no error is known, keeps no promise.
    known = not any(map(math.isnan, excesses))
    nearest = max(excesses) if known else math.nan
    distance = f"{-nearest:.0f} s.e. below half" if nearest < 0 else "not below half"
    distance = distance if known else "by how many s.e. is not known"
    return Check(
        f"{outcome.short_title}: {line.label} halved, by {errors:g} s.e.",
        nearest <= -errors,
        f"left {' and '.join(shares)}, {distance}",
    )


def _moment(outcome: Outcome, line: Line, feature: str, width: float) -> Check:
    target = next(r["target"] for r in outcome.description["features"] if r["feature"] == feature)
    values = [best(run["evaluations"][-1], f"feature/{feature}")[0] for run in line.runs]
    listed = " and ".join(f"{value:.3f}" for value in values)
    return Check(
        f"{outcome.short_title}: {line.label}, E[{short_name(feature)}] near {target:.4g}",
        all(abs(value - target) <= width for value in values),
        f"{listed}, within {width:g} of {target:.4g}",
    )


def _diversity(outcome: Outcome, lines: Mapping[str, Line]) -> str:
    reverse, forward = (lines[name].end("entropy") for name in ("reverse_kl", "forward_kl"))
    gap, clear = forward.minus(reverse), clear_from(lines["reverse_kl"], lines["forward_kl"])
    verb = "ends with less" if gap.in_errors > clear else "does NOT end with less"
    verb = "cannot be told to end with less" if math.isnan(gap.in_errors) else verb
    return (
        f"Reverse KL {verb} entropy than forward KL beyond {clear:g} standard errors: "
        f"{reverse.value:.2f} against {forward.value:.2f} nats, a gap of {gap.value:.2f} ± "
        f"{gap.error:.2f}; the target's own entropy is {outcome.target_entropy.value:.2f}."
    )


def _lowest(lines: Mapping[str, Line]) -> str:
    parts = []
    for measure in FOUR:
        ends = {name: line.end(measure) for name, line in lines.items()}
        unknown = [title_of(name) for name, end in ends.items() if math.isnan(end.value)]
        if unknown:
            parts.append(f"{title_of(measure)} cannot be told, as {unknown[0]}'s value is NaN")
            continue
        winner, second, *_ = sorted(ends, key=lambda name: ends[name].value)
        gap = ends[second].minus(ends[winner]).in_errors
        clear = gap > clear_from(lines[second], lines[winner])
        remark = "itself" if winner == measure else f"descending {title_of(winner)}"
        doubt = "" if clear else f" (not clearly before {title_of(second)})"
        parts.append(f"{title_of(measure)} by {remark}{doubt}")
    return f"{'; '.join(parts)}."


def _own_measure(lines: Mapping[str, Line]) -> str:
    ours, theirs = (lines[name].end("forward_kl") for name in ("jensen_shannon", "forward_kl"))
    gap = theirs.minus(ours).in_errors
    clear = clear_from(lines["jensen_shannon"], lines["forward_kl"])
    verdict = f"Neither, within {clear:g} standard errors"
    if math.isnan(gap):
        verdict = "This cannot be told, as a value or its error is not known"
    elif abs(gap) > clear:
        found = "Yes, as the f-DPG paper found"
        verdict = found if gap > 0 else "No, other than the f-DPG paper found on its tasks"
    return (
        f"{verdict}: forward KL to the target ends at {ours.value:.3f} ± {ours.error:.3f} nats "
        f"after descending Jensen–Shannon, at {theirs.value:.3f} ± {theirs.error:.3f} after "
        "descending forward KL itself."
    )


def _measured(record: Record, quantity: str) -> Measured:
    return Measured(*best(record, quantity))
