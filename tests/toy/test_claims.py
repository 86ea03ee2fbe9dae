"""The list of claims: complete, measured and guarded."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from support.toy_cases import measured

from fdpg_ref import DIVERGENCES
from toy.verify.records import BIASED, EXACT, PROPORTIONAL, Comparison, Record, at_most, judge
from toy.verify.report.table import write_json


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return measured()


def verdicts(records: list[Record], estimator: str) -> dict[str | None, str]:
    return {r.divergence: r.verdict for r in records if r.estimator == estimator}


def test_every_claim_holds(records: list[Record]):
    assert [r for r in records if not r.holds] == []


def test_exact_claims_are_exact_to_rounding(records: list[Record]):
    assert max(r.max_relative_error for r in records if r.verdict != BIASED) <= 1e-10
    assert min(r.max_relative_error for r in records if r.verdict == BIASED) > 1e-3


def test_keys_and_types_of_the_json(records: list[Record], tmp_path: Path):
    path = tmp_path / "folder" / "claims.json"
    write_json(records, path)
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert len(rows) == len(records)
    for row in rows:
        assert {
            "claim",
            "divergence",
            "estimator",
            "verdict",
            "factor",
            "max_relative_error",
            "test_id",
        } <= set(row)
        assert row["divergence"] in (None, *DIVERGENCES)
        assert row["verdict"] in (EXACT, PROPORTIONAL, BIASED)
        assert row["verdict"] != PROPORTIONAL or math.isfinite(row["factor"])
        assert math.isfinite(row["max_relative_error"])
        assert row["problems"] >= 3
    assert [p.name for p in path.parent.iterdir()] == ["claims.json"]


def test_no_claim_is_made_twice(records: list[Record]):
    keys = [(r.claim, r.divergence, r.estimator) for r in records]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "fact", ["theorem", "RLHF", "DPG", *(f"F{number}" for number in range(1, 16))]
)
def test_facts_are_covered(records: list[Record], fact: str):
    assert any(r.claim.startswith(f"{fact}:") for r in records)


def test_nine_divergences_in_every_row_of_the_table(records: list[Record]):
    for estimator in ("one sample", "LOO baseline", "batch-mean baseline", "off-policy", "LOO Z"):
        assert set(verdicts(records, estimator)) == set(DIVERGENCES)


def test_verdicts_of_the_theory(records: list[Record]):
    # Written out once more by hand, from mathematics: not from the table that claims them.
    for estimator in ("LOO Z", "frozen Z", "frozen Z, LOO baseline"):
        measured = verdicts(records, estimator)
        assert {n for n, v in measured.items() if v == EXACT} == {"reverse_kl", "pearson_chi2"}
        assert {n for n, v in measured.items() if v == PROPORTIONAL} == {
            "forward_kl",
            "squared_hellinger",
            "neyman_chi2",
        }
    wrong = verdicts(records, "Z off by a constant")
    assert {n for n, v in wrong.items() if v == EXACT} == {"reverse_kl"}
    assert wrong["pearson_chi2"] == PROPORTIONAL
    same = verdicts(records, "same-batch Z, LOO baseline")
    assert {n for n, v in same.items() if v != BIASED} == {"reverse_kl"}
    assert set(verdicts(records, "LOO Z, LOO baseline").values()) == {BIASED}
    factors = {r.factor for r in records if r.estimator == "batch-mean baseline"}
    assert all(f == pytest.approx(2 / 3, rel=1e-12) for f in factors)


# ---------------------------------------------------------------- the judge of the claims


def test_judge_measures():
    truth = np.array([3.0, -4.0])
    half = Comparison(truth / 2, truth, factor=0.5)
    assert judge([Comparison(truth, truth)]).verdict == EXACT
    assert judge([half]) == (PROPORTIONAL, 0.5, 0.0)
    assert judge([Comparison(truth / 2, truth)]) == (BIASED, None, 0.5)


def test_judge_does_not_accept_another_factor():
    truth = np.array([3.0, -4.0])
    assert judge([Comparison(truth * 0.4, truth, factor=0.5)]).verdict == BIASED


def test_judge_sees_the_worst_problem_and_nan():
    truth = np.array([3.0, -4.0])
    good = Comparison(truth, truth)
    assert judge([good, Comparison(truth * (1 + 2e-10), truth), good]).verdict == BIASED
    for bad in (np.nan, np.inf):
        for order in ((0, 1), (1, 0)):
            pair = [good, Comparison(np.array([bad, 1.0]), truth)]
            assert judge([pair[i] for i in order]) == (BIASED, None, np.inf)


def test_inequalities_are_one_sided():
    assert judge([at_most(1.0, 2.0)]) == (EXACT, None, 0.0)
    assert judge([at_most(2.0, 2.0)]).verdict == EXACT
    assert judge([at_most(2.1, 2.0)]).verdict == BIASED
    assert judge([at_most(2.1, np.inf)]).verdict == EXACT


def test_a_doubtful_bias_does_not_hold(records: list[Record]):
    biased = next(r for r in records if r.verdict == BIASED)
    faint = Record(**{**vars(biased), "max_relative_error": 1e-6})
    assert biased.holds
    assert not faint.holds
