"""The estimate of Z (F5) and Z from the past of a policy that moves, against loops over batches."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import support.toy_slow as slow
from hypothesis import given
from support.toy_cases import FIXED, ordinary_cases

from fdpg_ref import DIVERGENCES, PEARSON_CHI2, importance_log_partition, init_partition
from toy.estimators.partition import PARTITION_POLICIES, initial_state
from toy.exact import batch_expectation
from toy.problems import PROBLEMS
from toy.verify.cases import Case, case_of, partition_factor
from toy.verify.claims.partition import _group_pass_rate, _histories, _past_only, _running_mean
from toy.verify.estimators import same_batch_z
from toy.verify.gradients import Plan, enumerated_mean


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.02])
def test_a_verifiers_z_from_its_group(rate: float):
    """By the number of successes: of k, each weighs 4/k, less the mean weight of the others."""
    expected = 0.0
    for k in range(1, 5):
        weight = 4 / k
        passed = weight - (k - 1) * weight / 3
        failed = -k * weight / 3
        both = k * passed * (1 - rate) + (4 - k) * failed * -rate
        expected -= math.comb(4, k) * rate**k * (1 - rate) ** (4 - k) * both / 4
    found = _group_pass_rate(rate)
    # A dozen terms of one sign.
    assert float(found.value) == pytest.approx(expected, rel=1e-13)
    assert float(found.truth) == pytest.approx(expected, rel=1e-13)


@given(case=ordinary_cases())
def test_importance_estimate_of_z(case: Case):
    world = slow.world_of(case)
    loop = math.fsum(
        math.prod(world.base[x] for x in batch) * slow.mean_ratio(world, world.base, batch)
        for batch in itertools.product(range(3), repeat=2)
    )
    vectorised = batch_expectation(
        case.log_base,
        2,
        lambda drawn: np.exp(importance_log_partition(case.log_score[drawn], case.log_base[drawn])),
    )
    # Nine products of a handful of factors, all positive: a few ulp each.
    assert loop == pytest.approx(world.z, rel=1e-13)
    assert vectorised == pytest.approx(world.z, rel=1e-13)


@given(case=ordinary_cases())
def test_partition_factor(case: Case):
    world = slow.world_of(case)
    for alpha in slow.ALPHA.values():
        loop = slow.partition_factor(world, world.base, 2, alpha)
        assert partition_factor(case, case.log_base, 2, alpha=alpha) == pytest.approx(
            loop, rel=1e-12
        )


def test_running_estimate_of_z():
    world = slow.world_of(FIXED)
    total = 0.0
    for first in itertools.product(range(4), repeat=2):
        moved = [math.log(pi) for pi in world.policy]
        for x in first:
            moved = [m + 0.25 * s for m, s in zip(moved, world.scores[x], strict=True)]
        weights = [math.exp(m) for m in moved]
        policy = [w / math.fsum(weights) for w in weights]
        for second in itertools.product(range(4), repeat=2):
            mass = math.prod(world.policy[x] for x in first) * math.prod(policy[x] for x in second)
            old = slow.mean_ratio(world, world.policy, first)
            new = slow.mean_ratio(world, policy, second)
            total += mass * (old + new) / 2
    # The start of FIXED is log pi up to a constant, so the loop moves the same logits.
    comparison = _running_mean(FIXED)
    assert total == pytest.approx(world.z, rel=1e-13)
    assert float(comparison.value) == pytest.approx(total, rel=1e-13)


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_past_only_z(name: str):
    for history in _histories(FIXED):
        world = slow.world_of(history.moved)
        z = slow.mean_ratio(world, slow.world_of(FIXED).policy, history.drawn.tolist())
        expected = np.zeros(4)
        for pi, weight, score in zip(world.policy, world.unnormalised, world.scores, strict=True):
            expected += pi * slow.SIGNALS[name](pi * z / weight) * np.array(score)
        comparison = _past_only(history, DIVERGENCES[name])
        np.testing.assert_allclose(comparison.value, expected, rtol=1e-11, atol=1e-13)
        if name in slow.ALPHA:
            factor = (z / world.z) ** (slow.ALPHA[name] - 1)
            truth = slow.gradient(world, name)
            np.testing.assert_allclose(expected, factor * truth, rtol=1e-10, atol=1e-12)


def test_pearson_off_policy():
    world = slow.world_of(FIXED)
    means = {"ratio": 0.0, "product": np.zeros(4), "term": np.zeros(4)}
    for pi, p, q, score in zip(world.policy, world.target, world.base, world.scores, strict=True):
        term = (pi / q) * (pi / p) * np.array(score)
        means["ratio"] += q * (p / q)
        means["term"] += q * term
        means["product"] += q * term * (p / q)
    bias = 2 / 3 * (means["product"] - means["ratio"] * means["term"])
    mean = enumerated_mean(same_batch_z, FIXED, Plan(3, off_policy=True), PEARSON_CHI2)
    np.testing.assert_allclose(
        mean - slow.gradient(world, "pearson_chi2"), bias, rtol=1e-11, atol=1e-13
    )
    assert np.linalg.norm(bias) > 1e-2


def test_six_partition_policies_say_what_their_names_say():
    problem = PROBLEMS["rlhf"]()
    rng = np.random.default_rng(3)
    drawn = rng.integers(0, 7, size=5)
    log_score, log_base = problem.log_score[drawn], problem.log_base[drawn]
    ratios = np.exp(log_score - log_base)
    state = init_partition(problem.log_score[:2], problem.log_base[:2])
    past = np.mean(np.exp(problem.log_score[:2] - problem.log_base[:2]))
    expected = {
        "exact": past,
        "frozen": past,
        "past_only": past,
        "past_and_current": (2 * past + np.sum(ratios)) / 7,
        "leave_one_out": (np.sum(ratios) - ratios) / 4,
        "same_batch": np.mean(ratios),
    }
    remembers = {"past_only": expected["past_and_current"]}
    remembers["past_and_current"] = expected["past_and_current"]
    assert set(expected) == set(PARTITION_POLICIES)
    for name, policy in PARTITION_POLICIES.items():
        log_z, after = policy(state, log_score, log_base)
        np.testing.assert_allclose(np.exp(log_z), expected[name], rtol=1e-12)
        np.testing.assert_allclose(np.exp(after.log_z), remembers.get(name, past), rtol=1e-12)


def test_initial_state_is_exact_or_unbiased():
    problem = PROBLEMS["rlhf"]()
    rng = np.random.default_rng(0)
    assert initial_state("exact", problem, 2, rng=rng).log_z == problem.log_z
    estimates = [np.exp(initial_state("frozen", problem, 50, rng=rng).log_z) for _ in range(200)]
    ratios = np.exp(problem.log_score - problem.log_base)
    probs = np.exp(problem.log_base)
    deviation = np.sqrt(probs @ ratios**2 - (probs @ ratios) ** 2)
    z_score = (np.mean(estimates) - np.exp(problem.log_z)) / (deviation / np.sqrt(200 * 50))
    assert abs(z_score) < 5


def test_moved_case_keeps_its_target():
    moved = case_of(replace(FIXED.problem, start=np.zeros(4)))
    np.testing.assert_array_equal(moved.log_target, FIXED.log_target)
    np.testing.assert_allclose(np.exp(moved.log_policy), 0.25)
