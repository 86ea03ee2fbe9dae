"""Exact quality of estimates: against all sample sequences one by one, and the core's functions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from fdpg_ref import (
    FORWARD_KL,
    JENSEN_SHANNON,
    REVERSE_KL,
    TOTAL_VARIATION,
    FDivergence,
    InfiniteDivergence,
    estimate_divergence,
    importance_log_partition,
    mean_and_standard_error,
    self_normalised_log_weights,
)
from toy.measurement.exact import LEFT_OUT, _window, chance_to_see, quality, sample_sets
from toy.measurement.ways import WAYS
from toy.measurement.worlds import DROPPED, KEPT, OUTSIDE, World, dropping, world_of
from toy.verify import measurement

MEASURES = (FORWARD_KL, TOTAL_VARIATION, JENSEN_SHANNON)
each_way = pytest.mark.parametrize("name", WAYS)
each_measure = pytest.mark.parametrize("divergence", MEASURES, ids=lambda f: f.name)
# pi = (0.07, 0.61, 0.32), p = (0.37, 0.63, 0) and a base unlike either.
HARD = world_of([0.07, 0.61, 0.32], [0.37, 0.63, 0.0], [0.21, 0.32, 0.47])


def masses(size: int) -> st.SearchStrategy[list[float]]:
    """Draw positive masses that sum to one."""
    parts = st.lists(st.floats(0.02, 1.0), min_size=size, max_size=size)
    return parts.map(lambda given: [part / math.fsum(given) for part in given])


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw two or three classes, the last of three excluded by the target now and then."""
    size = draw(st.sampled_from([2, 3]))
    target = draw(masses(size))
    if size == 3 and draw(st.booleans()):
        target = [target[0] / (target[0] + target[1]), target[1] / (target[0] + target[1]), 0.0]
    return world_of(draw(masses(size)), target, draw(masses(size)))


def by_hand(
    name: str, world: World, drawn: tuple[int, ...], divergence: FDivergence
) -> tuple[float, float]:
    """Return the estimate and its standard error of one sequence, by the core's functions."""
    log_policy, log_target, log_base = (log[list(drawn)] for log in world)
    if name == "target":
        t = np.exp(log_policy - log_target)
        # f less its slope at infinity times t - 1: what p excludes costs nothing more.
        terms = {
            "forward_kl": log_target - log_policy,
            "total_variation": np.maximum(0, 1 - t),
            "jensen_shannon": (t * np.log(t / (t + 1)) + np.log(4 / (t + 1))) / 2,
        }[divergence.name]
        found = mean_and_standard_error(terms)
        return float(found.mean), float(found.standard_error)
    log_proposal = {
        "mixture": np.logaddexp(log_policy, log_target) - np.log(2),
        "with_base": np.logaddexp(log_policy, log_base) - np.log(2),
    }.get(name, log_policy)
    if name == "policy":
        log_z = importance_log_partition(log_target, log_proposal)
        if log_z == -np.inf:
            return math.nan, math.nan
        log_target = log_target - log_z
    found = estimate_divergence(log_policy, log_target, log_proposal, divergence=divergence)
    return float(found.mean), float(found.standard_error)


def by_sequences(name: str, world: World, n: int, divergence: FDivergence) -> dict[str, float]:
    """Return what `quality` returns, by a loop over all k^n sequences."""
    policy, target, base = (np.exp(log) for log in world)
    law = {
        "target": target,
        "mixture": (policy + target) / 2,
        "with_base": (policy + base) / 2,
    }.get(name, policy)
    truth = world.divergence(divergence)
    rows = [
        (math.prod(law[list(drawn)]), *by_hand(name, world, drawn, divergence))
        for drawn in itertools.product([int(x) for x in np.flatnonzero(law > 0)], repeat=n)
    ]
    undefined = math.fsum(mass for mass, value, _ in rows if math.isnan(value))
    rows = [row for row in rows if not math.isnan(row[1])]
    mean = math.fsum(m * v for m, v, _ in rows) / (1 - undefined)
    variance = math.fsum(m * (v - mean) ** 2 for m, v, _ in rows) / (1 - undefined)
    return {
        "truth": truth,
        "mean": mean,
        "deviation": math.sqrt(variance),
        "error": math.fsum(m * e for m, _, e in rows) / (1 - undefined),
        "coverage": math.fsum(m for m, v, e in rows if abs(v - truth) <= 2 * e + 1e-12),
        "undefined": undefined,
    }


@each_way
@each_measure
@pytest.mark.parametrize("n", [2, 3, 6])
def test_counts_are_all_sequences(name: str, divergence: FDivergence, n: int):
    expected = by_sequences(name, HARD, n, divergence)
    found = quality(HARD, WAYS[name], n, divergence=divergence)._asdict()
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-13)


