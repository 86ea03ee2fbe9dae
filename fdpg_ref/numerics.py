"""Stable elementwise kernels and log-space reductions, on any Array-API array.

Every kernel is a function of the log-ratio u = log pi - log p (never of t = e^u), or of the two
log-probabilities, and is free of branches: both sides of a ``where`` are computed, and the side
that is not taken gets a harmless argument ("double where"), so that it causes no warning and no NaN
gradient. Error bounds in ulp are in ``tests/core/test_ulp.py``; ``python -m benchmarks.accuracy``
measures the errors.
"""

from __future__ import annotations

from math import inf, log, nan
from typing import TYPE_CHECKING, Any

from array_api_compat import array_namespace

from fdpg_ref._internal import checks, coefficients
from fdpg_ref._internal.typing import Array

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float


# ---------------------------------------------------------------- reductions in log space


def logsumexp(x: Float[Array, "*batch n"], *, axis: int = -1, keepdims: bool = False) -> Array:
    """Return log(sum(exp(x))) without overflow; the empty sum of all -inf is -inf.

    Parameters
    ----------
    x : (..., n) array, nats
        Log-weights. -inf is a weight of zero; +inf and NaN come out as such.
    axis : int
        The axis that is summed.
    keepdims : bool
        Keep the summed axis with length one.

    Returns
    -------
    (...) array, nats
        The logarithm of the sum.
    """
    xp = array_namespace(x)
    highest = xp.max(x, axis=axis, keepdims=True)
    # An infinite maximum would give inf - inf: shift by zero there, the sum is then 0 or inf.
    shift = xp.where(xp.isfinite(highest), highest, xp.zeros_like(highest))
    total = xp.sum(xp.exp(x - shift), axis=axis, keepdims=True)
    result = log_or_minus_inf(total) + shift
    return result if keepdims else xp.squeeze(result, axis=axis)


def log_mean_exp(x: Float[Array, "*batch n"], *, axis: int = -1, keepdims: bool = False) -> Array:
    """Return log(mean(exp(x))) along ``axis``: logsumexp less the logarithm of the count.

    Parameters
    ----------
    x : (..., n) array, nats
        Log-weights; -inf is a weight of zero.
    axis : int
        The axis that is averaged.
    keepdims : bool
        Keep that axis with length one.

    Returns
    -------
    (...) array, nats
        The logarithm of the mean.
    """
    return logsumexp(x, axis=axis, keepdims=keepdims) - log(x.shape[axis])


def log_softmax(x: Float[Array, "*batch n"], *, axis: int = -1) -> Array:
    """Return normalised log-probabilities x - logsumexp(x).

    Parameters
    ----------
    x : (..., n) array, nats
        Logits; -inf excludes an outcome.
    axis : int
        The axis that is normalised.

    Returns
    -------
    (..., n) array, nats
        Log-probabilities. A slice of only -inf has no normalisation and gives NaN.
    """
    xp = array_namespace(x)
    # Shifting by the maximum first keeps the subtraction exact for logits at +-1000.
    highest = xp.max(x, axis=axis, keepdims=True)
    shifted = x - xp.where(xp.isfinite(highest), highest, xp.zeros_like(highest))
    normaliser = logsumexp(shifted, axis=axis, keepdims=True)
    return shifted - xp.where(normaliser == -inf, xp.full_like(normaliser, nan), normaliser)


def log_or_minus_inf(x: Float[Array, "..."]) -> Array:
    """Return log(x), and -inf at zero without the warning that numpy gives on the way there."""
    xp = array_namespace(x)
    positive = xp.where(x == 0, xp.ones_like(x), x)
    return xp.where(x == 0, xp.full_like(x, -inf), xp.log(positive))


