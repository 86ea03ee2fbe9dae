"""Names, units, colours and numbers as every package shows them."""

from __future__ import annotations

import math

import pytest

from fdpg_ref import DIVERGENCES, alpha_divergence, dual, from_curvature, skew_jensen_shannon
from fdpg_ref.display import (
    COLORS,
    MARKERS,
    OTHER_COLOR,
    color_of,
    divergence_called,
    html_page,
    number,
    plus_minus,
    title_of,
    unit_of,
)


def test_every_divergence_has_a_title_of_its_own():
    titles = [divergence.title for divergence in DIVERGENCES.values()]
    assert len(set(titles)) == len(titles)
    assert not any("_" in title for title in titles)


def test_titles_outside_the_table():
    assert title_of("alpha_0.5") == alpha_divergence(0.5).title == "alpha 0.5"
    assert skew_jensen_shannon(0.25).title == "skew Jensen–Shannon 0.25"
    mine = from_curvature(
        "my_own", lambda s, m: 1 + m.exp(s), value_at_zero=math.inf, slope_at_infinity=math.inf
    )
    assert mine.title == "my own"
    assert dual(mine).title == "dual of my own"
    assert title_of("entropy") == "entropy"
    assert divergence_called("entropy") is None


def test_a_sum_of_logarithms_has_a_unit_and_a_pure_number_none():
    nats = {name for name in DIVERGENCES if unit_of(name) == " (nats)"}
    assert nats == {"forward_kl", "reverse_kl", "jensen_shannon", "jeffreys"}
    assert unit_of("alpha_0.5") == ""
    assert unit_of("alpha_1") == " (nats)"


def test_colours_and_markers_are_told_apart():
    shared = COLORS["squared_hellinger"], COLORS["alpha_0.5"]  # one gradient, up to a factor
    assert shared[0] == shared[1]
    assert len(set(COLORS.values())) == len(COLORS) - 1
    assert len(set(MARKERS.values())) == len(MARKERS)
    assert color_of("a tenth") == OTHER_COLOR
    assert OTHER_COLOR not in COLORS.values()


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.0, 3, "0"),
        (0.012345, 3, "0.0123"),
        (12345.6, 3, "12346"),
        (1.234e-7, 3, "1.23e-07"),
        (-2.0, 2, "-2.0"),
        (math.inf, 3, "∞"),
        (-math.inf, 3, "-∞"),
        (math.nan, 3, "–"),
    ],
)
def test_numbers(value: float, digits: int, text: str):
    assert number(value, digits) == text


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (0.12345, 0.0123, "0.123 ± 0.012"),
        (1234.5, 99.0, "1234 ± 99"),
        (0.5, math.nan, "0.500"),
        (0.5, 1e-12, "0.500"),
        (math.inf, 1.0, "∞"),
        (1e-12, 1e-3, "0"),
        (1e-6, 1e-8, "1.00e-06 ± 1.0e-08"),
    ],
)
def test_a_value_with_its_spread(value: float, spread: float, text: str):
    assert plus_minus(value, spread) == text


def test_a_page_is_whole_and_fetches_nothing():
    page = html_page("a < b", "<p>text</p>", ".mine { }")
    assert page.startswith("<!doctype html>")
    assert "<title>a &lt; b</title>" in page
    assert ".mine { }</style>" in page
    assert "http" not in page
    assert "url(" not in page
