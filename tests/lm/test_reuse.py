"""Reuse of the sampling forward: the gradient is the usual one, and what cannot hold is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.lm_tiny import padded_prompts, tiny_gpt2, tiny_llama, tiny_policy
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lm.policy.causal import CausalPolicy
from lm.policy.prompts import Prompts
from lm.policy.sampling import Samples
from lm.reuse import ReuseError, SamplingRecord

POSITIONS = 12
MODELS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: tiny_gpt2(positions=POSITIONS),
    "llama": lambda: tiny_llama(positions=POSITIONS),
}


def make_policy(kind: str, dtype: torch.dtype) -> CausalPolicy:
    # One sequence in four ends at each position, so that rows leave the batch and prefixes differ.
    return tiny_policy(MODELS[kind]().to(dtype), eos_ids=(1,), limit=6).trainable_copy()


def draw(
    policy: CausalPolicy,
    prompts: Prompts | None,
    *,
    record: SamplingRecord | None = None,
    seed: int = 0,
) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    return policy.sample(40, generator=generator, prompts=prompts, record=record)


def gradient(policy: CausalPolicy, log_prob: Tensor) -> Tensor:
    """Return the flat gradient of a sum with unequal coefficients, as training has."""
    coefficients = torch.linspace(-1.0, 2.0, len(log_prob), dtype=log_prob.dtype)
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    parts = torch.autograd.grad((coefficients * log_prob).sum(), parameters)
    return torch.cat([part.flatten() for part in parts])


def relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("context", ["start", "left", "right"])
@pytest.mark.parametrize(
    ("kind", "dtype", "tolerance"),
    [
        # The bounds that were promised; rounding itself is 1e-7 and 1e-15 times a few layers.
        ("gpt2", torch.float64, 1e-12),
        ("gpt2", torch.float32, 1e-5),
        ("llama", torch.float32, 1e-5),
    ],
)
def test_the_gradient_is_the_one_without_reuse(
    kind: str, dtype: torch.dtype, tolerance: float, context: str
) -> None:
    policy = make_policy(kind, dtype)
    prompts = None if context == "start" else padded_prompts(context)
    record = SamplingRecord(policy.model)
    # The second batch, after one of another shape: nothing of the first may be left.
    _ = policy.score(draw(policy, None, record=record, seed=1), record=record)
    samples = draw(policy, prompts, record=record)
    lengths = samples.mask.sum(-1)
    assert int(lengths.min()) < 3 <= int(lengths.max()), "rows must leave the batch at some point"
    plain = policy.score(samples)
    reused = policy.score(samples, record=record)
    assert relative(reused.detach(), plain.detach()) < tolerance
    assert relative(gradient(policy, reused), gradient(policy, plain)) < tolerance


def test_the_products_are_skipped_and_their_kept_values_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = make_policy("gpt2", torch.float64)
    record = SamplingRecord(policy.model)
    samples = draw(policy, None, record=record)
    expected = policy.score(samples)

    def refuse(*_: Any) -> Tensor:
        raise AssertionError("a product was computed again")

    monkeypatch.setattr(Conv1D, "forward", refuse)
    monkeypatch.setattr(nn.Linear, "forward", refuse)
    torch.testing.assert_close(policy.score(samples, record=record), expected)


def test_an_adapter_is_trained_through_what_was_kept() -> None:
    from lm.config.lora import LoraConfig
    from lm.policy.lora import add_lora

    base = tiny_policy(tiny_gpt2(positions=POSITIONS).requires_grad_(False), limit=6)
    policy = add_lora(base, LoraConfig(rank=2), seed=0)
    # An adapter starts at zero, with a gradient of zero in half of its matrices.
    for weights in policy.model.parameters():
        if weights.requires_grad:
            _ = nn.init.normal_(weights, std=0.1)
    record = SamplingRecord(policy.model)
    samples = draw(policy, None, record=record)
    plain = gradient(policy, policy.score(samples))
    reused = gradient(policy, policy.score(samples, record=record))
    assert relative(reused, plain) < 1e-12  # float64


def test_layers_are_left_as_they_were_found() -> None:
    policy = make_policy("gpt2", torch.float64)
    record = SamplingRecord(policy.model)
    samples = draw(policy, None, record=record)
    _ = policy.score(samples, record=record)
    assert not any("forward" in vars(module) for module in policy.model.modules())
    before = policy.score(samples).detach()
    with torch.no_grad():
        for weights in policy.model.parameters():
            _ = weights.mul_(0.5)
    assert not torch.equal(policy.score(samples).detach(), before), "old outputs are returned"


def test_changed_weights_are_refused() -> None:
    policy = make_policy("gpt2", torch.float32)
    record = SamplingRecord(policy.model)
    samples = draw(policy, None, record=record)
    optimizer = torch.optim.Adam(policy.model.parameters(), lr=1e-3, fused=True)
    _ = policy.score(samples).sum().backward()
    _ = optimizer.step()
    with pytest.raises(ReuseError, match="have changed since the samples were drawn"):
        _ = policy.score(samples, record=record)
    # New samples of the new weights are fine.
    samples = draw(policy, None, record=record)
    plain = policy.score(samples).detach()
    assert relative(policy.score(samples, record=record).detach(), plain) < 1e-5


@pytest.mark.parametrize("change", ["part", "order", "foreign", "more"])
def test_other_samples_are_refused(change: str) -> None:
    policy = make_policy("gpt2", torch.float64)
    record = SamplingRecord(policy.model)
    samples = draw(policy, None, record=record)
    other = {
        "part": samples.rows(slice(5, 20)),
        "order": samples.rows(torch.arange(39, -1, -1)),
        "foreign": draw(policy, None, seed=1),
        "more": samples.rows(torch.arange(80) % 40),
    }[change]
    if change == "more":
        # Row 40 repeats row 0, whose line it shares: nothing is wrong with that.
        reused = policy.score(other, record=record).detach()
        assert relative(reused, policy.score(other).detach()) < 1e-12
    else:
        with pytest.raises(ReuseError, match="not the samples that were recorded"):
            _ = policy.score(other, record=record)


def test_dropout_and_autocast_are_refused() -> None:
    policy = make_policy("gpt2", torch.float32)
    record = SamplingRecord(policy.model)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ReuseError, match="autocast"):
        _ = draw(policy, None, record=record)
    policy.model.transformer.drop.p = 0.1
    with pytest.raises(ReuseError, match=r"transformer\.drop drops out a share of 0\.1"):
        _ = SamplingRecord(policy.model)


def test_a_layer_that_is_called_twice_is_refused() -> None:
    policy = make_policy("gpt2", torch.float64)
    first, second = policy.model.transformer.h
    second.mlp = first.mlp
    record = SamplingRecord(policy.model)
    with pytest.raises(ReuseError, match="called more than once"):
        _ = draw(policy, None, record=record)
