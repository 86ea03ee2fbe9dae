"""Contract tests over the table of divergences: a record, a textbook line, a set of claims."""

from __future__ import annotations

import dataclasses
import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from support import oracles
from support.libraries import Library, to_numpy
from support.strategies import log_prob_pairs, ordinary_pairs

from fdpg_ref import (
    DIVERGENCES,
    JENSEN_SHANNON,
    PEARSON_CHI2,
    REVERSE_KL,
    TOTAL_VARIATION,
    FDivergence,
    alpha_divergence,
    dual,
    exact_divergence,
    skew_jensen_shannon,
)

INF = math.inf
# Asymmetric, on both sides of every branch of the kernels (|u| = 1 and 2, u = -1, u = 0).
RATIOS = [-40.0, -7.5, -2.5, -1.2, -0.8, -1e-4, 1e-6, 0.3, 0.9, 1.1, 1.9, 2.1, 6.0, 25.0]


@pytest.fixture(params=list(DIVERGENCES.values()), ids=list(DIVERGENCES))
def divergence(request: pytest.FixtureRequest) -> FDivergence:
    return request.param


@pytest.fixture
def book(divergence: FDivergence) -> oracles.Textbook:
    return oracles.TEXTBOOK[divergence.name]


# ------------------------------------------------------------------ the record and the textbook


def test_the_table_has_nine_records_by_their_names():
    assert set(DIVERGENCES) == set(oracles.TEXTBOOK)
    assert all(record.name == name for name, record in DIVERGENCES.items())


def test_generator_is_the_normalised_textbook_f(divergence, book, xp: Library):
    values = to_numpy(divergence.generator(xp.array(RATIOS)))
    stored = to_numpy(xp.array(RATIOS))
    expected = [float(book.generator(u)) for u in stored]
    # 6 ulp of half an eps each is the bound of test_core_ulp, in float32.
    np.testing.assert_allclose(values, expected, rtol=6 * xp.eps)


def test_signal_is_the_derivative_of_f_less_its_value_at_one(divergence, book, xp: Library):
    values = to_numpy(divergence.signal(xp.array(RATIOS)))
    expected = [float(book.signal(u)) for u in to_numpy(xp.array(RATIOS))]
    # The derivative of the reference is numerical: 1e-14 is what is left of 60 digits at u = -40.
    np.testing.assert_allclose(values, expected, rtol=4 * xp.eps + 1e-14)


def test_density_is_the_generator_weighted_by_the_target(divergence, book, xp: Library):
    log_target = xp.array([-3.0 - 0.5 * i for i in range(len(RATIOS))])
    log_policy = log_target + xp.array(RATIOS)
    values = to_numpy(divergence.density(log_policy, log_target))
    pairs = zip(to_numpy(log_policy), to_numpy(log_target), strict=True)
    expected = [float(mpmath.exp(p) * book.generator(mpmath.mpf(q) - p)) for q, p in pairs]
    # The chi-squared pair has the exponent 2 lq - lp with up to 70 nats of it rounded.
    rtol = 100 * xp.eps if "chi2" in divergence.name else 10 * xp.eps
    np.testing.assert_allclose(values, expected, rtol=rtol)


def test_generator_and_signal_vanish_at_one(divergence, xp: Library):
    zero = xp.array([0.0, -0.0])
    assert np.all(to_numpy(divergence.generator(zero)) == 0)
    assert np.all(to_numpy(divergence.signal(zero)) == 0)


def test_edge_constants_are_those_of_the_textbook(divergence, book):
    assert divergence.value_at_zero == pytest.approx(float(book.value_at_zero), rel=1e-15)
    assert divergence.slope_at_infinity == pytest.approx(float(book.slope_at_infinity), rel=1e-15)


def test_textbook_edge_constants_are_limits(book):
    """The constants of the oracle are not taken on trust either: t = e^-400 and t = e^400."""
    near_zero, far_slope = book.generator(-400), book.signal(400)
    for constant, value in ((book.value_at_zero, near_zero), (book.slope_at_infinity, far_slope)):
        if constant == INF:
            assert value > 300  # the slowest growth of the table is that of log t
        else:
            # Hellinger's sqrt(t) is the slowest approach: e^-200 = 1.4e-87, below 60 digits.
            assert abs(value - constant) < mpmath.mpf("1e-20")


