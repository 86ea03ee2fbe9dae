"""Claims about the estimate of Z itself, and about Z from the past of a policy that moves (F5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fdpg_ref import (
    DIVERGENCES,
    PEARSON_CHI2,
    FDivergence,
    PartitionState,
    importance_log_partition,
    init_partition,
    score_signal,
    update_partition,
)
from toy.exact import batch_expectation, estimator_moments
from toy.verify.cases import ALPHA, Case, case_of, cases
from toy.verify.estimators import same_batch_z
from toy.verify.gradients import Plan, enumerated_mean
from toy.verify.records import BIASED, EXACT, PROPORTIONAL, Comparison, Record, record

_TESTS = "tests/toy/test_partition.py::"
# Every problem has k^2 histories, each a problem of its own.
_PROBLEMS_WITH_HISTORY = 3


class History(NamedTuple):
    """A first batch of two, its probability, and the problem as the policy moved by it sees it."""

    drawn: np.ndarray
    mass: float
    state: PartitionState
    moved: Case


def partition_records() -> Iterator[Record]:
    """Yield the records of all claims of this module."""
    few = cases()[:_PROBLEMS_WITH_HISTORY]
    histories = [(case, list(_histories(case))) for case in few]
    yield record(
        "F5: the mean of P/q over samples of any q is unbiased for Z",
        [_importance_mean(case) for case in cases()],
        estimator="Zhat",
        test_id=_TESTS + "test_importance_estimate_of_z",
    )
    yield record(
        "F5: a running mean is unbiased for Z even though the policy moved between batches",
        [_running_mean(case, past) for case, past in histories],
        estimator="running Zhat",
        test_id=_TESTS + "test_running_estimate_of_z",
    )
    yield record(
        "F5: off-policy, Pearson's bias under same-batch Z is (2/n) Cov_q(w t s, p/q)",
        [_pearson_off_policy(case) for case in cases()],
        divergence="pearson_chi2",
        estimator="same-batch Z, off-policy: bias",
        test_id=_TESTS + "test_pearson_off_policy",
    )
    for name, divergence in DIVERGENCES.items():
        yield record(
            "F5: past-only Z, given any past, after the policy moved: the verdicts of frozen Z",
            [_past_only(history, divergence) for _, past in histories for history in past],
            claimed=(EXACT if ALPHA[name] == 1 else PROPORTIONAL) if name in ALPHA else BIASED,
            divergence=name,
            estimator="past-only Z, policy moved",
            test_id=_TESTS + "test_past_only_z",
        )


def _importance_mean(case: Case) -> Comparison:
    def estimate(drawn: np.ndarray) -> np.ndarray:
        return np.exp(importance_log_partition(case.log_score[drawn], case.log_base[drawn]))

    return Comparison(batch_expectation(case.log_base, 3, estimate), np.exp(case.log_z))


def _running_mean(case: Case, past: list[History]) -> Comparison:
    def mean_given(history: History) -> np.ndarray:
        log_proposal = history.moved.log_policy

        def estimate(drawn: np.ndarray) -> np.ndarray:
            wide = history.state._replace(log_z=np.full(len(drawn), history.state.log_z))
            return np.exp(update_partition(wide, case.log_score[drawn], log_proposal[drawn]).log_z)

        return batch_expectation(log_proposal, 2, estimate)

    value = sum(history.mass * mean_given(history) for history in past)
    return Comparison(np.asarray(value), np.exp(case.log_z))


def _past_only(history: History, divergence: FDivergence) -> Comparison:
    moved, name = history.moved, divergence.name
    signal = score_signal(
        moved.log_policy, moved.log_score - history.state.log_z, divergence=divergence
    )
    error = float(history.state.log_z - moved.log_z)
    return Comparison(
        value=estimator_moments(moved.log_policy, signal, moved.scores).mean,
        truth=moved.gradients[name],
        factor=float(np.exp((ALPHA[name] - 1) * error)) if name in ALPHA else None,
    )


def _pearson_off_policy(case: Case) -> Comparison:
    n = 3
    mean = enumerated_mean(same_batch_z, case, Plan(n, off_policy=True), PEARSON_CHI2)
    probs = np.exp(case.log_base)
    weights = np.exp(case.log_policy - case.log_base)
    parts = np.exp(case.log_target - case.log_base)
    terms = (weights * np.exp(case.log_policy - case.log_target))[:, None] * case.scores
    covariance = (probs * (parts - probs @ parts)) @ terms
    gradient = case.gradients["pearson_chi2"]
    # The bias is a difference: its rounding is that of the gradient it was subtracted from.
    return Comparison(mean - gradient, 2 / n * covariance, scale=float(np.linalg.norm(gradient)))


def _histories(case: Case) -> Iterator[History]:
    """Yield every first batch; the policy moves towards what was drawn, by half a score."""
    problem = case.problem
    for drawn in np.indices((case.log_policy.size,) * 2).reshape(2, -1).T:
        theta = problem.start + 0.5 * np.mean(case.scores[drawn], axis=0)
        yield History(
            drawn=drawn,
            mass=float(np.exp(np.sum(case.log_policy[drawn]))),
            state=init_partition(case.log_score[drawn], case.log_policy[drawn]),
            moved=case_of(replace(problem, start=theta)),
        )
