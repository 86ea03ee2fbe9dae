"""Exact moments over all batches, and the compositions that are swept with them."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
import support.toy_slow as slow
from support.toy_cases import FIXED

from fdpg_ref import DIVERGENCES, NEYMAN_CHI2, exact_divergence
from toy.estimators.composition import Composition, world_of
from toy.estimators.estimates import (
    BASELINES,
    CEILING,
    PARTITIONS,
    WEIGHTS,
    batch_of,
    gradient_estimates,
)
from toy.exact import Moments, batch_expectation, batch_moments, estimator_moments, signal_to_noise
from toy.verify.claims import compositions
from toy.verify.records import judge
from toy.verify.token_claims import tokens
from toy.verify.token_claims.sequences import pairs

NAMES = sorted(DIVERGENCES)
WORLD = FIXED.world()


def loop(estimate, rows: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance over all batches, one batch at a time."""
    mean, second = 0.0, 0.0
    for batch in itertools.product(*(range(len(row)) for row in rows)):
        mass = math.prod(row[x] for row, x in zip(rows, batch, strict=True))
        value = estimate(batch)
        mean = mean + mass * value
        second = second + mass * np.outer(value, value)
    return np.asarray(mean), np.asarray(second - np.outer(mean, mean))


def slow_estimate(coefficients, name: str, batch, past=(), *, off_policy=False) -> np.ndarray:
    """Return (1/n) sum w c s of one batch, by the loops of toy_slow."""
    world = slow.world_of(FIXED)
    proposal = world.base if off_policy else world.policy
    own = coefficients(world, slow.SIGNALS[name], proposal, batch, past)
    terms = [
        world.policy[x] / proposal[x] * c * np.array(world.scores[x])
        for x, c in zip(batch, own, strict=True)
    ]
    return np.sum(terms, axis=0) / len(batch)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("choices", "coefficients"),
    [
        ({}, slow.plain),
        ({"baseline": "constant"}, slow.constant_baseline),
        ({"baseline": "leave_one_out"}, slow.leave_one_out),
        ({"baseline": "batch_mean"}, slow.batch_mean),
        ({"baseline": "weighted_leave_one_out", "proposal": "base"}, slow.weighted_leave_one_out),
        ({"baseline": "weighted_batch_mean", "proposal": "base"}, slow.weighted_batch_mean),
        ({"weights": "self_normalised", "proposal": "base"}, slow.self_normalised),
        ({"partition": "same_batch", "proposal": "base"}, slow.same_batch_z),
        ({"partition": "leave_one_out", "proposal": "base"}, slow.leave_one_out_z),
        ({"partition": "off_by_a_constant"}, slow.wrong_z),
    ],
    ids=lambda value: "-".join(value.values()) or "plain" if isinstance(value, dict) else "",
)
def test_moments_by_a_loop(name: str, choices: dict, coefficients):
    composition = Composition(name, n=3, **choices)
    off_policy = composition.proposal == "base"
    world = slow.world_of(FIXED)
    rows = [world.base if off_policy else world.policy] * 3
    mean, covariance = loop(
        lambda batch: slow_estimate(coefficients, name, batch, off_policy=off_policy), rows
    )
    found = composition.moments(WORLD)
    # The loop subtracts squares of the terms, which weigh up to 1e3 here.
    atol = 1e-11 + 1e-12 * np.max(np.abs(covariance))
    if name == "total_variation" and "partition" in choices and composition.partition != "exact":
        # A batch of one outcome sits on the kink, where rounding picks the side.
        atol += 3 * float(np.sum(np.exp(3 * np.log(rows[0]))))
    np.testing.assert_allclose(found.mean, mean, rtol=1e-11, atol=atol)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-10, atol=atol)


