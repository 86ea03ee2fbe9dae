"""Intervals, rank correlations and concordance, against scipy and against counting by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import stats

from study.rules.power import detectable, power_of
from study.statistics import (
    bootstrap,
    concordance,
    coverage_of_mean,
    interval,
    kendalls_w,
    mean,
    mean_interval,
    mean_over_cells,
    paired_difference,
    percentiles,
    ranks,
    spearman,
)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_ranks_are_scipys_also_with_ties_and_infinities():
    values = np.array([[3.0, 1.0, 3.0, np.inf, -2.0], [0.0, 0.0, 0.0, 1.0, np.inf]])
    np.testing.assert_array_equal(ranks(values), stats.rankdata(values, axis=1))


def test_ranks_leave_out_what_is_missing():
    np.testing.assert_array_equal(ranks(np.array([5.0, np.nan, 1.0])), [2.0, np.nan, 1.0])


def test_spearman_is_scipys_row_by_row(rng):
    first, second = rng.integers(0, 4, size=(2, 30, 6)).astype(float)
    expected: Any = [
        stats.spearmanr(x, y)[0] if np.ptp(x) and np.ptp(y) else np.nan
        for x, y in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(spearman(first, second), expected, atol=1e-12)


def test_spearman_leaves_out_pairs_and_needs_three():
    first = np.array([[1.0, 2.0, 3.0, 9.0], [1.0, 2.0, np.nan, np.nan], [1.0, 1.0, 1.0, 1.0]])
    second = np.array([[4.0, 5.0, 7.0, np.nan], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
    np.testing.assert_array_equal(spearman(first, second), [1.0, np.nan, np.nan])


def test_kendalls_w_is_friedmans_statistic_rescaled(rng):
    """W = chi2 / (m (n - 1)), ties corrected in both."""
    values = rng.integers(0, 5, size=(6, 5)).astype(float)
    chi2 = stats.friedmanchisquare(*values.T).statistic
    assert kendalls_w(values) == pytest.approx(chi2 / (6 * 4), rel=1e-12)


def test_kendalls_w_at_its_ends():
    agree = np.tile(np.arange(4.0), (3, 1))
    opposed = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    assert kendalls_w(agree) == 1.0
    assert kendalls_w(opposed) == 0.0
    assert np.isnan(kendalls_w(np.ones((3, 4))))


def test_concordance_of_raters_who_agree_has_no_width():
    assert concordance(np.tile(np.arange(5.0), (4, 1)), draws=200) == (1.0, 1.0, 1.0)


def test_mean_leaves_out_nan_and_keeps_infinity():
    values = np.array([[1.0, np.nan, 3.0], [np.nan] * 3, [1.0, np.inf, 2.0]])
    np.testing.assert_array_equal(mean(values, axis=1), [2.0, np.nan, np.inf])


def test_bootstrap_of_one_level_has_the_exact_distribution():
    """Two seeds of one unit: the mean is the first, the second or the middle, 1:2:1."""
    cube = np.array([[0.0, 1.0]])
    drawn = bootstrap(mean_over_cells, cube, draws=40_000, seed=1)
    for value, chance in ((0.0, 0.25), (0.5, 0.5), (1.0, 0.25)):
        z = (np.mean(drawn == value) - chance) / np.sqrt(chance * (1 - chance) / drawn.size)
        assert abs(z) < 5


def test_bootstrap_draws_seeds_within_the_units_drawn():
    """The variance of the mean by enumeration of all draws of units and of seeds within them."""
    cube = np.array([[0.0, 4.0], [10.0, 11.0]])
    means = []
    for units in itertools.product(range(2), repeat=2):
        for seeds in itertools.product(range(2), repeat=4):
            first, second = cube[units[0], list(seeds[:2])], cube[units[1], list(seeds[2:])]
            means.append((first.mean() + second.mean()) / 2)
    drawn = bootstrap(mean_over_cells, cube, draws=50_000, seed=2)
    exact = np.var(means)
    fourth = np.mean((np.array(means) - np.mean(means)) ** 4)
    z = (np.var(drawn) - exact) / np.sqrt((fourth - exact**2) / drawn.size)
    assert abs(z) < 5
    assert set(np.round(drawn, 9)) == set(np.round(means, 9))


def test_units_may_have_different_numbers_of_seeds():
    """What is not there is never drawn, wherever it stands."""
    cube = np.array([[np.nan, 1.0, np.nan], [5.0, np.nan, 7.0], [np.nan] * 3])
    found = mean_interval(cube, draws=2_000)
    assert found.value == pytest.approx(3.5)
    drawn = bootstrap(mean_over_cells, cube, draws=2_000)
    possible = {1.0, 5.0, 6.0, 7.0}
    pairs = {(x + y) / 2 for x in possible for y in possible}
    assert set(drawn) <= pairs


def test_chunks_do_not_change_the_draws(monkeypatch, rng):
    """The order of the generator's calls may differ, the number of draws may not."""
    cube = rng.normal(size=(3, 4))
    monkeypatch.setattr("study.statistics.CHUNK", 12 * 7)
    drawn = bootstrap(mean_over_cells, cube, draws=100)
    assert drawn.shape == (100,)
    assert np.unique(drawn).size > 50


