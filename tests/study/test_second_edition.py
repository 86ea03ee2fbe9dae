"""Every rule of docs/hypotheses.md: arrays in which it holds, does not, and is undecided.

And two kinds that none may pass: objectives that are all alike, and noise.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from study.names import FIVE
from study.rules import second_edition as rules
from study.rules.bands import (
    BAND,
    BETTER,
    EQUIVALENT,
    LEAST_SEEDS,
    OPEN,
    WORSE,
    below,
    chances,
    claim,
    corrected_claims,
    holm,
    slope,
    t_interval,
)
from study.rules.verdicts import (
    DOES_NOT,
    HOLDS,
    SECOND_STATEMENTS,
    UNDECIDED,
    Effect,
    decide_three,
)
from study.statistics import Interval
from study.tables.stored import NotJudgedError

TEXT = Path(__file__).resolve().parents[2] / "docs" / "hypotheses.md"
FORWARD, REVERSE, TV, JS, ALPHA = range(5)
SEEDS = 8
# Eight deviations whose mean is zero and whose standard deviation is one.
PATTERN = np.array([-1.2, -0.9, -0.7, -0.2, 0.2, 0.7, 0.9, 1.2])
PATTERN = PATTERN / PATTERN.std(ddof=1)


def cube(means, spread: float = 0.1) -> np.ndarray:
    """Return (units, seeds) with these means and this standard deviation over seeds."""
    return np.asarray(means, dtype=float)[:, None] + spread * PATTERN


def logs_of(shifts, *, units: int = 12, spread: float = 0.02, measures: int = 4) -> np.ndarray:
    """Return logs (units, seeds, five, measures): a shift by objective and measure, and noise."""
    shifts = np.broadcast_to(np.asarray(shifts, dtype=float), (len(FIVE), measures))
    rng = np.random.default_rng(7)
    return shifts + spread * rng.normal(size=(units, SEEDS, len(FIVE), measures))


def alike(**options) -> np.ndarray:
    """Return logs of five objectives that are all the same but for noise."""
    return logs_of(np.zeros((len(FIVE), 4)), **options)


# ---------------------------------------------------------------------- bands and Holm


def test_every_statement_and_bound_is_that_of_the_document():
    text = TEXT.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (H\d+) \| (.*)$", text, flags=re.M))
    assert list(rows) == list(SECOND_STATEMENTS)
    words = {
        "H1": ("1e-12 in float64", "1e-6 in float32"),
        "H3": (f"below {rules.ENTROPY_GAP:g} nats",),
        "H6": (f"± {rules.STEADY:g}",),
        "H7": (f"above {rules.DIP:g} nats",),
        "H8": (f"below {rules.NOISE_CORRELATION:g}",),
        "H11": (f"above {rules.FRONTIER:g}", f"below -{rules.FRONTIER:g}"),
        "H13": ("below log 0.8",),
    }
    for name, some in words.items():
        for word in some:
            assert word in rows[name]
    assert (rules.FLOAT64_BOUND, rules.FLOAT32_BOUND) == (1e-12, 1e-6)
    assert pytest.approx(1.25) == np.exp(BAND)
    assert LEAST_SEEDS == 5
    assert "five pairs of seeds" in text


def test_an_interval_and_its_p_values_are_those_of_scipy():
    values = np.array([0.1, 0.4, -0.2, 0.7, 0.3])
    known = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose(t_interval(values)[1:], known, rtol=1e-12)
    tested: Any = stats.ttest_1samp(values, 0.2, alternative="less")
    assert below(values, 0.2) == pytest.approx(tested.pvalue, rel=1e-12)
    other: Any = stats.ttest_1samp(values, BAND, alternative="greater")
    assert chances(values)[WORSE] == pytest.approx(other.pvalue, rel=1e-12)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (-0.9, -0.3, BETTER),
        (0.3, 0.9, WORSE),
        (-0.2, 0.2, EQUIVALENT),
        (-0.3, 0.2, OPEN),
        (-0.9, -0.1, OPEN),
        (-1.0, 1.0, OPEN),
    ],
)
def test_the_band_makes_four_claims(low, high, word):
    assert claim(Interval((low + high) / 2, low, high)) == word


def test_one_claim_without_correction_is_that_of_the_interval():
    for middle in (-0.6, -0.25, 0.0, 0.1, 0.25, 0.6):
        row = cube([middle], 0.1)[0]
        assert corrected_claims([row]) == [claim(t_interval(row))]


def test_holm_by_hand():
    assert holm([0.001, 0.02, 0.011], 0.025) == [True, True, True]
    # The second least, 0.013, is above 0.025 / 2: it falls and takes the third with it.
    assert holm([0.001, 0.02, 0.013], 0.025) == [True, False, False]
    assert holm([], 0.025) == []


def test_chance_makes_no_claims_about_single_tasks():
    """Families of twelve tasks without an effect: at most 5 % claim a difference somewhere."""
    rng = np.random.default_rng(11)
    wrong = 0
    for _ in range(400):
        rows = list(rng.normal(0.0, 0.6, size=(12, SEEDS)))
        claims = corrected_claims(rows)
        wrong += any(word in (BETTER, WORSE) for word in claims)
    assert wrong <= 0.05 * 400


def test_a_slope_is_that_of_scipy():
    x = np.array([4.1, 4.1, 5.0, 5.0, 5.9])
    y = np.array([0.1, 0.3, 0.5, 0.2, 0.9])
    known: Any = stats.linregress(x, y)
    found, chance = slope(x, y)
    half = stats.t.ppf(0.975, 3) * known.stderr
    np.testing.assert_allclose(found, (known.slope, known.slope - half, known.slope + half))
    assert chance == pytest.approx(known.pvalue, rel=1e-9)


def test_a_rule_that_contradicts_itself_is_an_error():
    with pytest.raises(ValueError, match="H5 says that it holds and that it does not"):
        _ = decide_three("H5", "lm", [Effect("", 0.0)], holds=True, fails=True)


# ---------------------------------------------------------------------- the rules


@pytest.mark.parametrize(
    ("double", "single", "verdict"),
    [(1e-15, 1e-7, HOLDS), (1e-15, 1e-5, UNDECIDED), (1e-10, 1e-7, DOES_NOT)],
)
def test_h1(double, single, verdict):
    errors = {"float64": {"rl_kl": 0.0, "dpg": double}, "float32": {"rl_kl": single, "dpg": 0.0}}
    assert rules.unification(errors, "transformer").verdict == verdict
    with pytest.raises(NotJudgedError, match="float32"):
        _ = rules.unification({"float64": {"dpg": 0.0}}, "transformer")


def test_h2():
    # Each is worst on one measure or task.
    shifts = np.zeros((5, 4))
    for place, measure in ((FORWARD, 1), (REVERSE, 0), (TV, 2), (JS, 3), (ALPHA, 3)):
        shifts[place, measure] += 0.8
    found = rules.no_best(logs_of(shifts), "lm")
    assert found.verdict == HOLDS
    # Alpha 1/2 is beaten nowhere.
    shifts[ALPHA] = -0.2
    found = rules.no_best(logs_of(shifts), "lm")
    assert found.verdict == DOES_NOT
    assert "Worse nowhere: alpha 0.5" in found.sentence
    # Nobody beats it, and nobody can exclude it.
    shifts[ALPHA, 3] = 0.0
    wide = logs_of(shifts)
    wide[:, :, ALPHA, 3] += 0.15 + 0.5 * PATTERN
    assert rules.no_best(wide, "lm").verdict == UNDECIDED
    assert rules.no_best(alike(), "lm").verdict == DOES_NOT


def test_h2_is_not_for_noise():
    """So wide that 2.5 % of all comparisons are taken for worse, were they not corrected."""
    rng = np.random.default_rng(2)
    for _ in range(10):
        noise = rng.normal(0.0, 5.0, size=(12, SEEDS, 5, 4))
        assert rules.no_best(noise, "lm").verdict != HOLDS


@pytest.mark.parametrize(
    ("means", "spread", "verdict"),
    [
        ([-0.5, -0.6, -0.9], 0.2, HOLDS),
        ([0.0, 0.1, -0.05], 0.03, DOES_NOT),
        ([-0.5, -0.6, 0.1], 0.1, UNDECIDED),
        ([-0.5, -0.6, -0.9], 1.0, UNDECIDED),
        # Alike: no gap at all.
        ([0.0, 0.0, 0.0], 0.02, DOES_NOT),
    ],
)
def test_h3(means, spread, verdict):
    assert rules.less_diverse(cube(means, spread), "lm").verdict == verdict


def test_h3_leaves_no_task_out():
    gap = cube([-0.5, -0.6])
    gap[1, 4:] = np.nan
    with pytest.raises(NotJudgedError, match="a task has fewer than 5 pairs"):
        _ = rules.less_diverse(gap, "lm")


def test_h4():
    shifts = np.zeros((5, 1))
    shifts[[FORWARD, REVERSE]] = 0.6
    assert rules.balance(logs_of(shifts), "lm").verdict == HOLDS
    shifts[JS] = 0.9
    assert rules.balance(logs_of(shifts), "lm").verdict == DOES_NOT
    # Not worse than any, and better than none.
    assert rules.balance(alike(), "lm").verdict == DOES_NOT
    wide = alike()
    wide[:, :, JS] += 1.0 * np.linspace(-1, 1, 12)[:, None, None]
    assert rules.balance(wide, "lm").verdict == UNDECIDED


def test_h4_averages_the_measures_that_are_finite():
    logs = logs_of([[0.6], [0.6], [0.0], [0.0], [0.0]])
    logs[:6, :, :, 1] = np.inf
    logs[:, :, REVERSE, 1] = np.inf
    assert rules.balance(logs, "lm").verdict == HOLDS


@pytest.mark.parametrize(
    ("middle", "between", "verdict"),
    [
        (-0.8, 0.2, HOLDS),
        (0.8, 0.2, DOES_NOT),
        (0.0, 0.05, DOES_NOT),
        (0.0, 0.8, UNDECIDED),
        # Below zero by its whole interval, and not by a wide margin.
        (-0.2, 0.1, UNDECIDED),
    ],
)
def test_h5(middle, between, verdict):
    ratio = cube(middle + between * np.linspace(-1, 1, 12), 0.05)
    assert rules.beats_forward(ratio, "lm").verdict == verdict
    flat = (middle + between * np.linspace(-1, 1, 300))[:, None]
    # Many problems with the same means: what was open lies inside the band.
    narrower = DOES_NOT if verdict == UNDECIDED else verdict
    assert rules.beats_forward(flat, "toy", least=1).verdict == narrower


def test_h5_has_the_task_as_its_unit():
    """Many seeds of two tasks that disagree say nothing of other tasks."""
    ratio = cube([-2.0, 0.1], 0.01)
    assert rules.beats_forward(ratio, "lm").verdict == UNDECIDED
    assert "better on 1, worse on 0, equivalent on 1" in rules.beats_forward(ratio, "lm").sentence


def test_h5_is_not_for_one_task():
    with pytest.raises(NotJudgedError, match="fewer than two tasks"):
        _ = rules.beats_forward(cube([-1.0]), "lm")


DECADES = np.repeat([4.1, 5.0, 5.9], 3)
WOBBLE = 0.01 * np.array([1, -1, 0, 0, 1, -1, -1, 0, 1])


@pytest.mark.parametrize(
    ("levels", "slopes", "wobble", "verdict"),
    [
        ([0.6, 0.0], [0.0, 0.0], 1.0, HOLDS),
        ([0.6, 0.0], [0.4, 0.0], 1.0, DOES_NOT),
        ([0.6, 0.0], [0.0, 0.0], 30.0, UNDECIDED),
        # All alike: there is no difference that could persist.
        ([0.0, 0.0], [0.0, 0.0], 1.0, UNDECIDED),
    ],
)
def test_h6(levels, slopes, wobble, verdict):
    logs = np.array(
        [
            level + rise * (DECADES - 5.0) + wobble * WOBBLE
            for level, rise in zip(levels, slopes, strict=True)
        ]
    )
    found = rules.persists(logs, DECADES, ["i, JS", "i, TV"], "scale")
    assert found.verdict == verdict


def test_h6_lets_a_small_slope_persist():
    logs = np.array([0.6 + 0.1 * (DECADES - 5.0) + WOBBLE])
    assert rules.persists(logs, DECADES, ["i, JS"], "scale").verdict == HOLDS


@pytest.mark.parametrize(
    ("dip", "recovery", "spread", "verdict"),
    [
        (0.6, 0.4, 0.1, HOLDS),
        (0.6, 0.0, 0.05, DOES_NOT),
        (0.0, 0.4, 0.05, DOES_NOT),
        (0.2, 0.2, 0.4, UNDECIDED),
        # Alike: forward KL dips and recovers as much.
        (0.0, 0.0, 0.02, DOES_NOT),
    ],
)
def test_h7(dip, recovery, spread, verdict):
    first, second = dip + spread * PATTERN, recovery - spread * PATTERN
    assert rules.dips(first, second, "lm").verdict == verdict


@pytest.mark.parametrize(
    ("weight", "problems", "verdict"),
    [(-2.0, 200, HOLDS), (0.0, 200, DOES_NOT), (-0.35, 12, UNDECIDED)],
)
def test_h8(weight, problems, verdict):
    rng = np.random.default_rng(4)
    ratio, noise = rng.normal(size=(2, problems, 8))
    assert rules.noise_explains(ratio, weight * ratio + noise, "toy").verdict == verdict


def test_h8_of_objectives_that_are_alike_is_not_judged():
    with pytest.raises(NotJudgedError):
        _ = rules.noise_explains(np.ones((9, 5)), np.ones((9, 5)), "toy")


@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ([0.6, 0.7, 0.8], HOLDS),
        ([-0.6, -0.7, -0.8], DOES_NOT),
        ([0.0, 0.01, 0.02], DOES_NOT),
        ([0.1, 0.9, 0.5], UNDECIDED),
    ],
)
def test_h9(means, verdict):
    assert rules.batch_does_not_save(cube(means), "lm").verdict == verdict


@pytest.mark.parametrize(
    ("own", "others", "spread", "verdict"),
    [
        ([-0.8, -0.7], [-0.2, -0.2], 0.1, HOLDS),
        # It helps the others more.
        ([-0.8, -0.7], [-1.2, -1.2], 0.1, DOES_NOT),
        # It helps reverse KL on one task of the two.
        ([-0.8, 0.0], [0.3, 0.3], 0.05, DOES_NOT),
        ([-0.4, -0.4], [-0.2, -0.2], 0.5, UNDECIDED),
        # Alike, and no gain: equivalent.
        ([0.0, 0.0], [0.0, 0.0], 0.02, DOES_NOT),
        # Alike, and a gain for everybody: not most for reverse KL.
        ([-0.8, -0.8], [-0.8, -0.8], 0.1, UNDECIDED),
    ],
)
def test_h10(own, others, spread, verdict):
    gains = np.repeat(cube(others, spread)[..., None], 5, axis=-1)
    gains[..., REVERSE] = np.asarray(own)[:, None] + spread * PATTERN[::-1]
    assert rules.baseline_helps(gains, "ablations").verdict == verdict


def test_h10_compares_with_every_other():
    """Total variation gains as much: reverse KL's is the most of two, not of five."""
    gains = np.repeat(cube([-0.2, -0.2])[..., None], 5, axis=-1)
    gains[..., REVERSE], gains[..., TV] = cube([-0.8, -0.8])[:, ::-1], cube([-0.8, -0.8])
    assert rules.baseline_helps(gains, "ablations").verdict == UNDECIDED


