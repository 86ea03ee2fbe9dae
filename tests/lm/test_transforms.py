"""Sampling transforms against transformers' own warpers."""

from __future__ import annotations

import math

import pytest
import torch
from support.lm_tiny import TRANSFORMS, naive_warpers

from lm.config.sampling import SamplingConfig
from lm.policy.transforms import IDENTITY, kept_tokens, transformed_log_probs, wide_log_softmax

CONFIGS = [
    *TRANSFORMS.values(),
    SamplingConfig(top_k=1),
    SamplingConfig(top_k=500),
    SamplingConfig(top_p=1e-6),
    SamplingConfig(top_p=0.999, min_p=0.01),
    SamplingConfig(min_p=1.0),
    SamplingConfig(temperature=0.05, top_k=7, top_p=0.5),
    SamplingConfig(temperature=30.0, top_k=20, top_p=0.97, min_p=0.9),
]


def _logits(dtype: torch.dtype, vocabulary: int = 50) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (4.0 * torch.randn(200, vocabulary, generator=generator)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_law_is_that_of_transformers_warpers(config, dtype):
    logits = _logits(dtype)
    expected = naive_warpers(config)(torch.zeros(200, 1), logits)
    law = transformed_log_probs(logits, config)
    assert law.log_probs.dtype == dtype
    assert torch.equal(law.log_probs.isneginf(), expected.isneginf())
    # Equal to the last bit: the same operations in the same order.
    assert torch.equal(law.log_probs, torch.log_softmax(expected, -1))
    whole = torch.log_softmax(logits / config.temperature, -1)
    mass = whole.exp().where(~expected.isneginf(), 0.0).sum(-1).log()
    # 2e-6 in float32: a sum of fifty terms and its logarithm.
    tolerance = 2e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(law.log_kept_mass, mass.clamp(max=0), rtol=0, atol=tolerance)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_ties_are_cut_as_transformers_cuts_them(config):
    # Few different values: every edge of a kept set falls among equal logits.
    generator = torch.Generator().manual_seed(1)
    logits = torch.randint(0, 4, (300, 12), generator=generator).double()
    expected = naive_warpers(config)(torch.zeros(300, 1), logits)
    law = transformed_log_probs(logits, config).log_probs
    # transformers sorts unstably: *which* of several equal tokens top-p drops is open there, and
    # how many of each value are kept is not.
    kept, theirs = ~law.isneginf(), ~expected.isneginf()
    for value in range(4):
        mine = (kept & (logits == value)).sum(-1)
        assert torch.equal(mine, (theirs & (logits == value)).sum(-1)), value


def test_ties_at_the_edge_of_top_p_are_cut_by_their_id_in_every_batch():
    # 300 equal logits: an unstable sort orders them by the shape of the batch.
    config, logits = SamplingConfig(top_p=0.5), torch.zeros(7, 300)
    kept = kept_tokens(logits, config)
    assert torch.equal(kept, (torch.arange(300) >= 150).expand(7, 300))
    assert torch.equal(kept_tokens(logits[0], config), kept[0])


def test_half_precision_is_widened_before_the_transform():
    logits = _logits(torch.bfloat16)
    for config in CONFIGS:
        law = transformed_log_probs(logits, config)
        reference = transformed_log_probs(logits.float(), config)
        assert law.log_probs.dtype == law.log_kept_mass.dtype == torch.float32
        assert torch.equal(law.log_probs, reference.log_probs)


def test_the_identity_is_a_plain_log_softmax():
    logits = _logits(torch.float32)
    law = transformed_log_probs(logits, IDENTITY)
    assert torch.equal(law.log_probs, wide_log_softmax(logits))
    assert torch.equal(law.log_kept_mass, torch.zeros(200))
    assert IDENTITY.is_identity
    assert not IDENTITY.truncates
    assert not SamplingConfig(temperature=2.0).truncates
    assert SamplingConfig(top_k=3).truncates


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_gradient_is_finite_and_right(config):
    logits = _logits(torch.float64)[:5].requires_grad_()
    law = transformed_log_probs(logits, config)
    chosen = law.log_probs.detach().argmax(-1)
    picked = law.log_probs.gather(-1, chosen[:, None]).sum() + 0.5 * law.log_kept_mass.sum()
    (gradient,) = torch.autograd.grad(picked, logits)
    # d log q(v) / d l = (1[v] - q) / tau; d log kept mass / d l = (q - pi) / tau.
    q = law.log_probs.exp()
    pi = torch.softmax(logits / config.temperature, -1)
    one_hot = torch.nn.functional.one_hot(chosen, 50)
    kept_mass = 0.5 * (q - pi) if config.truncates else 0.0
    expected = (one_hot - q + kept_mass) / config.temperature
    # 1e-12: sums of fifty float64 terms; 1/tau is up to twenty.
    torch.testing.assert_close(gradient, expected.detach(), rtol=0, atol=1e-12)


def test_the_most_probable_token_is_always_kept():
    logits = torch.tensor([[-1e30, 0.0, -math.inf], [5.0, 5.0, 5.0]])
    for config in CONFIGS:
        kept = kept_tokens(logits, config)
        assert bool(kept[0, 1])
        assert bool(kept[1].any())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"min_p": -0.1}, "min_p is -0.1"),
        ({"min_p": math.nan}, "min_p is nan"),
    ],
)
def test_meaningless_transforms_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        _ = SamplingConfig(**options)
