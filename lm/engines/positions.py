"""Absolute positions of left-padded prompts, for scorers that pass a mask and no positions."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

# Names of tables of learned positions; models with rotary or relative ones have no such table.
TABLES = ("wpe", "position_embeddings", "position_embedding", "positions_embed", "embed_positions")


def place_by_mask(model: Any) -> bool:
    """Let a model derive its absolute positions from the attention mask where none are passed.

    GPT-2 counts positions from the first column of a batch. A prompt that is padded on the left
    then stands further right than where the sampler had it, and is scored as another text.

    Parameters
    ----------
    model
        Of transformers, or peft's wrapper of one. It gets a hook if it has a table of positions.

    Returns
    -------
    bool
        Whether it has one.
    """
    tables = [
        name
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in TABLES and isinstance(module, nn.Embedding)
    ]
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not tables or "position_ids" not in inspect.signature(inner.forward).parameters:
        return False
    _ = model.register_forward_pre_hook(_place, with_kwargs=True)
    return True


def _place(model: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    mask = kwargs.get("attention_mask")
    if mask is None or mask.ndim != 2 or kwargs.get("position_ids") is not None:
        return args, kwargs
    # Padding gets position 0: it is masked, and the table has no negative ones.
    return args, {**kwargs, "position_ids": (mask.long().cumsum(-1) - 1).clamp(min=0)}
