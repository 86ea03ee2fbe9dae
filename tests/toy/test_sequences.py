"""Tabular autoregressive policies: enumeration, scores, and the token-level facts F9 and F10."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import oracles, strategies
from support.sequence_loops import PAIR, SMALL, rows_of, walk

from fdpg_ref import DIVERGENCES, exact_divergence
from toy.exact import exact_gradient
from toy.oracle import definition_gradient, probabilities
from toy.sequences import TabularFamily, enumerate_sequences
from toy.verify.records import judge
from toy.verify.token_claims import sequences as claims

NAMES = sorted(DIVERGENCES)


def token_loop(weight_of) -> np.ndarray:
    """Return E_pi[sum_t weight_t score_t], sequence by sequence and token by token."""
    policy, reference = rows_of(SMALL, PAIR.policy), rows_of(SMALL, PAIR.reference)
    order = list(policy)
    total = np.zeros(SMALL.size)
    for steps in walk(SMALL):
        mass = math.prod(policy[prefix][token] for prefix, token in steps)
        ratios = [math.log(policy[p][token] / reference[p][token]) for p, token in steps]
        for t, (prefix, token) in enumerate(steps):
            for y, probability in enumerate(policy[prefix]):
                place = order.index(prefix) * 3 + y
                total[place] += mass * weight_of(ratios, t) * ((y == token) - probability)
    return total


@given(vocabulary=st.integers(1, 3), max_length=st.integers(1, 4))
def test_enumeration_counts_and_order(vocabulary: int, max_length: int):
    sequences = enumerate_sequences(vocabulary, max_length)
    complete = sum(vocabulary**length for length in range(max_length))
    assert len(sequences.tokens) == complete + vocabulary**max_length
    assert np.sum(sequences.complete) == complete
    seen = {tuple(row[kept].tolist()) for row, kept in zip(*sequences[:2], strict=True)}
    assert len(seen) == len(sequences.tokens)
    for row, kept, _, whole in zip(*sequences, strict=True):
        length = int(np.sum(kept))
        assert np.array_equal(kept, np.arange(max_length) < length)
        assert (row[length - 1] == vocabulary) == whole
        assert vocabulary not in row[: length - 1]
        assert whole or length == max_length


@given(data=st.data(), vocabulary=st.integers(1, 2), max_length=st.integers(1, 3))
def test_masses_sum_to_one(data: st.DataObject, vocabulary: int, max_length: int):
    family = TabularFamily(vocabulary, max_length)
    theta = data.draw(strategies.logits(family.size))
    log_probs = family.log_probs(theta)
    # 1e-12: fifteen sequences of three rounded factors; logits of 1000 lose 1e-13 of a nat.
    assert np.sum(np.exp(log_probs)) == pytest.approx(1, abs=1e-12)
    rows = rows_of(family, theta)
    expected = [math.prod(rows[p][token] for p, token in steps) for steps in walk(family)]
    np.testing.assert_allclose(np.exp(log_probs), expected, rtol=1e-11, atol=1e-300)
    np.testing.assert_allclose(
        np.exp(log_probs), probabilities(family, theta), rtol=1e-11, atol=1e-300
    )


@given(theta=strategies.logits(SMALL.size))
def test_score_matrix_by_a_loop(theta: np.ndarray):
    rows = rows_of(SMALL, theta)
    order = list(rows)
    for score, steps in zip(SMALL.score_matrix(theta), walk(SMALL), strict=True):
        expected = np.zeros(SMALL.size)
        for prefix, token in steps:
            at = order.index(prefix) * 3
            expected[at : at + 3] -= rows[prefix]
            expected[at + token] += 1
        np.testing.assert_allclose(score, expected, atol=1e-12)


@given(theta=strategies.logits(SMALL.size))
def test_expected_score_is_zero(theta: np.ndarray):
    mean = np.exp(SMALL.log_probs(theta)) @ SMALL.score_matrix(theta)
    np.testing.assert_allclose(mean, 0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_over_sequences(name: str):
    log_policy, log_reference = PAIR.log_probs()
    scores = SMALL.score_matrix(PAIR.policy)
    gradient = exact_gradient(log_policy, log_reference, scores, divergence=DIVERGENCES[name])
    target = np.exp(log_reference)
    judge_says = definition_gradient(SMALL, PAIR.policy, target, divergence=name)
    np.testing.assert_allclose(gradient, judge_says, rtol=1e-9, atol=1e-13)
    # And a third way: central differences of the textbook value with 60 digits, in two directions.
    policy, step = oracles.normalised(np.exp(log_policy)), 1e-5
    assert oracles.divergence(name, policy, oracles.normalised(target)) > 0
    rng = np.random.default_rng(5)
    for _ in range(2):
        direction = rng.normal(size=SMALL.size)
        sides = []
        for sign in (1, -1):
            moved = SMALL.log_probs(PAIR.policy + sign * step * direction)
            sides.append(
                float(exact_divergence(moved, log_reference, divergence=DIVERGENCES[name]))
            )
        slope = (sides[0] - sides[1]) / (2 * step)
        # Truncation is of order step^2 times third derivatives (up to 1e3), rounding 1e-15 / step.
        assert direction @ gradient == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_chain_rule(name: str):
    policy, reference = rows_of(SMALL, PAIR.policy), rows_of(SMALL, PAIR.reference)
    divergence = DIVERGENCES[name]
    of_row = {
        prefix: float(
            oracles.divergence(
                name, oracles.normalised(policy[prefix]), oracles.normalised(reference[prefix])
            )
        )
        for prefix in policy
    }

    def summed(rows: dict) -> float:
        return math.fsum(
            math.prod(rows[p][token] for p, token in steps) * of_row[prefix]
            for steps in walk(SMALL)
            for prefix, _ in steps
        )

    whole = float(exact_divergence(*PAIR.log_probs(), divergence=divergence))
    by_policy, by_reference = summed(policy), summed(reference)
    assert float(claims._chain_rule(PAIR, divergence).value) == pytest.approx(by_policy, rel=1e-11)
    assert bool(abs(by_policy - whole) < 1e-11 * whole) is (name == "reverse_kl")
    assert bool(abs(by_reference - whole) < 1e-11 * whole) is (name == "forward_kl")


def test_token_k1():
    truth = definition_gradient(
        SMALL, PAIR.policy, probabilities(SMALL, PAIR.reference), divergence="reverse_kl"
    )
    whole = token_loop(lambda ratios, t: math.fsum(ratios))
    to_go = token_loop(lambda ratios, t: math.fsum(ratios[t:]))
    immediate = token_loop(lambda ratios, t: ratios[t])
    np.testing.assert_allclose(whole, truth, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(to_go, truth, rtol=1e-10, atol=1e-13)
    assert np.linalg.norm(immediate - truth) > 0.01 * np.linalg.norm(truth)
    for compare, loop in [
        (claims._whole_return, whole),
        (claims._reward_to_go, to_go),
        (claims._immediate, immediate),
    ]:
        np.testing.assert_allclose(compare(PAIR).value, loop, rtol=1e-10, atol=1e-13)


def test_token_k3():
    loop = token_loop(lambda ratios, t: 1 - math.exp(-ratios[t]))
    truth = definition_gradient(
        SMALL, PAIR.policy, probabilities(SMALL, PAIR.reference), divergence="forward_kl"
    )
    np.testing.assert_allclose(claims._token_k3(PAIR).value, loop, rtol=1e-10, atol=1e-13)
    assert np.linalg.norm(loop - truth) > 0.01 * np.linalg.norm(truth)


def test_rao_blackwell():
    policy, reference = rows_of(SMALL, PAIR.policy), rows_of(SMALL, PAIR.reference)
    kl_of_row = {
        prefix: math.fsum(a * math.log(a / b) for a, b in zip(row, reference[prefix], strict=True))
        for prefix, row in policy.items()
    }
    masses, plain, per_prefix = [], [], []
    for steps in walk(SMALL):
        masses.append(math.prod(policy[p][token] for p, token in steps))
        plain.append(
            math.fsum(math.log(policy[p][token] / reference[p][token]) for p, token in steps)
        )
        per_prefix.append(math.fsum(kl_of_row[p] for p, _ in steps))
    means = [np.dot(masses, values) for values in (plain, per_prefix)]
    assert means[1] == pytest.approx(means[0], rel=1e-12)
    variances = [
        np.dot(masses, (np.array(values) - means[0]) ** 2) for values in (plain, per_prefix)
    ]
    assert variances[1] < 0.5 * variances[0]
    assert claims._rao_blackwell_mean(PAIR).value == pytest.approx(means[1], rel=1e-12)


def test_length_weights():
    policy = rows_of(SMALL, PAIR.policy)
    order = list(policy)
    shift = np.zeros(SMALL.size)
    for steps in walk(SMALL):
        mass = math.prod(policy[p][token] for p, token in steps)
        for prefix, token in steps:
            at = order.index(prefix) * 3
            shift[at : at + 3] -= mass / len(steps) * np.array(policy[prefix])
            shift[at + token] += mass / len(steps)
    # A baseline b moves the mean by -b E[score / length], which is not zero.
    assert np.linalg.norm(shift) > 0.01
    comparison = claims._length_weighted(PAIR)
    np.testing.assert_allclose(
        comparison.value, comparison.truth - 0.7 * shift, rtol=1e-10, atol=1e-13
    )
    assert judge([comparison]).verdict == "biased"
    constant = judge([claims._constant_divisor(PAIR)])
    assert constant.verdict == "proportional"
    assert constant.factor == pytest.approx(1 / 3, rel=1e-12)


def test_labels():
    labels = TabularFamily(vocabulary=2, max_length=2).labels()
    assert labels == (".", "a.", "b.", "aa~", "ab~", "ba~", "bb~")
