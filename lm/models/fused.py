"""Fused kernels in place of Python operations that compute the same function."""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from transformers.activations import GELUTanh, NewGELUActivation

Model = TypeVar("Model", bound=nn.Module)


def fuse_gelu(model: Model) -> Model:
    """Compute GPT-2's tanh gelu in one kernel; in Python operations it costs 7 to 40 % of a step.

    Only the module changes, not the configuration: a saved model names the activation that it came
    with. Source: gelu(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), Hendrycks and Gimpel
    (2016), arXiv 1606.08415, in both forms.

    Parameters
    ----------
    model
        Changed in place; one without such an activation stays as it is.

    Returns
    -------
    Module
        The same model.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, GELUTanh())
    return model
