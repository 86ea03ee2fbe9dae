"""Partition functions against slow loops in exact arithmetic."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import oracles
from support.libraries import Library, to_numpy
from support.strategies import logits

from fdpg_ref import (
    exact_log_partition,
    importance_log_partition,
    init_partition,
    leave_one_out_log_partition,
    update_partition,
)

INF = math.inf


def slow_leave_one_out(log_score: np.ndarray, log_proposal: np.ndarray) -> list[float]:
    everyone = range(len(log_score))
    return [
        oracles.log(
            oracles.partition(
                [log_score[j] for j in everyone if j != i],
                [log_proposal[j] for j in everyone if j != i],
            )
        )
        for i in everyone
    ]


def tolerance(xp: Library, *arrays: np.ndarray) -> dict[str, Any]:
    """Allow the rounding of log P - log q at its own size, and a few eps of summation."""
    size = max(float(np.max(np.abs(x[np.isfinite(x)]), initial=1.0)) for x in arrays)
    return {"rtol": 4 * xp.eps, "atol": 2 * size * xp.eps}


@given(log_score=logits(4, holes=True))
def test_exact_log_partition_is_the_sum(xp: Library, log_score):
    expected = oracles.log(sum(oracles.exp(to_numpy(xp.array(log_score)))))
    value = float(exact_log_partition(xp.array(log_score)))
    np.testing.assert_allclose(value, expected, **tolerance(xp, log_score))


@given(log_score=logits(4, holes=True), log_proposal=logits(4))
def test_importance_and_leave_one_out_are_slow_loops(xp: Library, log_score, log_proposal):
    score, proposal = to_numpy(xp.array(log_score)), to_numpy(xp.array(log_proposal))
    allowed = tolerance(xp, score, proposal)
    arrays = xp.array(log_score), xp.array(log_proposal)
    expected = oracles.log(oracles.partition(score.tolist(), proposal.tolist()))
    np.testing.assert_allclose(to_numpy(importance_log_partition(*arrays)), expected, **allowed)
    np.testing.assert_allclose(
        to_numpy(leave_one_out_log_partition(*arrays)),
        slow_leave_one_out(score, proposal),
        **allowed,
    )


@pytest.mark.parametrize("gap", [20.0, 80.0, 400.0, 2000.0])
def test_leave_one_out_with_one_dominating_weight(xp: Library, gap):
    """The peers of the largest weight are not (total - largest), which has lost them all."""
    log_score = xp.array([-1.0, gap, -2.5, -0.5])
    log_proposal = xp.array([-0.5, -1.0, -0.25, -1.0])
    expected = slow_leave_one_out(to_numpy(log_score), to_numpy(log_proposal))
    values = to_numpy(leave_one_out_log_partition(log_score, log_proposal))
    np.testing.assert_allclose(values, expected, rtol=8 * xp.eps)


def test_leave_one_out_with_tied_largest_weights(xp: Library):
    log_score = xp.array([[3.0, 3.0, -INF], [-INF, -INF, 1.0]])
    values = to_numpy(leave_one_out_log_partition(log_score, xp.array(np.zeros((2, 3)))))
    expected = [[3 - math.log(2), 3 - math.log(2), 3.0], [1 - math.log(2)] * 2 + [-INF]]
    np.testing.assert_allclose(values, expected, rtol=8 * xp.eps)


def test_the_importance_estimate_has_expectation_z():
    """Over all 4^3 batches, E[Zhat] = Z and E[leave-one-out Zhat_i] = Z for every i (fact F5)."""
    proposal = np.array([0.1, 0.2, 0.3, 0.4])
    log_score = np.log([2.0, 0.3, 0.05, 1.1])
    mean, mean_without_one = 0.0, np.zeros(3)
    for batch, probability in oracles.batches(proposal.tolist(), 3):
        drawn = list(batch)
        arguments = log_score[drawn], np.log(proposal[drawn])
        mean += probability * np.exp(importance_log_partition(*arguments))
        mean_without_one += probability * np.exp(leave_one_out_log_partition(*arguments))
    assert mean == pytest.approx(3.45, rel=1e-13)
    np.testing.assert_allclose(mean_without_one, 3.45, rtol=1e-13)


# ------------------------------------------------------------------ the running estimate


def test_running_estimate_is_the_mean_over_all_past_samples(xp: Library):
    scores = [[0.5, -1.0, 2.0], [1.5, -INF, 0.0, -3.0], [700.0, -700.0]]
    proposals = [[-1.0, -2.0, -0.5], [-0.1, -1.0, -2.0, -0.5], [699.0, -1.0]]
    state = init_partition(xp.array(scores[0]), xp.array(proposals[0]))
    assert state.weight == 3
    for score, proposal in zip(scores[1:], proposals[1:], strict=True):
        state = update_partition(state, xp.array(score), xp.array(proposal))
    everything = [x for s in scores for x in s], [x for q in proposals for x in q]
    assert state.weight == 9
    expected = oracles.log(oracles.partition(*everything))
    # 700 - 699 is exact in both precisions; the sums are not.
    assert float(state.log_z) == pytest.approx(expected, rel=16 * xp.eps)


def test_forgetting_discounts_the_past_by_its_weight(xp: Library):
    first, second = xp.array([0.0, 0.0]), xp.array([math.log(4.0), math.log(4.0)])
    zeros = xp.array([0.0, 0.0])
    state = update_partition(init_partition(first, zeros), second, zeros, forgetting=0.25)
    # Two samples of weight 1 count as half a sample next to two of weight 4.
    assert state.weight == 2.5
    assert float(state.log_z) == pytest.approx(math.log((0.5 * 1 + 2 * 4) / 2.5), rel=8 * xp.eps)


def test_a_batch_without_mass_lowers_the_estimate_and_never_gives_nan(xp: Library):
    zeros = xp.array([0.0, 0.0])
    empty = xp.array([-INF, -INF])
    state = init_partition(empty, zeros)
    assert float(state.log_z) == -INF
    state = update_partition(state, zeros, zeros)
    assert float(state.log_z) == pytest.approx(-math.log(2), rel=4 * xp.eps)
    assert float(update_partition(state, empty, zeros).log_z) == pytest.approx(
        -math.log(3), rel=4 * xp.eps
    )


@given(st.integers(0, 2**32 - 1))
def test_updating_one_by_one_is_updating_at_once(seed):
    rng = np.random.default_rng(seed)
    score, proposal = rng.normal(0, 3, (2, 12))
    at_once = update_partition(init_partition(score[:4], proposal[:4]), score[4:], proposal[4:])
    state = init_partition(score[:4], proposal[:4])
    for i in range(4, 12):
        state = update_partition(state, score[i : i + 1], proposal[i : i + 1])
    np.testing.assert_allclose(state.log_z, at_once.log_z, rtol=1e-13, atol=1e-14)


def test_contexts_have_their_own_estimates(xp: Library):
    score = xp.array([[0.0, 1.0], [5.0, 5.0]])
    state = init_partition(score, xp.array(np.zeros((2, 2))))
    state = update_partition(state, score, xp.array(np.zeros((2, 2))))
    expected = [math.log((1 + math.e) / 2), 5.0]
    np.testing.assert_allclose(to_numpy(state.log_z), expected, rtol=8 * xp.eps)


@pytest.mark.parametrize("forgetting", [0.0, -0.5, 1.5, math.nan])
def test_forgetting_outside_its_range_is_refused(forgetting):
    state = init_partition(np.zeros(2), np.zeros(2))
    with pytest.raises(ValueError, match="forgetting is"):
        _ = update_partition(state, np.zeros(2), np.zeros(2), forgetting=forgetting)


def test_leaving_the_only_sample_out_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out_log_partition(np.zeros(1), np.zeros(1))
