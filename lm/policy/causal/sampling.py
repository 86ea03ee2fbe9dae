"""Sampling from a causal model: whole sequences, each with the log-probability it was drawn with.

A sequence follows a context (the start token, or a prompt), which is given and not scored. It ends
with the first end token, whose probability is counted, or is cut at the length limit, and then no
end is counted. With that, the probabilities of all sequences up to the limit and of the cut ones
sum to one. `lm.policy.causal.scoring` is the other direction of the same distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lm.config.sampling import SamplingConfig
from lm.errors import NotFinite
from lm.models.completions import completion_mask
from lm.policy.prompts import Prompts
from lm.policy.samples import Samples
from lm.policy.transforms import IDENTITY, transformed_log_probs


@torch.no_grad()
def sample_sequences(
    model: PreTrainedModel,
    uniforms: Tensor,
    *,
    contexts: Prompts,
    eos_ids: Sequence[int],
    pad_id: int,
    transform: SamplingConfig = IDENTITY,
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
    contexts
        What each of the n sequences continues, padded on the left.
    eos_ids, pad_id
        End tokens, and what fills the rest of an ended row.
    transform
        Changes the law of each next token.

    Returns
    -------
    Samples
        With length = limit, and without prompts: whose they are is the caller's to say.

    Raises
    ------
    NotFinite
        The model's probabilities are NaN.
    """
    # Every row is full of padding and empty of tokens.
    n, limit = uniforms.shape
    tokens = torch.full((n, limit), pad_id, device=uniforms.device)
    ends = torch.tensor(eos_ids, device=uniforms.device)
    step_log_probs, step_kept_mass = [], []
    rows = torch.arange(n, device=uniforms.device)

    # Rows that agree so far share one line of the cache.
    distinct, prefix = distinct_prompts(contexts)
    lines = Lines(model, distinct.left_padded())
    for position in range(limit):
        # Draw the next token of each row that has not ended.
        law = transformed_log_probs(lines.next_logits(), transform)
        log_probs = law.log_probs[prefix]
        chosen = invert_cdf(log_probs, uniforms[rows, position])
        tokens[rows, position] = chosen
        step_log_probs.append(_spread(gather_last(log_probs, chosen), rows, n))
        if transform.truncates:
            step_kept_mass.append(_spread(law.log_kept_mass[prefix], rows, n))

        # Drop the rows that have ended.
        going = torch.isin(chosen, ends, invert=True).nonzero().squeeze(-1)
        if len(going) == 0 or position == limit - 1:
            break
        rows, size = rows[going], log_probs.shape[-1]

        # A prefix and its next token as one number, which sorts far faster than pairs do.
        extended = prefix[going] * size + chosen[going]
        extended, prefix = torch.unique(extended, return_inverse=True)
        lines.extend(extended // size, extended % size)

    # Put the steps together.
    log_prob = torch.stack(step_log_probs, dim=-1).sum(-1)
    if bool(log_prob.isnan().any()):
        raise NotFinite(
            "the model's probabilities are NaN, so its weights or activations are not finite: in "
            "training, lower the learning rate; before it, try another precision"
        )
    kept = torch.stack(step_kept_mass, dim=-1).sum(-1) if step_kept_mass else None
    mask = completion_mask(tokens, eos_ids)
    return Samples(tokens, mask, log_prob, None, transform, kept)


def distinct_prompts(prompts: Prompts) -> tuple[Prompts, Tensor]:
    """Return the different contexts and, for each row, which of them it has.

    Parameters
    ----------
    prompts
        n rows padded on the left.

    Returns
    -------
    distinct : Prompts
        k of the rows.
    place : Tensor
        Shape (n,), int64: row i is distinct[place[i]].
    """
    tokens, mask = prompts
    if bool((mask == mask[0]).all()) and bool((tokens == tokens[0]).where(mask, True).all()):
        # One context for all, as always without prompts: sorting equal rows is slow.
        return Prompts(tokens[:1].where(mask[:1], 0), mask[:1]), tokens.new_zeros(len(tokens))
    found, place = torch.unique(tokens.where(mask, -1), dim=0, return_inverse=True)
    return Prompts(found.clamp(min=0), found >= 0), place


def place_inputs(mask: Tensor) -> dict[str, Tensor]:
    """Return what tells a model where each token stands, and what is padding.

    Parameters
    ----------
    mask
        Shape (n, length), bool: false on padding, which stands on the left.

    Returns
    -------
    dict
        position_ids of shape (n, length), where a row's first token is at 0, and attention_mask;
        without padding one row of positions and no mask, which is faster.
    """
    if bool(mask.all()):
        return {"position_ids": torch.arange(mask.shape[1], device=mask.device)[None]}
    numbers = mask.long()
    return {
        "attention_mask": numbers,
        "position_ids": (numbers.cumsum(-1) - 1).clamp(min=0),
    }


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
    # In place: fresh memory of this size costs more than the sums.
    cumulative = log_probs.to(torch.float64, copy=True).exp_().cumsum_(-1)
    total = cumulative[:, -1:]
    # Scaled by the total, which differs from one by rounding, and strictly below it: then every
    # row has a token, and it is one of positive probability.
    thresholds = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, total * 0))
    chosen = torch.searchsorted(cumulative, thresholds, right=True).squeeze(-1)
    # Only NaN lies beyond the last token; the sampler reports it.
    return chosen.clamp_(max=log_probs.shape[-1] - 1)


def gather_last(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """Return log_probs[..., tokens], shape of tokens."""
    return log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


class Lines:
    """Prefixes that grow by a token at a time, with the model's cache of each."""

    def __init__(self, model: PreTrainedModel, contexts: Prompts) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.config)
        chosen = _at_least_two(torch.arange(len(contexts.tokens)))
        self.inputs, self.mask = contexts.rows(chosen)

    def next_logits(self) -> Tensor:
        """Read the inputs and return the logits of the token after them, shape (lines, V)."""
        place = place_inputs(self.mask)
        place["position_ids"] = place["position_ids"][:, -self.inputs.shape[1] :]
        output: Any = self.model(
            input_ids=self.inputs,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
            **place,
        )
        return output.logits[:, -1]

    def extend(self, parents: Tensor, tokens: Tensor) -> None:
        """Replace the lines by their continuations: line parents[i] followed by tokens[i]."""
        chosen = _at_least_two(torch.arange(len(parents), device=parents.device))
        parents = parents[chosen]
        # The parents ascend: as many different ones as there are lines are all lines, in order.
        if len(parents) != len(self.inputs) or not bool((parents[1:] > parents[:-1]).all()):
            self.cache.reorder_cache(cast(torch.LongTensor, parents))
            self.mask = self.mask[parents]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(parents), 1)], dim=-1)
        self.inputs = tokens[chosen, None]


def _at_least_two(lines: Tensor) -> Tensor:
    # One line is computed twice: the rounding of a product with a single vector depends on where
    # the weights lie in memory, that of a matrix does not.
    return lines.repeat(2) if len(lines) == 1 else lines


def _spread(values: Tensor, rows: Tensor, n: int) -> Tensor:
    """Return shape (n,): the values at these rows, zero elsewhere."""
    spread = values.new_zeros(n)
    spread[rows] = values
    return spread
