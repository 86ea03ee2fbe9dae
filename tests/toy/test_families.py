"""Alpha, skew Jensen-Shannon, user-defined f and conventions, against textbook sums."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import support.toy_slow as slow
from support.toy_cases import FIXED

from fdpg_ref import alpha_divergence, exact_divergence, skew_jensen_shannon
from fdpg_ref.related import conventions
from toy.exact import exact_gradient
from toy.verify.claims import families
from toy.verify.claims.families import ALPHAS, WEIGHTS
from toy.verify.estimators import leave_one_out_z
from toy.verify.gradients import Plan, enumerated_mean
from toy.verify.records import judge

WORLD = slow.world_of(FIXED)
PAIRS = list(zip(WORLD.policy, WORLD.target, strict=True))


def alpha_slope(alpha: float, t: float) -> float:
    """Return (t^(a-1) - 1) / (a - 1), without cancellation at a = 1."""
    if alpha == 1:
        return math.log(t)
    return math.expm1((alpha - 1) * math.log(t)) / (alpha - 1)


def skew_slope(weight: float, t: float) -> float:
    return weight * math.log(t / (1 - weight + weight * t))


def contracted(slope) -> np.ndarray:
    """Return sum pi f'(pi/p) score by a loop."""
    terms = [
        pi * slope(pi / p) * np.array(s) for (pi, p), s in zip(PAIRS, WORLD.scores, strict=True)
    ]
    return np.sum(terms, axis=0)


def gradient(divergence) -> np.ndarray:
    return exact_gradient(FIXED.log_policy, FIXED.log_target, FIXED.scores, divergence=divergence)


def test_gradients():
    for alpha in ALPHAS:
        expected = contracted(lambda t, a=alpha: alpha_slope(a, t))
        np.testing.assert_allclose(gradient(alpha_divergence(alpha)), expected, rtol=1e-11)
    for weight in WEIGHTS:
        expected = contracted(lambda t, w=weight: skew_slope(w, t))
        # At weight 1e-3 the logarithms of the loop cancel three digits.
        np.testing.assert_allclose(gradient(skew_jensen_shannon(weight)), expected, rtol=1e-10)
    for alpha in families._ORDINARY:
        comparison = families._against(
            FIXED, alpha_divergence(alpha), families.textbook_alpha(alpha)
        )
        assert judge([comparison]).verdict == "exact", alpha
    for weight in WEIGHTS:
        comparison = families._against(
            FIXED, skew_jensen_shannon(weight), families.textbook_skew(weight)
        )
        assert judge([comparison]).verdict == "exact", weight


def test_the_judge_sees_another_member():
    comparison = families._against(FIXED, alpha_divergence(0.4), families.textbook_alpha(0.5))
    assert judge([comparison]).verdict == "biased"


@pytest.mark.parametrize("alpha", ALPHAS)
def test_proportional(alpha: float):
    """Leave-one-out Z over all batches of three, by loops, with its factor."""
    factor = slow.partition_factor(WORLD, WORLD.policy, 2, alpha)
    mean = np.zeros(4)
    for batch in itertools.product(range(4), repeat=3):
        mass = math.prod(WORLD.policy[x] for x in batch)
        for i, x in enumerate(batch):
            others = [
                WORLD.unnormalised[y] / WORLD.policy[y] for j, y in enumerate(batch) if j != i
            ]
            ratio = WORLD.policy[x] * math.fsum(others) / 2 / WORLD.unnormalised[x]
            mean += mass * alpha_slope(alpha, ratio) / 3 * np.array(WORLD.scores[x])
    truth = contracted(lambda t: alpha_slope(alpha, t))
    np.testing.assert_allclose(mean, factor * truth, rtol=1e-10, atol=1e-12)
    found = enumerated_mean(leave_one_out_z, FIXED, Plan(3), alpha_divergence(alpha))
    np.testing.assert_allclose(found, mean, rtol=1e-10, atol=1e-12)
    expected = "exact" if alpha in (1.0, 2.0) else "proportional"
    if abs(factor - 1) > 1e-9:
        assert judge([families._proportional(FIXED, alpha)]).verdict == expected


