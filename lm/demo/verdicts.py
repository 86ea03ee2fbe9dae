"""What must hold, and what was found: sentences computed from the runs, never written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lm.demo.results import CLEAR, Measured, Outcome, Run
from lm.demo.study import BALANCE, RARE
from lm.report.figures import LABELS
from lm.run.records import FOUR, best

# The acceptance of the demonstration.
LARGEST_SHARE_LEFT = 0.5
ERRORS_BELOW = 5.0
MOMENT_TOLERANCE = 0.05


class Check(NamedTuple):
    """A statement that must hold, whether it did, and the numbers behind it."""

    statement: str
    passed: bool
    detail: str


class Finding(NamedTuple):
    """A question, and the measured answer whatever it is."""

    question: str
    answer: str


def acceptance(outcomes: Sequence[Outcome]) -> list[Check]:
    """Check what the demonstration promises, run by run.

    Parameters
    ----------
    outcomes
        Both targets.

    Returns
    -------
    list of Check
        For each target and divergence: the descended divergence ends at no more than half of its
        start, by 5 standard errors, in every seed; on target (ii) the exact share of female names
        is within 0.05 of a half in every run.
    """
    checks = [_halved(outcome, divergence) for outcome in outcomes for divergence in FOUR]
    balance = [outcome for outcome in outcomes if outcome.target is BALANCE]
    return checks + [_moment(outcome, divergence) for outcome in balance for divergence in FOUR]


def findings(outcomes: Sequence[Outcome]) -> list[Finding]:
    """Answer the questions that the papers raise, from these runs.

    Parameters
    ----------
    outcomes
        Both targets.

    Returns
    -------
    list of Finding
        Which divergence trades alignment for diversity, which is lowest on which measure, whether
        Jensen-Shannon beats forward KL on forward KL, and how far the four are apart.
    """
    found = []
    for outcome in outcomes:
        number = outcome.target.title.split()[0]
        if outcome.target is RARE:
            found.append(entropy_finding(outcome))
            found.append(alignment_finding(outcome))
        found.append(lowest_finding(outcome))
        found.append(jensen_shannon_finding(outcome))
        found[-1] = found[-1]._replace(question=f"{number} {found[-1].question}")
        found[-2] = found[-2]._replace(question=f"{number} {found[-2].question}")
    found.append(agreement_finding(outcomes))
    return found


def entropy_finding(outcome: Outcome) -> Finding:
    """Say whether reverse KL ends with less entropy than forward KL beyond 3 standard errors."""
    reverse = outcome.trained("reverse_kl", "entropy")
    forward = outcome.trained("forward_kl", "entropy")
    gap = forward.minus(reverse)
    clear = gap.in_errors > CLEAR
    verb = "ends with less entropy than" if clear else "did NOT end with less entropy than"
    return Finding(
        "(i) Does reverse KL lose diversity against forward KL?",
        f"Reverse KL {verb} forward KL beyond {CLEAR:g} standard errors: {reverse.value:.2f} "
        f"against {forward.value:.2f} nats, a gap of {gap.value:.2f} ± {gap.error:.2f}; the "
        f"target's own entropy is {outcome.target_entropy().value:.2f}.",
    )


def alignment_finding(outcome: Outcome) -> Finding:
    """Order the divergences by alignment."""
    feature = outcome.target.feature
    ordered = _ordered(outcome, f"feature/{feature}", reverse=True)
    listed = ", ".join(f"{LABELS[name]} {pair.value:.3f}" for name, pair in ordered)
    wanted = next(
        row["target"] for row in outcome.description["features"] if row["feature"] == feature
    )
    return Finding(
        "(i) Which divergence aligns most?",
        f"Exact E[{feature}] at the end, target {wanted:.2f}: {listed}.",
    )


def lowest_finding(outcome: Outcome) -> Finding:
    """Say which divergence ends lowest on each of the four measures, and whether clearly so."""
    parts = []
    for measure in FOUR:
        (winner, least), (second, next_least), *_ = _ordered(outcome, measure)
        clear = next_least.minus(least).in_errors > CLEAR
        remark = "itself" if winner == measure else f"descending {LABELS[winner]}"
        doubt = "" if clear else f" (not clearly before {LABELS[second]})"
        parts.append(f"{LABELS[measure]} by {remark}{doubt}")
    return Finding("Which divergence ends lowest on each measure?", f"{'; '.join(parts)}.")


def jensen_shannon_finding(outcome: Outcome) -> Finding:
    """Say whether Jensen-Shannon beats forward KL on forward KL, as the paper reports."""
    ours = outcome.trained("jensen_shannon", "forward_kl")
    theirs = outcome.trained("forward_kl", "forward_kl")
    gap = theirs.minus(ours)
    if gap.in_errors > CLEAR:
        verdict = "Yes, as the f-DPG paper found"
    elif gap.in_errors < -CLEAR:
        verdict = "No, other than the f-DPG paper found on its tasks"
    else:
        verdict = f"Neither, within {CLEAR:g} standard errors"
    return Finding(
        "Does Jensen–Shannon beat forward KL on forward KL?",
        f"{verdict}: forward KL to the target ends at {ours.value:.3f} ± {ours.error:.3f} nats "
        f"after descending Jensen–Shannon, at {theirs.value:.3f} ± {theirs.error:.3f} after "
        "descending forward KL itself.",
    )


def agreement_finding(outcomes: Sequence[Outcome]) -> Finding:
    """Compare how far the four policies of each target are apart, on one bounded measure."""
    parts = []
    for outcome in outcomes:
        values = [outcome.trained(name, "jensen_shannon").value for name in FOUR]
        entropies = [outcome.trained(name, "entropy").value for name in FOUR]
        start = outcome.base("jensen_shannon").value
        parts.append(
            f"{outcome.target.title.split()[0]} Jensen–Shannon from {min(values):.3f} to "
            f"{max(values):.3f} (base {start:.3f}), entropy from {min(entropies):.2f} to "
            f"{max(entropies):.2f} nats"
        )
    return Finding("How far apart do the four divergences end?", f"{'; '.join(parts)}.")


def failed(checks: Sequence[Check]) -> list[Check]:
    """Return the checks that did not hold."""
    return [check for check in checks if not check.passed]


def _halved(outcome: Outcome, divergence: str) -> Check:
    runs = outcome.of(divergence)
    excesses = [_excess_over_half(run) for run in runs]
    passed = all(excess.in_errors <= -ERRORS_BELOW for excess in excesses)
    shares = [best(run.last, divergence)[0] / best(run.first, divergence)[0] for run in runs]
    left = " and ".join(f"{share:.0%}" for share in shares)
    nearest = max(excess.in_errors for excess in excesses)
    distance = f"{-nearest:.0f} s.e. below half" if nearest < 0 else "not below half"
    return Check(
        f"{outcome.target.title.split()[0]} {LABELS[divergence]} halved",
        passed,
        f"left {left}, {distance}",
    )


def _excess_over_half(run: Run) -> Measured:
    start, end = (Measured(*best(record, run.divergence)) for record in (run.first, run.last))
    share = LARGEST_SHARE_LEFT
    return end.minus(Measured(share * start.value, share * start.error))


def _moment(outcome: Outcome, divergence: str) -> Check:
    feature = outcome.target.feature
    row = _row(outcome.description["features"], feature)
    values = [best(run.last, f"feature/{feature}")[0] for run in outcome.of(divergence)]
    worst = max(abs(value - row["target"]) for value in values)
    listed = " and ".join(f"{value:.3f}" for value in values)
    return Check(
        f"{outcome.target.title.split()[0]} E[{feature}], {LABELS[divergence]}",
        worst <= MOMENT_TOLERANCE,
        f"{listed}, within {MOMENT_TOLERANCE} of {row['target']:.1f}",
    )


def _ordered(
    outcome: Outcome, quantity: str, *, reverse: bool = False
) -> list[tuple[str, Measured]]:
    pairs = [(name, outcome.trained(name, quantity)) for name in FOUR]
    return sorted(pairs, key=lambda pair: pair[1].value, reverse=reverse)


def _row(rows: Sequence[Mapping[str, Any]], feature: str) -> Mapping[str, Any]:
    return next(row for row in rows if row["feature"] == feature)
