"""Activation checkpointing: less memory for the backward pass, for one more forward pass."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from lm.models.token_ids import ModelFolderError


def enable_activation_checkpointing(model: torch.nn.Module) -> None:
    """Keep one activation a layer for the backward pass and compute the others again there.

    Layers of transformers checkpoint only in training mode, and drop the key-value cache then. So
    the mode follows from what is wanted: training mode where a gradient is recorded without a
    cache, evaluation mode elsewhere. Dropout is off in both, so they are the same function.

    Parameters
    ----------
    model
        A causal model, without a wrapper for several processes; changed in place.

    Raises
    ------
    ModelFolderError
        The architecture does not support it.
    """
    if not isinstance(model, PreTrainedModel):
        raise ModelFolderError(
            f"{type(model).__name__} is no model of transformers: train it without "
            "activation_checkpointing"
        )
    try:
        model.activation_checkpointing_enable()
    except ValueError as error:
        raise ModelFolderError(f"{error} Train it without activation_checkpointing") from error
    # transformers makes the embeddings' output require a gradient, for reentrant checkpoints of
    # adapters; the non-reentrant ones used here need no such thing.
    model.disable_input_require_grads()
    model.base_model.register_forward_pre_hook(_follow_gradient, with_kwargs=True)


def _follow_gradient(module: torch.nn.Module, inputs: Any, options: dict[str, Any]) -> None:
    """Set the mode of a model with activation checkpoints, before each of its forwards."""
    wanted = torch.is_grad_enabled() and options.get("past_key_values") is None
    if module.training != wanted:
        module.train(wanted)
