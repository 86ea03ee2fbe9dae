"""Trajectory balance and VarGrad (F14)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import support.toy_slow as slow
import torch
from support.toy_cases import FIXED

from fdpg_ref import DIVERGENCES
from fdpg_ref.related import log_ratio_penalty, vargrad_loss
from toy.verify.cases import cases
from toy.verify.claims import balance
from toy.verify.records import BIASED, judge

WORLD = slow.world_of(FIXED)


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_trajectory_balance(name: str):
    """Autograd through the core's penalty at fixed samples, on- and off-policy."""
    divergence = DIVERGENCES[name]
    logits = torch.tensor(np.log(WORLD.policy), requires_grad=True)
    log_target = torch.tensor(np.log(WORLD.target))
    gradients = []
    for law in (WORLD.policy, WORLD.base):
        u = torch.log_softmax(logits, -1) - log_target
        loss = (
            torch.tensor(law, dtype=torch.float64) * log_ratio_penalty(u, divergence=divergence)
        ).sum()
        gradients.append(torch.autograd.grad(loss, logits)[0].numpy())
    truth = slow.gradient(WORLD, name)
    np.testing.assert_allclose(gradients[0], truth, rtol=1e-10, atol=1e-13)
    assert np.linalg.norm(gradients[1] - truth) > 1e-3 * np.linalg.norm(truth)
    for claim, law_gradient in (("_on_policy", gradients[0]), ("_off_policy", gradients[1])):
        value = getattr(balance, claim)(FIXED, divergence).value
        np.testing.assert_allclose(value, law_gradient, rtol=1e-10, atol=1e-13)
    for claim in balance.CLAIMS.listed:
        if claim.test_id.endswith("test_trajectory_balance"):
            found = judge([claim.compare(FIXED, divergence)]).verdict
            assert (found == BIASED) is (claim.predicted(name) == BIASED), claim


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_the_target_minimises_the_balance_loss_off_policy(name: str):
    divergence = DIVERGENCES[name]
    rng = np.random.default_rng(4)
    for _ in range(20):
        moved = np.log(WORLD.target) + rng.normal(size=4)
        u = moved - np.log(np.sum(np.exp(moved))) - np.log(WORLD.target)
        assert np.array(WORLD.base) @ log_ratio_penalty(u, divergence=divergence) > 0


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_translation_invariance(name: str):
    """The loss with its best shift, on a grid of shifts, and its on-policy gradient by loops."""
    divergence = DIVERGENCES[name]
    u = np.log(WORLD.policy) - np.log(WORLD.target)
    law = np.array(WORLD.base)
    shifts = np.linspace(-2.5, 2.5, 20_001)
    losses = log_ratio_penalty(u - shifts[:, None], divergence=divergence) @ law
    found = balance._invariant(FIXED, divergence)
    # The grid's step is 2.5e-4, the loss at most linear there (total variation) or quadratic.
    assert float(found.truth) <= losses.min() * (1 + 1e-12)
    assert losses.min() - float(found.truth) < 3e-4
    assert judge([found]).verdict == "exact"
    # Fitted at samples of pi: Z off by e^shift.
    shift = balance._fitted_shift(u, FIXED.log_policy, divergence)
    signal = slow.SIGNALS[name]
    expected = np.zeros(4)
    for pi, p, score in zip(WORLD.policy, WORLD.target, WORLD.scores, strict=True):
        expected += pi * signal(pi / p * math.exp(-shift)) * np.array(score)
    comparison = balance._fitted_on_policy(FIXED, divergence)
    np.testing.assert_allclose(comparison.value, expected, rtol=1e-9, atol=1e-12)
    # The median of u, which total variation fits, keeps all signs of this one case.
    verdict = "exact" if name == "total_variation" else balance._fitted_verdict(name)
    assert judge([comparison]).verdict == verdict
    if name == "forward_kl":
        assert shift == pytest.approx(0, abs=1e-13)


def test_vargrad():
    """Over all batches of three its gradient has mean grad KL; batch by batch it is LOO."""
    mean, n = np.zeros(4), 3
    for batch in itertools.product(range(4), repeat=n):
        mass = math.prod(WORLD.policy[x] for x in batch)
        log_policy = torch.tensor(np.log(WORLD.policy)[list(batch)], requires_grad=True)
        log_score = torch.tensor(np.log(WORLD.unnormalised)[list(batch)])
        (slopes,) = torch.autograd.grad(vargrad_loss(log_policy - log_score), log_policy)
        own = slow.leave_one_out(WORLD, slow.SIGNALS["reverse_kl"], WORLD.policy, batch, ())
        np.testing.assert_allclose(slopes.numpy(), np.array(own) / n, rtol=1e-11, atol=1e-14)
        mean += mass * (slopes.numpy() @ np.array(WORLD.scores)[list(batch)])
    np.testing.assert_allclose(mean, slow.gradient(WORLD, "reverse_kl"), rtol=1e-11, atol=1e-13)
    for compare in (balance._half, balance._sample_by_sample):
        assert judge([compare(case) for case in (FIXED, *cases()[:2])]).verdict == "exact"
