"""Ends, ratios, truncated sampling and prefixes of enumerated sequences (F9, F10), by loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.sequence_loops import PAIR, SMALL, rows_of, walk

from fdpg_ref.related import per_prefix_kl
from toy.oracle import definition_gradient, probabilities
from toy.verify.records import judge
from toy.verify.token_claims import tokens

POLICY, REFERENCE = rows_of(SMALL, PAIR.policy), rows_of(SMALL, PAIR.reference)
STALE = rows_of(SMALL, tokens.behaviour(PAIR))
ORDER = list(POLICY)
TRUTH = definition_gradient(
    SMALL, PAIR.policy, probabilities(SMALL, PAIR.reference), divergence="reverse_kl"
)


def score(prefix, token) -> np.ndarray:
    """Return grad log pi(token | prefix) in the whole table."""
    result = np.zeros(SMALL.size)
    at = ORDER.index(prefix) * 3
    result[at : at + 3] = -np.array(POLICY[prefix])
    result[at + token] += 1
    return result


def off_policy(weigh) -> np.ndarray:
    """Return E_q[sum_t weight_t score_t] for weights made of (token ratios to q, k1 terms, t)."""
    total = np.zeros(SMALL.size)
    for steps in walk(SMALL):
        mass = math.prod(STALE[p][x] for p, x in steps)
        ratios = [POLICY[p][x] / STALE[p][x] for p, x in steps]
        k1 = [math.log(POLICY[p][x] / REFERENCE[p][x]) for p, x in steps]
        for t, (prefix, token) in enumerate(steps):
            total += mass * weigh(ratios, k1, t) * score(prefix, token)
    return total


def test_ratios():
    sequence = off_policy(lambda r, k1, t: math.prod(r) * math.fsum(k1[t:]))
    token = off_policy(lambda r, k1, t: r[t] * math.fsum(k1))
    mean = off_policy(lambda r, k1, t: math.prod(r) ** (1 / len(r)) * math.fsum(k1))
    decision = off_policy(
        lambda r, k1, t: math.fsum(math.prod(r[: s + 1]) * k1[s] for s in range(t, len(r)))
    )
    np.testing.assert_allclose(sequence, TRUTH, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(decision, TRUTH, rtol=1e-10, atol=1e-13)
    for biased in (token, mean):
        assert np.linalg.norm(biased - TRUTH) > 0.01 * np.linalg.norm(TRUTH)
    for compare, loop in [
        (tokens._to_go, TRUTH),
        (tokens._sequence_ratio, TRUTH),
        (tokens._token_ratio, token),
        (tokens._mean_ratio, mean),
        (tokens._per_decision, decision),
    ]:
        np.testing.assert_allclose(compare(PAIR).value, loop, rtol=1e-9, atol=1e-12)


def test_ends():
    end = SMALL.vocabulary
    mass = math.fsum(math.prod(POLICY[p][x] for p, x in steps if x != end) for steps in walk(SMALL))
    assert mass > 1.1
    assert float(tokens._without_end(PAIR).value) == pytest.approx(mass, rel=1e-12)
    total = np.zeros(SMALL.size)
    for steps in walk(SMALL):
        probability = math.prod(POLICY[p][x] for p, x in steps)
        whole = math.fsum(math.log(POLICY[p][x] / REFERENCE[p][x]) for p, x in steps)
        for prefix, token in steps:
            if token != end:
                total += probability * whole * score(prefix, token)
    np.testing.assert_allclose(tokens._end_gradient(PAIR).value, total, rtol=1e-10, atol=1e-12)
    assert np.linalg.norm(total - TRUTH) > 0.01 * np.linalg.norm(TRUTH)


def test_lengths():
    """Leave-one-out under 1/length, over all pairs of sequences by a loop."""
    every = []
    for steps in walk(SMALL):
        probability = math.prod(POLICY[p][x] for p, x in steps)
        u = math.fsum(math.log(POLICY[p][x] / REFERENCE[p][x]) for p, x in steps)
        every.append((probability, u, len(steps), np.sum([score(p, x) for p, x in steps], axis=0)))
    plain = np.sum([m * u / length * s for m, u, length, s in every], axis=0)
    # The peer's signal is independent of the sample, and its mean is KL.
    kl = math.fsum(m * u for m, u, _, _ in every)
    shifted = plain - kl * np.sum([m / length * s for m, _, length, s in every], axis=0)
    comparison = tokens._loo_per_length(PAIR)
    np.testing.assert_allclose(comparison.truth, plain, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(comparison.value, shifted, rtol=1e-10, atol=1e-12)
    assert np.linalg.norm(shifted - plain) > 0.01 * np.linalg.norm(plain)
    cosine = plain @ TRUTH / np.linalg.norm(plain) / np.linalg.norm(TRUTH)
    assert cosine < 0.999
    assert judge([tokens._per_length(PAIR)]).verdict == "biased"


def test_truncated_sampling():
    """Keep the two most probable of three tokens after every prefix."""
    cut, kept = {}, {}
    for prefix, row in POLICY.items():
        least = min(row)
        kept[prefix] = 1 - least
        cut[prefix] = [0.0 if x == least else x / (1 - least) for x in row]
    mean_ratio, mean_score, own_score, total = 0.0, np.zeros(SMALL.size), np.zeros(SMALL.size), 0.0
    for steps in walk(SMALL):
        drawn = math.prod(cut[p][x] for p, x in steps)
        if drawn == 0:
            continue
        policy = math.prod(POLICY[p][x] for p, x in steps)
        assert policy / drawn == pytest.approx(math.prod(kept[p] for p, _ in steps), rel=1e-12)
        total += drawn
        mean_ratio += policy
        for prefix, token in steps:
            mean_score += drawn * score(prefix, token)
            own = np.zeros(SMALL.size)
            at = ORDER.index(prefix) * 3
            own[at : at + 3] = -np.array(cut[prefix])
            own[at + token] += 1
            own_score += drawn * own
    assert total == pytest.approx(1, rel=1e-12)
    found = tokens.cut_of(PAIR)
    assert float(found.masses @ found.kept_mass) == pytest.approx(mean_ratio, rel=1e-12)
    assert mean_ratio < 0.9
    np.testing.assert_allclose(tokens._cut_score(PAIR).value, mean_score, atol=1e-13)
    assert np.linalg.norm(mean_score) > 0.05
    np.testing.assert_allclose(own_score, 0, atol=1e-13)
    for compare in (tokens._cut_ratio, tokens._cut_mean_ratio, tokens._cut_own_score):
        assert judge([compare(PAIR)]).verdict == "exact"
    assert judge([tokens._cut_unit(PAIR)]).verdict == "biased"


def test_per_prefix_kl():
    for pair in (PAIR, *tokens.counterexamples()):
        family = pair.family
        policy, reference = rows_of(family, pair.policy), rows_of(family, pair.reference)
        masses, per_prefix, whole = [], [], []
        for steps in walk(family):
            masses.append(math.prod(policy[p][x] for p, x in steps))
            per_prefix.append(
                math.fsum(
                    a * math.log(a / b)
                    for p, _ in steps
                    for a, b in zip(policy[p], reference[p], strict=True)
                )
            )
            whole.append(math.fsum(math.log(policy[p][x] / reference[p][x]) for p, x in steps))
        found, sums = tokens._prefix_values(pair)
        np.testing.assert_allclose(found, per_prefix, rtol=1e-11, atol=1e-14)
        np.testing.assert_allclose(sums, whole, rtol=1e-11, atol=1e-13)
        mean = np.dot(masses, whole)
        assert np.dot(masses, per_prefix) == pytest.approx(mean, rel=1e-11)
        first, second = (np.dot(masses, (np.array(v) - mean) ** 2) for v in (per_prefix, whole))
        assert tokens.variance_ratio(pair) == pytest.approx(first / second, rel=1e-8)
        if pair is PAIR:
            assert first < 0.5 * second
        else:
            assert first > 100 * second


def test_per_prefix_kl_ignores_what_is_masked():
    _, mask, prefix, _ = SMALL.sequences
    policy, reference = (np.log([rows[p] for p in ORDER])[prefix] for rows in (POLICY, REFERENCE))
    values = per_prefix_kl(policy, reference, mask)
    spoiled = np.where(mask[..., None], policy, np.log(1 / 3))
    np.testing.assert_array_equal(per_prefix_kl(spoiled, reference, mask), values)
