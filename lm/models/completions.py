"""Completions as rows of tokens: where each ends, and which of its tokens count."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def completion_mask(tokens: Tensor, eos_ids: Sequence[int]) -> Tensor:
    """Return which tokens of completions count: all up to the first end token, and that one.

    The end token counts once, whatever fills the row after it, be it an end token, too.

    Parameters
    ----------
    tokens
        Shape (n, length), int64: without contexts; any filling after the end.
    eos_ids
        The tokens that end a completion.

    Returns
    -------
    Tensor
        Shape (n, length), bool: everywhere true in a row without an end token, which was cut.
    """
    ends = torch.isin(tokens, torch.tensor(eos_ids, device=tokens.device)).long()
    return ends.cumsum(-1) - ends == 0


def rows_of(tokens: Tensor, mask: Tensor) -> list[list[int]]:
    """Return the tokens that count, row by row, wherever the padding stands."""
    flat = tokens[mask].tolist()
    ends = mask.sum(-1).cumsum(0).tolist()
    return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def contexts_of(prompts: tuple[Tensor, Tensor] | None, n: int) -> list[list[int]]:
    """Return the contexts row by row, or n empty ones."""
    return [[] for _ in range(n)] if prompts is None else rows_of(*prompts)


def without_end(row: list[int], eos_ids: Sequence[int]) -> list[int]:
    """Drop the end token of a finished sequence."""
    return row[:-1] if row and row[-1] in eos_ids else row
