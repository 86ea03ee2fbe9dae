"""Importance weights w = pi/q of off-policy samples in log space: truncated, self-normalised.

Plain weights, log pi - log q, leave the gradient unbiased. The other two trade bias for variance:
truncation biases it by what is cut off; self-normalisation by O(1/n), vanishing with the batch.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from fdpg_ref._internal import checks
from fdpg_ref._internal.typing import Array
from fdpg_ref.numerics import log_mean_exp

if TYPE_CHECKING:
    from jaxtyping import Float


def truncated_log_weights(log_weights: Float[Array, "*batch n"], *, ceiling: float) -> Array:
    """Return log min(w, ceiling): a bounded weight, biased.

    The bias of the gradient is exactly -E_q[max(w - ceiling, 0) c s]. Source: Ionides (2008),
    doi 10.1198/106186008X320456.

    Parameters
    ----------
    log_weights : (..., n) array, nats
        log w = log pi - log q.
    ceiling : float
        Largest weight, > 0.

    Returns
    -------
    (..., n) array, nats
        Truncated log-weights.

    Raises
    ------
    ValueError, TypeError
        If the ceiling is not positive; for a wrong dtype.
    """
    xp = checks.namespace(log_weights=log_weights)
    if not ceiling > 0:
        raise ValueError(f"ceiling is {ceiling}: the largest weight must be positive")
    return xp.where(
        log_weights > log(ceiling), xp.full_like(log_weights, log(ceiling)), log_weights
    )


def self_normalised_log_weights(log_weights: Float[Array, "*batch n"]) -> Array:
    """Return log (w / mean w): weights that average to one in the batch, biased by O(1/n).

    Parameters
    ----------
    log_weights : (..., n) array, nats
        log w, up to a constant: neither distribution need be normalised.

    Returns
    -------
    (..., n) array, nats
        Normalised log-weights; NaN if all weights are zero.
    """
    checks.namespace(log_weights=log_weights)
    checks.require_sample_axis("log_weights", log_weights)
    return log_weights - log_mean_exp(log_weights, keepdims=True)


def forward_kl_gain(
    log_policy: Float[Array, "*batch n"],
    log_proposal: Float[Array, "*batch n"],
    log_score: Float[Array, "*batch n"],
) -> Array:
    """Estimate KL(p||q) - KL(p||pi): positive where the policy is the better proposal.

    KL-adaptive DPG replaces q by pi when it is. The difference is E_p[log pi - log q], so that
    neither Z nor the two divergences are needed; here by self-normalised weights P/q.
    Source: Khalifa et al. (2021), arXiv 2012.11635, Algorithm 2.

    Parameters
    ----------
    log_policy, log_proposal, log_score : (..., n) arrays, nats
        log pi, log q and the unnormalised log P at samples of q.

    Returns
    -------
    (...) array, nats
        The gain; NaN if the target excludes every sample.
    """
    xp = checks.namespace(log_policy=log_policy, log_proposal=log_proposal, log_score=log_score)
    checks.require_same_shape(log_policy=log_policy, log_proposal=log_proposal, log_score=log_score)
    shares = xp.exp(self_normalised_log_weights(log_score - log_proposal))
    gain = log_policy - log_proposal
    # 0 * inf: what the target excludes says nothing, wherever the policy puts it.
    gain = xp.where(shares == 0, xp.zeros_like(gain), gain)
    return xp.mean(shares * gain, axis=-1)
