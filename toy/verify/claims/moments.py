"""Claims about second moments (F4), and the sample-by-sample form of the leave-one-out baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fdpg_ref import FDivergence, batch_mean, leave_one_out, score_coefficients, score_signal
from toy.estimators.composition import Composition
from toy.exact import estimator_moments
from toy.verify.cases import Case, cases
from toy.verify.records import Comparison
from toy.verify.register import Claims

if TYPE_CHECKING:
    from jaxtyping import Float

CLAIMS = Claims("tests/toy/test_moments.py", cases)


@CLAIMS.each(
    "F4",
    "Cov(plain) = (E[c^2 s s^T] - g g^T)/n",
    "covariance, no baseline",
    test="test_covariances",
)
def _plain(case: Case, divergence: FDivergence) -> Comparison:
    signal = _signal(case, divergence)
    predicted = estimator_moments(case.log_policy, signal, case.scores, n=2).covariance
    found = Composition(divergence.name, n=2).moments(case.world())
    return Comparison(found.covariance, predicted)


@CLAIMS.each(
    "F4",
    "Cov(LOO) = (4(n-2) z1 + 2 z2)/(n(n-1))",
    "covariance, LOO baseline",
    test="test_covariances",
)
def _leave_one_out(case: Case, divergence: FDivergence) -> Comparison:
    n = 3
    found = Composition(divergence.name, baseline="leave_one_out", n=n).moments(case.world())
    predicted = leave_one_out_covariance(case, _signal(case, divergence), n=n)
    return Comparison(found.covariance, predicted)


def leave_one_out_covariance(
    case: Case, signal: Float[np.ndarray, " k"], *, n: int
) -> Float[np.ndarray, "d d"]:
    """Return Cov(LOO) = (4(n-2) z1 + 2 z2)/(n(n-1)), the closed form of F4.

    Parameters
    ----------
    case : Case
        Policy and scores.
    signal : (k,) array
        c of every outcome.
    n : int
        Batch size.

    Returns
    -------
    (d, d) array
        The covariance of the on-policy gradient with leave-one-out baseline.
    """
    single, pair = _structure(case, signal)
    return (4 * (n - 2) * single + 2 * pair) / (n * (n - 1))


@CLAIMS.each(
    "F4",
    "the constant baseline of least trace is E[c |s|^2]/E[|s|^2]",
    "best constant baseline",
    test="test_best_constant_baseline",
)
def _best_constant(case: Case, divergence: FDivergence) -> Comparison:
    probs, signal = np.exp(case.log_policy), _signal(case, divergence)
    lengths = np.sum(case.scores**2, axis=-1)
    best = (probs @ (signal * lengths)) / (probs @ lengths)
    # The trace is a parabola in the constant: one nat to either side of the best one it has risen
    # by E[|s|^2], whatever the divergence.
    low, least, high = (
        np.trace(estimator_moments(case.log_policy, signal - constant, case.scores).covariance)
        for constant in (best - 1, best, best + 1)
    )
    return Comparison(np.array([low, high]), np.full(2, least + probs @ lengths))


@CLAIMS.each(
    "F3",
    "leave-one-out = n/(n-1) times the batch-mean form, sample by sample",
    "LOO = n/(n-1) batch mean",
    test="test_sample_by_sample",
)
def _sample_by_sample(case: Case, divergence: FDivergence) -> Comparison:
    n, outcomes = 3, case.log_policy.size
    drawn = np.indices((outcomes,) * n).reshape(n, -1).T
    signal = _signal(case, divergence)[drawn]
    against_peers = score_coefficients(signal, baseline=leave_one_out(signal))
    against_mean = score_coefficients(signal, baseline=batch_mean(signal))
    return Comparison(against_peers, n / (n - 1) * against_mean)


def _signal(case: Case, divergence: FDivergence) -> np.ndarray:
    return score_signal(case.log_policy, case.log_target, divergence=divergence)


def _structure(case: Case, signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the variances z1 and z2 of the leave-one-out estimator as a U-statistic of pairs."""
    probs, scores = np.exp(case.log_policy), case.scores
    gradient = probs @ (signal[:, None] * scores)
    squared_mean = np.outer(gradient, gradient)
    centred = (signal - probs @ signal)[:, None] * scores
    single = ((probs[:, None] * centred).T @ centred - squared_mean) / 4
    pairs = (signal[:, None] - signal)[..., None] * (scores[:, None] - scores)
    masses = probs[:, None] * probs
    pair = np.einsum("xy,xyi,xyj->ij", masses, pairs, pairs) / 4 - squared_mean
    return single, pair
