"""Descents of a batch of problems with Adam, along exact or sampled gradients.

Adam, as in the papers and in language-model training: its step does not depend on the scale of the
gradient, which differs by orders of magnitude among divergences and says nothing about them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdpg_ref import FDivergence
from toy.sweep.config import StudyConfig
from toy.sweep.descents.gradients import exact_gradient, sampled_gradient, signal_to_noise
from toy.sweep.random.problems import Problems

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

_DECAY_MEAN, _DECAY_SQUARE, _EPSILON = 0.9, 0.999, 1e-8
# Stands for a ratio of zero in means of logarithms.
_LEAST_RATIO = 1e-12


class Descent(NamedTuple):
    """Where the descents of a batch ended, and what they saw on the way.

    Attributes
    ----------
    theta : (B, d) array
        Last parameters.
    finite : (B,) array of bool
        Whether every gradient was finite. A descent stays where it is at one that is not.
    min_entropy : (B,) array, nats
        Least entropy of the policy along the way, both ends included.
    snr_path : (B,) array
        Geometric mean of the signal-to-noise ratios at the checkpoints.
    visited : (C, B, d) array
        Parameters at the checkpoints.
    """

    theta: Float[np.ndarray, "B d"]
    finite: Bool[np.ndarray, " B"]
    min_entropy: Float[np.ndarray, " B"]
    snr_path: Float[np.ndarray, " B"]
    visited: Float[np.ndarray, "C B d"]


def descend(
    problems: Problems,
    learning_rates: Float[np.ndarray, " B"],
    *,
    divergence: FDivergence,
    config: StudyConfig,
    uniforms: Float[np.ndarray, "steps B n"] | None = None,
) -> Descent:
    """Descend a divergence from the base of every problem.

    Parameters
    ----------
    problems : Problems
        The batch; the divergence must be finite on it.
    learning_rates : (B,) array
        Step length of Adam, one per problem.
    divergence : FDivergence
        What is descended.
    config : StudyConfig
        Number of steps, checkpoints, n of the signal-to-noise ratios.
    uniforms : (steps, B, n) array or None
        Randomness of the batches of a sampled descent; None for exact gradients.

    Returns
    -------
    Descent
        The ends and the ways.
    """
    families, log_target = problems.families, problems.log_target
    theta, policy = families.start, families.policy(families.start)
    mean, square = np.zeros_like(theta), np.zeros_like(theta)
    finite, lowest = np.ones(len(theta), dtype=bool), entropy(policy.log_probs)
    visited = []

    # Follow the gradient, and note what is seen on the way.
    for step in range(config.steps):
        if step in config.checkpoints:
            visited.append(theta)

        # A gradient that overflows stops its descent, which `finite` says, and no other.
        with np.errstate(over="ignore", invalid="ignore"):
            if uniforms is None:
                gradient = exact_gradient(families, policy, log_target, divergence=divergence)
            else:
                gradient = sampled_gradient(
                    families, policy, log_target, uniforms[step], divergence=divergence
                )
            finite = finite & np.all(np.isfinite(gradient), axis=-1)
            gradient = np.where(finite[:, None], gradient, 0.0)
            mean = _DECAY_MEAN * mean + (1 - _DECAY_MEAN) * gradient
            square = _DECAY_SQUARE * square + (1 - _DECAY_SQUARE) * gradient**2
            corrected = np.sqrt(square / (1 - _DECAY_SQUARE ** (step + 1)))
            update = mean / (1 - _DECAY_MEAN ** (step + 1)) / (corrected + _EPSILON)
            theta = theta - np.where(finite, learning_rates, 0.0)[:, None] * update

        policy = families.policy(theta)
        lowest = np.minimum(lowest, entropy(policy.log_probs))

    path = np.stack(visited)
    ratios = mean_ratio(problems, path, divergence=divergence, n=config.batch_size)
    return Descent(theta, finite, lowest, ratios, path)


def mean_ratio(
    problems: Problems, path: Float[np.ndarray, "C B d"], *, divergence: FDivergence, n: int
) -> Float[np.ndarray, " B"]:
    """Return the geometric mean of the signal-to-noise ratios along a path.

    Parameters
    ----------
    problems : Problems
        The batch.
    path : (C, B, d) array
        Parameters at C points.
    divergence : FDivergence
        Whose gradient.
    n : int
        Samples of a batch.

    Returns
    -------
    (B,) array
        exp of the mean logarithm.
    """
    logs = []
    with np.errstate(over="ignore", invalid="ignore"):
        for theta in path:
            policy = problems.families.policy(theta)
            found = signal_to_noise(
                problems.families, policy, problems.log_target, divergence=divergence, n=n
            )
            logs.append(np.log(np.maximum(found.ratio, _LEAST_RATIO)))
    return np.exp(np.mean(logs, axis=0))


def entropy(log_probs: Float[np.ndarray, "B k"]) -> Float[np.ndarray, " B"]:
    """Return the entropy of each policy in nats; an outcome of probability zero adds nothing."""
    probs = np.exp(log_probs)
    return -np.sum(probs * np.where(probs > 0, log_probs, 0.0), axis=-1)
