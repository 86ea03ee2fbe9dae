"""Exact expectations by enumeration: gradients, moments of estimators, means over all batches.

Nothing here is sampled. The mean of an estimator over all k^n batches is its expectation, rounding
apart, so a bias of 1e-10 is seen as surely as one of 10 %.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdpg_ref import FDivergence, score_signal

if TYPE_CHECKING:
    from jaxtyping import Float

    Estimator = Callable[[np.ndarray], np.ndarray]

# Batches that are held in memory at once by `batch_expectation`.
_CHUNK = 4096


class Moments(NamedTuple):
    """Mean (d,) and covariance (d, d) of a gradient estimator."""

    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]


def exact_gradient(
    log_policy: Float[np.ndarray, " k"],
    log_target: Float[np.ndarray, " k"],
    scores: Float[np.ndarray, "k d"],
    *,
    divergence: FDivergence,
) -> Float[np.ndarray, " d"]:
    """Return grad_theta D_f(pi||p), summed over all outcomes.

    Parameters
    ----------
    log_policy, log_target : (k,) arrays, nats
        Normalised log-probabilities; the target may have -inf where f'(inf) is finite.
    scores : (k, d) array
        grad_theta log pi, one row an outcome.
    divergence : FDivergence
        Which divergence.

    Returns
    -------
    (d,) array
        E_pi[f'(pi/p) grad log pi]. Source: Go et al. (2023), arXiv 2302.08215, Theorem 1.
    """
    signal = score_signal(log_policy, log_target, divergence=divergence)
    return estimator_moments(log_policy, signal, scores).mean


def estimator_moments(
    log_proposal: Float[np.ndarray, " k"],
    coefficients: Float[np.ndarray, " k"],
    scores: Float[np.ndarray, "k d"],
    *,
    n: int = 1,
) -> Moments:
    """Return the moments of (1/n) sum_i c(x_i) s(x_i) for independent samples of a proposal.

    Parameters
    ----------
    log_proposal : (k,) array, nats
        Normalised log-probabilities of the samples.
    coefficients : (k,) array
        c, a function of the sample alone; peers in a batch enter through `batch_expectation`.
    scores : (k, d) array
        One score an outcome.
    n : int
        Number of samples in the mean.

    Returns
    -------
    Moments
        E[c s], and (E[c^2 s s^T] - E[c s] E[c s]^T) / n in its centred form.
    """
    drawn = log_proposal > -np.inf  # an outcome never drawn may have an infinite coefficient
    probs = np.exp(log_proposal[drawn])
    terms = coefficients[drawn, None] * scores[drawn]
    mean = probs @ terms
    centred = terms - mean
    return Moments(mean=mean, covariance=(probs[:, None] * centred).T @ centred / n)


def batch_expectation(
    log_proposal: Float[np.ndarray, " k"] | Float[np.ndarray, "n k"],
    n: int,
    estimator: Estimator,
    *,
    chunk: int = _CHUNK,
) -> np.ndarray:
    """Return the exact expectation of an estimator over all k^n batches.

    Parameters
    ----------
    log_proposal : (k,) or (n, k) array, nats
        Normalised log-probabilities of every sample, or of each of the n positions apart (a batch
        whose first positions come from the base and whose last come from the policy).
    n : int
        Batch size.
    estimator : callable
        From a (batches, n) array of outcomes to a (batches, ...) array of estimates. The core
        treats leading axes as contexts, so estimators built on it work on all batches at once.
    chunk : int
        Number of batches in memory at a time.

    Returns
    -------
    (...) array
        sum over batches of prod_i q(x_i) times the estimate. Batches of probability zero are left
        out: what an estimator says about them never happens.
    """
    positions = np.broadcast_to(log_proposal, (n, log_proposal.shape[-1]))
    supports = [np.flatnonzero(row > -np.inf) for row in positions]
    shape = tuple(len(support) for support in supports)
    total: np.ndarray | None = None
    for start in range(0, int(np.prod(shape)), chunk):
        stop = min(start + chunk, int(np.prod(shape)))
        choices = np.unravel_index(np.arange(start, stop), shape)
        columns = [support[choice] for support, choice in zip(supports, choices, strict=True)]
        log_mass = sum(row[column] for row, column in zip(positions, columns, strict=True))
        part = np.tensordot(np.exp(log_mass), estimator(np.stack(columns, axis=-1)), axes=1)
        total = part if total is None else total + part
    assert total is not None  # every row of a proposal has support, so there is a batch
    return total