@pytest.mark.parametrize("partition", ["frozen", "past_only", "past_and_current"])
def test_moments_with_a_past_by_a_loop(partition: str):
    world, name = slow.world_of(FIXED), "jensen_shannon"
    before = world.base if partition == "frozen" else world.policy

    def estimate(drawn) -> np.ndarray:
        ratios = [world.unnormalised[x] / before[x] for x in drawn[:2]]
        if partition == "past_and_current":
            ratios += [world.unnormalised[x] / world.policy[x] for x in drawn[2:]]
        z = math.fsum(ratios) / len(ratios)
        signals = [slow.SIGNALS[name](world.policy[x] * z / world.unnormalised[x]) for x in drawn]
        return np.mean(
            [c * np.array(world.scores[x]) for c, x in zip(signals, drawn, strict=True)][2:], axis=0
        )

    mean, covariance = loop(estimate, [before] * 2 + [world.policy] * 2)
    found = Composition(name, partition=partition, n=2, past=2).moments(WORLD)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_closed_forms(name: str):
    """F4 and F5 on the fixed case: formulas against batches, and claims against both."""
    world = slow.world_of(FIXED)
    probs, scores = np.array(world.policy), np.array(world.scores)
    signal = np.array(slow.plain(world, slow.SIGNALS[name], world.policy, range(4), ()))
    gradient = slow.gradient(world, name)
    single = np.einsum("x,x,xi,xj->ij", probs, signal**2, scores, scores)
    found = Composition(name, n=5).moments(WORLD)
    np.testing.assert_allclose(found.mean, gradient, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(
        found.covariance, (single - np.outer(gradient, gradient)) / 5, rtol=1e-10, atol=1e-12
    )
    lengths = np.sum(scores**2, axis=1)
    best = np.sum(probs * signal * lengths) / np.sum(probs * lengths)
    optimal = Composition(name, n=5, baseline="optimal").moments(WORLD)
    trace = (np.sum(probs * (signal - best) ** 2 * lengths) - gradient @ gradient) / 5
    assert np.trace(optimal.covariance) == pytest.approx(trace, rel=1e-10)
    running = Composition(name, n=2, baseline="running").moments(WORLD)
    np.testing.assert_allclose(running.mean, gradient, rtol=1e-11, atol=1e-13)
    for claim in compositions.CLAIMS.listed:
        if claim.where is not None:
            found = judge([claim.compare(FIXED, DIVERGENCES[name])])
            assert found.verdict == claim.predicted(name), claim
    if name == "pearson_chi2":
        mean = Composition(name, partition="same_batch", n=16).moments(WORLD).mean
        np.testing.assert_allclose(mean, 15 / 16 * gradient, rtol=1e-11)
    if name == "forward_kl":
        value = exact_divergence(FIXED.log_policy, FIXED.log_target, divergence=NEYMAN_CHI2)
        assert probs @ signal**2 == pytest.approx(float(value), rel=1e-12)


def test_optimal_baseline_off_policy_is_a_minimum():
    def trace(constant: float) -> float:
        weights = np.exp(FIXED.log_policy - FIXED.log_base)
        signal = FIXED.log_policy - FIXED.log_target - constant
        moments = estimator_moments(FIXED.log_base, weights * signal, FIXED.scores, n=2)
        return float(np.trace(moments.covariance))

    choices = Composition("reverse_kl", baseline="optimal", proposal="base", n=2)
    least = float(np.trace(choices.moments(WORLD).covariance))
    assert least == pytest.approx(min(trace(c) for c in np.linspace(-1, 2, 3001)), rel=1e-6)


def test_truncated_and_ignored_weights_by_hand():
    weights = np.exp(FIXED.log_policy - FIXED.log_base)
    assert np.max(weights) > CEILING  # else nothing is truncated
    signal = FIXED.log_policy - FIXED.log_target
    for kind, used in (("truncated", np.minimum(weights, CEILING)), ("ignored", np.ones(4))):
        found = Composition("reverse_kl", weights=kind, proposal="base", n=2).moments(WORLD)
        expected = (np.exp(FIXED.log_base) * used * signal) @ FIXED.scores
        np.testing.assert_allclose(found.mean, expected, rtol=1e-12)


# ------------------------------------------------------------------ enumeration


def test_multisets_are_all_batches():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 2))
    log_base, log_policy = FIXED.log_base, FIXED.log_policy
    rows = np.stack([log_base] * 2 + [log_policy] * 3)

    def symmetric(drawn: np.ndarray) -> np.ndarray:
        past, now = values[drawn[:, :2]], values[drawn[:, 2:]]
        return np.exp(np.sum(past, axis=1)) * np.max(now, axis=1)

    every = batch_moments(rows, 5, symmetric, chunk=100)
    grouped = batch_moments(rows, 5, symmetric, exchangeable=(2, 3), chunk=7)
    np.testing.assert_allclose(grouped.mean, every.mean, rtol=1e-13)
    np.testing.assert_allclose(grouped.covariance, every.covariance, rtol=1e-12)
    np.testing.assert_allclose(every.mean, batch_expectation(rows, 5, symmetric), rtol=1e-13)


def test_masses_of_large_batches_sum_to_one():
    found = batch_moments(
        FIXED.log_policy, 64, lambda drawn: np.ones((len(drawn), 1)), exchangeable=(64,)
    )
    # 64 logarithms and a logarithm of 64!, 205 nats, rounded to 3e-14 each at most.
    np.testing.assert_allclose(found.mean, [1.0], rtol=1e-12)