@each_way
@each_measure
@given(world=worlds(), n=st.integers(2, 4))
def test_counts_are_all_sequences_anywhere(
    name: str, divergence: FDivergence, world: World, n: int
):
    expected = by_sequences(name, world, n, divergence)
    found = quality(world, WAYS[name], n, divergence=divergence)._asdict()
    # Two roundings of one estimate may fall on either side of the edge of its interval.
    del expected["coverage"], found["coverage"]
    # The square root of a variance of 1e-32 is an error of 1e-16.
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@each_measure
def test_the_published_formula_is_the_policys(divergence: FDivergence):
    """sum w log(n w) over shares w, and mean abs(w - 1) / 2, for one set of samples."""
    drawn = [DROPPED, KEPT, KEPT, OUTSIDE, KEPT]
    log_weights = self_normalised_log_weights((HARD.log_target - HARD.log_policy)[drawn])
    w = np.exp(log_weights)
    if divergence is FORWARD_KL:
        plain = np.mean(w[w > 0] * log_weights[w > 0]) * np.sum(w > 0) / len(drawn)
    elif divergence is TOTAL_VARIATION:
        plain = np.mean(np.abs(w - 1)) / 2
    else:
        middle = np.log((1 + w) / 2)
        plain = np.mean(w[w > 0] * (log_weights - middle)[w > 0]) * np.sum(w > 0) / len(drawn)
        plain = (plain - np.mean(middle)) / 2
    assert by_hand("policy", HARD, tuple(drawn), divergence)[0] == pytest.approx(plain, rel=1e-12)


@pytest.mark.parametrize("n", [64, 1024, 100_000])
@pytest.mark.parametrize("prob", [1e-6, 1e-3, 0.3, 0.9999])
def test_what_is_left_out_is_below_rounding(n: int, prob: float):
    low, high = (int(edge[0]) for edge in _window(prob, np.array([n])))
    outside = binom.cdf(low - 1, n, prob) + binom.sf(high, n, prob)
    assert outside <= LEFT_OUT
    assert 0 <= low < high <= n


@pytest.mark.parametrize("probs", [(0.3, 0.7), (0.5, 0.01, 0.49), (1e-5, 0.9, 1 - 0.9 - 1e-5)])
@pytest.mark.parametrize("n", [64, 4096])
def test_counts_have_the_moments_of_a_multinomial(probs: tuple[float, ...], n: int):
    blocks = list(sample_sets(np.array(probs), n))
    counts = np.concatenate([c for c, _ in blocks])
    mass = np.concatenate([m for _, m in blocks])
    assert np.all(np.sum(counts, axis=-1) == n)
    assert np.sum(mass) == pytest.approx(1, rel=1e-12)
    mean = mass @ counts
    np.testing.assert_allclose(mean, n * np.array(probs), rtol=1e-10)
    covariance = (mass[:, None] * (counts - mean)).T @ (counts - mean)
    expected = n * (np.diag(probs) - np.outer(probs, probs))
    np.testing.assert_allclose(covariance, expected, rtol=1e-8, atol=1e-10 * n)


@pytest.mark.parametrize("n", [64, 1024])
def test_a_simulation_agrees(n: int):
    """Drawn counts, expanded and given to the core, within five standard errors of the mean."""
    world, rng = dropping(0.2, 0.01), np.random.default_rng(7)
    expected = quality(world, WAYS["policy"], n, divergence=FORWARD_KL)
    drawn = (rng.random((2000, n)) >= 0.01).astype(int)
    log_policy, log_target, _ = (log[drawn] for log in world)
    log_target = log_target - importance_log_partition(log_target, log_policy)[:, None]
    found = estimate_divergence(log_policy, log_target, log_policy, divergence=FORWARD_KL)
    z = (np.mean(found.mean) - expected.mean) / (expected.deviation / 2000**0.5)
    assert abs(z) < 5
    covers = np.abs(found.mean - expected.truth) <= 2 * found.standard_error
    spread = (expected.coverage * (1 - expected.coverage) / 2000) ** 0.5
    assert abs(np.mean(covers) - expected.coverage) < 5 * spread


def test_without_target_mass_the_estimate_is_undefined_and_covers_nothing():
    world = dropping(0.3, 0.01, outside=0.97, base_rate=0.01)
    found = quality(world, WAYS["policy"], 8, divergence=FORWARD_KL)
    assert found.undefined == pytest.approx(0.97**8, rel=1e-12)
    assert found.coverage < 1 - found.undefined
    assert math.isfinite(found.mean)
    # With an exact Z every sample set says something.
    assert quality(world, WAYS["policy_exact_z"], 8, divergence=FORWARD_KL).undefined == 0
    assert quality(world, WAYS["target"], 8, divergence=FORWARD_KL).undefined == 0


