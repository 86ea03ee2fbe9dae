"""Sampling and scoring with one causal model: the two directions of the same distribution.

A sequence starts after the start token, which is given and not scored. It ends with the first end
token, whose probability is counted, or is cut at the length limit, and then no end is counted.
With that, the probabilities of all sequences up to the limit and of the cut ones sum to one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

# Scoring pads a group of rows to its longest; sorted by length, a few groups waste little on
# padding, and below this many rows a call's fixed cost outweighs what a group saves.
GROUP_ROWS = 64


class Samples(NamedTuple):
    """Sampled sequences and what the sampler says about their probability.

    Attributes
    ----------
    tokens
        Shape (n, length), int64: the completion without the start token; padded after the end.
    mask
        Shape (n, length), bool: true up to and including the first end token.
    log_prob
        Shape (n,), at least float32: log-probability, in nats, of each sequence under the
        distribution it was drawn from.
    """

    tokens: Tensor
    mask: Tensor
    log_prob: Tensor


@torch.no_grad()
def sample_sequences(
    model: PreTrainedModel, uniforms: Tensor, *, bos_id: int, eos_ids: Tensor, pad_id: int
) -> Samples:
    """Draw sequences by inverting the cumulative distribution of each next token.

    Rows that have ended leave the batch and its key-value cache, and rows that agree so far are
    computed once, so that the work follows the number of different prefixes and not n x limit.

    Parameters
    ----------
    model
        A causal language model of transformers.
    uniforms
        Shape (n, limit), float64 in [0, 1): one number per sequence and position. The same
        numbers give the same sequences, whichever rows have ended.
    bos_id, eos_ids, pad_id
        Start token, end tokens of shape (k,), and what fills the rest of an ended row.

    Returns
    -------
    Samples
        With length = limit.

    Raises
    ------
    ValueError
        The model's probabilities are NaN.
    """
    n, limit = uniforms.shape
    tokens = torch.full((n, limit), pad_id, device=uniforms.device)
    mask = torch.zeros((n, limit), dtype=torch.bool, device=uniforms.device)
    step_log_probs = []
    rows = torch.arange(n, device=uniforms.device)
    # Rows that agree so far share one line of the cache. At first there is one prefix; it gets two
    # lines, for the rounding of a product with one vector depends on where the weights lie.
    prefix = torch.zeros_like(rows)
    inputs = torch.full((2, 1), bos_id, device=uniforms.device)
    cache = DynamicCache(config=model.config)
    for position in range(limit):
        logits = model(input_ids=inputs, past_key_values=cache, use_cache=True).logits[:, -1]
        log_probs = wide_log_softmax(logits)[prefix]
        chosen = invert_cdf(log_probs, uniforms[rows, position])
        tokens[rows, position] = chosen
        mask[rows, position] = True
        step_log_prob = log_probs.new_zeros(n)
        step_log_prob[rows] = _gather_last(log_probs, chosen)
        step_log_probs.append(step_log_prob)
        going = torch.isin(chosen, eos_ids, invert=True).nonzero().squeeze(-1)
        if len(going) == 0:
            break
        rows, extended = rows[going], torch.stack([prefix[going], chosen[going]])
        (parents, inputs), prefix = torch.unique(extended, dim=1, return_inverse=True)
        cache.batch_select_indices(parents)
        inputs = inputs[:, None]
    log_prob = torch.stack(step_log_probs, dim=-1).sum(-1)
    if bool(log_prob.isnan().any()):
        raise ValueError(
            "the model's probabilities are NaN, so its weights or activations are not finite: "
            "lower the learning rate, or load an earlier checkpoint"
        )
    return Samples(tokens, mask, log_prob)


def score_sequences(model: nn.Module, tokens: Tensor, mask: Tensor, *, bos_id: int) -> Tensor:
    """Return the log-probability of each sequence, differentiable.

    Parameters
    ----------
    model
        A causal language model of transformers, possibly wrapped for several processes.
    tokens, mask
        Shape (n, length) as in `Samples`.
    bos_id
        The start token.

    Returns
    -------
    Tensor
        Shape (n,), nats, at least float32.
    """
    # A sequence that was drawn several times is scored once; indexing adds its gradients up.
    distinct, place = torch.unique(tokens.where(mask, -1), dim=0, return_inverse=True)
    mask, tokens = distinct >= 0, distinct.clamp(min=0)
    order, groups = _length_groups(mask.sum(-1))
    scores = []
    for rows, longest in groups:
        group_tokens, group_mask = tokens[rows, :longest], mask[rows, :longest]
        start = group_tokens.new_full((len(rows), 1), bos_id)
        inputs = torch.cat([start, group_tokens[:, :-1]], dim=-1)
        log_probs = wide_log_softmax(model(input_ids=inputs, use_cache=False).logits)
        # A position after the end can hold any token: it is left out, not multiplied by zero.
        scores.append(_gather_last(log_probs, group_tokens).where(group_mask, 0.0).sum(-1))
    return torch.cat(scores)[torch.argsort(order)][place]


def wide_log_softmax(logits: Tensor) -> Tensor:
    """Log-softmax over the last axis in float32, or in float64 for float64 logits.

    Half-precision logits are widened *before* the softmax: a bfloat16 log-probability near -100
    sits on a grid of half a nat.
    """
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return torch.log_softmax(logits, dim=-1, dtype=wide)


def invert_cdf(log_probs: Tensor, uniforms: Tensor) -> Tensor:
    """Return, per row, the first token whose cumulative probability exceeds the uniform.

    Parameters
    ----------
    log_probs
        Shape (n, vocabulary), nats.
    uniforms
        Shape (n,), float64 in [0, 1). The sums run in float64 too: a float32 uniform has a grid of
        6e-8 and would draw a rare token at a multiple of that, whatever its probability.

    Returns
    -------
    Tensor
        Shape (n,), int64. A token of probability zero is never chosen.
    """
    cumulative = log_probs.double().exp().cumsum(-1)
    total = cumulative[:, -1:]
    # Scaled by the total, which differs from one by rounding, and strictly below it: then every
    # row has a token, and it is one of positive probability.
    thresholds = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, total * 0))
    chosen = torch.searchsorted(cumulative, thresholds, right=True).squeeze(-1)
    # Only NaN lies beyond the last token; the sampler reports it.
    return chosen.clamp_(max=log_probs.shape[-1] - 1)


def _gather_last(log_probs: Tensor, tokens: Tensor) -> Tensor:
    return log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def _length_groups(lengths: Tensor) -> tuple[Tensor, Iterator[tuple[Tensor, int]]]:
    """Sort rows by length and cut them into groups, each with its longest length."""
    order = torch.argsort(lengths, stable=True)
    chunks = order.split(max(GROUP_ROWS, -(-len(order) // 8)))
    return order, ((rows, int(lengths[rows[-1]])) for rows in chunks)
