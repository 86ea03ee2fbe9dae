"""Prompts: the contexts that completions continue, padded to one length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from lm.models.positions import Positions


class PromptError(ValueError):
    """Prompts that cannot be used; the message names the first one and what to do."""


class Prompts(NamedTuple):
    """Whole contexts, the start token included where the model uses one.

    Attributes
    ----------
    tokens
        Shape (contexts, length), int64; any filling where the mask is false.
    mask
        Shape (contexts, length), bool: true on each prompt's tokens, which stand together; the
        padding may be on the left or on the right.
    """

    tokens: Tensor
    mask: Tensor

    @classmethod
    def from_ids(cls, rows: Sequence[Sequence[int]], *, pad_id: int = 0) -> Self:
        """Pad token ids of unequal lengths on the left.

        Parameters
        ----------
        rows
            At least one prompt of at least one token each.
        pad_id
            What fills the rest; the mask hides it.

        Raises
        ------
        PromptError
            There is no prompt, or one is empty.
        """
        if not rows:
            raise PromptError("there is no prompt: give at least one")
        longest = max(map(len, rows))
        tokens = torch.full((len(rows), longest), pad_id)
        mask = torch.zeros((len(rows), longest), dtype=torch.bool)
        for index, row in enumerate(rows):
            if len(row) == 0:
                raise PromptError(
                    f"prompt {index} has no token: give it one, for instance the start token"
                )
            tokens[index, longest - len(row) :] = torch.tensor(list(row))
            mask[index, longest - len(row) :] = True
        return cls(tokens, mask)

    @property
    def lengths(self) -> Tensor:
        """Number of tokens of each context, shape (contexts,)."""
        return self.mask.sum(-1)

    def repeat(self, n: int) -> Prompts:
        """Repeat each context n times in place: row i belongs to context i // n."""
        return Prompts(self.tokens.repeat_interleave(n, 0), self.mask.repeat_interleave(n, 0))

    def rows(self, index: Tensor | slice) -> Prompts:
        """Return some of the contexts."""
        return Prompts(self.tokens[index], self.mask[index])

    def to(self, device: torch.device) -> Prompts:
        """Return the same contexts on a device."""
        return Prompts(self.tokens.to(device), self.mask.to(device))

    def left_padded(self) -> Prompts:
        """Move each context to the right end and drop columns that none of them fills."""
        longest = int(self.lengths.max())
        # A stable sort of booleans puts the padding first and keeps the order of the tokens.
        order = torch.argsort(self.mask.byte(), dim=-1, stable=True)[:, -longest:]
        return Prompts(self.tokens.gather(-1, order), self.mask.gather(-1, order))

    def checked(self, vocabulary_size: int) -> Prompts:
        """Return the contexts padded on the left, once they are known to make sense.

        Raises
        ------
        PromptError
            Shapes or dtypes do not fit, a context is empty or has a hole, or a token is none of the
            model's.
        """
        tokens, mask = self
        if tokens.shape != mask.shape or tokens.ndim != 2 or mask.dtype != torch.bool:
            raise PromptError(
                "prompts are tokens (contexts, length) and a bool mask of the same shape, got "
                f"{tuple(tokens.shape)} and {tuple(mask.shape)} of {mask.dtype}"
            )
        if len(tokens) == 0:
            raise PromptError("there is no prompt: give at least one")
        _refuse(~mask.any(-1), "has no token: give it one, for instance the start token")
        starts = mask & ~torch.nn.functional.pad(mask[:, :-1], (1, 0))
        _refuse(starts.sum(-1) > 1, "has padding between its tokens: pad on the left or the right")
        foreign = mask & ((tokens < 0) | (tokens >= vocabulary_size))
        _refuse(foreign.any(-1), f"has a token outside the model's {vocabulary_size} tokens")
        return self.left_padded()

    def check_room(self, new_tokens: int, positions: Positions) -> None:
        """Raise a PromptError if a context and its completion need more positions than there are.

        Parameters
        ----------
        new_tokens
            Length limit of a completion. Its last token is never an input.
        positions
            The model's.
        """
        longest = int(self.lengths.max())
        needed = longest + new_tokens - 1
        if positions.number is not None and needed > positions.number:
            left = positions.number - longest + 1
            shorter = "shorten the prompt"
            advice = f"{shorter}, or set max_new_tokens to {left} or less" if left > 0 else shorter
            raise PromptError(
                f"prompt {int(self.lengths.argmax())} has {longest} tokens, and with {new_tokens} "
                f"new ones it needs {needed} positions; the model has {positions.number}"
                f"{positions.why}: {advice}"
            )


def _refuse(wrong: Tensor, reason: str) -> None:
    if bool(wrong.any()):
        raise PromptError(f"prompt {int(wrong.nonzero()[0])} {reason}")