def test_records_reach_their_edge_constants(divergence, xp: Library):
    ends = xp.array([-INF, INF])
    assert float(divergence.generator(ends)[0]) == pytest.approx(divergence.value_at_zero)
    assert float(divergence.signal(ends)[1]) == pytest.approx(divergence.slope_at_infinity)
    assert float(divergence.generator(ends)[1]) == INF


def test_curvature_is_the_second_derivative_at_one(divergence, book):
    if divergence.curvature is None:
        assert divergence is TOTAL_VARIATION  # the only one with a kink
        return
    assert divergence.curvature == float(mpmath.nint(mpmath.diff(book.f, 1, 2) * 4) / 4)
    u = np.array([1e-9, -1e-9])
    # g(e^u) = g''(1) u^2 / 2 (1 + O(u)), and O(u) is 1e-9 times a constant of at most 3.
    np.testing.assert_allclose(2 * divergence.generator(u) / u**2, divergence.curvature, rtol=1e-8)


# ------------------------------------------------------------------ duals


def test_dual_is_an_involution_and_follows_the_textbook(divergence, book):
    assert dual(divergence).name == book.dual
    assert dual(dual(divergence)) is divergence


@given(ordinary_pairs())
def test_dual_exchanges_the_arguments(pair):
    log_policy, log_target = pair
    for divergence in DIVERGENCES.values():
        swapped = exact_divergence(log_target, log_policy, divergence=dual(divergence))
        value = exact_divergence(log_policy, log_target, divergence=divergence)
        np.testing.assert_allclose(swapped, value, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["forward_kl", "pearson_chi2", "jensen_shannon"])
def test_dual_of_a_record_outside_the_table_is_composed(name, xp: Library):
    mine = dataclasses.replace(DIVERGENCES[name], name="mine")
    exchanged = dual(mine)
    known = oracles.TEXTBOOK[oracles.TEXTBOOK[name].dual]
    moderate = xp.array([-3.0, -1.1, 0.7, 2.2])
    stored = to_numpy(moderate)
    assert exchanged.value_at_zero == mine.slope_at_infinity
    assert exchanged.slope_at_infinity == mine.value_at_zero
    expected = [float(known.generator(u)) for u in stored]
    np.testing.assert_allclose(to_numpy(exchanged.generator(moderate)), expected, rtol=30 * xp.eps)
    # g(1/t) - g'(1/t)/t subtracts: 200 eps covers terms of e^3 = 20 around a result of order one.
    expected = [float(known.signal(u)) for u in stored]
    np.testing.assert_allclose(to_numpy(exchanged.signal(moderate)), expected, rtol=200 * xp.eps)


# ------------------------------------------------------------------ edges and extremes


def test_density_at_the_edges(divergence, xp: Library):
    log_mass = math.log(0.25)
    policy = xp.array([-INF, log_mass, -INF])
    target = xp.array([log_mass, -INF, -INF])
    values = to_numpy(divergence.density(policy, target))
    expected = [0.25 * divergence.value_at_zero, 0.25 * divergence.slope_at_infinity, 0.0]
    np.testing.assert_allclose(values, expected, rtol=4 * xp.eps)


def test_nan_flows_out_as_nan(divergence, xp: Library):
    nan = xp.array([math.nan])
    for other in (-1.0, -INF):
        constant = xp.array([other])
        assert np.isnan(to_numpy(divergence.density(nan, constant)))
        assert np.isnan(to_numpy(divergence.density(constant, nan)))
    assert np.isnan(to_numpy(divergence.generator(nan)))
    assert np.isnan(to_numpy(divergence.signal(nan)))


