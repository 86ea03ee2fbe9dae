"""Partition functions Z = sum P(x) in log space: exact, by importance sampling, and running.

E_q[P/q] = Z, so the mean of importance weights is unbiased for Z. What happens to the *gradient*
when an estimate replaces Z depends on the divergence and on the samples that it was made from.
There are six ways to do it; ``python -m toy verify`` shows the status of each (facts F5).
"""

from __future__ import annotations

from math import inf, log
from typing import TYPE_CHECKING, NamedTuple

from array_api_compat import device

from fdpg_ref._internal import checks
from fdpg_ref._internal.typing import Array
from fdpg_ref.numerics import log_mean_exp, logsumexp

if TYPE_CHECKING:
    from jaxtyping import Float


class PartitionState(NamedTuple):
    """Running estimate of Z from past batches.

    Attributes
    ----------
    log_z : (...) array, nats
        Logarithm of the weighted mean of P/q so far.
    weight : float
        Number of samples behind it, discounted by forgetting.
    """

    log_z: Array
    weight: float


def exact_log_partition(log_score: Float[Array, "*batch n"]) -> Array:
    """Return log Z = log sum_x P(x), where the last axis holds every outcome.

    Parameters
    ----------
    log_score : (..., n) array, nats
        log P of all outcomes; -inf excludes one.

    Returns
    -------
    (...) array, nats
        log Z; -inf if everything is excluded.
    """
    checks.namespace(log_score=log_score)
    checks.require_sample_axis("log_score", log_score)
    return logsumexp(log_score)


def importance_log_partition(
    log_score: Float[Array, "*batch n"], log_proposal: Float[Array, "*batch n"]
) -> Array:
    """Return log of (1/n) sum_i P(x_i)/q(x_i), for samples x_i of q.

    The mean is unbiased for Z (its logarithm is not for log Z).

    Parameters
    ----------
    log_score : (..., n) array, nats
        log P at the samples.
    log_proposal : (..., n) array, nats
        log q at the samples.

    Returns
    -------
    (...) array, nats
        log of the estimate; -inf if every sample is excluded by the target.

    Examples
    --------
    >>> import numpy as np
    >>> from fdpg_ref import importance_log_partition
    >>> log_score, log_proposal = np.log([0.2, 0.4]), np.log([0.4, 0.4])
    >>> float(np.exp(importance_log_partition(log_score, log_proposal)).round(4))  # of 0.5 and 1
    0.75
    """
    return log_mean_exp(_log_weights(log_score, log_proposal))


def leave_one_out_log_partition(
    log_score: Float[Array, "*batch n"], log_proposal: Float[Array, "*batch n"]
) -> Array:
    """Return, for each sample, the importance estimate of log Z from all the others.

    Parameters
    ----------
    log_score, log_proposal : (..., n) arrays, nats
        log P and log q at the samples, n >= 2.

    Returns
    -------
    (..., n) array, nats
        log of (1/(n-1)) sum_{j != i} P(x_j)/q(x_j).

    Examples
    --------
    >>> import numpy as np
    >>> from fdpg_ref import leave_one_out_log_partition
    >>> weights = np.array([1.0, 2.0, 6.0])
    >>> np.exp(leave_one_out_log_partition(np.log(weights), np.zeros(3))).round(4)
    array([4. , 3.5, 1.5])
    """
    n = checks.require_sample_axis("log_score", log_score, at_least=2)
    xp = checks.namespace(log_score=log_score, log_proposal=log_proposal)
    log_weights = _log_weights(log_score, log_proposal)

    # Taking a weight out of the total loses nothing where it is at most half of it, and only the
    # largest can be more: the peers of that one are summed on their own.
    position = xp.arange(n, device=device(log_weights))
    is_largest = position == xp.argmax(log_weights, axis=-1, keepdims=True)
    excluded = xp.full_like(log_weights, -inf)
    peers_of_largest = logsumexp(xp.where(is_largest, excluded, log_weights), keepdims=True)

    # All the others: the total less their own share.
    total = logsumexp(log_weights, keepdims=True)
    shares = xp.exp(log_weights - xp.where(total == -inf, xp.zeros_like(total), total))
    others = total + xp.log1p(-xp.where(is_largest, xp.zeros_like(shares), shares))

    return xp.where(is_largest, peers_of_largest, others) - log(n - 1)


def init_partition(
    log_score: Float[Array, "*batch n"], log_proposal: Float[Array, "*batch n"]
) -> PartitionState:
    """Start a running estimate from samples that are not trained on, for example of the base.

    Parameters
    ----------
    log_score, log_proposal : (..., n) arrays, nats
        log P and log q at those samples.

    Returns
    -------
    PartitionState
        Never updated, it is the *frozen offline* estimate.
    """
    return PartitionState(
        importance_log_partition(log_score, log_proposal), float(log_score.shape[-1])
    )


def update_partition(
    state: PartitionState,
    log_score: Float[Array, "*batch n"],
    log_proposal: Float[Array, "*batch n"],
    *,
    forgetting: float = 1.0,
) -> PartitionState:
    """Return the running mean of P/q with one more batch in it.

    Use ``state.log_z`` for a batch *before* updating with that batch. An estimate from past batches
    alone keeps the gradient of reverse KL unbiased and that of the alpha family proportional; one
    that includes the batch does not.

    Parameters
    ----------
    state : PartitionState
        The estimate so far.
    log_score, log_proposal : (..., n) arrays, nats
        log P and log q at the new samples; q may differ from batch to batch.
    forgetting : float
        Factor in (0, 1] on the weight of the past; 1 is the lifetime mean, from which an outlier
        never disappears.

    Returns
    -------
    PartitionState
        The new estimate.

    Raises
    ------
    ValueError
        If ``forgetting`` is not in (0, 1], or the shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> from fdpg_ref import init_partition, update_partition
    >>> state = init_partition(np.log([1.0, 3.0]), np.zeros(2))
    >>> state = update_partition(state, np.log([2.0, 6.0]), np.zeros(2))
    >>> float(np.exp(state.log_z).round(4))  # the mean of all four weights
    3.0
    """
    if not 0 < forgetting <= 1:
        raise ValueError(f"forgetting is {forgetting}: it must lie in (0, 1]; 1 forgets nothing")

    xp = checks.namespace(log_z=state.log_z, log_score=log_score, log_proposal=log_proposal)
    batch = float(log_score.shape[-1])
    past = state.weight * checks.plain_number(forgetting)
    total = past + batch

    new = importance_log_partition(log_score, log_proposal)
    terms = xp.stack([state.log_z + log(past / total), new + log(batch / total)], axis=-1)
    return PartitionState(logsumexp(terms), total)


def _log_weights(log_score: Array, log_proposal: Array) -> Array:
    checks.namespace(log_score=log_score, log_proposal=log_proposal)
    checks.require_same_shape(log_score=log_score, log_proposal=log_proposal)
    checks.require_sample_axis("log_score", log_score)
    return log_score - log_proposal