def test_what_the_policy_never_writes_has_an_infinite_kl_and_a_finite_tv():
    world = dropping(0.25, 0.0)
    with pytest.raises(InfiniteDivergence, match="forward_kl is infinite"):
        _ = quality(world, WAYS["policy"], 64, divergence=FORWARD_KL)
    found = quality(world, WAYS["policy"], 64, divergence=TOTAL_VARIATION)
    assert (found.truth, found.mean, found.error) == (0.25, 0.0, 0.0)
    assert found.coverage == 0
    seen = quality(world, WAYS["target"], 64, divergence=TOTAL_VARIATION)
    assert seen.mean == pytest.approx(0.25, rel=1e-12)


def test_reverse_kl_of_a_hard_target_is_refused():
    with pytest.raises(InfiniteDivergence, match="reverse_kl is infinite"):
        _ = quality(HARD, WAYS["policy"], 64, divergence=REVERSE_KL)


def test_equal_laws_cover_with_an_error_of_zero():
    world = world_of([0.4, 0.6], [0.4, 0.6], [0.5, 0.5])
    found = quality(world, WAYS["policy"], 64, divergence=FORWARD_KL)
    assert found.coverage == pytest.approx(1, rel=1e-12)


def test_a_class_is_seen_by_one_of_n():
    world = dropping(0.2, 0.01)
    assert chance_to_see(world, WAYS["policy"], 64, DROPPED) == pytest.approx(1 - 0.99**64)
    assert chance_to_see(world, WAYS["target"], 3, DROPPED) == pytest.approx(1 - 0.8**3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 1.0, "seen": 0.1}, "share 1.0"),
        ({"share": 0.2, "seen": 1.0}, "seen 1.0"),
        ({"share": 0.2, "seen": 0.6, "outside": 0.5, "base_rate": 0.1}, "leave something to keep"),
        ({"share": 0.2, "seen": 0.1, "outside": 0.1}, "with a base rate of 1 nothing is outside"),
        ({"share": 0.2, "seen": math.nan}, "seen nan"),
    ],
)
def test_masses_that_mean_nothing_are_refused(arguments: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        _ = dropping(**arguments)


def test_bad_numbers_of_samples_and_masses_are_refused():
    with pytest.raises(ValueError, match="n is 1: a standard error needs at least 2 samples"):
        _ = quality(HARD, WAYS["policy"], 1, divergence=FORWARD_KL)
    with pytest.raises(ValueError, match=r"log_base sum to 1\.1, not 1"):
        _ = world_of([0.5, 0.5], [0.5, 0.5], [0.5, 0.6])


def test_a_hard_target_is_the_base_where_it_is_allowed():
    world = dropping(0.28, 0.01, outside=0.05, base_rate=0.004)
    allowed = world.log_base[:OUTSIDE] - np.log(0.004)
    np.testing.assert_allclose(world.log_target[:OUTSIDE], allowed, rtol=1e-12)
    assert world.log_target[OUTSIDE] == -np.inf
    assert math.isclose(np.exp(world.log_policy[KEPT]), 0.94)


# ------------------------------------------------------------- what the claims of verify rest on


def by_binomial(world: World, n: int, divergence: FDivergence) -> dict[str, float]:
    """Return what `quality` returns for the policy's samples, by a loop over k of two classes."""
    seen = float(np.exp(world.log_policy[DROPPED]))
    truth, mean, coverage = world.divergence(divergence), 0.0, 0.0
    for k in range(n + 1):
        mass = math.comb(n, k) * seen**k * (1 - seen) ** (n - k)
        value, error = by_hand("policy", world, (DROPPED,) * k + (KEPT,) * (n - k), divergence)
        mean += mass * value
        coverage += mass * (abs(value - truth) <= 2 * error + 1e-12)
    return {"mean": mean, "coverage": coverage}


@each_measure
@pytest.mark.parametrize("sightings", [0.03, 0.3, 1.0])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_what_is_dropped_is_not_seen(share: float, sightings: float, divergence: FDivergence):
    n = 64
    world, sees = dropping(share, sightings / n), 1 - (1 - sightings / n) ** n
    expected = by_binomial(world, n, divergence)
    found = quality(world, WAYS["policy"], n, divergence=divergence)
    assert found.mean == pytest.approx(expected["mean"], rel=1e-10)
    assert found.coverage == pytest.approx(expected["coverage"], rel=1e-10)
    assert expected["mean"] < found.truth
    largest = {"forward_kl": math.log(n), "total_variation": 1.0, "jensen_shannon": math.log(2)}
    assert expected["mean"] <= sees * largest[divergence.name]
    if share == 0.5 and sightings == 0.03:
        assert expected["mean"] < found.truth / 2
    assert expected["coverage"] <= sees + 1e-12
    known = quality(world, WAYS["policy_exact_z"], n, divergence=divergence)
    assert known.mean == pytest.approx(known.truth, rel=1e-12)
    assert known.coverage <= sees + 1e-12
    assert known.error <= known.deviation * sees**0.5
    rows = dropping(share, sightings / n, outside=0.05, base_rate=4e-4)
    based = quality(rows, WAYS["with_base"], n, divergence=divergence)
    assert based.coverage <= 1 - (1 - (sightings / n + share * 4e-4) / 2) ** n + 1e-12


@each_measure
@pytest.mark.parametrize("name", ["target", "mixture", "with_base"])
def test_other_samples_are_unbiased(name: str, divergence: FDivergence):
    """The mean of n terms has the mean of one, here summed by hand over a hard target."""
    drawn = [DROPPED, KEPT] if name == "target" else [DROPPED, KEPT, OUTSIDE]
    terms = [by_hand(name, HARD, (place, place), divergence)[0] for place in drawn]
    law = np.exp(WAYS[name].log_proposal(HARD))[drawn]
    assert law @ terms == pytest.approx(HARD.divergence(divergence), rel=1e-12)
    found = quality(HARD, WAYS[name], 256, divergence=divergence)
    assert found.mean == pytest.approx(found.truth, rel=1e-12)
    assert found.deviation == pytest.approx(
        math.sqrt(law @ (np.array(terms) - found.truth) ** 2 / 256), rel=1e-10
    )


@each_measure
def test_samples_of_the_target_cover(divergence: FDivergence):
    """Two classes: value and error are those of a share k/n, whatever is measured."""
    n, share = 64, 0.2
    covered = [
        k
        for k in range(n + 1)
        if abs(k / n - share) <= 2 * math.sqrt(k / n * (1 - k / n) / (n - 1)) + 1e-12
    ]
    expected = math.fsum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in covered)
    found = quality(dropping(share, 1e-3), WAYS["target"], n, divergence=divergence)
    assert found.coverage == pytest.approx(expected, rel=1e-12)
    assert expected > 0.93