@given(pair=log_prob_pairs(holes=True))
def test_never_negative_never_nan_never_a_warning(xp: Library, pair):
    """Logits up to +-1000, ties, one-hot, holes on either side; warnings are errors here."""
    log_policy, log_target = map(xp.array, pair)
    for divergence in DIVERGENCES.values():
        density = to_numpy(divergence.density(log_policy, log_target))
        assert np.all(density >= 0), (divergence.name, density)  # NaN fails as well
        value = float(exact_divergence(log_policy, log_target, divergence=divergence))
        assert value >= 0, (divergence.name, value)


@pytest.mark.parametrize("u", [-2000.0, -800.0, -90.0, 90.0, 800.0, 2000.0])
def test_extreme_log_ratios_overflow_only_where_the_textbook_does(divergence, book, xp: Library, u):
    largest = float(np.finfo(xp.precision).max)
    kernels = {
        "generator": (divergence.generator, book.generator(u)),
        "signal": (divergence.signal, book.signal(u)),
    }
    for name, (kernel, exact) in kernels.items():
        value = float(kernel(xp.array([u]))[0])
        if abs(exact) > largest:
            assert value == math.copysign(INF, exact), name
        else:
            assert value == pytest.approx(float(exact), rel=1e-4 if xp.eps > 1e-8 else 1e-12), name


# ------------------------------------------------------------------ F11, F13 of the mathematics


@given(ordinary_pairs())
def test_value_is_the_definition(pair):
    log_policy, log_target = pair
    policy, target = (oracles.normalised(oracles.exp(x)) for x in pair)
    for name, divergence in DIVERGENCES.items():
        exact = float(oracles.divergence(name, policy, target))
        value = float(exact_divergence(log_policy, log_target, divergence=divergence))
        # Logarithms of up to 20 nats carry 4e-15 of rounding into the ratio; its effect on D is
        # first order in the ratio's spread, hence the small absolute part.
        assert value == pytest.approx(exact, rel=1e-12, abs=1e-16), name


@given(ordinary_pairs())
def test_zero_exactly_at_equality(pair):
    log_policy, _ = pair
    for divergence in DIVERGENCES.values():
        assert exact_divergence(log_policy, log_policy, divergence=divergence) == 0


@given(log_prob_pairs(min_size=3, holes=True), st.data())
def test_merging_outcomes_never_increases_and_splitting_never_changes(pair, data):
    log_policy, log_target = pair
    share = data.draw(st.floats(0.05, 0.95))
    for divergence in DIVERGENCES.values():
        value = exact_divergence(log_policy, log_target, divergence=divergence)
        merged = [np.append(x[2:], np.logaddexp(x[0], x[1])) for x in pair]
        coarse = exact_divergence(*merged, divergence=divergence)
        assert coarse <= value * (1 + 1e-10) + 1e-12
        split = [np.append(x[1:], [x[0] + np.log(share), x[0] + np.log1p(-share)]) for x in pair]
        # 2 lq - lp may be +-2000 nats in the chi-squared pair: 2000 eps = 4e-13 relative, twice.
        np.testing.assert_allclose(
            exact_divergence(*split, divergence=divergence), value, rtol=2e-12, atol=1e-14
        )


@given(log_prob_pairs(holes=True), st.randoms(use_true_random=False))
def test_permutation_invariance(pair, random):
    order = list(range(len(pair[0])))
    random.shuffle(order)
    for divergence in DIVERGENCES.values():
        value = exact_divergence(*pair, divergence=divergence)
        shuffled = exact_divergence(pair[0][order], pair[1][order], divergence=divergence)
        np.testing.assert_allclose(shuffled, value, rtol=1e-12, atol=1e-15)


@given(ordinary_pairs(min_size=4, max_size=4), ordinary_pairs(min_size=4, max_size=4))
def test_joint_convexity(first, second):
    middle = [np.logaddexp(a, b) - np.log(2) for a, b in zip(first, second, strict=True)]
    for divergence in DIVERGENCES.values():
        ends = [exact_divergence(*pair, divergence=divergence) for pair in (first, second)]
        mixed = exact_divergence(*middle, divergence=divergence)
        assert mixed <= sum(ends) / 2 * (1 + 1e-12) + 1e-14


