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
        # 0.4 is less than 3 x sqrt(2) x 0.1 = 0.424, in either direction; 0.43 is more.
        ([(1.4, 0.1), (1.0, 0.1)], UNDECIDED, "cannot be told"),
        ([(1.0, 0.1), (1.4, 0.1)], UNDECIDED, "cannot be told"),
        ([(1.43, 0.1), (1.0, 0.1)], CLOSER, "fell"),
        ([(1.0, 0.1), (1.43, 0.1)], FARTHER, "rose"),
        ([(5.0, math.nan), (1.0, 0.1)], UNDECIDED, "cannot be told"),
        ([(1.0, 0.0)], UNDECIDED, "cannot be told"),
    ],
)
def test_the_verdict_follows_from_value_and_error(values, verdict, words):
    outcome = outcome_of(_records(values), "forward_kl")
    assert outcome.verdict == verdict
    assert words in outcome.sentence


def test_the_best_evaluation_is_named_where_it_is_not_the_last():
    outcome = outcome_of(_records([(2.0, 0.1), (1.0, 0.1), (5.0, 0.1)]), "forward_kl")
    assert (outcome.verdict, outcome.best_step) == (FARTHER, 10)
    assert outcome.sentence.endswith("It was lowest at step 10: 1.00 ± 0.10 nats.")
    last = outcome_of(_records([(2.0, 0.1), (1.0, 0.1)]), "forward_kl")
    assert "lowest" not in last.sentence


def test_what_was_not_measured_is_not_judged():
    outcome = outcome_of(_records([(2.0, 0.1), (1.0, 0.1)]), "jensen_shannon")
    assert outcome.verdict == UNDECIDED
    assert outcome.sentence.startswith("Jensen–Shannon was not measured")
