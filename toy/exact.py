"""Exact expectations by enumeration: gradients, moments of estimators, means over all batches.

Nothing here is sampled. The mean of an estimator over all k^n batches is its expectation, rounding
apart, so a bias of 1e-10 is seen as surely as one of 10 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import gammaln

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
        grad_theta log pi, one row per outcome.
    divergence : FDivergence
        Which divergence.

    Returns
    -------
    (d,) array
        E_pi[f'(pi/p) grad log pi]. Source: Go et al. (2023), arXiv 2302.08215, Theorem 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fdpg_ref import FORWARD_KL
    >>> from toy.categorical import score_matrix
    >>> from toy.exact import exact_gradient
    >>> policy, target = np.log([0.5, 0.5]), np.log([0.25, 0.75])
    >>> scores = score_matrix(policy)
    >>> exact_gradient(policy, target, scores, divergence=FORWARD_KL).round(4)  # pi - p
    array([ 0.25, -0.25])
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
    total: np.ndarray | None = None
    for drawn, mass in _batches(log_proposal, n, (1,) * n, chunk):
        part = np.tensordot(mass, estimator(drawn), axes=1)
        total = part if total is None else total + part
    assert total is not None  # every row of a proposal has support, so there is a batch
    return total


def batch_moments(
    log_proposal: Float[np.ndarray, " k"] | Float[np.ndarray, "n k"],
    n: int,
    estimator: Estimator,
    *,
    exchangeable: Sequence[int] = (),
    chunk: int = _CHUNK,
) -> Moments:
    """Return the exact mean and covariance of an estimator over all k^n batches.

    Parameters
    ----------
    log_proposal, n, estimator, chunk
        As in `batch_expectation`, for estimates of shape (batches, d).
    exchangeable : sequence of int
        Sizes of consecutive runs of positions, n in all, within which rows are equal and the
        estimator does not care about the order. Each multiset is then visited once, with the mass
        of all its orders: C(n + k - 1, n) batches in place of k^n, 48 thousand in place of 10^38
        at k = 4 and n = 64. Left out, every order is visited.

    Returns
    -------
    Moments
        E[ghat], and E[(ghat - E ghat)(ghat - E ghat)^T], centred before it is squared.

    Raises
    ------
    ValueError
        If the runs do not add up to n, or rows differ within a run.
    """
    runs = tuple(exchangeable) or (1,) * n
    parts = [(mass, estimator(drawn)) for drawn, mass in _batches(log_proposal, n, runs, chunk)]
    mean = np.sum([mass @ estimates for mass, estimates in parts], axis=0)
    covariance = np.zeros((mean.size, mean.size))
    for mass, estimates in parts:
        centred = estimates - mean
        covariance += (mass[:, None] * centred).T @ centred
    return Moments(mean=mean, covariance=covariance)


def signal_to_noise(moments: Moments) -> float:
    """Return |E ghat| / sqrt(trace Cov): how far an estimate points the way, in units of its noise.

    Parameters
    ----------
    moments : Moments
        Of a gradient estimator.

    Returns
    -------
    float
        The ratio; it grows like the square root of the batch for a mean of independent terms, and
        is infinite where there is no noise.
    """
    noise = float(np.trace(moments.covariance))
    return float(np.linalg.norm(moments.mean)) / np.sqrt(noise) if noise > 0 else np.inf


def _batches(
    log_proposal: np.ndarray, n: int, runs: Sequence[int], chunk: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of outcomes (batches, n) with their masses (batches,), ``chunk`` at a time."""
    if sum(runs) != n:
        raise ValueError(f"exchangeable is {tuple(runs)}: runs of positions must add up to n = {n}")
    positions = np.broadcast_to(log_proposal, (n, log_proposal.shape[-1]))
    starts = np.cumsum([0, *runs])[:-1]
    pieces = [_multisets(positions[at : at + run]) for at, run in zip(starts, runs, strict=True)]
    shape = tuple(len(drawn) for drawn, _ in pieces)
    for start in range(0, int(np.prod(shape)), chunk):
        stop = min(start + chunk, int(np.prod(shape)))
        choices = np.unravel_index(np.arange(start, stop), shape)
        chosen = list(zip(pieces, choices, strict=True))
        log_mass = sum(log_masses[choice] for (_, log_masses), choice in chosen)
        drawn = np.concatenate([outcomes[choice] for (outcomes, _), choice in chosen], axis=-1)
        yield drawn, np.exp(log_mass)


def _multisets(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all multisets of outcomes for positions of one row, with the mass of their orders."""
    if not np.array_equal(rows, np.broadcast_to(rows[0], rows.shape)):
        raise ValueError("exchangeable positions are drawn from different rows of log_proposal")
    support = np.flatnonzero(rows[0] > -np.inf)  # batches of probability zero never happen
    drawn, log_orders = _choices(len(support), len(rows))
    return support[drawn], log_orders + np.sum(rows[0][support[drawn]], axis=-1)


@cache
def _choices(outcomes: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return all multisets of n out of ``outcomes``, with the logarithm of their orders."""
    drawn = np.array(list(combinations_with_replacement(range(outcomes), n))).reshape(-1, n)
    counts = np.sum(drawn[:, :, None] == np.arange(outcomes), axis=1)
    return drawn, gammaln(n + 1) - np.sum(gammaln(counts + 1), axis=-1)