@given(log_prob_pairs(holes=True))
def test_pinsker_and_the_upper_bound(pair):
    variation = float(exact_divergence(*pair, divergence=TOTAL_VARIATION))
    kl = float(exact_divergence(*pair, divergence=REVERSE_KL))
    assert kl >= 2 * variation**2 * (1 - 1e-12)
    for divergence in DIVERGENCES.values():
        bound = divergence.value_at_zero + divergence.slope_at_infinity
        assert exact_divergence(*pair, divergence=divergence) <= bound * (1 + 1e-12)


@given(log_prob_pairs(holes=True))
def test_jensen_shannon_is_scipys_squared(pair):
    log_policy, log_target = pair
    ours = exact_divergence(log_policy, log_target, divergence=JENSEN_SHANNON)
    assert 0 <= ours <= math.log(2) * (1 + 1e-15)
    # scipy cancels: its square is good to a few eps absolutely. Where that makes it negative, its
    # root is NaN: then ours is zero to a few eps as well.
    with np.errstate(invalid="ignore"):
        theirs = jensenshannon(np.exp(log_policy), np.exp(log_target)) ** 2
    if np.isnan(theirs):
        assert ours < 1e-15
    else:
        assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", [n for n, d in DIVERGENCES.items() if d.curvature is not None])
def test_locally_every_divergence_is_its_curvature_times_kl(name):
    log_target = np.log([0.1, 0.2, 0.3, 0.4])
    direction = np.array([1.0, -2.0, 0.5, 1.3])
    distance = 1e-4
    tilted = log_target + distance * direction
    log_policy = tilted - np.logaddexp.reduce(tilted)
    kl = exact_divergence(log_policy, log_target, divergence=REVERSE_KL)
    value = exact_divergence(log_policy, log_target, divergence=DIVERGENCES[name])
    # The next term is of relative order |u|, about 2e-4, times g'''(1)/g''(1) of order one.
    assert value / (DIVERGENCES[name].curvature * kl) == pytest.approx(1, abs=1e-3)


def test_pearson_is_the_variance_of_the_weights():
    """An asymmetric closed form: a reversed argument gives 1.2857 instead of 0.5625."""
    policy, target = np.array([0.875, 0.125]), np.array([0.5, 0.5])
    value = exact_divergence(np.log(policy), np.log(target), divergence=PEARSON_CHI2)
    assert value == pytest.approx(0.5625, rel=1e-14)


# ------------------------------------------------------------------ what the record says of itself

FAMILY = [
    *DIVERGENCES.values(),
    *map(alpha_divergence, (-1.5, 0.25, 3.0)),
    *map(dual, map(alpha_divergence, (-1.5, 0.25))),
    skew_jensen_shannon(0.25),
]


@pytest.mark.parametrize("divergence", FAMILY, ids=lambda one: one.name)
def test_an_error_of_z_scales_the_signal_by_its_power_or_by_nothing(divergence):
    """With Zhat = e^c Z the signal is g'(e^(u+c)): e^(kc) g'(e^u) and a constant, or no such k."""
    u, c = np.linspace(-3.0, 3.0, 13), 0.7
    moved = divergence.signal(u + c)
    moved, right = moved - np.mean(moved), divergence.signal(u) - np.mean(divergence.signal(u))
    factor = np.sum(moved * right) / np.sum(right * right)
    rest = np.max(np.abs(moved - factor * right)) / np.max(np.abs(moved))
    if divergence.z_power is None:
        assert rest > 1e-2
    else:
        assert rest < 1e-12
        assert factor == pytest.approx(math.exp(divergence.z_power * c), rel=1e-12)


@pytest.mark.parametrize("divergence", FAMILY, ids=lambda one: one.name)
def test_the_upper_bound_is_that_of_two_laws_that_share_nothing(divergence):
    policy, target = np.log([0.25, 0.75, 1e-90, 1e-90]), np.log([1e-90, 1e-90, 0.5, 0.5])
    apart = exact_divergence(policy, target, divergence=divergence)
    if math.isinf(divergence.upper_bound):
        assert apart > 100
    else:
        assert apart == pytest.approx(divergence.upper_bound, rel=1e-12)
