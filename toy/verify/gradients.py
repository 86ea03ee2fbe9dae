"""The mean of a gradient estimator over all batches of a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fdpg_ref import FDivergence
from toy.estimators.estimates import Batch, batch_of
from toy.exact import batch_expectation
from toy.verify.cases import Case

Estimator = Callable[[Batch, FDivergence], np.ndarray]


class Plan(NamedTuple):
    """How batches are drawn: n samples of the proposal, after ``past`` samples of the base."""

    n: int
    off_policy: bool = False
    past: int = 0
    holes: int = 0


def enumerated_mean(
    estimator: Estimator, case: Case, plan: Plan, divergence: FDivergence
) -> np.ndarray:
    """Return the exact mean of an estimator over all batches of a plan."""
    proposal = case.log_base if plan.off_policy else case.log_policy
    rows = np.stack([case.log_base] * plan.past + [proposal] * plan.n)

    world = case.world()

    def on_outcomes(drawn: np.ndarray) -> np.ndarray:
        return estimator(batch_of(world, drawn, rows, past=plan.past), divergence)

    return batch_expectation(rows, plan.past + plan.n, on_outcomes)
