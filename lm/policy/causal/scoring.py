"""Scoring with a causal model: the log-probability of given sequences, differentiable.

A scoring is one call of one module. What wraps that module for several processes then sees one
forward pass and one backward pass, however many calls of the model inside it took.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lm.config.sampling import SamplingConfig
from lm.policy.causal.chunked import (
    body_and_head,
    chunked_log_probs,
    has_plain_head,
    is_frozen,
    require_plain_head,
)
from lm.policy.causal.sampling import distinct_prompts, gather_last, place_inputs
from lm.policy.prompts import Prompts
from lm.policy.transforms import IDENTITY, TransformedLogProbs, transformed_log_probs

# Scoring pads a group of rows to its longest; sorted by length, a few groups waste little on
# padding, and below this many rows a call's fixed cost outweighs what a group saves.
GROUP_ROWS = 64
# Groups of one longest length waste nothing by being one call, which two threads share better;
# their logits then stay below 128 MiB in float32.
GROUP_LOGITS = 2**25
# Under an adapter, as many logits as are in memory at a time, 16 MiB in float32, where a batch has
# more than those of a group: it costs no time there (`lm.policy.causal.chunked`).
CHUNK_LOGITS = 2**22


class TokenScorer(nn.Module):
    """The scoring half of a policy, as a module of its own.

    Parameters
    ----------
    model
        A causal language model of transformers.
    transform
        The sampling transform whose law is scored.

    Attributes
    ----------
    single_group
        Score all rows in one call of the model instead of a few calls by length: needed where all
        processes must call the model equally often.
    """

    def __init__(self, model: PreTrainedModel, transform: SamplingConfig = IDENTITY) -> None:
        super().__init__()
        self.model: PreTrainedModel = model
        self.transform = transform
        self.single_group = False
        self._score_chunk: int | None = None
        self._plain_head: bool | None = None

    @property
    def score_chunk(self) -> int | None:
        """How many positions have their logits in memory at once; None is no limit of yours.

        Setting it raises `UnsupportedHead` for a model whose logits are more than its head's
        output.
        """
        return self._score_chunk

    @score_chunk.setter
    def score_chunk(self, chunk: int | None) -> None:
        """Bound the memory of the logits, or lift the bound with None."""
        if chunk is not None:
            require_plain_head(self.model)
        self._score_chunk = chunk

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor,
        prompt_tokens: Tensor,
        prompt_mask: Tensor,
    ) -> Tensor:
        """Return log pi(x | context) = sum_t mask_t log q(x_t | context, x_<t).

        Parameters
        ----------
        tokens, mask
            Shape (n, length): completions as in `lm.policy.samples.Samples`.
        prompt_tokens, prompt_mask
            Shape (n, context length): what each of them follows, padded on the left.

        Returns
        -------
        Tensor
            Shape (n,), nats, at least float32.
        """
        contexts, which = distinct_prompts(Prompts(prompt_tokens, prompt_mask))
        # A sequence that was drawn several times is scored once; indexing adds its gradients up.
        keys = torch.cat([which[:, None], tokens.where(mask, -1)], dim=-1)
        keys, place = torch.unique(keys, dim=0, return_inverse=True)
        which, tokens = keys[:, 0], keys[:, 1:]
        mask, tokens = tokens >= 0, tokens.clamp(min=0)
        scores, orders = [], []
        lengths = mask.sum(-1)
        for rows in self._groups(contexts.lengths[which] + lengths):
            longest = int(lengths[rows].max())
            group_tokens, group_mask = tokens[rows, :longest], mask[rows, :longest]
            prompts = contexts.rows(which[rows]).left_padded()
            log_probs = self._chosen_log_probs(group_tokens, group_mask, prompts)
            scores.append(log_probs.sum(-1))
            orders.append(rows)
        return torch.cat(scores)[torch.argsort(torch.cat(orders))][place]

    def law(self, tokens: Tensor, prompts: Prompts) -> TransformedLogProbs:
        """Return the law of every next token along given sequences, differentiable.

        Parameters
        ----------
        tokens
            Shape (n, length).
        prompts
            n contexts, padded on the left.

        Returns
        -------
        TransformedLogProbs
            Its log-probabilities have shape (n, length, vocabulary).
        """
        length = tokens.shape[1]
        output: Any = self.model(**_inputs(tokens, prompts), logits_to_keep=length)
        return transformed_log_probs(output.logits[:, -length:], self.transform)

    def _chosen_log_probs(self, tokens: Tensor, mask: Tensor, prompts: Prompts) -> Tensor:
        """Return the log-probability of each token, shape (n, length), zero where masked."""
        chunk = self.score_chunk or self._chunk_under_adapter(tokens)
        if chunk is None:
            log_probs = gather_last(self.law(tokens, prompts).log_probs, tokens)
            # A position after the end can hold any token: left out, not multiplied by zero.
            return log_probs.where(mask, 0.0)
        body, head = body_and_head(self.model)
        hidden = body(**_inputs(tokens, prompts)).last_hidden_state[:, -tokens.shape[1] :]
        log_probs = chunked_log_probs(
            hidden[mask], head, tokens[mask], chunk=chunk, transform=self.transform
        )
        return log_probs.new_zeros(mask.shape).masked_scatter(mask, log_probs)

    def _chunk_under_adapter(self, tokens: Tensor) -> int | None:
        """Return a chunk for a large batch that is differentiated through a frozen head."""
        size = self.model.config.get_text_config().vocab_size
        large = tokens.numel() * size > GROUP_LOGITS and torch.is_grad_enabled()
        # Several processes call the model itself, which may be wrapped.
        if not large or self.single_group:
            return None
        if self._plain_head is None:
            self._plain_head = has_plain_head(self.model)
        if not self._plain_head or not is_frozen(body_and_head(self.model)[1]):
            return None
        return max(1, CHUNK_LOGITS // size)

    def _groups(self, lengths: Tensor) -> Iterator[Tensor]:
        """Sort rows by length and cut them into groups."""
        if self.single_group:
            return iter([torch.arange(len(lengths), device=lengths.device)])
        order = torch.argsort(lengths, stable=True)
        chunks = order.split(max(GROUP_ROWS, -(-len(order) // 8)))
        vocabulary_size = self.model.config.get_text_config().vocab_size
        groups = [chunks[0]]
        for rows in chunks[1:]:
            longest, previous = int(lengths[rows[-1]]), groups[-1]
            logits = (len(previous) + len(rows)) * longest * vocabulary_size
            if int(lengths[previous[-1]]) == longest and logits <= GROUP_LOGITS:
                groups[-1] = torch.cat([previous, rows])
            else:
                groups.append(rows)
        return iter(groups)


def _inputs(tokens: Tensor, prompts: Prompts) -> dict[str, Any]:
    """Return the model's inputs: context and all tokens but the last, which is never read."""
    read = tokens[:, :-1]
    mask = torch.cat([prompts.mask, torch.ones_like(read, dtype=torch.bool)], dim=-1)
    return {
        "input_ids": torch.cat([prompts.tokens, read], dim=-1),
        "use_cache": False,
        **place_inputs(mask),
    }
