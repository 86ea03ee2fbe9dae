"""Every rule of docs/hypotheses-first.md: arrays in which it holds, holds partly and does not."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fdpg_ref.display import number
from study.names import FIVE, MEASURES
from study.rules import hypotheses as rules
from study.rules.verdicts import DOES_NOT, HOLDS, PARTLY, STATEMENTS
from study.tables.cubes import Cube, log_measures, mean_regrets, regrets
from study.tables.stored import NotJudgedError

RULES = Path(__file__).resolve().parents[2] / "docs" / "hypotheses-first.md"
FORWARD, REVERSE, TV, JS, ALPHA = range(5)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def cube_from(logs: np.ndarray, measures=MEASURES) -> Cube:
    """Return a cube whose measures have these logarithms, (units, seeds, five, measures)."""
    units, seeds = logs.shape[:2]
    names = tuple(f"task {k}" for k in range(units))
    return Cube(np.exp(logs), names, tuple(range(seeds)), FIVE, tuple(measures))


def by_objective(values, rng, *, units=6, seeds=3, noise=0.05) -> np.ndarray:
    """Return logs that depend on the objective, with a little noise."""
    shape = (units, seeds, len(FIVE), len(MEASURES))
    return np.asarray(values)[:, None] + noise * rng.normal(size=shape)


def test_every_statement_and_bound_is_that_of_the_document():
    text = RULES.read_text(encoding="utf-8")
    assert re.findall(r"^\| (H\d+) \|", text, flags=re.M) == list(STATEMENTS)
    rows = dict(re.findall(r"^\| (H\d+) \| (.*)$", text, flags=re.M))
    bounds = {
        "H1": ("1e-12 in float64", "1e-6 in float32"),
        "H2": (f"below {rules.BEST_SHARE:g}",),
        "H5": ("log 0.8", "a third of the tasks"),
        "H6": (f"above {rules.STABLE:g}",),
        "H7": (f"above {rules.DIP:g}",),
        "H8": (f"below {rules.NOISE_CORRELATION:g}",),
        "H11": (f"above {rules.FRONTIER:g}", f"below -{rules.FRONTIER:g}"),
        "H12": (f"above {rules.STABLE:g}",),
    }
    for name, words in bounds.items():
        for word in words:
            assert word in rows[name]
    assert (rules.FLOAT64_BOUND, rules.FLOAT32_BOUND) == (1e-12, 1e-6)
    assert np.exp(rules.WIDE_MARGIN) == pytest.approx(0.8)
    assert pytest.approx(1 / 3) == rules.OFTEN


@pytest.mark.parametrize(
    ("double", "single", "verdict"),
    [(1e-15, 1e-7, HOLDS), (1e-15, 1e-5, PARTLY), (1e-10, 1e-7, DOES_NOT)],
)
def test_h1(double, single, verdict):
    errors = {
        "float64": {"rl_kl": 0.0, "dpg": double},
        "float32": {"rl_kl": single, "dpg": 0.0},
    }
    found = rules.unification(errors, "transformer")
    assert found.verdict == verdict
    assert found.effect == double


def test_h1_needs_both_precisions():
    with pytest.raises(NotJudgedError, match="float32"):
        _ = rules.unification({"float64": {"rl_kl": 0.0}}, "transformer")


@pytest.mark.parametrize("seeds", [1, 3])
def test_h2(rng, seeds):
    logs = by_objective([0.0] * 5, rng, units=24, seeds=seeds)
    # JS wins half of the tasks; then all of them; then all but three.
    logs[:12, :, JS] -= 1.0
    logs[12:, :, FORWARD] -= 1.0
    assert rules.no_best(cube_from(logs), "lm").verdict == HOLDS
    logs[12:, :, JS] -= 2.0
    assert rules.no_best(cube_from(logs), "lm").verdict == DOES_NOT
    logs[:3, :, FORWARD] -= 2.0
    found = rules.no_best(cube_from(logs), "lm")
    assert found.effect == pytest.approx(21 / 24)
    assert found.low < found.effect < found.high
    assert found.verdict == PARTLY


def test_h2_counts_pairs_and_shares_ties():
    logs = np.zeros((1, 2, 1, 2, 3))
    logs[0, 0, 0, :, 0] = 0.0, 0.0
    logs[0, 0, 0, :, 1] = np.inf, np.inf
    logs[0, 0, 0, :, 2] = 1.0, np.inf
    logs[0, 1, 0] = [[2.0, 3.0, 4.0], [1.0, 4.0, 5.0]]
    # Pairs: a tie; none; first; second; first; first.
    np.testing.assert_allclose(rules.win_shares(logs)[0], [3.5 / 5, 1.5 / 5])


def test_h2_of_one_seed_is_the_rule_for_several(rng):
    """The short way for one seed gives the share that the long way gives."""
    logs = by_objective([0.0] * 5, rng, units=30, seeds=1, noise=1.0)
    logs[:10, :, :, 1] = np.inf
    found = rules.no_best(cube_from(logs), "toy")
    assert found.effect == pytest.approx(rules.win_shares(logs[None])[0].max())


def test_h3(rng):
    alignment = np.arange(5.0) + 0.1 * rng.normal(size=(4, 3, 5))
    entropy = -alignment
    lower = -1.0 + 0.1 * rng.normal(size=(2, 3))
    assert rules.trade_off(alignment, entropy, lower, "lm").verdict == HOLDS
    assert rules.trade_off(alignment, entropy, -lower, "lm").verdict == PARTLY
    assert rules.trade_off(alignment, alignment, lower, "lm").verdict == PARTLY
    assert rules.trade_off(alignment, alignment, -lower, "lm").verdict == DOES_NOT


def test_h4(rng):
    best = by_objective([1.0, 1.0, 1.0, 0.0, 0.5], rng)
    assert rules.balance(cube_from(best), "lm").verdict == HOLDS
    second = by_objective([1.0, 1.0, 1.0, 0.4, 0.0], rng)
    found = rules.balance(cube_from(second), "lm")
    assert found.verdict == PARTLY
    assert found.effect == pytest.approx(0.4, abs=0.05)
    third = by_objective([1.0, 0.1, 1.0, 0.4, 0.0], rng)
    assert rules.balance(cube_from(third), "lm").verdict == DOES_NOT


def test_h5(rng):
    wide = by_objective([0.0, 0.0, 0.0, -0.5, 0.0], rng)
    assert rules.beats_forward(cube_from(wide), "lm").verdict == HOLDS
    narrow = by_objective([0.0, 0.0, 0.0, -0.15, 0.0], rng)
    assert rules.beats_forward(cube_from(narrow), "lm").verdict == PARTLY
    worse = by_objective([0.0, 0.0, 0.0, 0.5, 0.0], rng)
    assert rules.beats_forward(cube_from(worse), "lm").verdict == DOES_NOT
    # Two of six tasks are a third of them.
    worse[:2, :, JS] -= 1.0
    assert rules.beats_forward(cube_from(worse), "lm").verdict == PARTLY
    worse[1, :, JS] += 1.0
    assert rules.beats_forward(cube_from(worse), "lm").verdict == DOES_NOT


def test_h5_looks_at_forward_kl_only(rng):
    logs = by_objective([0.0] * 5, rng)
    logs[:, :, JS, 1:] -= 3.0
    assert rules.beats_forward(cube_from(logs), "lm").verdict == DOES_NOT


def test_h5_of_the_toy_counts_problems(rng):
    logs = by_objective([0.0, 0.0, 0.0, 1.0, 0.0], rng, units=30, seeds=1)
    logs[:10, :, JS] -= 2.0
    assert rules.beats_forward(cube_from(logs), "toy").verdict == PARTLY
    logs[0, :, JS] += 2.0
    assert rules.beats_forward(cube_from(logs), "toy").verdict == DOES_NOT


def test_h6(rng):
    order = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    small = by_objective(order, rng)
    assert rules.persists(cube_from(small), cube_from(small - 1.0), "scale").verdict == HOLDS
    turned = by_objective(order[::-1], rng)
    assert rules.persists(cube_from(small), cube_from(turned), "scale").verdict == DOES_NOT
    # A correlation of exactly a half everywhere is not above a half.
    loose = cube_from(by_objective([3.0, 2.0, 1.0, 5.0, 4.0], rng))
    found = rules.persists(cube_from(small), loose, "scale")
    assert found.low == pytest.approx(0.5)
    assert found.verdict == PARTLY
    half = small.copy()
    half[:3] = by_objective(order[[1, 4, 0, 2, 3]], rng, units=3)
    found = rules.persists(cube_from(small), cube_from(half), "scale")
    assert 0.0 < found.low <= 0.5
    assert found.verdict == PARTLY


def test_h6_ranks_means_over_seeds(rng):
    """One seed that turns the order round is outvoted by the mean of its task."""
    small = by_objective([1.0, 2.0, 3.0, 4.0, 5.0], rng, units=1)
    large = small.copy()
    large[:, 0] = small[:, 0, ::-1] - 3.0
    assert rules.persists(cube_from(small), cube_from(large), "scale").effect == 1.0


@pytest.mark.parametrize(
    ("dip", "recovery", "verdict"),
    [(0.5, 0.5, HOLDS), (0.5, 0.0, PARTLY), (0.0, 0.5, PARTLY), (0.09, 0.09, DOES_NOT)],
)
def test_h7(rng, dip, recovery, verdict):
    noise = 0.005 * rng.normal(size=(2, 1, 5))
    assert rules.dips(dip + noise[0], recovery + noise[1], "lm").verdict == verdict


def test_h7_is_judged_by_the_intervals():
    """Seeds that disagree: on the average both are above the bound, and no interval is."""
    spread = 0.15 + 0.15 * np.array([[-1.0, 0.0, 1.0]])
    assert rules.dips(spread, spread, "lm").verdict == DOES_NOT
    narrow = 0.15 + 0.01 * np.array([[-1.0, 0.0, 1.0]])
    assert rules.dips(narrow, narrow, "lm").verdict == HOLDS


def test_h7_reports_a_start_below_the_target():
    """A run that only rises has no dip below its start: it is said, though not judged."""
    flat = np.full((1, 3), 0.7)
    found = rules.dips(flat, flat, "lm", below_start=np.zeros((1, 3)))
    assert found.verdict == HOLDS
    assert found.sentence.endswith("Least below the start by (nats) 0 [0, 0].")


def test_h8(rng):
    ratio = rng.normal(size=(60, 8))
    unrelated = rng.normal(size=(60, 8))
    assert rules.noise_explains(ratio, -ratio, "toy").verdict == HOLDS
    assert rules.noise_explains(ratio, ratio, "toy").verdict == DOES_NOT
    assert rules.noise_explains(ratio, unrelated - 0.25 * ratio, "toy").verdict == PARTLY


@pytest.mark.parametrize(
    ("values", "verdict"),
    [([0.3, 0.4, 0.5], HOLDS), ([-0.1, 0.4, 0.5], PARTLY), ([-0.3, -0.4, 0.5], DOES_NOT)],
)
def test_h9(values, verdict):
    assert rules.batch_does_not_save(np.array([values]), "ablations").verdict == verdict


@pytest.mark.parametrize(
    ("own", "others", "spread", "verdict"),
    [
        (-0.6, -0.2, 0.01, HOLDS),
        (-0.22, -0.2, 0.3, PARTLY),
        (0.1, 0.3, 0.01, PARTLY),
        (-0.2, -0.4, 0.01, DOES_NOT),
    ],
)
def test_h10(own, others, spread, verdict):
    # Seeds deviate by a pattern whose mean is zero: the effect is exactly the one asked for.
    pattern = spread * np.array([-1.0, 0.0, 1.0])
    gains = np.full((1, 3, 5), others)
    gains[0, :, REVERSE] = own + pattern
    assert rules.baseline_helps(gains, FIVE, "ablations").verdict == verdict


def test_h11(rng):
    noise = 0.01 * rng.normal(size=(2, 1, 5))
    up, down = 0.9 + noise[0], -0.9 + noise[1]
    assert rules.frontier(up, down, "ablations").verdict == HOLDS
    assert rules.frontier(up, up, "ablations").verdict == PARTLY
    assert rules.frontier(down, down, "ablations").verdict == PARTLY
    assert rules.frontier(down, up, "ablations").verdict == DOES_NOT


def test_h12(rng):
    order = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    tuned = by_objective(order, rng)
    assert rules.common_rate_agrees(cube_from(tuned), cube_from(tuned), "lm").verdict == HOLDS
    turned = cube_from(by_objective(order[::-1], rng))
    assert rules.common_rate_agrees(cube_from(tuned), turned, "lm").verdict == DOES_NOT
    half = tuned.copy()
    half[:3] = by_objective(order[[1, 4, 0, 2, 3]], rng, units=3)
    found = rules.common_rate_agrees(cube_from(tuned), cube_from(half), "lm")
    assert found.verdict == PARTLY
    # Units on which both are the same runs say nothing, and the sentence says so.
    others = rules.common_rate_agrees(cube_from(tuned[:3]), cube_from(half[:3]), "lm")
    assert (
        f"On {len(tuned) - 3} of {len(tuned)} tasks both rates are the same runs" in found.sentence
    )
    assert number(others.effect) in found.sentence
    assert "same runs" not in others.sentence


def test_an_objective_without_a_run_is_not_judged(rng):
    logs = by_objective([0.0] * 5, rng)
    logs[:, :, ALPHA] = np.nan
    for rule in (rules.no_best, rules.balance):
        with pytest.raises(NotJudgedError, match=r"alpha 0\.5"):
            _ = rule(cube_from(logs), "lm")


def test_the_least_of_some_objectives_is_not_that_of_all():
    """H10 compares with the largest gain of all others, of which one is unknown here."""
    gains = np.full((1, 3, 5), -0.2)
    gains[0, :, REVERSE] = -0.6
    gains[0, :, ALPHA] = np.nan
    with pytest.raises(NotJudgedError, match=r"no run of alpha 0\.5"):
        _ = rules.baseline_helps(gains, FIVE, "ablations")


def test_a_draw_in_which_an_objective_has_no_run_is_undefined():
    gains = np.full((2, 1, 5), -0.2)
    gains[:, :, REVERSE] = -0.6
    gains[0, :, ALPHA] = -5.0
    gains[1, :, ALPHA] = np.nan
    # Wherever alpha's run is drawn its gain is the largest, so that the gap is never below 4.4.
    found = rules.baseline_helps(gains, FIVE, "ablations")
    assert found.effect == pytest.approx(4.4)
    assert "4.40 [4.40, 4.40]" in found.sentence, found.sentence


def test_one_run_is_not_enough():
    with pytest.raises(NotJudgedError, match="fewer than two"):
        _ = rules.batch_does_not_save(np.array([[0.5]]), "ablations")


def test_an_undefined_effect_is_not_a_verdict():
    with pytest.raises(NotJudgedError, match="effect is defined"):
        _ = rules.noise_explains(np.ones((5, 4)), np.eye(5, 4), "toy")


def test_regret_by_hand():
    values = np.ones((1, 1, 5, 2))
    values[0, 0, :, 0] = 4.0, 2.0, 1.0, 8.0, 2.0
    values[0, 0, :, 1] = np.inf
    cube = Cube(values, ("t",), (0,), FIVE, MEASURES[:2])
    np.testing.assert_allclose(regrets(cube)[0, 0, :, 0], np.log([4.0, 2.0, 1.0, 8.0, 2.0]))
    # Infinite for everybody: left out of the mean.
    assert np.isnan(regrets(cube)[0, 0, :, 1]).all()
    np.testing.assert_allclose(mean_regrets(cube)[0, 0], np.log([4.0, 2.0, 1.0, 8.0, 2.0]))


def test_regret_is_held_against_the_five_only():
    values = np.full((1, 1, 6, 1), 2.0)
    values[0, 0, 5, 0] = 1.0
    cube = Cube(values, ("t",), (0,), (*FIVE, "jeffreys"), ("forward_kl",))
    np.testing.assert_allclose(regrets(cube)[0, 0, :, 0], [0.0] * 5 + [-np.log(2.0)])


def test_infinite_for_some_is_infinite_regret():
    values = np.ones((1, 1, 5, 1))
    values[0, 0, REVERSE, 0] = np.inf
    cube = Cube(values, ("t",), (0,), FIVE, ("forward_kl",))
    assert regrets(cube)[0, 0, REVERSE, 0] == np.inf
    assert regrets(cube)[0, 0, TV, 0] == 0.0


def test_zero_counts_as_the_least_that_float64_tells():
    assert log_measures(np.array([0.0, 1.0])).tolist() == [np.log(1e-12), 0.0]
