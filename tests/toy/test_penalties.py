"""The dictionary of KL penalties (F7), against loops over Python numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import support.toy_slow as slow
from scipy.integrate import quad
from support.toy_cases import FIXED

from fdpg_ref import DIVERGENCES
from fdpg_ref.related import log_ratio_penalty
from toy.verify.claims import penalties
from toy.verify.claims.penalties import DICTIONARY, Entry, expected_gradient, find
from toy.verify.records import judge

# h and h' by hand.
BY_HAND = {
    "k1": (lambda u: u, lambda u: 1.0),
    "k2": (lambda u: u * u / 2, lambda u: u),
    "k3": (lambda u: math.exp(-u) - 1 + u, lambda u: 1 - math.exp(-u)),
    "abs": (abs, lambda u: math.copysign(1, u)),
    "k3_reversed": (lambda u: math.exp(u) - 1 - u, lambda u: math.exp(u) - 1),
    "js_value": (
        lambda u: (
            (math.log(2 / (1 + math.exp(-u))) + math.exp(-u) * math.log(2 / (1 + math.exp(u)))) / 2
        ),
        lambda u: math.exp(-u) * math.log((1 + math.exp(u)) / 2) / 2,
    ),
    "skew": (lambda u: math.log(2 / (1 + math.exp(-u))), lambda u: 1 / (1 + math.exp(u))),
}


def loop(entry: Entry) -> np.ndarray:
    """Return the expected gradient of an entry on the fixed case, by the product rule."""
    world = slow.world_of(FIXED)
    law = world.policy if entry.samples == "on_policy" else world.base
    value, slope = BY_HAND[entry.penalty]
    total = np.zeros(len(world.scores[0]))
    for pi, p, q, score in zip(world.policy, world.target, law, world.scores, strict=True):
        u = math.log(pi / p)
        factor = {
            "loss": q * slope(u),
            "reward": pi * value(u),
            "ratio": q * (pi / q) * (slope(u) + value(u)),
        }[entry.placement]
        total += factor * np.array(score)
    return total


def named(combination) -> np.ndarray:
    world = slow.world_of(FIXED)
    parts = [factor * slow.gradient(world, name) for name, factor in combination.items()]
    return np.sum([np.zeros(4), *parts], axis=0)


def key(entry: Entry) -> str:
    return f"{entry.row}-{entry.penalty}-{entry.placement}-{entry.samples}"


@pytest.mark.parametrize("entry", DICTIONARY, ids=key)
def test_dictionary(entry: Entry):
    expected = loop(entry)
    np.testing.assert_allclose(expected_gradient(FIXED, entry), expected, rtol=1e-11, atol=1e-14)
    found = find(entry)
    if entry.descends is None:
        assert found.descends is None
        assert found.residual > 1e-3
        return
    assert found.descends == pytest.approx(dict(entry.descends), rel=1e-9)
    assert found.residual <= 1e-8
    np.testing.assert_allclose(expected, named(entry.descends), rtol=1e-11, atol=1e-14)


def test_the_dictionary_has_eleven_rows():
    assert {entry.row for entry in DICTIONARY} == set(range(1, 12))
    assert len(set(map(key, DICTIONARY))) == len(DICTIONARY)


def test_what_is_found_does_not_come_from_the_claim():
    """An entry that claims another divergence is found out."""
    wrong = DICTIONARY[4]._replace(descends={"reverse_kl": 1.0})
    assert find(wrong).descends == pytest.approx({"forward_kl": 1.0})
    assert judge([penalties._against(FIXED, wrong, {"reverse_kl": 1.0})]).verdict == "biased"
    assert not penalties._entry_record(wrong).holds


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_convex_penalties(name: str):
    u = FIXED.log_policy - FIXED.log_target
    convex = penalties.convex(name)
    core = log_ratio_penalty(u, divergence=DIVERGENCES[name])
    for ratio, found in zip(u, core, strict=True):
        # The integral of the textbook's signal, by another quadrature than the core's.
        area, error = quad(lambda s: slow.SIGNALS[name](math.exp(s)), 0, float(ratio))
        assert error < 1e-6
        height = float(np.real(convex(np.array([ratio]))[0]))
        assert found == pytest.approx(area, rel=1e-9)
        assert height == pytest.approx(area, rel=1e-9)
    world = slow.world_of(FIXED)
    gradient = penalties._gradient(FIXED, convex, "loss", "on_policy")
    np.testing.assert_allclose(gradient, slow.gradient(world, name), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", ["k1", "k2", "k3", "k3_reversed"])
def test_means(name: str):
    world = slow.world_of(FIXED)
    value, _ = BY_HAND[name]
    pairs = list(zip(world.policy, world.target, strict=True))
    kl = math.fsum(pi * math.log(pi / p) for pi, p in pairs)
    chi2 = math.fsum((pi - p) ** 2 / p for pi, p in pairs)
    found = penalties._mean_of(name)(FIXED)
    assert found.value == pytest.approx(math.fsum(pi * value(math.log(pi / p)) for pi, p in pairs))
    wanted = chi2 - kl if name == "k3_reversed" else kl
    assert found.truth == pytest.approx(wanted, rel=1e-12)
    assert (found.value == pytest.approx(wanted, rel=1e-10)) == (name != "k2")


def test_stale_k1():
    world = slow.world_of(FIXED)
    # grad KL(q||pi) = -E_q[score], and the loss has gradient E_q[score].
    expected = np.sum([q * np.array(s) for q, s in zip(world.base, world.scores, strict=True)], 0)
    comparison = penalties._stale_k1(FIXED)
    np.testing.assert_allclose(comparison.value, expected, rtol=1e-12)
    np.testing.assert_allclose(comparison.truth, expected, rtol=1e-12)


def test_combinations_in_words():
    assert penalties.describe({}) == "zero"
    assert penalties.describe({"total_variation": 2.0}) == "2 grad total variation"
    assert (
        penalties.describe({"reverse_kl": -1.0, "pearson_chi2": 0.5})
        == "0.5 grad Pearson χ² - grad reverse KL"
    )
