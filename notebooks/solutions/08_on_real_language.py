"""Solutions of the eighth notebook, one section a cell; ``make notebooks`` puts them in place."""

import numpy as np


# %% exercise-1
def expectation_under_target(log_weights, phi):
    """Divide by the largest weight first: it cancels."""
    weights = np.exp(log_weights - np.max(log_weights))
    estimate = weights @ phi / weights.sum()
    return estimate, np.sqrt(np.sum((weights * (phi - estimate)) ** 2)) / weights.sum()


# %% exercise-2
def draws_needed(reward, beta, largest, n):
    """Average over the base how likely a text is accepted; each success takes 1/that draws."""
    return n / np.mean(np.exp((reward - largest) / beta))


# %% exercise-3
def forward_kl_by_target(log_score, log_policy, log_z, log_z_error):
    """Average log P less log pi, then subtract log Z once."""
    terms = log_score - log_policy
    error = np.std(terms, ddof=1) / np.sqrt(len(terms))
    return terms.mean() - log_z, np.hypot(error, log_z_error)