def test_outcomes_that_are_never_drawn_are_left_out():
    log_proposal = np.array([-np.inf, np.log(0.25), -np.inf, np.log(0.75)])
    seen = []

    def estimate(drawn: np.ndarray) -> np.ndarray:
        seen.append(np.unique(drawn))
        return np.sum(drawn == 1, axis=-1, keepdims=True).astype(float)

    found = batch_moments(log_proposal, 3, estimate, exchangeable=(3,))
    assert set(np.concatenate(seen)) == {1, 3}
    np.testing.assert_allclose(found.mean, [0.75])  # three draws of probability 1/4
    np.testing.assert_allclose(found.covariance, [[3 * 0.25 * 0.75]])


def test_runs_that_do_not_fit_are_refused():
    rows = np.stack([FIXED.log_base, FIXED.log_policy])
    with pytest.raises(ValueError, match=r"\(1,\).*n = 2"):
        _ = batch_moments(rows, 2, lambda drawn: drawn, exchangeable=(1,))
    with pytest.raises(ValueError, match="different rows"):
        _ = batch_moments(rows, 2, lambda drawn: drawn, exchangeable=(2,))


def test_a_composition_is_fast_enough_to_sweep():
    _ = Composition("jensen_shannon", n=5).moments(WORLD)
    start = time.process_time()
    for partition in PARTITIONS:
        _ = Composition(
            "jensen_shannon", partition=partition, baseline="leave_one_out", n=5
        ).moments(WORLD)
    # Milliseconds in fact; a second for each is what is promised.
    assert time.process_time() - start < 1.0


def test_signal_to_noise_by_hand():
    moments = Moments(mean=np.array([3.0, 4.0]), covariance=np.diag([1.0, 3.0]))
    assert signal_to_noise(moments) == 2.5  # |(3, 4)| = 5 over sqrt(1 + 3)
    assert signal_to_noise(Moments(np.ones(1), np.zeros((1, 1)))) == math.inf


# ------------------------------------------------------------------ compositions


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"divergence": "kl"}, "divergence is 'kl'"),
        ({"partition": "leave-one-out"}, "'leave_one_out'"),
        ({"baseline": "mean"}, "baseline is 'mean'"),
        ({"weights": "none"}, "weights is 'none'"),
        ({"level": "word"}, "level is 'word'"),
        ({"proposal": "target"}, "proposal is 'target'"),
        ({"n": 1, "baseline": "leave_one_out"}, "n is 1"),
        ({"past": 0}, "past is 0"),
        ({"level": "token", "partition": "frozen"}, "level is 'token' with partition 'frozen'"),
    ],
)
def test_choices_that_mean_nothing_are_refused(choices: dict, message: str):
    with pytest.raises(ValueError, match=message):
        _ = Composition(**{"divergence": "reverse_kl", **choices})


def test_levels_need_tokens_and_their_baselines():
    with pytest.raises(ValueError, match="no sequences"):
        _ = Composition("reverse_kl", level="token").moments(WORLD)
    world = tokens.world_of(pairs()[0])
    with pytest.raises(ValueError, match="level of tokens is 'optimal'"):
        _ = Composition("reverse_kl", level="token", baseline="optimal", n=2).moments(world)


@pytest.mark.parametrize("baseline", ["none", "constant", "leave_one_out"])
def test_token_level_is_the_immediate_token_under_every_baseline(baseline: str):
    pair = pairs()[0]
    choices = Composition("reverse_kl", level="token", baseline=baseline, n=2)
    expected = np.einsum("n,nt,ntd->d", pair.probs, pair.token_ratios, pair.token_scores)
    found = choices.moments(tokens.world_of(pair)).mean
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13)


def test_every_choice_runs_and_says_what_it_is():
    for partition, baseline, weights in itertools.product(PARTITIONS, BASELINES, WEIGHTS):
        composition = Composition(
            "le_cam", partition=partition, baseline=baseline, weights=weights, proposal="base", n=2
        )
        found = composition.moments(WORLD)
        assert np.all(np.isfinite(found.mean))
        # A covariance: symmetric, and of no negative variance beyond rounding.
        assert np.min(np.linalg.eigvalsh(found.covariance)) > -1e-12
        for word in (partition, baseline, weights):
            assert word.replace("_", " ") in str(composition)


def test_world_of_a_problem_is_that_of_its_case():
    for found, expected in zip(world_of(FIXED.problem), WORLD, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_single_batch_by_hand():
    """One batch of two: the estimate is what pen and paper say."""
    batch = batch_of(WORLD, np.array([[0, 3]]), np.stack([FIXED.log_policy] * 2), past=0)
    found = gradient_estimates(batch, DIVERGENCES["reverse_kl"], baseline="leave_one_out")
    u = FIXED.log_policy - FIXED.log_target
    expected = ((u[0] - u[3]) * FIXED.scores[0] + (u[3] - u[0]) * FIXED.scores[3]) / 2
    np.testing.assert_allclose(found, expected[None], rtol=1e-12)
