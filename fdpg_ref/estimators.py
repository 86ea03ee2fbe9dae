"""The estimator: signals and coefficients of the gradient, and values of the divergence.

grad D_f(pi||p) = E_q[ w (g'(pi/p) - b) grad log pi ],   w = pi/q, b a baseline       (the one
gradient)

`score_signal` returns g'(pi/p), `score_coefficients` the whole factor c of grad log pi. Contract c
with the scores, as a mean over samples: by a closed-form score matrix, or by autograd on
``mean(stop_gradient(c) * log_policy)``. Source: Go et al. (2023), arXiv 2302.08215, Theorem 1.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from array_api_compat import array_namespace

from fdpg_ref import _checks
from fdpg_ref._typing import Array
from fdpg_ref.diagnostics import Estimate, mean_and_standard_error
from fdpg_ref.numerics import expm1, log_or_minus_inf, log_ratio

if TYPE_CHECKING:
    from jaxtyping import Float

    from fdpg_ref.divergences import FDivergence


def score_signal(
    log_policy: Float[Array, "*batch n"],
    log_target: Float[Array, "*batch n"],
    *,
    divergence: FDivergence,
) -> Array:
    """Return the signal g'(pi/p) at each sample, the slope at infinity where p(x) = 0.

    Parameters
    ----------
    log_policy : (..., n) array, nats
        log pi at the samples.
    log_target : (..., n) array, nats
        log p = log P - log Z at the samples, normalised; -inf where the target excludes a sample.
    divergence : FDivergence
        Which f.

    Returns
    -------
    (..., n) array
        Zero where the policy meets the target, positive where it has too much mass. Infinite where
        p(x) = 0 and the slope at infinity is (reverse KL, Pearson, Jeffreys).

    Raises
    ------
    ValueError, TypeError
        For unequal shapes; for a wrong or mixed dtype or library.
    """
    xp = _checks.namespace(log_policy=log_policy, log_target=log_target)
    _checks.require_same_shape(log_policy=log_policy, log_target=log_target)
    # A NaN of the policy stays NaN, also where the target excludes the sample.
    excluded = (log_target == -inf) & ~xp.isnan(log_policy)
    zero = xp.zeros_like(log_policy)
    u = xp.where(excluded, zero, log_policy) - xp.where(excluded, zero, log_target)
    outside = xp.full_like(log_policy, divergence.slope_at_infinity)
    return xp.where(excluded, outside, divergence.signal(u))


def score_coefficients(
    signal: Float[Array, "*batch n"],
    *,
    baseline: Float[Array, "*batch n"] | float = 0.0,
    log_weights: Float[Array, "*batch n"] | None = None,
) -> Array:
    """Return c_i = w_i (signal_i - baseline_i): grad D_f is the mean of c_i grad log pi(x_i).

    Parameters
    ----------
    signal : (..., n) array
        From `score_signal`.
    baseline : float or array
        A number, one a context (..., 1), or one a sample (..., n). A constant, the leave-one-out
        mean and a running mean of past batches leave the gradient unbiased.
    log_weights : (..., n) array, nats, optional
        log w = log pi - log q, for samples of a proposal q. On-policy it is zero or left out.

    Returns
    -------
    (..., n) array
        The coefficients, exactly zero where the weight is (a sample that the policy cannot draw).

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit; for a wrong or mixed dtype or library.
    """
    xp = _checks.namespace(signal=signal, baseline=baseline)
    _checks.require_baseline_shape(baseline, signal)
    centred = signal - baseline
    if log_weights is None:
        return centred
    _checks.namespace(signal=signal, log_weights=log_weights)
    _checks.require_same_shape(signal=signal, log_weights=log_weights)
    # 0 * inf would be NaN where an impossible sample meets an infinite slope.
    impossible = log_weights == -inf
    zero = xp.zeros_like(centred)
    weights = xp.exp(xp.where(impossible, zero, log_weights))
    return xp.where(impossible, zero, weights * xp.where(impossible, zero, centred))


def exact_divergence(
    log_policy: Float[Array, "*batch n"],
    log_target: Float[Array, "*batch n"],
    *,
    divergence: FDivergence,
) -> Array:
    """Return D_f(pi||p), the sum of p g(pi/p) over the last axis, which holds every outcome.

    For normalised distributions: the rounding of their logarithms leaves a mass mismatch of
    rounding size, which is taken out of the log-ratio. A larger mismatch is the caller's mistake
    and is *not* detected here (the core reads no values).

    Parameters
    ----------
    log_policy, log_target : (..., n) arrays, nats
        Log-probabilities of all outcomes; -inf on either side or on both is legal.
    divergence : FDivergence
        Which f.

    Returns
    -------
    (...) array, nats
        The divergence, >= 0, +inf where mass has an infinite price.

    Raises
    ------
    ValueError, TypeError
        For unequal shapes; for a wrong or mixed dtype or library.
    """
    xp = _checks.namespace(log_policy=log_policy, log_target=log_target)
    _checks.require_same_shape(log_policy=log_policy, log_target=log_target)
    _checks.require_sample_axis("log_policy", log_policy)
    edge = (log_policy == -inf) | (log_target == -inf)
    zero = xp.zeros_like(log_policy)
    u = xp.where(edge, zero, log_policy) - xp.where(edge, zero, log_target)
    policy, target = xp.exp(log_policy), xp.exp(log_target)
    # pi - p from u keeps the digits that exp(log_policy) - exp(log_target) would cancel.
    near = ~edge & (xp.abs(u) <= 1)
    change = xp.where(near, target * expm1(xp.where(near, u, zero)), policy - target)
    return _divergence_sum(u, change, log_policy, log_target, divergence)


def exact_divergence_from_probabilities(
    policy: Float[Array, "*batch n"],
    target: Float[Array, "*batch n"],
    *,
    divergence: FDivergence,
) -> Array:
    """Return D_f(pi||p) from *linear* probabilities, accurate also where they nearly agree.

    A relative difference of 1e-12 gives a KL divergence of 5e-25, which comes out with a relative
    error near 1e-16; from logarithms, their rounding alone costs 1e-5 there.

    Parameters
    ----------
    policy, target : (..., n) arrays
        Probabilities of all outcomes; zeros are legal.
    divergence : FDivergence
        Which f.

    Returns
    -------
    (...) array, nats
        The divergence, as `exact_divergence`.

    Raises
    ------
    ValueError, TypeError
        For unequal shapes; for a wrong or mixed dtype or library.
    """
    _checks.namespace(policy=policy, target=target)
    _checks.require_sample_axis("policy", policy)
    u = log_ratio(policy, target)
    logs = log_or_minus_inf(policy), log_or_minus_inf(target)
    return _divergence_sum(u, policy - target, *logs, divergence)


def divergence_terms(
    log_policy: Float[Array, "*batch n"],
    log_target: Float[Array, "*batch n"],
    log_proposal: Float[Array, "*batch n"],
    *,
    divergence: FDivergence,
) -> Array:
    """Return p g(pi/p) / q at each sample of q: nonnegative, each with expectation D_f(pi||p).

    q must cover pi and p; what lies outside it is not seen.

    Parameters
    ----------
    log_policy, log_target, log_proposal : (..., n) arrays, nats
        log pi, log p (normalised) and log q at samples of q.
    divergence : FDivergence
        Which f.

    Returns
    -------
    (..., n) array, nats
        The terms, whose mean estimates the divergence without bias.

    Raises
    ------
    ValueError, TypeError
        For unequal shapes; for a wrong or mixed dtype or library.
    """
    _checks.namespace(log_policy=log_policy, log_target=log_target, log_proposal=log_proposal)
    _checks.require_same_shape(
        log_policy=log_policy, log_target=log_target, log_proposal=log_proposal
    )
    # Dividing both by q before taking p g(pi/p), which is homogeneous, keeps tiny masses from
    # underflowing: a sequence of 800 nats is ordinary.
    return divergence.density(log_policy - log_proposal, log_target - log_proposal)


def estimate_divergence(
    log_policy: Float[Array, "*batch n"],
    log_target: Float[Array, "*batch n"],
    log_proposal: Float[Array, "*batch n"],
    *,
    divergence: FDivergence,
) -> Estimate:
    """Return the importance-sampling estimate of D_f(pi||p) and its standard error.

    Parameters
    ----------
    log_policy, log_target, log_proposal : (..., n) arrays, nats
        log pi, log p (normalised) and log q at n >= 2 independent samples of q.
    divergence : FDivergence
        Which f.

    Returns
    -------
    Estimate
        The mean of `divergence_terms`, unbiased and never negative, with its standard error.

    Raises
    ------
    ValueError, TypeError
        For unequal shapes, a single sample; for a wrong or mixed dtype or library.
    """
    return mean_and_standard_error(
        divergence_terms(log_policy, log_target, log_proposal, divergence=divergence)
    )


def _divergence_sum(
    u: Array, change: Array, log_policy: Array, log_target: Array, divergence: FDivergence
) -> Array:
    """Sum p g(e^(u - c)) / sum p, with c the log of the ratio of the two total masses."""
    xp = array_namespace(u)
    target = xp.exp(log_target)
    mass = xp.sum(target, axis=-1, keepdims=True)
    shift = xp.log1p(xp.sum(change, axis=-1, keepdims=True) / mass)
    # Where the log-ratio is small, its last digits carry the answer: g is evaluated at u - c
    # itself. Elsewhere, and at the edges, the density does not overflow where g alone would.
    near = (xp.abs(u) <= 1) & (log_policy > -inf) & (log_target > -inf)
    close = target * divergence.generator(xp.where(near, u - shift, xp.zeros_like(u)))
    return xp.sum(
        xp.where(near, close, divergence.density(log_policy - shift, log_target)), axis=-1
    ) / xp.squeeze(mass, axis=-1)