def log_ratio(policy: Float[Array, "*batch n"], target: Float[Array, "*batch n"]) -> Array:
    """Return u = log(policy / target) from *linear* probabilities, without cancellation.

    The policy is bounded to b within [2/3, 3/2] of the target, and u = log(b / target) +
    log(policy / b). The first term is log1p((b - target) / target), whose subtraction is exact; a
    difference of two rounded logarithms would lose everything below 1e-16. The second term is
    exactly zero inside the bounds.

    Parameters
    ----------
    policy, target : (..., n) arrays
        Probabilities, not logarithms.

    Returns
    -------
    (..., n) array, nats
        -inf where only the policy is zero, +inf where the target is zero (also where both are: a
        sample there costs the slope at infinity).

    Raises
    ------
    ValueError, TypeError
        For unequal shapes; for a wrong or mixed dtype or library.
    """
    xp = checks.namespace(policy=policy, target=target)
    checks.require_same_shape(policy=policy, target=target)
    no_policy, no_target = policy == 0, target == 0
    q = xp.where(no_policy | no_target, xp.ones_like(policy), policy)
    p = xp.where(no_policy | no_target, xp.ones_like(target), target)
    bounded = _bounded(q, p)
    u = xp.log1p((bounded - p) / p) + (xp.log(q) - xp.log(bounded))
    u = xp.where(no_policy, xp.full_like(u, -inf), u)
    return xp.where(no_target, xp.full_like(u, inf), u)


# ---------------------------------------------------------------- elementary functions


def exp(x: Float[Array, "..."]) -> Array:
    """Return e^x, with overflow to inf as an ordinary value: numpy would warn on the way there."""
    xp = array_namespace(x)
    limit = largest_exponent(x)
    finite = xp.exp(xp.minimum(x, xp.full_like(x, limit)))
    return xp.where(x > limit, xp.full_like(x, inf), finite)


def largest_exponent(x: Float[Array, "..."]) -> float:
    """Return the largest x, to six digits, at which e^x is below the largest float of the dtype."""
    return 88.7228 if x.dtype == array_namespace(x).float32 else 709.7827


def expm1(x: Float[Array, "..."]) -> Array:
    """Return e^x - 1, also where a compiler turns ``xp.expm1`` into exp(x) - 1.

    torch.compile does so on a CPU (torch 2.13.0), a relative error of 100 % at tiny x; hence
    expm1(x) = x + x^2 P(x) for -1 <= x <= 2. (Up to x = 2 an exp in float32, good to 2.5 ulp of
    itself, would cost the smaller difference more than 4 ulp.)
    """
    xp = array_namespace(x)
    near, inner = _near(x, -1.0, 2.0)
    return xp.where(near, inner + _phi_series(inner), exp(x) - 1)


def phi(x: Float[Array, "..."]) -> Array:
    """Return e^x - 1 - x >= 0, the generator of forward KL: x^2 P(x) for -1 <= x <= 2.

    Up to x = 2, e^x is more than twice the result, and the error of a float32 exp with it.
    """
    xp = array_namespace(x)
    near, inner = _near(x, -1.0, 2.0)
    return xp.where(near, _phi_series(inner), exp(x) - 1 - x)


def polynomial(x: Float[Array, "..."], coefficients: Sequence[float]) -> Array:
    """Return sum_k coefficients[k] x^k by Horner's rule, which rounds least near zero."""
    *lower, last, highest = coefficients
    result = highest * x + last
    for coefficient in reversed(lower):
        result = result * x + coefficient
    return result


# ---------------------------------------------------------------- signals g'(e^u)


def forward_kl_signal(u: Float[Array, "..."]) -> Array:
    """Return 1 - 1/t as -expm1(-u)."""
    return -expm1(-u)


def reverse_kl_signal(u: Float[Array, "..."]) -> Array:
    """Return log t, which is u itself."""
    return u


def total_variation_signal(u: Float[Array, "..."]) -> Array:
    """Return sign(t - 1) / 2 as sign(u) / 2; the subgradient at u = 0 is zero."""
    return array_namespace(u).sign(u) / 2


def jensen_shannon_signal(u: Float[Array, "..."]) -> Array:
    """Return log(2t / (t + 1)) / 2, by log1p of the side that does not cancel."""
    xp = array_namespace(u)
    right = u >= -1
    inner, outer = xp.where(right, u, xp.zeros_like(u)), xp.where(right, -xp.ones_like(u), u)
    return (
        xp.where(
            right, _log_two_over_one_plus_exp(inner), outer + _log_two_over_one_plus_exp(-outer)
        )
        / 2
    )


def pearson_chi2_signal(u: Float[Array, "..."]) -> Array:
    """Return 2 (t - 1) as 2 expm1(u)."""
    return 2 * expm1(u)


def neyman_chi2_signal(u: Float[Array, "..."]) -> Array:
    """Return 1 - 1/t^2 as -expm1(-2u)."""
    return -expm1(-2 * u)


