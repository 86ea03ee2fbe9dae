"""Models whose layers have low-rank adapters: tell them apart, merge the adapters, drop them."""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

# peft's name for the two matrices of an adapter, A and B.
ADAPTER_MARK = "lora_"


def has_adapter(model: nn.Module) -> bool:
    """Return whether some layer of a model has a low-rank adapter; imports no peft to find out."""
    return any(ADAPTER_MARK in name for name, _ in model.named_parameters())


def plain_model(model: Any) -> PreTrainedModel:
    """Return the model of transformers, without the wrapper that peft puts around it.

    Raises
    ------
    TypeError
        There is none inside, or it keeps no key-value cache.
    """
    # By the name of peft's method: importing peft costs a second. The adapters stay, in the layers.
    unwrap: Any = (
        None if isinstance(model, PreTrainedModel) else getattr(model, "get_base_model", None)
    )
    inner: Any = model if unwrap is None else unwrap()
    if not isinstance(inner, PreTrainedModel):
        raise TypeError(f"a policy needs a model of transformers, got {type(inner).__name__}")

    # What peft puts beside the layers would be left out.
    adapter: Any = None if unwrap is None else getattr(model, "active_peft_config", None)
    if adapter is not None and adapter.is_prompt_learning:
        raise TypeError(
            f"{adapter.peft_type} puts virtual tokens before the prompt instead of adapters into "
            "the model, which a policy would leave out: use LoRA"
        )

    if "past_key_values" not in inspect.signature(inner.forward).parameters:
        # It would be ignored, and every token sampled as if it were the first one.
        raise TypeError(
            f"{type(inner).__name__} takes no past_key_values, which sampling token by token rests "
            "on: use an architecture with attention"
        )
    return inner


def mark_trainable(model: nn.Module) -> None:
    """Let the adapter take gradients and nothing else; without an adapter, let all weights."""
    adapted = has_adapter(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not adapted or ADAPTER_MARK in name)


def merged_model(model: PreTrainedModel) -> PreTrainedModel:
    """Return a plain model on the CPU whose weights include the adapter: W + (alpha / r) B A.

    Weights without an adapter are shared where they are on the CPU already, and a GPU holds nothing
    twice. A weight that another layer shares, as a head often shares the embeddings', becomes two:
    the adapter belongs to one of them.

    Parameters
    ----------
    model
        With an adapter or without one; stays as it is.
    """
    held = {id(buffer): buffer.cpu() for buffer in model.buffers()}
    for weight in model.parameters():
        # A parameter of its own: merging puts other numbers into it.
        held[id(weight)] = nn.Parameter(weight.detach().cpu(), requires_grad=False)
    plain = copy.deepcopy(model, memo=held)
    for name, layer in adapted_layers(plain).items():
        _untie(plain, layer.get_base_layer())
        layer.merge(safe_merge=True)
        plain.set_submodule(name, layer.get_base_layer())
    return plain


def _untie(model: PreTrainedModel, layer: nn.Module) -> None:
    """Give a layer a weight of its own if another one uses the same."""
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    # Of the layers themselves: an adapted one shows the weight under it as its own.
    owned = (p for part in model.modules() for p in part.parameters(recurse=False))
    if sum(p is weight for p in owned) > 1:
        layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False


def without_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """Return a plain model that shares the weights under the adapter."""
    plain = sharing_copy(model)
    for name, layer in adapted_layers(plain).items():
        plain.set_submodule(name, layer.get_base_layer())
    return plain


def sharing_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Copy the modules of a model and share the tensors in them."""
    shared = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, memo={id(tensor): tensor for tensor in shared})


def adapted_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """Return the layers that have an adapter, by their names in the model."""
    if not has_adapter(model):
        return {}
    from peft.tuners.lora import LoraLayer  # noqa: PLC0415 - importing peft costs a second

    return {name: part for name, part in model.named_modules() if isinstance(part, LoraLayer)}