@pytest.mark.parametrize(
    ("rise", "fall", "spread", "verdict"),
    [
        (0.9, -0.9, 0.05, HOLDS),
        (0.9, 0.9, 0.05, DOES_NOT),
        (-0.9, -0.9, 0.05, DOES_NOT),
        (0.5, -0.9, 0.2, UNDECIDED),
        # Alike: alpha orders nothing.
        (0.0, 0.0, 0.3, DOES_NOT),
    ],
)
def test_h11(rise, fall, spread, verdict):
    up, down = cube([rise, rise], spread), cube([fall, fall], spread)
    assert rules.frontier(up, down, "ablations").verdict == verdict


def test_h12():
    tuned = alike()
    same = tuned.copy()
    near = tuned + 0.02 * np.random.default_rng(1).normal(size=tuned.shape)
    assert rules.common_rate_agrees(tuned, near, "lm").verdict == HOLDS
    far = near.copy()
    far[:, :, JS] += 0.8
    assert rules.common_rate_agrees(tuned, far, "lm").verdict == DOES_NOT
    wide = near.copy()
    wide[:, :, JS] += np.linspace(-0.5, 0.7, 12)[:, None, None]
    assert rules.common_rate_agrees(tuned, wide, "lm").verdict == UNDECIDED
    with pytest.raises(NotJudgedError, match="the same runs"):
        _ = rules.common_rate_agrees(tuned, same, "lm")


def test_h12_does_not_count_runs_compared_with_themselves():
    """Three tasks differ much; nine that are the same runs must not hide it."""
    tuned = alike()
    common = tuned.copy()
    common[:3, :, JS] += np.array([0.7, 0.8, 0.9])[:, None, None]
    found = rules.common_rate_agrees(tuned, common, "lm")
    assert found.verdict == DOES_NOT
    assert "3 tasks" in found.measured


@pytest.mark.parametrize(
    ("bias", "between", "verdict"),
    [
        (-2.0, 0.5, HOLDS),
        (0.0, 0.1, DOES_NOT),
        (0.9, 0.1, DOES_NOT),
        (-0.3, 0.8, UNDECIDED),
    ],
)
def test_h13(bias, between, verdict):
    best = cube(np.linspace(-1, 1, 12), 0.3)
    side = best + bias + between * np.linspace(-1, 1, 12)[:, None]
    assert rules.measure_decides(best, side, "lm").verdict == verdict


def test_h13_wants_the_difference_and_not_the_policy_side_alone():
    """JS may be better by both measures: then the measure decides nothing."""
    best = cube([-2.0, -2.1, -1.9])
    assert rules.measure_decides(best, best + 0.01 * PATTERN, "lm").verdict == DOES_NOT
