"""Sampling transforms: from a model's logits to the law that is sampled, and scored.

The kept sets are those of transformers' logits warpers, in their order: temperature, top-k, top-p,
min-p. Each works on the logits that the one before it left.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lm.config.sampling import SamplingConfig

IDENTITY = SamplingConfig()


class TransformedLogProbs(NamedTuple):
    """The law of the next token, and how much of the untruncated one it keeps.

    Attributes
    ----------
    log_probs
        Shape (..., vocabulary), at least float32: log-probabilities in nats, -inf off the kept set.
    log_kept_mass
        Shape (...): log of the kept set's mass before it was cut, at the same temperature; zero
        without truncation.
    """

    log_probs: Tensor
    log_kept_mass: Tensor


def transformed_log_probs(logits: Tensor, transform: SamplingConfig) -> TransformedLogProbs:
    """Return the transformed law of the next token.

    q(v) = 1[v in K] exp(l_v / tau) / sum_{w in K} exp(l_w / tau), with K the kept set.

    Parameters
    ----------
    logits
        Shape (..., vocabulary), any floating dtype. Half precision is widened before anything else.
    transform
        What changes the law.

    Returns
    -------
    TransformedLogProbs
        Differentiable in the logits; the kept set counts as a constant, so that the gradient is
        that of the sampled law wherever no token is about to enter or leave the set.
    """
    wide = logits
    if not transform.is_identity:
        wide = logits.to(widened(logits.dtype)) / transform.temperature
    log_probs = wide_log_softmax(wide)
    if not transform.truncates:
        return TransformedLogProbs(log_probs, log_probs.new_zeros(log_probs.shape[:-1]))
    cut = ~kept_tokens(wide.detach(), transform)
    # Where all is kept, rounding may add up to more than one.
    log_kept_mass = torch.logsumexp(log_probs.masked_fill(cut, -math.inf), dim=-1).clamp(max=0.0)
    # Normalised anew and not by subtracting the mass: the kept set then sums to one to rounding.
    truncated = torch.log_softmax(wide.masked_fill(cut, -math.inf), dim=-1)
    return TransformedLogProbs(truncated, log_kept_mass)


def kept_tokens(logits: Tensor, transform: SamplingConfig) -> Tensor:
    """Return which tokens a truncation keeps; at least the most probable one.

    Parameters
    ----------
    logits
        Shape (..., vocabulary), divided by the temperature already.
    transform
        Its top_k, top_p and min_p count.

    Returns
    -------
    Tensor
        Shape (..., vocabulary), bool.
    """
    kept = torch.ones_like(logits, dtype=torch.bool)
    if transform.top_k > 0:
        kth = torch.topk(logits, min(transform.top_k, logits.shape[-1])).values[..., -1:]
        # Tokens that tie with the k-th stay, as in transformers.
        kept = logits >= kth
    if transform.top_p < 1:
        kept = _nucleus(logits.masked_fill(~kept, -math.inf), transform.top_p)
    if transform.min_p > 0:
        probs = torch.softmax(logits.masked_fill(~kept, -math.inf), dim=-1)
        kept &= probs >= transform.min_p * probs.amax(dim=-1, keepdim=True)
    return kept


def wide_log_softmax(logits: Tensor) -> Tensor:
    """Log-softmax over the last axis in float32, or in float64 for float64 logits.

    Half-precision logits are widened *before* the softmax: a bfloat16 log-probability near -100
    sits on a grid of half a nat.
    """
    return torch.log_softmax(logits, dim=-1, dtype=widened(logits.dtype))


def widened(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums over this one: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Drop the least probable tokens, as many as hold at most 1 - top_p together."""
    # Stable: tokens that tie at the edge are dropped by their id, in every batch shape alike.
    ascending, order = torch.sort(logits, dim=-1, stable=True)
    dropped = torch.softmax(ascending, dim=-1).cumsum(dim=-1) <= 1 - top_p
    dropped[..., -1] = False
    return torch.ones_like(dropped).scatter(-1, order, ~dropped)
