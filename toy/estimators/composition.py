"""A gradient estimator as a composition of choices, and its exact moments over all batches.

    divergence x where Z comes from x baseline x weights x level

`toy.estimators.estimates` makes the estimates; this module names the choices and enumerates the
batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fdpg_ref import DIVERGENCES
from toy.checks import check_choice
from toy.estimators.estimates import (
    BASELINES,
    LEVELS,
    PARTITIONS,
    WEIGHTS,
    World,
    batch_of,
    gradient_estimates,
)
from toy.exact import Moments, batch_moments
from toy.problems import Problem

PROPOSALS = ("policy", "base")


@dataclass(frozen=True)
class Composition:
    """One gradient estimator, by its choices; checked when it is made.

    Attributes
    ----------
    divergence : str
        A key of `fdpg_ref.DIVERGENCES`.
    partition : str
        Where Z comes from, of `PARTITIONS`. "frozen" has ``past`` samples of the base, "past_only"
        and "past_and_current" as many of the policy.
    baseline : str
        Of `BASELINES`; "optimal" is the best constant, "running" the mean of the past signals.
    weights : str
        Of `WEIGHTS`: pi/q, nothing, min(pi/q, 3/2), or pi/q over its mean in the batch.
    level : str
        Of `LEVELS`: one signal a sequence, the same over its length, one signal a token, or the sum
        of the signals from this token on.
    proposal : str
        The distribution of the n samples: "policy" or "base".
    n, past : int
        Samples in the batch, and samples that are not trained on.
    """

    divergence: str
    partition: str = "exact"
    baseline: str = "none"
    weights: str = "plain"
    level: str = "sequence"
    proposal: str = "policy"
    n: int = 3
    past: int = 2

    def __post_init__(self) -> None:
        """Refuse choices that do not exist or do not go together, naming the value."""
        check_choice("divergence", self.divergence, DIVERGENCES)
        check_choice("partition", self.partition, PARTITIONS)
        check_choice("baseline", self.baseline, BASELINES)
        check_choice("weights", self.weights, WEIGHTS)
        check_choice("level", self.level, LEVELS)
        check_choice("proposal", self.proposal, PROPOSALS)
        needs_peers = "leave_one_out" in self.baseline + self.partition
        if self.n < 1 + needs_peers or self.past < 1:
            raise ValueError(
                f"n is {self.n} and past is {self.past}: a batch has at least one sample, two for "
                "a leave-one-out mean, and so has the past"
            )
        if self.level in ("token", "to_go") and self.partition != "exact":
            raise ValueError(
                f"level is {self.level!r} with partition {self.partition!r}: a token's ratio is "
                "that of two normalised distributions, so only 'exact' goes with it"
            )

    def __str__(self) -> str:
        """Return the choices in words."""
        where = "on-policy" if self.proposal == "policy" else f"off-policy, {self.weights} weights"
        choices = (
            f"Z {self.partition}, baseline {self.baseline}, {where}, {self.level} level, n={self.n}"
        )
        return f"{self.divergence}: {choices.replace('_', ' ')}"

    def moments(self, world: World) -> Moments:
        """Return the exact mean and covariance of the estimator, over all batches.

        Parameters
        ----------
        world : World
            The k outcomes; a batch of n has at most C(n + k - 1, n) multisets to visit.

        Returns
        -------
        Moments
            To rounding: nothing is sampled.
        """
        proposal = world.log_base if self.proposal == "base" else world.log_policy
        before = world.log_base if self.partition == "frozen" else world.log_policy
        uses_past = self.partition in ("frozen", "past_only", "past_and_current")
        past = self.past if uses_past or self.baseline == "running" else 0
        rows = np.stack([before] * past + [proposal] * self.n)

        def estimate(drawn: np.ndarray) -> np.ndarray:
            batch = batch_of(world, drawn, rows, past=past)
            return gradient_estimates(
                batch,
                DIVERGENCES[self.divergence],
                partition=self.partition,
                baseline=self.baseline,
                weights=self.weights,
                level=self.level,
            )

        runs = (past, self.n) if past else (self.n,)
        return batch_moments(rows, past + self.n, estimate, exchangeable=runs)


def world_of(problem: Problem, theta: np.ndarray | None = None) -> World:
    """Return what an estimator sees of a problem at some parameters, its start by default.

    Parameters
    ----------
    problem : Problem
        Target, base and family.
    theta : (d,) array or None
        Parameters of the policy.

    Returns
    -------
    World
        Without tokens.
    """
    theta = problem.start if theta is None else theta
    return World(
        log_policy=problem.family.log_probs(theta),
        log_score=problem.log_score,
        log_base=problem.log_base,
        scores=problem.family.score_matrix(theta),
        log_z=problem.log_z,
    )
