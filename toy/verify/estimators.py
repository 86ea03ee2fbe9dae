"""The gradient estimators under verification: named compositions, F1 to F3, F5 and F6.

Every estimator maps a batch and a divergence to one gradient estimate; arrays carry all k^n batches
on the leading axis, which the core treats as contexts. The samples of a batch were drawn from its
proposal.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from fdpg_ref import FDivergence, group_coefficients
from toy.estimators.estimates import CONSTANT_BASELINE, PARTITION_ERROR, Batch, gradient_estimates

__all__ = ["CONSTANT_BASELINE", "PARTITION_ERROR", "Batch"]

# F1, F6: no baseline, exact Z, importance weights.
plain = partial(gradient_estimates)

# F2, F3, F6: what is subtracted from every signal: a constant, or the mean of the other samples,
# or of the whole batch with the sample itself, each weighted or not.
constant_baseline = partial(gradient_estimates, baseline="constant")
leave_one_out_baseline = partial(gradient_estimates, baseline="leave_one_out")
weighted_leave_one_out_baseline = partial(gradient_estimates, baseline="weighted_leave_one_out")
batch_mean_baseline = partial(gradient_estimates, baseline="batch_mean")
weighted_batch_mean_baseline = partial(gradient_estimates, baseline="weighted_batch_mean")

# F6: the weights are divided by their mean over the batch.
self_normalised = partial(gradient_estimates, weights="self_normalised")

# F5: Z from the samples it is used for, from the other samples, from samples that are not trained
# on, from a running mean that already contains the batch, or off by a constant factor.
same_batch_z = partial(gradient_estimates, partition="same_batch")
leave_one_out_z = partial(gradient_estimates, partition="leave_one_out")
frozen_z = partial(gradient_estimates, partition="frozen")
past_and_current_z = partial(gradient_estimates, partition="past_and_current")
wrong_z = partial(gradient_estimates, partition="off_by_a_constant")

# F5: the same under a leave-one-out baseline.
same_batch_z_leave_one_out_baseline = partial(same_batch_z, baseline="leave_one_out")
leave_one_out_z_leave_one_out_baseline = partial(leave_one_out_z, baseline="leave_one_out")
frozen_z_leave_one_out_baseline = partial(frozen_z, baseline="leave_one_out")


def grouped_with_exact_z(batch: Batch, divergence: FDivergence) -> np.ndarray:
    """Return one estimate per batch, all batches in one call as groups whose samples interleave."""
    count, n = batch.log_policy.shape

    def interleaved(rows: np.ndarray) -> np.ndarray:
        return np.reshape(rows.T, -1)

    coefficients = group_coefficients(
        interleaved(batch.log_score - batch.log_policy),
        [*range(count)] * n,
        divergence=divergence,
        log_z=batch.log_z,
        log_weights=interleaved(batch.log_weights),
    )
    return np.mean(np.reshape(coefficients, (n, count)).T[..., None] * batch.scores, axis=-2)