def test_the_same_seed_gives_the_same_interval(rng):
    cube = rng.normal(size=(3, 4))
    assert mean_interval(cube, draws=500) == mean_interval(cube, draws=500)
    assert mean_interval(cube, draws=500) != mean_interval(cube, draws=500, seed=1)


def test_an_empty_cube_is_named():
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        _ = bootstrap(mean_over_cells, np.full((2, 3), np.nan), draws=10)


def test_percentiles_of_a_known_sample():
    assert percentiles(np.arange(1.0, 1001.0)) == (25.0, 975.0)
    assert percentiles(np.array([1.0, np.inf, np.inf, np.nan])) == (1.0, np.inf)
    assert np.isnan(percentiles(np.array([np.nan]))).all()


def test_pairing_is_what_makes_a_small_difference_visible(rng):
    """Fails if seeds of the two are drawn apart: the spread that they share would drown it."""
    shared = rng.normal(0.0, 10.0, size=(4, 5))
    first, second = shared + 0.1 + rng.normal(0.0, 0.01, size=(4, 5)), shared
    found = paired_difference(first, second, draws=2_000)
    assert 0.08 < found.low <= found.value <= found.high < 0.12
    unpaired = mean_interval(first - np.roll(second, 1, axis=1), draws=2_000)
    assert unpaired.high - unpaired.low > 10 * (found.high - found.low)


def test_a_pair_that_lacks_one_side_is_left_out():
    first = np.array([[1.0, np.nan, 3.0]])
    second = np.array([[0.0, 100.0, 1.0]])
    assert paired_difference(first, second, draws=200).value == pytest.approx(1.5)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Thirty normal values, 300 intervals: the bootstrap's own coverage is its simulated one."""
    generator = np.random.default_rng(11)
    trials, seeds = 300, 30
    hits = 0
    for _ in range(trials):
        found = mean_interval(generator.normal(2.0, 1.0, size=(1, seeds)), draws=400)
        hits += found.low <= 2.0 <= found.high
    expected = coverage_of_mean(seeds, draws=400)
    z = (hits / trials - expected) / np.sqrt(expected * (1 - expected) * (1 / trials + 1 / 2_000))
    assert abs(z) < 5
    assert 0.9 < expected < 0.96


def test_few_seeds_cover_less_than_they_say():
    covered = [coverage_of_mean(seeds, draws=400) for seeds in (3, 5, 20)]
    assert covered == sorted(covered)
    assert covered[0] < 0.85


def test_an_interval_of_any_statistic():
    cube = np.arange(12.0).reshape(3, 2, 2)
    found = interval(lambda cubes: mean_over_cells(cubes).max(axis=-1), cube, draws=500)
    assert found.value == 6.0
    assert found.low < 6.0 < found.high


def test_power_is_the_share_of_rejections():
    generator = np.random.default_rng(3)
    values = generator.normal(1.2, 1.0, size=(20_000, 5))
    tests: Any = stats.ttest_1samp(values, 0.0, axis=1)
    rejected = np.mean(tests.pvalue < 0.05)
    power = power_of(1.2, 5)
    assert abs(rejected - power) / np.sqrt(power * (1 - power) / 20_000) < 5


def test_the_detectable_effect_has_the_power_asked_for():
    for seeds in (3, 5, 8):
        assert power_of(detectable(seeds), seeds) == pytest.approx(0.8, abs=1e-9)
    assert detectable(3) > detectable(5) > detectable(8)
    # A nil effect is found as often as the test errs.
    assert power_of(0.0, 5) == pytest.approx(0.05)
