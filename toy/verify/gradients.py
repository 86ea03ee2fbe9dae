"""How a claim about the mean of a gradient estimator is measured, over all batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fdpg_ref import DIVERGENCES, FDivergence
from toy.estimators.estimates import Batch, batch_of
from toy.exact import batch_expectation
from toy.verify.cases import Case, cases
from toy.verify.records import EXACT, Comparison, Record, record

_TESTS = "tests/toy/test_estimators.py::"


class Plan(NamedTuple):
    """How batches are drawn: n samples of the proposal, after ``past`` samples of the base."""

    n: int
    off_policy: bool = False
    past: int = 0
    holes: int = 0


@dataclass(frozen=True)
class GradientClaim:
    """A line of the table: an estimator and what the theory says of its mean.

    Attributes
    ----------
    fact, statement, name : str
        The section of the theory, the statement, and the short name of the estimator.
    estimator : callable
        From batches to gradient estimates.
    plan : Plan
        The batches.
    test : str
        Name of the guarding test.
    verdict : callable
        From the name of a divergence to the predicted verdict.
    factor : callable or None
        From case, plan and name to the predicted factor, computed apart from the estimator.
    mean : callable or None
        From case, plan and name to a predicted mean other than the gradient.
    """

    fact: str
    statement: str
    name: str
    estimator: Callable[[Batch, FDivergence], np.ndarray]
    plan: Plan
    test: str
    verdict: Callable[[str], str] = lambda name: EXACT
    factor: Callable[[Case, Plan, str], float | None] = lambda case, plan, name: None
    mean: Callable[[Case, Plan, str], np.ndarray] | None = None


def measure(claim: GradientClaim) -> Iterator[Record]:
    """Yield the record of a claim for every divergence that is finite on its problems."""
    sample = cases(holes=claim.plan.holes)
    for name in sample[0].gradients:
        yield record(
            claim.fact,
            claim.statement,
            [compare(claim, case, name) for case in sample],
            claimed=claim.verdict(name),
            divergence=name,
            estimator=claim.name,
            test_id=_TESTS + claim.test,
        )


def compare(claim: GradientClaim, case: Case, name: str) -> Comparison:
    """Enumerate the mean of an estimator on one problem and set it beside the truth."""
    truth = case.gradients[name] if claim.mean is None else claim.mean(case, claim.plan, name)
    return Comparison(
        value=enumerated_mean(claim.estimator, case, claim.plan, DIVERGENCES[name]),
        truth=truth,
        factor=claim.factor(case, claim.plan, name),
    )


def enumerated_mean(
    estimator: Callable[[Batch, FDivergence], np.ndarray],
    case: Case,
    plan: Plan,
    divergence: FDivergence,
) -> np.ndarray:
    """Return the exact mean of an estimator over all batches of a plan."""
    proposal = case.log_base if plan.off_policy else case.log_policy
    rows = np.stack([case.log_base] * plan.past + [proposal] * plan.n)

    world = case.world()

    def on_outcomes(drawn: np.ndarray) -> np.ndarray:
        return estimator(batch_of(world, drawn, rows, past=plan.past), divergence)

    return batch_expectation(rows, plan.past + plan.n, on_outcomes)
