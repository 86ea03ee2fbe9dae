"""Solutions of the second notebook, one section a cell; ``make notebooks`` puts them in place."""

import numpy as np


# %% exercise-1
def rlhf_ascent(reward, log_policy, log_base, scores, beta):
    """Return the mean of (penalised reward less the mean of the others) times the score."""
    value = reward - beta * (log_policy - log_base)
    others = (np.sum(value) - value) / (len(value) - 1)
    return np.mean((value - others)[:, None] * scores, axis=0)


# %% exercise-2
def multiplier(base_rate, wanted_rate):
    """Return log of the ratio of odds: mu / (1 - mu) = e^lambda m / (1 - m)."""
    return np.log(wanted_rate * (1 - base_rate) / (base_rate * (1 - wanted_rate)))


# %% exercise-3
def reward_for(log_target, log_base, beta):
    """Return beta (log p - log a): r / beta = log p - log a + log Z, and log Z is a constant."""
    return beta * (log_target - log_base)
