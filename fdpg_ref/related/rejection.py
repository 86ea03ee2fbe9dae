"""Quasi-rejection sampling: exact samples of a distribution between proposal and target.

Accept x of q with probability min(1, P/(beta q)). Accepted samples follow p_beta ~ min(P, beta q),
which is q for beta to 0 and p once beta >= sup P/q; the price is the acceptance rate Z_beta/beta.
The divergence of p_beta to p is estimated from the same samples. Source: Eikema et al. (2022),
arXiv 2112.05702.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fdpg_ref._internal import checks
from fdpg_ref._internal.typing import Array
from fdpg_ref.diagnostics import Estimate
from fdpg_ref.estimators import estimate_divergence
from fdpg_ref.numerics import log_mean_exp

if TYPE_CHECKING:
    from jaxtyping import Float

    from fdpg_ref.divergences import FDivergence


class QuasiRejection(NamedTuple):
    """Acceptance and quality of quasi-rejection sampling at one beta.

    Attributes
    ----------
    log_acceptance : (..., n) array, nats
        log of the probability of accepting each sample of q.
    log_score : (..., n) array, nats
        log min(P, beta q), the unnormalised log-score of the accepted distribution.
    acceptance_rate : (...) array
        Mean acceptance, an unbiased estimate of Z_beta / beta.
    divergence : Estimate
        D_f(p_beta||p) with its standard error, Z and Z_beta estimated from the same samples.
    """

    log_acceptance: Array
    log_score: Array
    acceptance_rate: Array
    divergence: Estimate


def quasi_rejection(
    log_score: Float[Array, "*batch n"],
    log_proposal: Float[Array, "*batch n"],
    *,
    log_beta: float,
    divergence: FDivergence,
) -> QuasiRejection:
    """Return acceptance probabilities and diagnostics of quasi-rejection sampling.

    Parameters
    ----------
    log_score, log_proposal : (..., n) arrays, nats
        log P (unnormalised) and log q at n >= 2 samples of q.
    log_beta : float, nats
        log beta.
    divergence : FDivergence
        Which divergence of p_beta to p is estimated; total variation is the paper's first.

    Returns
    -------
    QuasiRejection
        Accept sample i where a uniform number is below exp(log_acceptance[i]).

    Raises
    ------
    ValueError, TypeError
        For unequal shapes, a single sample; for a wrong or mixed dtype or library.
    """
    xp = checks.namespace(log_score=log_score, log_proposal=log_proposal)
    checks.require_same_shape(log_score=log_score, log_proposal=log_proposal)
    checks.require_sample_axis("log_score", log_score, at_least=2)

    # Cap the weights P/q at beta: samples above it are always accepted.
    log_weights = log_score - log_proposal
    log_capped = xp.where(log_weights > log_beta, xp.full_like(log_weights, log_beta), log_weights)

    # Estimate how far the accepted distribution is from the target.
    log_z = log_mean_exp(log_weights, keepdims=True)
    log_z_beta = log_mean_exp(log_capped, keepdims=True)
    # Everything relative to q, whose own log-probability is then zero.
    quality = estimate_divergence(
        log_capped - log_z_beta,
        log_weights - log_z,
        xp.zeros_like(log_weights),
        divergence=divergence,
    )

    log_acceptance = log_capped - log_beta
    return QuasiRejection(
        log_acceptance=log_acceptance,
        log_score=log_capped + log_proposal,
        acceptance_rate=xp.mean(xp.exp(log_acceptance), axis=-1),
        divergence=quality,
    )
