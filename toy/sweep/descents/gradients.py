"""Gradients of a batch of problems: exact, sampled, and how far the sampled one is from noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdpg_ref import FDivergence, leave_one_out, score_coefficients, score_signal
from toy.sweep.random.families import Policy, RowFamilies

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class SignalToNoise(NamedTuple):
    """Exact figures of the gradient estimator, one per problem.

    Attributes
    ----------
    gradient_norm : (B,) array, nats
        |E g|, the length of the exact gradient.
    ratio : (B,) array
        |E g| / sqrt(trace Cov(g)): infinite where there is no noise.
    """

    gradient_norm: Float[np.ndarray, " B"]
    ratio: Float[np.ndarray, " B"]


def exact_gradient(
    families: RowFamilies,
    policy: Policy,
    log_target: Float[np.ndarray, "B k"],
    *,
    divergence: FDivergence,
) -> Float[np.ndarray, "B d"]:
    """Return grad_theta D_f(pi||p) of every problem: E_pi[f'(pi/p) grad log pi].

    Parameters
    ----------
    families, policy
        The families and their policies at the present parameters.
    log_target : (B, k) array, nats
        Normalised log-probabilities of the targets.
    divergence : FDivergence
        Which divergence.

    Returns
    -------
    (B, d) array
        The gradients. Source: Go et al. (2023), arXiv 2302.08215, Theorem 1.
    """
    signal = score_signal(policy.log_probs, log_target, divergence=divergence)
    return families.contract(policy, np.exp(policy.log_probs) * signal)


def sampled_gradient(
    families: RowFamilies,
    policy: Policy,
    log_target: Float[np.ndarray, "B k"],
    uniforms: Float[np.ndarray, "B n"],
    *,
    divergence: FDivergence,
) -> Float[np.ndarray, "B d"]:
    """Return the estimate of the gradient from one on-policy batch per problem, with exact Z.

    Parameters
    ----------
    families, policy, log_target, divergence
        As in `exact_gradient`.
    uniforms : (B, n) array
        Uniform numbers in [0, 1), each of which becomes a sample of the policy.

    Returns
    -------
    (B, d) array
        Unbiased estimates; the mean of coefficient times score, summed outcome by outcome.
    """
    drawn = sample(policy.log_probs, uniforms)
    log_policy, log_target_drawn = (
        np.take_along_axis(x, drawn, axis=-1) for x in (policy.log_probs, log_target)
    )

    signal = score_signal(log_policy, log_target_drawn, divergence=divergence)
    # On-policy: the weights pi/q of the samples are one and are left out.
    coefficients = score_coefficients(signal, baseline=leave_one_out(signal))
    weights = _sum_by_outcome(drawn, coefficients / drawn.shape[-1], log_target.shape[-1])
    return families.contract(policy, weights)


def sample(
    log_probs: Float[np.ndarray, "B k"], uniforms: Float[np.ndarray, "B n"]
) -> Int[np.ndarray, "B n"]:
    """Return outcomes by inverting the distribution functions, one uniform per sample.

    Parameters
    ----------
    log_probs : (B, k) array, nats
        Normalised log-probabilities.
    uniforms : (B, n) array
        Uniform numbers in [0, 1).

    Returns
    -------
    (B, n) array of int
        Indices of outcomes.
    """
    cumulative = np.cumsum(np.exp(log_probs), axis=-1)
    # Scaling by the last entry, not by 1, keeps the rounding of the sum out of the tail.
    height = uniforms * cumulative[:, -1:]
    # A count of the steps below a height; a search of its own for each row would be slower.
    drawn = np.zeros(height.shape, dtype=np.int64)
    for step in range(cumulative.shape[1] - 1):
        drawn += height >= cumulative[:, step : step + 1]
    return drawn


def signal_to_noise(
    families: RowFamilies,
    policy: Policy,
    log_target: Float[np.ndarray, "B k"],
    *,
    divergence: FDivergence,
    n: int,
) -> SignalToNoise:
    """Return |E g| / sqrt(tr Cov(g_1) / n) by sums over all outcomes.

    g_1 = (signal - E_pi[signal]) score is the estimator of one sample with the exact constant
    baseline E_pi[signal], which the leave-one-out mean of a batch estimates.

    Parameters
    ----------
    families, policy, log_target, divergence
        As in `exact_gradient`.
    n : int
        Samples of a batch, the same for every objective.

    Returns
    -------
    SignalToNoise
        Norm of the gradient and the ratio.
    """
    probs = np.exp(policy.log_probs)
    signal = score_signal(policy.log_probs, log_target, divergence=divergence)
    mean_signal = np.sum(probs * signal, axis=-1, keepdims=True)
    coefficients = score_coefficients(signal, baseline=mean_signal)
    gradient = families.contract(policy, probs * coefficients)
    centred = coefficients[..., None] * families.scores(policy) - gradient[:, None, :]
    # Centred before it is squared: E[c^2 s^2] - g^2 would cancel where the noise is small.
    trace = np.sum(probs * np.sum(centred**2, axis=-1), axis=-1)
    norm = np.linalg.norm(gradient, axis=-1)
    with np.errstate(divide="ignore"):
        return SignalToNoise(norm, norm / np.sqrt(trace / n))


def _sum_by_outcome(
    drawn: Int[np.ndarray, "B n"], values: Float[np.ndarray, "B n"], outcomes: int
) -> Float[np.ndarray, "B k"]:
    batch = len(drawn)
    place = drawn + outcomes * np.arange(batch)[:, None]
    sums = np.bincount(place.ravel(), weights=values.ravel(), minlength=batch * outcomes)
    return sums.reshape(batch, outcomes)
