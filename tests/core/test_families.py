"""Alpha divergences, skew Jensen-Shannon and user-defined f, against mpmath and the table."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from support import oracles
from support.family_oracles import BOUNDS, relative_errors, textbook_alpha, textbook_skew
from support.libraries import Library, to_numpy
from support.strategies import ordinary_pairs

from fdpg_ref import (
    DIVERGENCES,
    FDivergence,
    alpha_divergence,
    dual,
    exact_divergence,
    find_divergence,
    from_curvature,
    from_generator,
    skew_jensen_shannon,
)

ALPHAS = [-3.0, -1.0, -0.3, 0.0, 1e-6, 0.25, 0.5, 0.999999, 1.0, 1.7, 2.0, 4.0]
WEIGHTS = [1e-6, 0.1, 0.5, 0.8, 0.999]
RATIOS = [-30.0, -2.5, -0.7, -1e-5, 1e-9, 0.4, 1.3, 6.0, 25.0]


# The stated bounds of these families, in relative error.
def assert_is_textbook(record: FDivergence, book: oracles.Textbook, xp: Library) -> None:
    u = to_numpy(xp.array(RATIOS))
    bound = BOUNDS[xp.precision]
    for kernel in ("generator", "signal"):
        expected = np.array([float(getattr(book, kernel)(v)) for v in u])
        # t^4 at u = 25 is 1e43: infinite in float32.
        expected[np.abs(expected) > np.finfo(xp.precision).max] *= math.inf
        values = to_numpy(getattr(record, kernel)(xp.array(u)))
        np.testing.assert_allclose(values, expected, rtol=bound)
    assert record.curvature == pytest.approx(book.curvature, rel=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_alpha_is_its_textbook_formula(alpha, xp: Library):
    assert_is_textbook(alpha_divergence(alpha), textbook_alpha(alpha), xp)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_skew_jensen_shannon_is_its_textbook_formula(weight, xp: Library):
    assert_is_textbook(skew_jensen_shannon(weight), textbook_skew(weight), xp)


SIZES = [500, pytest.param(10_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("points", SIZES)
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("alpha", [-1.5, 0.3, 1e-6, 2.5])
def test_alpha_density_keeps_its_bound(alpha, dtype, points):
    book = textbook_alpha(alpha)
    error, where = relative_errors(alpha_divergence(alpha), book.generator, dtype, points)
    assert error <= BOUNDS[dtype], where


@pytest.mark.parametrize("points", SIZES)
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("weight", [0.01, 0.5, 0.9])
def test_skew_density_keeps_its_bound(weight, dtype, points):
    book = textbook_skew(weight)
    error, where = relative_errors(skew_jensen_shannon(weight), book.generator, dtype, points)
    assert error <= BOUNDS[dtype], where


@given(ordinary_pairs())
def test_special_members_are_those_of_the_table(pair):
    factors = {
        (-1.0, "neyman_chi2"): 0.5,
        (0.0, "forward_kl"): 1.0,
        (0.5, "squared_hellinger"): 2.0,
        (1.0, "reverse_kl"): 1.0,
        (2.0, "pearson_chi2"): 0.5,
    }
    for (alpha, name), factor in factors.items():
        member = exact_divergence(*pair, divergence=alpha_divergence(alpha))
        known = exact_divergence(*pair, divergence=DIVERGENCES[name])
        np.testing.assert_allclose(member, factor * known, rtol=1e-11, atol=1e-15)
    half = exact_divergence(*pair, divergence=skew_jensen_shannon(0.5))
    known = exact_divergence(*pair, divergence=DIVERGENCES["jensen_shannon"])
    np.testing.assert_allclose(half, known, rtol=1e-11, atol=1e-15)


@given(ordinary_pairs())
def test_alpha_and_one_minus_alpha_are_dual(pair):
    for alpha in (-1.3, 0.25, 2.6):
        forward = exact_divergence(*pair, divergence=alpha_divergence(alpha))
        mirrored = exact_divergence(*pair[::-1], divergence=alpha_divergence(1 - alpha))
        swapped = exact_divergence(*pair[::-1], divergence=dual(alpha_divergence(alpha)))
        np.testing.assert_allclose(mirrored, forward, rtol=1e-11, atol=1e-15)
        np.testing.assert_allclose(swapped, forward, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("weight", [0.0, 1.0, -0.1, math.nan])
def test_weights_strictly_inside_the_unit_interval(weight):
    with pytest.raises(ValueError, match=f"weight is {weight}"):
        _ = skew_jensen_shannon(weight)


@pytest.mark.parametrize("alpha", [math.inf, math.nan])
def test_alpha_must_be_finite(alpha):
    with pytest.raises(ValueError, match=f"alpha is {alpha}"):
        _ = alpha_divergence(alpha)


def test_a_curvature_gives_the_divergence_of_the_table(xp: Library):
    mine = from_curvature(
        "mine", lambda s, _: s * 0 + 1.0, value_at_zero=math.inf, slope_at_infinity=1.0
    )
    u = xp.array([-20.0, -1.5, -1e-7, 1e-9, 0.8, 12.0])
    known = DIVERGENCES["forward_kl"]
    # 320 quadrature terms of one sign: a few hundred roundings at the very most.
    for kernel in ("generator", "signal"):
        np.testing.assert_allclose(
            to_numpy(getattr(mine, kernel)(u)),
            to_numpy(getattr(known, kernel)(u)),
            rtol=300 * xp.eps,
        )


def test_a_generator_gives_the_divergence_of_the_table(xp: Library):
    mine = from_generator(
        "mine",
        lambda t, m: (t - 1) * m.log(t),
        lambda t, m: m.log(t) + 1 - 1 / t,
        value_at_zero=math.inf,
        slope_at_infinity=math.inf,
        curvature=2.0,
    )
    u = xp.array([-8.0, -1.5, -0.1, 0.2, 0.8, 8.0])
    known = DIVERGENCES["jeffreys"]
    for kernel in ("generator", "signal"):
        np.testing.assert_allclose(
            to_numpy(getattr(mine, kernel)(u)),
            to_numpy(getattr(known, kernel)(u)),
            rtol=200 * xp.eps,  # t - 1 at |u| = 0.1 loses a factor of ten, its square a hundred
        )


@pytest.mark.parametrize(
    ("formula", "derivative", "match"),
    [
        (lambda t, m: 1 - t * t, lambda t, m: -2 * t, "convex"),
        (lambda t, m: (t - 1) ** 2 + 1, lambda t, m: 2 * (t - 1), r"f\(1\)"),
        (lambda t, m: (t - 1) ** 2, lambda t, m: t - 1, "derivative"),
    ],
    ids=["concave", "f(1) is one", "another derivative"],
)
def test_what_is_no_generator_is_refused(formula, derivative, match):
    with pytest.raises(ValueError, match=match):
        _ = from_generator(
            "mine",
            formula,
            derivative,
            value_at_zero=1.0,
            slope_at_infinity=math.inf,
            curvature=2.0,
        )


def test_edge_constants_are_checked():
    for edges in ({"value_at_zero": 2.0}, {"slope_at_infinity": 3.0}):
        known = {"value_at_zero": math.inf, "slope_at_infinity": 1.0} | edges
        with pytest.raises(ValueError, match=next(iter(edges))):
            _ = from_curvature("mine", lambda s, _: s * 0 + 1.0, **known)
    with pytest.raises(ValueError, match="mine is not convex"):
        _ = from_curvature("mine", lambda s, _: s, value_at_zero=0.0, slope_at_infinity=0.0)


def test_a_divergence_is_found_by_its_name():
    for name, record in DIVERGENCES.items():
        assert find_divergence(name) is record
    u = np.linspace(-3, 3, 13)
    for text, alpha in [("alpha_0.25", 0.25), ("alpha_-0.5", -0.5), ("alpha_2", 2.0)]:
        found, expected = find_divergence(text), alpha_divergence(alpha)
        assert found.name == expected.name
        np.testing.assert_array_equal(found.signal(u), expected.signal(u))


@pytest.mark.parametrize("name", ["kl", "alpha", "alpha_", "alpha_x", "alpha_inf", "alpha_nan"])
def test_an_unknown_divergence_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"{name}.*(there are: forward_kl|finite number)"):
        _ = find_divergence(name)
