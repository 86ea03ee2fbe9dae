"""Softmax categoricals: log-probabilities, the closed-form score matrix, and a sampler.

A finite set of outcomes is all the toy knows. Everything the estimators need from a policy is then
two arrays: ``log_probs``, one number per outcome, and ``score_matrix``, one gradient per outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fdpg_ref import log_softmax

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def log_probs(logits: Float[np.ndarray, "*batch k"]) -> Float[np.ndarray, "*batch k"]:
    """Return the log-probabilities of a softmax policy.

    Parameters
    ----------
    logits : (..., k) array, nats
        Unnormalised log-probabilities; -inf excludes an outcome.

    Returns
    -------
    (..., k) array, nats
        log pi(x) = logits(x) - log sum exp(logits).
    """
    return log_softmax(logits)


def score_matrix(logits: Float[np.ndarray, "*batch k"]) -> Float[np.ndarray, "*batch k k"]:
    """Return the scores of a softmax policy: row x is grad log pi(x) in the logits.

    Parameters
    ----------
    logits : (..., k) array, nats
        Unnormalised log-probabilities.

    Returns
    -------
    (..., k, k) array
        ``scores[x, y] = 1[x = y] - pi(y)``. Every row sums to zero, and so does E_pi[score].

    Examples
    --------
    >>> import numpy as np
    >>> from toy.categorical import score_matrix
    >>> score_matrix(np.log([0.25, 0.75])).round(4)
    array([[ 0.75, -0.75],
           [-0.25,  0.25]])
    """
    probs = np.exp(log_probs(logits))
    identity = np.eye(logits.shape[-1], dtype=bool)
    others = np.where(identity, 0.0, probs[..., None, :])
    # On the diagonal 1 - pi(x) would cancel where pi(x) is close to one; the sum of the others
    # is the same number and does not.
    return np.where(identity, np.sum(others, axis=-1, keepdims=True), -others)


def sample(
    log_probs: Float[np.ndarray, " k"], n: int, *, rng: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """Draw ``n`` outcomes by inverting the distribution function, one uniform per sample.

    Parameters
    ----------
    log_probs : (k,) array, nats
        Normalised log-probabilities. An outcome at -inf is never drawn.
    n : int
        Number of samples.
    rng : numpy.random.Generator
        Source of the uniforms.

    Returns
    -------
    (n,) array of int
        Indices of outcomes.

    Examples
    --------
    >>> import numpy as np
    >>> from toy.categorical import sample
    >>> drawn = sample(np.log([0.25, 0.75]), 10_000, rng=np.random.default_rng(0))
    >>> float(drawn.mean().round(2))
    0.75
    """
    cumulative = np.cumsum(np.exp(log_probs))
    # Scaling by the last entry, not by 1, keeps the rounding of the sum out of the tail.
    return np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")
