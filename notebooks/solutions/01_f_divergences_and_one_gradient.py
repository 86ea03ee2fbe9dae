"""Solutions of the first notebook, one section a cell; ``make notebooks`` puts them in place."""

import numpy as np

from fdpg_ref import leave_one_out, score_coefficients, score_signal


# %% exercise-1
def forward_kl_gradient(policy, target):
    """Return pi - p: sum_x (pi(x) - p(x)) (1[x = y] - pi(y)), and both sums over x are one."""
    return policy - target


# %% exercise-2
def best_constant_baseline(log_policy, signal, scores):
    """Return E[c |s|^2] / E[|s|^2], where the derivative of E[(c - b)^2 |s|^2] is zero."""
    weight = np.exp(log_policy) * np.sum(scores**2, axis=-1)
    return np.sum(weight * signal) / np.sum(weight)


# %% exercise-3
def off_policy_gradient(log_policy, log_target, log_proposal, scores, divergence):
    """Weigh each sample by pi/q; the peers of the leave-one-out mean need no weight."""
    signal = score_signal(log_policy, log_target, divergence=divergence)
    coefficients = score_coefficients(
        signal, baseline=leave_one_out(signal), log_weights=log_policy - log_proposal
    )
    return np.mean(coefficients[..., None] * scores, axis=-2)
