"""Micro-batches, order and padding of a batch do not change its gradient."""

from __future__ import annotations

import pytest
import torch
from support.lm_tiny import CONTEXTS, padded_prompts, tiny_gpt2, tiny_llama, tiny_policy
from torch import Tensor

from fdpg_ref import DIVERGENCES, leave_one_out, score_coefficients, score_signal
from lm.device.amp import Amp
from lm.device.processes import build_accelerator
from lm.policy.causal import CausalPolicy
from lm.policy.prompts import Prompts
from lm.policy.samples import Samples
from lm.surrogate import surrogate_loss
from lm.training.accumulate import MicroBatches

N = 64
# Of the gradient's norm. float64: thousands of roundings of 1e-16 each. float32: of 6e-8 each, and
# the log-probabilities in the coefficients carry such an error as well.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
PRECISION = {torch.float64: "float64", torch.float32: "float32"}
MODELS = {"gpt2": tiny_gpt2, "llama": tiny_llama}


def _policy(model: str = "gpt2", dtype: torch.dtype = torch.float64) -> CausalPolicy:
    # Mild weights: at the default sharpness most of these samples would be one and the same.
    policy = tiny_policy(MODELS[model](scale=4.0, positions=8)).trainable_copy()
    _ = policy.scorer.to(dtype)
    return policy


def _samples(policy: CausalPolicy, prompts: Prompts | None) -> Samples:
    contexts = 1 if prompts is None else len(prompts.tokens)
    generator = torch.Generator().manual_seed(1)
    return policy.sample(N // contexts, generator=generator, prompts=prompts)


def _gradient(
    policy: CausalPolicy, samples: Samples, *, divergence: str, size: int | None, contexts: int = 1
) -> Tensor:
    """Return the gradient by the loop's own pieces; the target is a fixed function of the text."""
    policy.model.zero_grad()
    batches = MicroBatches(
        policy, build_accelerator("cpu"), Amp(PRECISION[_dtype(policy)], "cpu"), size=size
    )
    log_policy = batches.score(samples)
    places = torch.arange(4, 0, -1).to(log_policy) / 3
    codes = (samples.tokens * samples.mask).to(log_policy) @ places
    log_target = codes.sin() - samples.mask.sum(-1)
    grouped = (contexts, -1)
    signal = score_signal(
        log_policy.view(grouped), log_target.view(grouped), divergence=DIVERGENCES[divergence]
    )
    coefficients = score_coefficients(signal, baseline=leave_one_out(signal)).flatten()
    for part in batches.parts():
        loss = surrogate_loss(part.log_policy, coefficients[part.rows]) * part.share
        _ = loss.backward()
    return torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])


def _dtype(policy: CausalPolicy) -> torch.dtype:
    return next(policy.model.parameters()).dtype


def _difference(one: Tensor, other: Tensor) -> float:
    assert float(one.norm()) > 1e-3  # a gradient of nothing agrees with anything
    return float((one - other).norm() / one.norm())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
@pytest.mark.parametrize("conditional", [False, True], ids=["free", "prompts"])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon", "le_cam"])
def test_the_size_of_micro_batches_does_not_change_the_gradient(divergence, conditional, dtype):
    policy = _policy(dtype=dtype)
    prompts = padded_prompts("left").rows(torch.tensor([1, 2])) if conditional else None
    samples, contexts = _samples(policy, prompts), 2 if conditional else 1
    whole, *others = (
        _gradient(policy, samples, divergence=divergence, size=size, contexts=contexts)
        for size in (None, 64, 8, 1, 7)
    )
    for other in others:
        assert _difference(whole, other) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
def test_the_order_of_samples_does_not_change_the_gradient(dtype):
    policy = _policy(dtype=dtype)
    samples = _samples(policy, None)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    one = _gradient(policy, samples, divergence="jensen_shannon", size=8)
    other = _gradient(policy, samples.rows(order), divergence="jensen_shannon", size=8)
    assert _difference(one, other) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
@pytest.mark.parametrize("model", MODELS)
def test_what_stands_after_the_end_and_around_a_prompt_does_not_change_the_gradient(model, dtype):
    policy = _policy(model, dtype)
    left, right = padded_prompts("left"), padded_prompts("right", filler=3)
    samples = policy.sample(20, generator=torch.Generator().manual_seed(1), prompts=left)
    filled = samples._replace(
        tokens=samples.tokens.where(samples.mask, 2), prompts=right.repeat(20)
    )
    # Six rows together need padding; a row alone needs none.
    one, *others = (
        _gradient(policy, each, divergence="forward_kl", size=size, contexts=len(CONTEXTS))
        for each, size in ((samples, 6), (filled, 6), (samples, 1))
    )
    # Llama's norms and rotations are float32 inside, whatever the dtype.
    tolerance = TOLERANCE[dtype if model == "gpt2" else torch.float32]
    for other in others:
        assert _difference(one, other) <= tolerance


def test_a_single_micro_batch_is_scored_once_and_several_twice(monkeypatch):
    policy = _policy()
    samples = _samples(policy, None)
    scored = []
    original = CausalPolicy.score

    def spied(self, samples, **options):
        scored.append((len(samples.tokens), torch.is_grad_enabled()))
        return original(self, samples, **options)

    monkeypatch.setattr(CausalPolicy, "score", spied)
    _ = _gradient(policy, samples, divergence="forward_kl", size=None)
    assert scored == [(64, True)]
    scored.clear()
    _ = _gradient(policy, samples, divergence="forward_kl", size=40)
    assert scored == [(40, False), (24, False), (40, True), (24, True)]


def test_a_graph_is_handed_out_once():
    policy = _policy()
    batches = MicroBatches(policy, build_accelerator("cpu"), Amp("float64", "cpu"))
    _ = batches.score(_samples(policy, None))
    assert [part.share for part in batches.parts()] == [1.0]
    with pytest.raises(RuntimeError, match="score the samples before"):
        _ = next(batches.parts())
