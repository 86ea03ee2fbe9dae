"""The gradient estimators under verification, each a few lines on top of the core.

Every estimator maps a batch to one gradient estimate; arrays carry all k^n batches on the leading
axis, which the core treats as contexts. The samples of a batch were drawn from its proposal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdpg_ref import (
    FDivergence,
    batch_mean,
    importance_log_partition,
    init_partition,
    leave_one_out,
    leave_one_out_log_partition,
    score_coefficients,
    score_signal,
    update_partition,
)

if TYPE_CHECKING:
    from jaxtyping import Float

# An arbitrary constant: neither best nor zero.
CONSTANT_BASELINE = 0.7
# log(Zhat / Z) of the estimate that is wrong once and for all: a factor of about two.
PARTITION_ERROR = 0.7


class Batch(NamedTuple):
    """Samples of all batches, with the past samples that a frozen Z is made from.

    Attributes
    ----------
    log_policy, log_score, log_proposal : (batches, n) arrays, nats
        log pi, log P and log q at the samples.
    scores : (batches, n, d) array
        grad log pi at the samples.
    past_log_score, past_log_proposal : (batches, m) arrays, nats
        log P and log q at samples that are not trained on.
    log_z : float, nats
        The exact log Z.
    """

    log_policy: Float[np.ndarray, "batches n"]
    log_score: Float[np.ndarray, "batches n"]
    log_proposal: Float[np.ndarray, "batches n"]
    scores: Float[np.ndarray, "batches n d"]
    past_log_score: Float[np.ndarray, "batches m"]
    past_log_proposal: Float[np.ndarray, "batches m"]
    log_z: float

    @property
    def log_weights(self) -> Float[np.ndarray, "batches n"]:
        """Logarithm of the importance weights pi/q, zero on-policy."""
        return self.log_policy - self.log_proposal


def plain(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F1, F6: no baseline, exact Z, importance weights."""
    return _contract(batch, _signal(batch, divergence))


def constant_baseline(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F2: a constant is subtracted from every signal."""
    return _contract(batch, _signal(batch, divergence), baseline=CONSTANT_BASELINE)


def leave_one_out_baseline(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F3, F6: the mean signal of the peers, unweighted, is subtracted."""
    signal = _signal(batch, divergence)
    return _contract(batch, signal, baseline=leave_one_out(signal))


def weighted_leave_one_out_baseline(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F6: the mean signal of the peers, each with its importance weight, is subtracted."""
    signal = _signal(batch, divergence)
    peers = leave_one_out(np.exp(batch.log_weights) * signal)
    return _contract(batch, signal, baseline=peers)


def batch_mean_baseline(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F3: the mean signal of the whole batch, the sample included, is subtracted."""
    signal = _signal(batch, divergence)
    return _contract(batch, signal, baseline=batch_mean(signal))


def weighted_batch_mean_baseline(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F6: the importance-weighted mean signal of the whole batch is subtracted."""
    signal = _signal(batch, divergence)
    return _contract(batch, signal, baseline=batch_mean(np.exp(batch.log_weights) * signal))


def self_normalised(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F6: the weights are divided by their mean over the batch."""
    estimate = plain(batch, divergence)
    return estimate / np.mean(np.exp(batch.log_weights), axis=-1)[:, None]


def same_batch_z(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F5: Z is estimated from the samples it is used for."""
    log_z = importance_log_partition(batch.log_score, batch.log_proposal)
    return _contract(batch, _signal(batch, divergence, log_z[:, None]))


def same_batch_z_leave_one_out_baseline(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F5: the same-batch Z under a leave-one-out baseline."""
    log_z = importance_log_partition(batch.log_score, batch.log_proposal)
    signal = _signal(batch, divergence, log_z[:, None])
    return _contract(batch, signal, baseline=leave_one_out(signal))


def leave_one_out_z(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F5: each sample gets the Z of the others."""
    log_z = leave_one_out_log_partition(batch.log_score, batch.log_proposal)
    return _contract(batch, _signal(batch, divergence, log_z))


def leave_one_out_z_leave_one_out_baseline(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F5: each sample gets the Z and the mean signal of the others."""
    log_z = leave_one_out_log_partition(batch.log_score, batch.log_proposal)
    signal = _signal(batch, divergence, log_z)
    return _contract(batch, signal, baseline=leave_one_out(signal))


def frozen_z(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F5: Z is estimated once, from samples that are not trained on."""
    state = init_partition(batch.past_log_score, batch.past_log_proposal)
    return _contract(batch, _signal(batch, divergence, state.log_z[:, None]))


def frozen_z_leave_one_out_baseline(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F5: a frozen Z under a leave-one-out baseline."""
    state = init_partition(batch.past_log_score, batch.past_log_proposal)
    signal = _signal(batch, divergence, state.log_z[:, None])
    return _contract(batch, signal, baseline=leave_one_out(signal))


def past_and_current_z(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F5: a running mean that already contains the batch it is used for."""
    state = init_partition(batch.past_log_score, batch.past_log_proposal)
    state = update_partition(state, batch.log_score, batch.log_proposal)
    return _contract(batch, _signal(batch, divergence, state.log_z[:, None]))


def wrong_z(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F5: Z is off by a constant factor."""
    return _contract(batch, _signal(batch, divergence, batch.log_z + PARTITION_ERROR))


def _signal(
    batch: Batch, divergence: FDivergence, log_z: float | np.ndarray | None = None
) -> np.ndarray:
    log_target = batch.log_score - (batch.log_z if log_z is None else log_z)
    return score_signal(batch.log_policy, log_target, divergence=divergence)


def _contract(
    batch: Batch, signal: np.ndarray, *, baseline: float | np.ndarray = 0.0
) -> np.ndarray:
    coefficients = score_coefficients(signal, baseline=baseline, log_weights=batch.log_weights)
    return np.mean(coefficients[..., None] * batch.scores, axis=-2)
