"""Estimating the *value* of a divergence from samples of the policy: "k3 for every f".

With t = pi/p, E_pi[g(t)/t] = D_f and E_pi[1/t - 1] = 0 (where pi covers p). Adding any multiple of
the second leaves the estimate unbiased:

    g(t)/t + weight (1 - 1/t)

For reverse KL, g(t)/t = log t - 1 + 1/t is the estimator known as k3, weight 1 gives k1 = log t,
and the best weight lies where the two correlate. Source of k1 and k3: Schulman (2020),
"Approximating KL divergence".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fdpg_ref._internal import checks
from fdpg_ref._internal.typing import Array
from fdpg_ref.divergences import REVERSE_KL
from fdpg_ref.estimators import exact_divergence
from fdpg_ref.numerics import expm1, log_softmax

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from fdpg_ref.divergences import FDivergence


def controlled_terms(
    log_policy: Float[Array, "*batch n"],
    log_target: Float[Array, "*batch n"],
    *,
    divergence: FDivergence,
    weight: Float[Array, "*batch 1"] | float = 0.0,
) -> Array:
    """Return g(t)/t + weight (1 - 1/t) at samples of the policy; each has expectation D_f(pi||p).

    Parameters
    ----------
    log_policy, log_target : (..., n) arrays, nats
        log pi and log p at samples of pi.
    divergence : FDivergence
        Which f.
    weight : float or (..., 1) array
        Weight of the control variate; 0 keeps every term >= 0.

    Returns
    -------
    (..., n) array, nats
        The terms.

    Raises
    ------
    ValueError, TypeError
        For unequal shapes; for a wrong or mixed dtype or library.
    """
    value, control = _value_and_control(log_policy, log_target, divergence)
    return value + weight * control


def optimal_control_weight(
    log_policy: Float[Array, "*batch n"],
    log_target: Float[Array, "*batch n"],
    *,
    divergence: FDivergence,
    log_mass: Float[Array, "*batch n"] | None = None,
) -> Array:
    """Return the weight of least variance, Cov(g(t)/t, 1/t) / Var(1/t) under the policy.

    Parameters
    ----------
    log_policy, log_target : (..., n) arrays, nats
        log pi and log p, at samples of pi. Use other samples than those that the weight is applied
        to: on the same ones, the estimate is biased by O(1/n).
    divergence : FDivergence
        Which f.
    log_mass : (..., n) array, nats, optional
        Masses of the entries, for an axis that enumerates all outcomes (then log pi itself) instead
        of holding equally weighted samples.

    Returns
    -------
    (..., 1) array
        The weight; NaN where 1/t does not vary.

    Raises
    ------
    ValueError, TypeError
        For unequal shapes; for a wrong or mixed dtype or library.
    """
    xp = checks.namespace(log_policy=log_policy, log_target=log_target)
    value, control = _value_and_control(log_policy, log_target, divergence)
    mass = xp.exp(log_softmax(xp.zeros_like(value) if log_mass is None else log_mass))
    centred = control - xp.sum(mass * control, axis=-1, keepdims=True)
    covariance = xp.sum(mass * centred * value, axis=-1, keepdims=True)
    return -covariance / xp.sum(mass * centred**2, axis=-1, keepdims=True)


def per_prefix_kl(
    log_policy: Float[Array, "*batch T V"],
    log_target: Float[Array, "*batch T V"],
    mask: Bool[Array, "*batch T"],
) -> Array:
    """Return sum_t KL(pi(.|x_<t)||p(.|x_<t)) along each sequence: k1 with the last draw summed out.

    Its expectation over sequences of pi is KL(pi||p) by the chain rule, which holds for no other f.
    The variance is usually far below that of log pi - log p, since each draw's own noise is summed
    out. Not always: where terms of log pi - log p offset each other within a sequence, their means
    need not.
    Source: Amini et al. (2025), arXiv 2504.10637.

    Parameters
    ----------
    log_policy, log_target : (..., T, V) arrays, nats
        Normalised next-token log-probabilities at every position of sequences drawn from pi.
    mask : (..., T) boolean array
        True up to and including the end-of-sequence token.

    Returns
    -------
    (...) array, nats
        One value per sequence, >= 0.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit; for a wrong or mixed dtype or library.
    """
    xp = checks.namespace(log_policy=log_policy, log_target=log_target)
    checks.require_same_shape(log_policy=log_policy, log_target=log_target)
    if tuple(mask.shape) != tuple(log_policy.shape[:-1]):
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}: for log_policy {tuple(log_policy.shape)} it must "
            f"have {tuple(log_policy.shape[:-1])}, one flag per position"
        )
    per_position = exact_divergence(log_policy, log_target, divergence=REVERSE_KL)
    return xp.sum(xp.where(mask, per_position, xp.zeros_like(per_position)), axis=-1)


def _value_and_control(
    log_policy: Array, log_target: Array, divergence: FDivergence
) -> tuple[Array, Array]:
    xp = checks.namespace(log_policy=log_policy, log_target=log_target)
    checks.require_same_shape(log_policy=log_policy, log_target=log_target)
    minus_u = log_target - log_policy
    # g(t)/t is p g(pi/p) at pi = 1 and p = 1/t; a target of zero mass is priced at its edge there.
    return divergence.density(xp.zeros_like(minus_u), minus_u), -expm1(minus_u)