def squared_hellinger_signal(u: Float[Array, "..."]) -> Array:
    """Return 1 - 1/sqrt(t) as -expm1(-u/2)."""
    return -expm1(-u / 2)


def jeffreys_signal(u: Float[Array, "..."]) -> Array:
    """Return log t + 1 - 1/t as u - expm1(-u), two terms of one sign."""
    return u - expm1(-u)


def le_cam_signal(u: Float[Array, "..."]) -> Array:
    """Return 1 - 4/(t + 1)^2 as w (2 - w) with w = tanh(u/2) = (t - 1)/(t + 1)."""
    w = array_namespace(u).tanh(u / 2)
    return w * (2 - w)


# ---------------------------------------------------------------- densities p g(pi/p)
# Here q is log pi and p is log p, both finite; the edges, where one of them is -inf, belong to
# _record.py.


def forward_kl_density(q: Float[Array, "..."], p: Float[Array, "..."]) -> Array:
    """Return p (t - 1 - log t): p phi(u), or pi - p (1 + u) where nothing cancels."""
    xp = array_namespace(q, p)
    u = q - p
    near, inner = _near(u, -1.0, 2.0)
    policy, target = xp.exp(q), xp.exp(p)
    return xp.where(near, target * _phi_series(inner), policy - target * (1 + u))


def reverse_kl_density(q: Float[Array, "..."], p: Float[Array, "..."]) -> Array:
    """Return p (t log t - t + 1): forward KL with the two distributions exchanged."""
    return forward_kl_density(p, q)


def total_variation_density(q: Float[Array, "..."], p: Float[Array, "..."]) -> Array:
    """Return abs(pi - p) / 2 as max(pi, p) (1 - e^-a) / 2, a = abs(u)."""
    larger, a = _larger_and_gap(q, p)
    return larger * -expm1(-a) / 2


def jensen_shannon_density(q: Float[Array, "..."], p: Float[Array, "..."]) -> Array:
    """Return [pi log(2 pi/(pi + p)) + p log(2 p/(pi + p))] / 2 (textbook scale, at most log 2).

    For a = abs(u) <= 5/2 it is (pi + p)/4 S(a), with S(a) = a tanh(a/2) - 2 log cosh(a/2) >= 0;
    beyond, [max(pi, p) h + min(pi, p) (h - a)] / 2 with h = log(2/(1 + e^-a)).
    """
    xp = array_namespace(q, p)
    larger, a = _larger_and_gap(q, p)
    smaller = xp.exp(xp.minimum(q, p))
    near, inner = _near(a, -2.5, 2.5)
    close = (larger + smaller) / 2 * _shannon(inner)
    h = -xp.log1p((xp.exp(-a) - 1) / 2)
    return xp.where(near, close, larger * h + smaller * (h - a)) / 2


def pearson_chi2_density(q: Float[Array, "..."], p: Float[Array, "..."]) -> Array:
    """Return (pi - p)^2 / p as p (t - 1)^2; beyond u = 1 the t^2 goes into the exponent."""
    xp = array_namespace(q, p)
    u = q - p
    far = u > 1
    exponent = xp.where(far, 2 * q - p, p)
    # Unlike in the other kernels this exponent may overflow between two ordinary probabilities, and
    # inf times the vanishing derivative of expm1 would be a NaN gradient.
    limit = largest_exponent(exponent)
    huge = exponent > limit
    scale = xp.exp(xp.minimum(exponent, xp.full_like(u, limit)))
    square = scale * expm1(xp.where(far, -u, u)) ** 2
    return xp.where(huge, xp.full_like(square, inf), square)


def neyman_chi2_density(q: Float[Array, "..."], p: Float[Array, "..."]) -> Array:
    """Return (pi - p)^2 / pi: Pearson's with the two distributions exchanged."""
    return pearson_chi2_density(p, q)


def squared_hellinger_density(q: Float[Array, "..."], p: Float[Array, "..."]) -> Array:
    """Return (sqrt(pi) - sqrt(p))^2 as max(pi, p) (1 - e^(-a/2))^2.

    Up to a = 2 as min(pi, p) (e^(a/2) - 1)^2, whose series rounds less often.
    """
    xp = array_namespace(q, p)
    a = xp.abs(q - p)
    near = a <= 2
    factored = xp.exp(xp.where(near, xp.minimum(q, p), xp.maximum(q, p)))
    return factored * expm1(xp.where(near, a, -a) / 2) ** 2


