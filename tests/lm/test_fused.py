"""The fused gelu is GPT-2's own, and a loaded model has it."""

from __future__ import annotations

from pathlib import Path

import torch
from support.lm_tiny import tiny_gpt2
from transformers import GPT2LMHeadModel
from transformers.activations import GELUTanh, NewGELUActivation

from lm.models.folder import load_model
from lm.models.fused import fuse_gelu


def test_both_forms_have_the_same_values_and_slopes() -> None:
    x = torch.linspace(-12.0, 12.0, 4801, dtype=torch.float64, requires_grad=True)
    plain, fused = NewGELUActivation()(x), GELUTanh()(x)
    # Values below 12, float64: a few units in the last place.
    torch.testing.assert_close(fused, plain, rtol=0, atol=1e-14)
    slopes = [torch.autograd.grad(y.sum(), x)[0] for y in (plain, fused)]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=0, atol=1e-13)


def test_a_loaded_gpt2_is_fused_and_keeps_its_configuration(tmp_path: Path) -> None:
    model = tiny_gpt2()
    model.config.activation_function = "gelu_new"
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, dtype=None)
    kinds = {type(module) for module in loaded.modules()}
    assert GELUTanh in kinds
    assert NewGELUActivation not in kinds
    assert loaded.config.activation_function == "gelu_new"
    plain = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert NewGELUActivation in {type(module) for module in plain.modules()}
    tokens = torch.tensor([[0, 3, 2, 1]])
    # float64, two layers of sharpened weights: logits of a few units agree to rounding.
    torch.testing.assert_close(loaded(tokens).logits, plain(tokens).logits, rtol=0, atol=1e-10)


def test_other_models_stay_as_they_are() -> None:
    model = torch.nn.Sequential(torch.nn.GELU(), torch.nn.Linear(2, 2))
    before = list(model)
    assert list(fuse_gelu(model)) == before
