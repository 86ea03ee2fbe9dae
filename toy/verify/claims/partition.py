"""Claims about the estimate of Z itself, and about Z from the past of a policy that moves (F5)."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np

from fdpg_ref import (
    FORWARD_KL,
    PEARSON_CHI2,
    FDivergence,
    PartitionState,
    group_coefficients,
    importance_log_partition,
    init_partition,
    score_signal,
    update_partition,
)
from toy.exact import batch_expectation, estimator_moments
from toy.verify.cases import ALPHA, Case, case_of, cases
from toy.verify.estimators import same_batch_z
from toy.verify.gradients import Plan, enumerated_mean
from toy.verify.records import BIASED, EXACT, PROPORTIONAL, Comparison
from toy.verify.register import Claims

CLAIMS = Claims("tests/toy/test_partition.py", cases)
# Every problem has k^2 histories, each a problem of its own.
_PROBLEMS_WITH_HISTORY = 3
_PASS_RATES = (0.5, 0.1, 0.02)


class History(NamedTuple):
    """A first batch of two, its probability, and the problem as the policy moved by it sees it."""

    drawn: np.ndarray
    mass: float
    state: PartitionState
    moved: Case


@CLAIMS.once(
    "F5",
    "the mean of P/q over samples of any q is unbiased for Z",
    "Zhat",
    test="test_importance_estimate_of_z",
)
def _importance_mean(case: Case) -> Comparison:
    def estimate(drawn: np.ndarray) -> np.ndarray:
        return np.exp(importance_log_partition(case.log_score[drawn], case.log_base[drawn]))

    return Comparison(batch_expectation(case.log_base, 3, estimate), np.exp(case.log_z))


@CLAIMS.once(
    "F5",
    "a running mean is unbiased for Z even though the policy moved between batches",
    "running Zhat",
    test="test_running_estimate_of_z",
    problems=lambda: cases()[:_PROBLEMS_WITH_HISTORY],
)
def _running_mean(case: Case) -> Comparison:
    def mean_given(history: History) -> np.ndarray:
        log_proposal = history.moved.log_policy

        def estimate(drawn: np.ndarray) -> np.ndarray:
            wide = history.state._replace(log_z=np.full(len(drawn), history.state.log_z))
            return np.exp(update_partition(wide, case.log_score[drawn], log_proposal[drawn]).log_z)

        return batch_expectation(log_proposal, 2, estimate)

    value = sum(history.mass * mean_given(history) for history in _histories(case))
    return Comparison(np.asarray(value), np.exp(case.log_z))


def _all_histories() -> list[History]:
    return [history for case in cases()[:_PROBLEMS_WITH_HISTORY] for history in _histories(case)]


@CLAIMS.each(
    "F5",
    "past-only Z, given any past, after the policy moved: the verdicts of frozen Z",
    "past-only Z, policy moved",
    test="test_past_only_z",
    claimed=lambda name: (EXACT if ALPHA[name] == 1 else PROPORTIONAL) if name in ALPHA else BIASED,
    problems=_all_histories,
)
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


@CLAIMS.once(
    "F5",
    "off-policy, Pearson's bias under same-batch Z is (2/n) Cov_q(w t s, p/q)",
    "same-batch Z, off-policy: bias",
    test="test_pearson_off_policy",
    divergence="pearson_chi2",
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


@CLAIMS.once(
    "F5",
    "at the base a verifier's Z and baseline from one group of n leave n/(n-1) (1 - (1-r)^(n-1)) "
    "of forward KL's gradient, r its pass rate",
    "groups, same-batch Z, LOO baseline",
    test="test_a_verifiers_z_from_its_group",
    divergence="forward_kl",
    problems=lambda: _PASS_RATES,
)
def _group_pass_rate(rate: float) -> Comparison:
    n = 4
    passes = np.array([*product((False, True), repeat=n)])
    masses = np.prod(np.where(passes, rate, 1 - rate), axis=-1)
    # The logit of passing: its score, and the gradient of -log of what passes.
    scores, gradient = np.where(passes, 1 - rate, -rate), rate - 1
    coefficients = group_coefficients(
        np.where(passes, 0.0, -np.inf),
        divergence=FORWARD_KL,
        log_z="same_batch",
        baseline="leave_one_out",
    )
    left = n / (n - 1) * (1 - (1 - rate) ** (n - 1))
    value = masses @ np.mean(coefficients * scores, axis=-1)
    return Comparison(np.asarray(value), np.asarray(left * gradient))


def _histories(case: Case) -> list[History]:
    """Return every first batch; the policy moves towards what was drawn, by half a score."""
    problem, found = case.problem, []
    for drawn in np.indices((case.log_policy.size,) * 2).reshape(2, -1).T:
        theta = problem.start + 0.5 * np.mean(case.scores[drawn], axis=0)
        mass = float(np.exp(np.sum(case.log_policy[drawn])))
        state = init_partition(case.log_score[drawn], case.log_policy[drawn])
        found.append(History(drawn, mass, state, case_of(replace(problem, start=theta))))
    return found
