"""The gradient estimators under verification: named compositions, F1 to F3, F5 and F6.

Every estimator maps a batch to one gradient estimate; arrays carry all k^n batches on the leading
axis, which the core treats as contexts. The samples of a batch were drawn from its proposal.
"""

from __future__ import annotations

import numpy as np

from fdpg_ref import FDivergence
from toy.estimators.estimates import CONSTANT_BASELINE, PARTITION_ERROR, Batch, gradient_estimates

__all__ = ["CONSTANT_BASELINE", "PARTITION_ERROR", "Batch"]


def plain(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F1, F6: no baseline, exact Z, importance weights."""
    return gradient_estimates(batch, divergence)


def constant_baseline(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F2: a constant is subtracted from every signal."""
    return gradient_estimates(batch, divergence, baseline="constant")


def leave_one_out_baseline(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F3, F6: the mean signal of the peers, unweighted, is subtracted."""
    return gradient_estimates(batch, divergence, baseline="leave_one_out")


def weighted_leave_one_out_baseline(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F6: the mean signal of the peers, each with its importance weight, is subtracted."""
    return gradient_estimates(batch, divergence, baseline="weighted_leave_one_out")


def batch_mean_baseline(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F3: the mean signal of the whole batch, the sample included, is subtracted."""
    return gradient_estimates(batch, divergence, baseline="batch_mean")


def weighted_batch_mean_baseline(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F6: the importance-weighted mean signal of the whole batch is subtracted."""
    return gradient_estimates(batch, divergence, baseline="weighted_batch_mean")


def self_normalised(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F6: the weights are divided by their mean over the batch."""
    return gradient_estimates(batch, divergence, weights="self_normalised")


def same_batch_z(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F5: Z is estimated from the samples it is used for."""
    return gradient_estimates(batch, divergence, partition="same_batch")


def same_batch_z_leave_one_out_baseline(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F5: the same-batch Z under a leave-one-out baseline."""
    return gradient_estimates(batch, divergence, partition="same_batch", baseline="leave_one_out")


def leave_one_out_z(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F5: each sample gets the Z of the others."""
    return gradient_estimates(batch, divergence, partition="leave_one_out")


def leave_one_out_z_leave_one_out_baseline(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F5: each sample gets the Z and the mean signal of the others."""
    return gradient_estimates(
        batch, divergence, partition="leave_one_out", baseline="leave_one_out"
    )


def frozen_z(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F5: Z is estimated once, from samples that are not trained on."""
    return gradient_estimates(batch, divergence, partition="frozen")


def frozen_z_leave_one_out_baseline(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F5: a frozen Z under a leave-one-out baseline."""
    return gradient_estimates(batch, divergence, partition="frozen", baseline="leave_one_out")


def past_and_current_z(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F5: a running mean that already contains the batch it is used for."""
    return gradient_estimates(batch, divergence, partition="past_and_current")


def wrong_z(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """F5: Z is off by a constant factor."""
    return gradient_estimates(batch, divergence, partition="off_by_a_constant")
