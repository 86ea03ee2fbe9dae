"""The random problems every claim is checked on, with the judge's gradients beside them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdpg_ref import DIVERGENCES
from toy.estimators.estimates import World
from toy.exact import batch_expectation
from toy.oracle import definition_gradient
from toy.problems import Problem, random_problem

if TYPE_CHECKING:
    from jaxtyping import Float

PROBLEM_COUNT = 12
_SEED = 20230216  # the date of arXiv 2302.08215

# The alpha of each divergence of that family, on which an error in Z only scales.
ALPHA: Mapping[str, float] = {
    name: divergence.z_power + 1
    for name, divergence in DIVERGENCES.items()
    if divergence.z_power is not None
}


class Case(NamedTuple):
    """One problem at its starting point, as arrays over all k outcomes.

    Attributes
    ----------
    problem : Problem
        Where it came from.
    log_policy, log_target, log_score, log_base : (k,) arrays, nats
        The distributions; the base serves as the off-policy proposal.
    scores : (k, d) array
        grad log pi.
    log_z : float, nats
        The exact log Z.
    gradients : mapping of (d,) arrays
        grad D_f from the definition, by name of the divergence (those that are finite here).
    """

    problem: Problem
    log_policy: Float[np.ndarray, " k"]
    log_target: Float[np.ndarray, " k"]
    log_score: Float[np.ndarray, " k"]
    log_base: Float[np.ndarray, " k"]
    scores: Float[np.ndarray, "k d"]
    log_z: float
    gradients: Mapping[str, Float[np.ndarray, " d"]]

    def world(self) -> World:
        """Return what an estimator sees of this case."""
        return World(self.log_policy, self.log_score, self.log_base, self.scores, self.log_z)


def case_of(problem: Problem) -> Case:
    """Evaluate a problem at its starting point."""
    target = np.exp(problem.log_target)
    finite = [
        name
        for name, divergence in DIVERGENCES.items()
        if np.all(target > 0) or np.isfinite(divergence.slope_at_infinity)
    ]

    gradients = {
        name: definition_gradient(problem.family, problem.start, target, divergence=name)
        for name in finite
    }

    return Case(
        problem=problem,
        log_policy=problem.family.log_probs(problem.start),
        log_target=problem.log_target,
        log_score=problem.log_score,
        log_base=problem.log_base,
        scores=problem.family.score_matrix(problem.start),
        log_z=problem.log_z,
        gradients=gradients,
    )


@cache
def cases(*, holes: int = 0) -> tuple[Case, ...]:
    """Return the random problems, half of them in a restricted family of policies."""
    rng = np.random.default_rng(_SEED)
    return tuple(
        case_of(random_problem(rng, holes=holes, parameters=2 if index % 2 else None))
        for index in range(PROBLEM_COUNT)
    )


def partition_factor(case: Case, log_proposal: np.ndarray, n: int, *, alpha: float) -> float:
    """Return E[(Zhat/Z)^(alpha - 1)] over all batches, the factor of the alpha family.

    Parameters
    ----------
    case : Case
        Target and its Z.
    log_proposal : (k,) array, nats
        The distribution of the samples behind Zhat.
    n : int
        How many there are.
    alpha : float
        Member of the family; 1 gives the factor 1.
    """
    ratios = np.exp(case.log_target - log_proposal)
    return float(
        batch_expectation(
            log_proposal, n, lambda drawn: np.mean(ratios[drawn], axis=-1) ** (alpha - 1)
        )
    )
