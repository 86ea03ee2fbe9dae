"""How far to trust a sample: standard errors, effective sample size, weight concentration."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fdpg_ref._internal import checks
from fdpg_ref._internal.typing import Array
from fdpg_ref.numerics import logsumexp

if TYPE_CHECKING:
    from jaxtyping import Float


class Estimate(NamedTuple):
    """A mean over independent samples and its standard error."""

    mean: Array
    standard_error: Array


def mean_and_standard_error(values: Float[Array, "*batch n"]) -> Estimate:
    """Return the mean along the last axis and its standard error.

    Parameters
    ----------
    values : (..., n) array
        n >= 2 independent values.

    Returns
    -------
    Estimate
        Mean and sqrt(sample variance / n), each of shape (...).

    Raises
    ------
    ValueError, TypeError
        For a single value; for a wrong dtype.
    """
    xp = checks.namespace(values=values)
    n = checks.require_sample_axis("values", values, at_least=2)
    spread = xp.std(values, axis=-1, correction=1)
    return Estimate(xp.mean(values, axis=-1), spread / n**0.5)


def effective_sample_size(log_weights: Float[Array, "*batch n"]) -> Array:
    """Return (sum w)^2 / sum w^2, between 1 and n: Kish's effective sample size.

    Parameters
    ----------
    log_weights : (..., n) array, nats
        Logarithms of importance weights, up to a constant.

    Returns
    -------
    (...) array
        Number of equally weighted samples that would be as good; NaN if all weights are zero.

    Examples
    --------
    >>> import numpy as np
    >>> from fdpg_ref import effective_sample_size
    >>> float(effective_sample_size(np.log([1.0, 1.0, 2.0])).round(4))  # 4^2 / 6
    2.6667
    """
    xp = checks.namespace(log_weights=log_weights)
    checks.require_sample_axis("log_weights", log_weights)
    return xp.exp(2 * logsumexp(log_weights) - logsumexp(2 * log_weights))


def largest_share(log_weights: Float[Array, "*batch n"]) -> Array:
    """Return max w / sum w: above about 0.2, one sample dominates the estimate.

    Parameters
    ----------
    log_weights : (..., n) array, nats
        Logarithms of importance weights, up to a constant.

    Returns
    -------
    (...) array
        The share, between 1/n and 1; NaN if all weights are zero.
    """
    xp = checks.namespace(log_weights=log_weights)
    checks.require_sample_axis("log_weights", log_weights)
    return xp.exp(xp.max(log_weights, axis=-1) - logsumexp(log_weights))


def relative_standard_error(log_weights: Float[Array, "*batch n"]) -> Array:
    """Return the standard error of the mean weight, relative to that mean.

    For log_weights = log P - log q it is the relative error of the estimate of Z.

    Parameters
    ----------
    log_weights : (..., n) array, nats
        Logarithms of n >= 2 importance weights.

    Returns
    -------
    (...) array
        sqrt((n / ESS - 1) / (n - 1)), which is std(w) / (sqrt(n) mean(w)).
    """
    xp = checks.namespace(log_weights=log_weights)
    n = checks.require_sample_axis("log_weights", log_weights, at_least=2)
    shares = xp.exp(log_weights - logsumexp(log_weights, keepdims=True))
    return xp.std(shares, axis=-1, correction=1) * n**0.5