def test_members():
    t = [pi / p for pi, p in PAIRS]
    known = {
        -1.0: lambda x: (1 - x) ** 2 / x / 2,
        0.0: lambda x: x - 1 - math.log(x),
        0.5: lambda x: 2 * (math.sqrt(x) - 1) ** 2,
        1.0: lambda x: x * math.log(x) - x + 1,
        2.0: lambda x: (x - 1) ** 2 / 2,
    }
    for alpha, f in known.items():
        found = alpha_divergence(alpha).generator(np.log(t))
        np.testing.assert_allclose(found, [f(x) for x in t], rtol=1e-11)
    for compare in (
        families._members,
        families._dual_alpha,
        families._half_skew,
        families._unit_curvature,
        families._from_curvature,
        families._from_generator,
    ):
        assert judge([compare(FIXED)]).verdict == "exact", compare.__name__


@pytest.mark.parametrize(("limit", "name"), [(0.0, "forward_kl"), (1.0, "reverse_kl")])
@pytest.mark.parametrize("step", [-1e-6, 1e-6])
def test_limits(limit: float, name: str, step: float):
    near = gradient(alpha_divergence(limit + step))
    truth = slow.gradient(WORLD, name)
    # d signal / d alpha is about u^2/2 <= 1.7 here: a step of 1e-6 moves the gradient by as much.
    np.testing.assert_allclose(near, truth, atol=4e-6 * float(np.linalg.norm(truth)))
    assert not np.array_equal(near, truth)  # the step was taken
    assert judge([families._limits(FIXED)]).verdict == "exact"


def test_ends_of_skew():
    for weight, name in ((1e-3, "reverse_kl"), (1 - 1e-3, "forward_kl")):
        near = gradient(skew_jensen_shannon(weight, unit_curvature=True))
        expected = contracted(lambda t, w=weight: skew_slope(w, t)) / (weight * (1 - weight))
        np.testing.assert_allclose(near, expected, rtol=1e-10)
        truth = slow.gradient(WORLD, name)
        assert 0.5 <= np.linalg.norm(near) / np.linalg.norm(truth) <= 1.5
        bare = gradient(skew_jensen_shannon(weight))
        assert np.linalg.norm(bare) < 0.01 * np.linalg.norm(truth)  # what the option is for
    assert judge([families._ends_of_skew(FIXED)]).verdict == "exact"


def test_conventions():
    logs = FIXED.log_policy, FIXED.log_target

    def value(divergence) -> float:
        return float(exact_divergence(*logs, divergence=divergence))

    paper = math.fsum(
        p * (pi / p * math.log(pi / p) - (pi / p + 1) * math.log((pi / p + 1) / 2))
        for pi, p in PAIRS
    )
    half = math.fsum(
        (pi * math.log(2 * pi / (pi + p)) + p * math.log(2 * p / (pi + p))) / 2 for pi, p in PAIRS
    )
    assert paper == pytest.approx(conventions.PAPER_JENSEN_SHANNON_SCALE * half, rel=1e-12)
    for amari in (-0.6, 0.2, 2.0):
        theirs = (
            4
            / (1 - amari**2)
            * (1 - math.fsum(pi ** ((1 + amari) / 2) * p ** ((1 - amari) / 2) for pi, p in PAIRS))
        )
        ours = value(alpha_divergence(conventions.alpha_from_amari(amari)))
        assert ours == pytest.approx(theirs, rel=1e-11)
    for beta in (0.1, 0.8):
        mixtures = [beta * p + (1 - beta) * pi for pi, p in PAIRS]
        theirs = math.fsum(
            beta * p * math.log(p / m) + (1 - beta) * pi * math.log(pi / m)
            for (pi, p), m in zip(PAIRS, mixtures, strict=True)
        )
        ours = value(skew_jensen_shannon(conventions.weight_from_gkd_beta(beta)))
        assert ours == pytest.approx(theirs, rel=1e-11)
    for compare in (
        families._paper_scale,
        families._amari,
        families._alpha_dpg,
        families._gkd,
        families._round_trips,
    ):
        assert judge([compare(FIXED)]).verdict == "exact", compare.__name__
