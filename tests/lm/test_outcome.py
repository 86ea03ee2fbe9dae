"""The sentence on a run's outcome: no number may rise under the words that it fell."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lm.report.outcome import CLOSER, FARTHER, UNDECIDED, outcome_of


def _records(values: list[tuple[float, float]]) -> list[dict[str, Any]]:
    return [
        {
            "step": 10 * n,
            "estimates": {"forward_kl": {"sampled": {"value": v, "standard_error": e}}},
        }
        for n, (v, e) in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "verdict", "words"),
    [
        ([(5.0, 0.1), (1.0, 0.1)], CLOSER, "fell from 5.00 ± 0.10 to 1.00 ± 0.10 nats"),
        ([(1.0, 0.1), (5.0, 0.1)], FARTHER, "rose from 1.00 ± 0.10 to 5.00 ± 0.10 nats"),
        # 0.59 is less than 3 x (0.1 + 0.1), in either direction; 0.61 is more.
        ([(1.59, 0.1), (1.0, 0.1)], UNDECIDED, "cannot be told"),
        ([(1.0, 0.1), (1.59, 0.1)], UNDECIDED, "cannot be told"),
        ([(1.61, 0.1), (1.0, 0.1)], CLOSER, "fell"),
        ([(1.0, 0.1), (1.61, 0.1)], FARTHER, "rose"),
        ([(5.0, math.nan), (1.0, 0.1)], UNDECIDED, "cannot be told"),
        ([(5.0, 0.1), (math.nan, 0.1)], UNDECIDED, "cannot be told"),
        # Exact values: the difference of two sums of float32 is rounding.
        ([(5.0, 0.0), (4.99999, 0.0)], UNDECIDED, "cannot be told"),
        ([(5.0, 0.0), (4.9, 0.0)], CLOSER, "fell"),
        ([(math.inf, 0.0), (4.9, 0.0)], CLOSER, "fell from ∞"),
        ([(4.9, 0.0), (math.inf, 0.0)], FARTHER, "rose"),
        ([(math.inf, 0.0), (math.inf, 0.0)], UNDECIDED, "cannot be told"),
        ([(1.0, 0.0)], UNDECIDED, "cannot be told"),
    ],
)
def test_the_verdict_follows_from_value_and_error(values, verdict, words):
    outcome = outcome_of(_records(values), "forward_kl", measured=False)
    assert outcome.verdict == verdict
    assert words in outcome.sentence


def test_the_best_evaluation_is_named_where_it_is_not_the_last():
    outcome = outcome_of(
        _records([(2.0, 0.1), (1.0, 0.1), (5.0, 0.1)]), "forward_kl", measured=False
    )
    assert (outcome.verdict, outcome.best_step) == (FARTHER, 10)
    assert outcome.sentence.endswith("It was lowest at step 10: 1.00 ± 0.10 nats.")
    last = outcome_of(_records([(2.0, 0.1), (1.0, 0.1)]), "forward_kl", measured=False)
    assert "lowest" not in last.sentence


def test_lowest_is_said_of_what_lies_below_the_last_beyond_its_error():
    noise = outcome_of(_records([(9.0, 0.1), (1.0, 0.1), (1.5, 0.1)]), "forward_kl", measured=False)
    assert (noise.verdict, noise.best_step) == (CLOSER, 10)
    assert "lowest" not in noise.sentence


@pytest.mark.parametrize("place", [0, 1])
def test_a_value_that_is_not_known_is_not_the_least(place):
    values = [(2.0, 0.1), (1.0, 0.1), (5.0, 0.1)]
    values.insert(place, (math.nan, 0.1))
    outcome = outcome_of(_records(values), "forward_kl", measured=False)
    assert outcome.best_step == 20


def test_what_was_not_measured_is_not_judged():
    outcome = outcome_of(_records([(2.0, 0.1), (1.0, 0.1)]), "jensen_shannon", measured=False)
    assert outcome.verdict == UNDECIDED
    assert outcome.sentence.startswith("Jensen–Shannon was not measured")
