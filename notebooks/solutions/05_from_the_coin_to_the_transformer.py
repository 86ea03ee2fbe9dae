"""Solutions of the fifth notebook, one section a cell; ``make notebooks`` puts them in place."""

import torch

from fdpg_ref import leave_one_out, score_coefficients, score_signal
from lm.surrogate import surrogate_loss


# %% exercise-1
def sequence_log_prob(laws, tokens, eos_id):
    """Count a position if no end stands before it: the first end counts, what follows does not."""
    ends = (tokens == eos_id).long()
    counted = ends.cumsum(-1) - ends == 0
    chosen = laws.gather(-1, tokens[..., None])[..., 0]
    return chosen.where(counted, 0.0).sum(-1)


# %% exercise-2
def stale_coefficients(token_log_policy, token_log_proposal, mask, log_target, divergence):
    """Weigh each sequence by pi/q, the product of all of its tokens' ratios."""
    log_policy = token_log_policy.where(mask, 0.0).sum(-1)
    log_proposal = token_log_proposal.where(mask, 0.0).sum(-1)
    signal = score_signal(log_policy, log_target, divergence=divergence)
    return score_coefficients(signal, log_weights=log_policy - log_proposal)


# %% exercise-3
def accumulate(policy, tokens, mask, log_target, divergence, *, size):
    """Share signal and baseline; a part counts by its share of the rows."""
    parts = list(zip(tokens.split(size), mask.split(size), strict=True))
    with torch.no_grad():
        log_policy = torch.cat([policy.log_prob(*part) for part in parts])
    signal = score_signal(log_policy, log_target, divergence=divergence)
    coefficients = score_coefficients(signal, baseline=leave_one_out(signal))
    for part, own in zip(parts, coefficients.split(size), strict=True):
        share = len(own) / len(tokens)
        (share * surrogate_loss(policy.log_prob(*part), own)).backward()