def jeffreys_density(q: Float[Array, "..."], p: Float[Array, "..."]) -> Array:
    """Return (pi - p) log(pi/p) as max(pi, p) (1 - e^-a) a."""
    larger, a = _larger_and_gap(q, p)
    return larger * -expm1(-a) * a


def le_cam_density(q: Float[Array, "..."], p: Float[Array, "..."]) -> Array:
    """Return (pi - p)^2 / (pi + p) as max(pi, p) (1 - e^-a) tanh(a/2)."""
    larger, a = _larger_and_gap(q, p)
    return larger * -expm1(-a) * array_namespace(a).tanh(a / 2)


def forward_kl_of_masses(policy: Float[Array, "..."], target: Float[Array, "..."]) -> Array:
    """Return pi - p - p log(pi/p) from *linear* masses, without cancellation and without branches.

    The policy's mass is bounded to b within [2/3, 3/2] of the target's, and the two steps add up:

        pi - p - p log(pi/p) = [b - p - p log(b/p)] + [(pi - b) - p log(pi/b)]

    The first bracket is a series, by log(b/p) = 2z + z^3 C(z^2) and b - p - 2 p z = (b - p) z with
    z = (b - p)/(b + p); the second vanishes exactly inside the bounds, and nothing cancels in it
    outside them. Both are >= 0. A mass of zero counts as the smallest float: its infinite price is
    the caller's.
    """
    xp = array_namespace(policy, target)
    limits = xp.finfo(target.dtype)
    smallest = limits.smallest_normal
    p = xp.maximum(target, xp.full_like(target, smallest))
    bounded = _bounded(policy, p)
    change = bounded - p
    z = change / (bounded + p)
    square = z * z
    near = z * (change - p * (square * polynomial(square, _log_coefficients(xp, target))))
    ratio = policy / bounded
    ratio = xp.maximum(ratio, xp.full_like(ratio, smallest * limits.eps))
    return near + ((policy - bounded) - p * xp.log(ratio))


# ---------------------------------------------------------------- private helpers


def _larger_and_gap(q: Array, p: Array) -> tuple[Array, Array]:
    xp = array_namespace(q, p)
    return xp.exp(xp.maximum(q, p)), xp.abs(q - p)


def _log_two_over_one_plus_exp(x: Array) -> Array:
    """Return log(2 / (1 + e^-x)), for x >= -1: below that, e^-x would swamp the one."""
    return -array_namespace(x).log1p(expm1(-x) / 2)


def _shannon(a: Array) -> Array:
    """Return S(a) = a tanh(a/2) - 2 log cosh(a/2) for 0 <= a <= 5/2, as a^2 R(a^2)."""
    xp = array_namespace(a)
    single = a.dtype == xp.float32
    square = a * a
    return square * polynomial(
        square, coefficients.SHANNON_FLOAT32 if single else coefficients.SHANNON_FLOAT64
    )


def _bounded(policy: Array, target: Array) -> Array:
    """Return the policy's masses, bounded to within [2/3, 3/2] of the target's."""
    xp = array_namespace(policy, target)
    return xp.maximum(xp.minimum(policy, target * 1.5), target * (2 / 3))


def _near(x: Array, lower: float, upper: float) -> tuple[Array, Array]:
    """Return where x lies between the bounds, and x bounded: harmless where that is not taken."""
    xp = array_namespace(x)
    lowest, highest = xp.full_like(x, lower), xp.full_like(x, upper)
    # At a bound itself, torch would halve the gradient: there the other side is taken.
    return (x > lower) & (x < upper), xp.minimum(xp.maximum(x, lowest), highest)


def _phi_series(x: Array) -> Array:
    """Return phi(x) for -1 <= x <= 2."""
    single = x.dtype == array_namespace(x).float32
    return x * x * polynomial(x, coefficients.PHI_FLOAT32 if single else coefficients.PHI_FLOAT64)


def _log_coefficients(xp: Any, x: Array) -> Sequence[float]:
    return coefficients.LOG_FLOAT32 if x.dtype == xp.float32 else coefficients.LOG_FLOAT64
