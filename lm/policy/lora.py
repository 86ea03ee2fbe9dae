"""Low-rank adapters of peft: policy and base are one model, with the adapter and without it.

The two share every weight tensor but the adapter's, so that a LoRA run holds the model once. Each
keeps modules of its own: neither has to be switched, and scoring with one inside the forward or
backward pass of the other cannot go wrong.
"""

from __future__ import annotations

import warnings
from typing import TypeVar, cast

import peft
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lm.config.lora import LoraConfig
from lm.errors import RunError
from lm.models.adapter import has_adapter, sharing_copy, without_adapter
from lm.policy.protocol import Policy

# A policy of any family gets an adapter and stays of its family.
_Policy = TypeVar("_Policy", bound=Policy)


class LoraError(RunError):
    """An adapter that does not fit the model; the message names the layers that could take one."""


def add_lora(policy: _Policy, config: LoraConfig, seed: int) -> _Policy:
    """Return a policy with a new adapter on the same weights; only the adapter takes gradients.

    B starts at zero, so that the new policy is the old one to the last bit: KL(pi‖a) = 0.

    Parameters
    ----------
    policy
        Stays as it is, shares its weights, and is the base of the new one. Weights that take
        gradients are frozen.
    config
        Rank at least 1.
    seed
        Of the adapter's A; the global seed is untouched.

    Returns
    -------
    Policy
        Its model is one of transformers, whose target layers are peft's.

    Raises
    ------
    LoraError
        The targets are not linear layers of the model, or peft knows no default for it.
    """
    if not config.enabled:
        raise LoraError("lora.rank is 0: an adapter needs a rank of at least 1")
    if has_adapter(policy.model):
        raise LoraError("the policy has an adapter already: merge it first")

    # Share the frozen weights.
    model = sharing_copy(policy.model.requires_grad_(False))
    options = peft.LoraConfig(
        r=config.rank,
        # peft annotates a whole number and computes with any.
        lora_alpha=cast(int, config.alpha),
        target_modules=list(config.targets) or _default_targets(model),
        lora_dropout=0.0,
        # GPT-2 stores its weights transposed; peft warns unless it is told.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )

    # Put the adapter in; its random start is the seed's.
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(seed)
            # peft warns of weights that two layers share, which `merged_model` tells apart, and of
            # a model with layers of both orientations, which it gets right by itself.
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings=True")
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
            peft.inject_adapter_in_model(options, model)
    except ValueError as error:
        raise LoraError(
            f"no adapter fits: {error}. Linear layers of this model: {_linear_names(policy.model)}"
        ) from error
    return policy.with_model(model)


def _default_targets(model: PreTrainedModel) -> str | None:
    """Return None where peft has a default for the family, else every linear layer but the head."""
    known = peft.utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    return None if model.config.model_type in known else "all-linear"


def adapter_off(policy: Policy) -> Policy:
    """Return the frozen policy that the adapter was added to, on the same weights.

    Parameters
    ----------
    policy
        With an adapter. Stays as it is.
    """
    return policy.with_model(without_adapter(policy.model))


def _linear_names(model: nn.Module) -> str:
    linear = {
        name.rpartition(".")[2]
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear | Conv1D)
    }
    return ", ".join(sorted(linear))
