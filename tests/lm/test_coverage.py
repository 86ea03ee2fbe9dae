"""Coverage of a set of texts, against enumeration; and z-scores that know the true variance."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from support.lm_runs import lines, tiny_config

from lm.config import OptimizerConfig, TargetConfig
from lm.config.parts import EvaluationConfig
from lm.evaluation.coverage import exact_coverage, largest_error, sampled_coverage
from lm.evaluation.statistics import exact_error, z_score
from lm.run.records import ROUNDING
from lm.train import train

# Two texts of the set, and a third that is none of it.
LAW = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
SET = LAW[:2].log()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_coverage_is_the_share_of_the_set_that_k_samples_show(k):
    shown = 0.0
    for draw in itertools.product(range(3), repeat=k):
        weight = math.prod(float(LAW[x]) for x in draw)
        shown += weight * len({0, 1} & set(draw)) / 2
    assert exact_coverage(SET, k) == pytest.approx(shown, abs=1e-14)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_estimate_is_unbiased_over_all_batches(k):
    n, mean = 5, 0.0
    for draw in itertools.product(range(3), repeat=n):
        weight = math.prod(float(LAW[x]) for x in draw)
        counts = torch.tensor([draw.count(0), draw.count(1)], dtype=torch.float64)
        mean += weight * float(sampled_coverage(counts, n, k).mean)
    assert mean == pytest.approx(exact_coverage(SET, k), abs=1e-13)


def test_its_standard_error_is_the_jackknifes():
    draw, k = [0, 0, 1, 2, 2, 0, 2, 1, 2, 2], 3
    n = len(draw)

    def estimate(sample):
        counts = torch.tensor([sample.count(0), sample.count(1)], dtype=torch.float64)
        return float(sampled_coverage(counts, len(sample), k).mean)

    left_out = torch.tensor([estimate(draw[:i] + draw[i + 1 :]) for i in range(n)])
    slow = math.sqrt((n - 1) / n * float((left_out - left_out.mean()).square().sum()))
    counts = torch.tensor([draw.count(0), draw.count(1)], dtype=torch.float64)
    assert float(sampled_coverage(counts, n, k).standard_error) == pytest.approx(slow, rel=1e-6)


def test_coverage_needs_more_samples_than_it_speaks_of():
    with pytest.raises(ValueError, match="coverage at 5 needs more than 5 samples, there are 5"):
        _ = sampled_coverage(torch.ones(2, dtype=torch.float64), 5, 5)
    with pytest.raises(ValueError, match="needs twice as many"):
        _ = EvaluationConfig(samples=512, coverage="ends_in_i", coverage_at=(300,))
    wrong = EvaluationConfig(samples=512, coverage="letters", coverage_at=(1,))
    with pytest.raises(ValueError, match=r"coverage counts listed names, but 'letters'"):
        _ = tiny_config(Path("unused"), evaluation=wrong)


def test_a_run_states_coverage_exactly_and_from_samples(tmp_path):
    evaluation = EvaluationConfig(
        every=4, samples=512, group=64, texts=8, coverage="listed", coverage_at=(1, 64)
    )
    folder = train(tiny_config(tmp_path / "run", evaluation=evaluation, report=False))
    records = lines(folder, "evaluation")
    for record in records:
        for k in (1, 64):
            entries = record["estimates"][f"coverage/{k}"]
            assert 0 < entries["exact"]["value"] < 1
            assert abs(entries["sampled"]["z"]) < 5
    # What one sample shows of 5,163 names is the mass of the list, shared among them.
    last = records[-1]["estimates"]
    assert last["coverage/1"]["exact"]["value"] == pytest.approx(
        last["list_mass"]["exact"]["value"] / 5163, rel=1e-6
    )


def test_the_exact_error_of_a_listed_sum_is_its_standard_deviation_over_all_samples():
    base = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    policy = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    # The third text is not listed: its term counts as 0.
    terms = torch.tensor([0.8, -0.3, 0.0], dtype=torch.float64) / ((base + policy) / 2)
    first = second = 0.0
    for x, y in itertools.product(range(3), repeat=2):
        value = float(terms[x] + terms[y]) / 2
        weight = float(base[x] * policy[y])
        first, second = first + weight * value, second + weight * value**2
    laws = [base.log(), policy.log()]
    # Of few samples there is no error; of many, it is that of all pairs, each the mean of n pairs.
    assert math.isnan(exact_error(terms, laws, 1))
    n = 10_000
    assert exact_error(terms, laws, n) == pytest.approx(
        math.sqrt((second - first**2) / n), rel=1e-12
    )


def test_a_share_has_an_error_once_25_ones_are_expected():
    law, one = torch.tensor([0.01], dtype=torch.float64).log(), torch.ones(1, dtype=torch.float64)
    assert math.isnan(exact_error(one, [law], 2400))
    # (1 - p) of the variance is missing from the plain rule.
    assert exact_error(one, [law], 2600) == pytest.approx(math.sqrt(0.01 * 0.99 / 2600), rel=1e-12)
    assert math.isnan(exact_error(torch.zeros(1, dtype=torch.float64), [law], 2600))


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999])
def test_a_share_and_what_it_leaves_are_judged_alike(share):
    """A moment about zero would let through what has five zeros, and stop what has many."""
    one = torch.ones(1, dtype=torch.float64)

    def error(p: float, n: int) -> float:
        return exact_error(one, [torch.tensor([p], dtype=torch.float64).log()], n)

    # Lyapunov's ratio of a share, by hand: (p^2 + q^2) / sqrt(npq), at most 0.2.
    rest = 1.0 - share
    needed = 25.0 * (share**2 + rest**2) ** 2 / (share * rest)
    for p in (share, rest):
        assert math.isnan(error(p, int(0.98 * needed)))
        n = int(1.02 * needed) + 1
        assert error(p, n) == pytest.approx(math.sqrt(share * rest / n), rel=1e-9)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_no_law_has_a_larger_error_of_coverage_than_the_bound(k):
    n = 5
    for law in (LAW, torch.tensor([0.9, 0.05, 0.05]), torch.tensor([0.5, 0.5, 0.0])):
        exact, variance = exact_coverage(law[:2].double().log(), k), 0.0
        for draw in itertools.product(range(3), repeat=n):
            counts = torch.tensor([draw.count(0), draw.count(1)], dtype=torch.float64)
            weight = math.prod(float(law[x]) for x in draw)
            variance += weight * (float(sampled_coverage(counts, n, k).mean) - exact) ** 2
        assert variance <= largest_error(exact, 2, n, k) ** 2 * (1 + 1e-9)
        # A bound that says nothing would be met by anything.
        assert largest_error(exact, 2, n, k) <= math.sqrt(k / n / 8) + 1e-12


def test_a_z_score_does_not_take_rounding_for_disagreement():
    assert abs(z_score(1e-7, 1e-12)) < 0.2
    assert z_score(0.3, 0.1) == pytest.approx(3.0, rel=ROUNDING)
    assert math.isnan(z_score(0.3, 0.0))


def test_exact_and_sampled_agree_where_a_policy_misses_most_of_the_target(tmp_path):
    """A collapsed policy's own samples cannot show the variance of its importance weights."""
    rare = TargetConfig(moments={"ends_in_i": 0.95})
    reward = TargetConfig(kind="reward", reward={"listed": 1.0})
    config = tiny_config(
        tmp_path / "run", target=reward, measure=rare, divergence="reverse_kl", steps=40,
        batch_size=128, optimizer=OptimizerConfig(lr=1e-2), report=False,
        evaluation=EvaluationConfig(every=10, samples=512, group=64, texts=8),
    )  # fmt: skip
    folder = train(config)
    records = [record["estimates"] for record in lines(folder, "evaluation")]
    last = records[-1]
    assert last["entropy"]["rao_blackwell"]["value"] < 2.0
    assert last["log_z"]["sampled"]["value"] < last["log_z"]["exact"]["value"] - 1.0
    sampled = [
        entries["sampled"] for e in records for entries in e.values() if "sampled" in entries
    ]
    z = [entry["z"] for entry in sampled if "z" in entry]
    # Few samples carry the estimate of Z: no z is stated, whatever their own error says.
    assert "z" not in last["log_z"]["sampled"]
    assert z
    assert max(map(abs, z)) < 5
