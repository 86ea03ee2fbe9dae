"""Solutions of the fourth notebook, one section a cell; ``make notebooks`` puts them in place."""

import torch

from fdpg_ref import JENSEN_SHANNON


# %% exercise-1
def jensen_shannon_penalty(log_policy, log_reference):
    """Multiply the score by f'(e^u); the detached signal is a number for autograd."""
    signal = JENSEN_SHANNON.signal((log_policy - log_reference).detach())
    return signal * log_policy


# %% exercise-2
def forward_kl_in_the_reward(log_policy, log_reference):
    """Return f'(e^u) = 1 - e^-u, the derivative of k3."""
    return -torch.expm1(log_reference - log_policy)


# %% exercise-3
def k2_for_stale_samples(log_policy, log_reference, log_behavior):
    """Weigh u grad log pi by a detached pi/pi_old: E_old[w u s] = E_pi[u s]."""
    weight = torch.exp(log_policy - log_behavior).detach()
    return weight * (log_policy - log_reference) ** 2 / 2