@each_measure
def test_where_nothing_is_dropped_both_agree(divergence: FDivergence):
    world = dropping(0.3, 0.24)
    ours, theirs = (
        quality(world, WAYS[name], 1024, divergence=divergence) for name in ("policy", "target")
    )
    assert abs(ours.mean - theirs.mean) < 0.25 * ours.deviation
    assert ours.mean == pytest.approx(theirs.mean, rel=2e-3)
    # Of KL the reported error is honest; that of TV does not know that Z is estimated too.
    assert (ours.coverage > 0.93) == (divergence is not TOTAL_VARIATION)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_harder_it_drops_the_better_it_looks(share: float):
    soft, hard = dropping(share, 1e-3), dropping(share, 1e-6)
    assert hard.divergence(FORWARD_KL) > soft.divergence(FORWARD_KL)
    small, large = (
        quality(world, WAYS["policy"], 1024, divergence=FORWARD_KL).mean for world in (hard, soft)
    )
    assert 40 * small < large
    assert small < 1e-3 * math.log(1024) * 1.1  # once in a thousand sample sets, at most log n


def test_the_registered_policies_drop_what_the_claims_say():
    """10 to 50 %, shown at most once on average; rare targets; and policies that drop nothing."""
    for case in measurement.dropped():
        policy, target = (np.exp(log[DROPPED]) for log in case.world[:2])
        assert 0.03 - 1e-9 <= case.n * policy <= 1 + 1e-9
        assert 0.1 - 1e-9 <= target <= 0.5 + 1e-9
        assert case.sees("policy") == pytest.approx(1 - (1 - policy) ** case.n, rel=1e-9)
    for case in measurement.rare():
        base = np.exp(case.world.log_base)
        assert base[OUTSIDE] > 0.995
        policy = np.exp(case.world.log_policy[DROPPED])
        shown = 1 - (1 - (policy + base[DROPPED]) / 2) ** case.n
        assert case.sees("with_base") == pytest.approx(shown, rel=1e-9)
        assert shown < 0.6
    for case in measurement.kept():
        ratio = np.exp(case.world.log_policy - case.world.log_target)
        assert np.all((ratio > 0.79) & (ratio < 1.21))
