"""Gradient descent on D_f(pi||p) with exact or sampled gradients, every step in sight.

The two sentences in `sampled_gradient` are the whole method; the ones in ``lm/train.py`` are the
same. Here their coefficients meet a closed-form score matrix, there autograd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from fdpg_ref import (
    DIVERGENCES,
    FDivergence,
    PartitionState,
    exact_divergence,
    leave_one_out,
    score_coefficients,
    score_signal,
)
from toy.categorical import sample
from toy.checks import check_finite, check_log_probs, check_log_score, check_support
from toy.config import TrainConfig
from toy.estimators.partition import PARTITION_POLICIES, initial_state
from toy.exact import exact_gradient
from toy.problems import PROBLEMS, Problem

if TYPE_CHECKING:
    from jaxtyping import Float

# The divergences that every trajectory reports, whichever one it descends.
REPORTED = ("forward_kl", "total_variation", "jensen_shannon", "reverse_kl")


class Trajectory(NamedTuple):
    """The descent from step 0 (before any update) to the last, S + 1 points.

    Attributes
    ----------
    theta : (S + 1, d) array
        Parameters.
    log_policy : (S + 1, k) array, nats
        Policies.
    divergences : dict of (S + 1,) arrays, nats
        Exact divergences of policy to target, by the names in `REPORTED` and the one descended.
    alignment : (S + 1,) array or None
        E_pi[phi], where the problem has a feature.
    entropy : (S + 1,) array, nats
        Entropy of the policy.
    """

    theta: Float[np.ndarray, "S d"]
    log_policy: Float[np.ndarray, "S k"]
    divergences: dict[str, Float[np.ndarray, " S"]]
    alignment: Float[np.ndarray, " S"] | None
    entropy: Float[np.ndarray, " S"]


def train(config: TrainConfig) -> Trajectory:
    """Descend the configured divergence and return every point on the way.

    Parameters
    ----------
    config : TrainConfig
        What to descend, and how.

    Returns
    -------
    Trajectory
        Exact figures at every step, also where the gradient was sampled.

    Raises
    ------
    InfiniteDivergence
        If the divergence is infinite on this problem (reverse KL on a target with holes).
    ValueError
        If a step is not finite; the message names it and says what to change.
    """
    problem, divergence = PROBLEMS[config.problem](), DIVERGENCES[config.divergence]
    rng = np.random.default_rng(config.seed)
    theta = problem.start
    check_log_score("log_score", problem.log_score)
    check_support(problem.family.log_probs(theta), problem.log_score, divergence=divergence)
    state = initial_state(config.partition, problem, config.batch_size, rng=rng)
    visited = [theta]
    for step in range(config.steps):
        # A step that is too long overflows; it is stopped below by name rather than by a warning.
        with np.errstate(over="ignore", invalid="ignore"):
            if config.gradient == "exact":
                gradient = _exact_step(problem, theta, divergence)
            else:
                gradient, state = sampled_gradient(problem, theta, state, config, rng=rng)
            theta = theta - config.learning_rate * gradient
        advice = f"step {step + 1} diverged; lower learning_rate ({config.learning_rate:g})"
        check_finite("theta", theta, advice=advice)
        visited.append(theta)
    return _trajectory(problem, np.stack(visited), config.divergence)


def sampled_gradient(
    problem: Problem,
    theta: Float[np.ndarray, " d"],
    state: PartitionState,
    config: TrainConfig,
    *,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, " d"], PartitionState]:
    """Return an estimate of grad D_f from one batch, and the state of Z for the next.

    Parameters
    ----------
    problem : Problem
        Target, base and family.
    theta : (d,) array
        Parameters of the policy.
    state : PartitionState
        The estimate of Z from past batches.
    config : TrainConfig
        Divergence, batch size, proposal and partition policy.
    rng : numpy.random.Generator
        Source of the batch.

    Returns
    -------
    (d,) array and PartitionState
        The gradient estimate and the updated state.
    """
    divergence = DIVERGENCES[config.divergence]
    policy, all_scores = problem.family.log_probs(theta), problem.family.score_matrix(theta)
    proposal = policy if config.proposal == "policy" else problem.log_base
    drawn = sample(proposal, config.batch_size, rng=rng)
    log_policy, log_score, log_proposal = policy[drawn], problem.log_score[drawn], proposal[drawn]
    scores = all_scores[drawn]
    xp = array_namespace(scores)

    log_z, state = PARTITION_POLICIES[config.partition](state, log_score, log_proposal)
    check_finite(
        "log_z",
        log_z,
        advice="no sample behind it lies in the target; enlarge batch_size or use partition exact",
    )
    signal = score_signal(log_policy, log_score - log_z, divergence=divergence)
    coefficients = score_coefficients(
        signal, baseline=leave_one_out(signal), log_weights=log_policy - log_proposal
    )
    gradient = xp.mean(coefficients[:, None] * scores, axis=0)
    return gradient, state


def _exact_step(problem: Problem, theta: np.ndarray, divergence: FDivergence) -> np.ndarray:
    log_policy, scores = problem.family.log_probs(theta), problem.family.score_matrix(theta)
    return exact_gradient(log_policy, problem.log_target, scores, divergence=divergence)


def _trajectory(problem: Problem, theta: np.ndarray, descended: str) -> Trajectory:
    log_policy = np.stack([problem.family.log_probs(point) for point in theta])
    check_log_probs("the last policy", log_policy[-1])
    log_target = np.broadcast_to(problem.log_target, log_policy.shape)
    names = dict.fromkeys((*REPORTED, descended))
    divergences = {
        name: exact_divergence(log_policy, log_target, divergence=DIVERGENCES[name])
        for name in names
    }
    probs = np.exp(log_policy)
    # p log p tends to 0 with p: an outcome of probability zero adds nothing.
    entropy = -np.sum(probs * np.where(probs > 0, log_policy, 0.0), axis=-1)
    alignment = None if problem.feature is None else probs @ problem.feature
    return Trajectory(theta, log_policy, divergences, alignment, entropy)
