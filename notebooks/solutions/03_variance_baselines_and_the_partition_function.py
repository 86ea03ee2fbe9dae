"""Solutions of the third notebook, one section a cell; ``make notebooks`` puts them in place."""

import numpy as np

from fdpg_ref import (
    FORWARD_KL,
    leave_one_out,
    score_coefficients,
    score_signal,
    update_partition,
)


# %% exercise-1
def pays_from(plain, single, pair):
    """Return the least n with 4 (n - 2) z1 + 2 z2 < (n - 1) T, which is linear in n."""
    slope, needed = plain - 4 * single, plain - 8 * single + 2 * pair
    if 2 * slope > needed:
        return 2
    return int(np.floor(needed / slope)) + 1 if slope > 0 else None


# %% exercise-2
def samples_for_a_hit(rate, confidence):
    """Return the least m with (1 - rate)^m <= 1 - confidence."""
    m = int(np.ceil(np.log1p(-confidence) / np.log1p(-rate)))
    # The quotient of two logarithms may be a whole number up to rounding.
    while m > 1 and 1 - (1 - rate) ** (m - 1) >= confidence:
        m -= 1
    return m


# %% exercise-3
def past_only_step(state, log_policy, log_score, scores):
    """Use the Z of the past for this batch, and only then add the batch to it."""
    signal = score_signal(log_policy, log_score - state.log_z[..., None], divergence=FORWARD_KL)
    coefficients = score_coefficients(signal, baseline=leave_one_out(signal))
    gradient = np.mean(coefficients[..., None] * scores, axis=-2)
    return gradient, update_partition(state, log_score, log_policy)
