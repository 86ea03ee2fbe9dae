"""What the theory says of the mean of each gradient estimator: F1 to F3, F5 and F6, as one table.

Each line names an estimator, the batches it sees, the verdict predicted for each divergence and,
where the estimator is proportional, the factor, computed without the estimator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from fdpg_ref import DIVERGENCES, FDivergence, score_signal
from toy.verify import estimators
from toy.verify.cases import ALPHA, Case, cases, partition_factor
from toy.verify.gradients import Estimator, Plan, enumerated_mean
from toy.verify.records import BIASED, EXACT, PROPORTIONAL, Comparison
from toy.verify.register import Claims

CLAIMS = Claims("tests/toy/test_estimators.py", cases)
Predicted = TypeVar("Predicted")
ESTIMATORS: dict[str, Estimator] = {}

Predict = Callable[[Case, Plan, str], Predicted]


def _shrinkage(case: Case, plan: Plan, name: str) -> float:
    return (plan.n - 1) / plan.n


def _only_reverse_kl(name: str) -> str:
    return EXACT if name == "reverse_kl" else BIASED


def _only_pearson_scales(name: str) -> str:
    return PROPORTIONAL if name == "pearson_chi2" else BIASED


def _alpha_scales(name: str) -> str:
    return (EXACT if ALPHA[name] == 1 else PROPORTIONAL) if name in ALPHA else BIASED


def _independent_z(name: str) -> str:
    # Pearson's factor is E[Zhat/Z], which is one: Zhat itself is unbiased.
    return EXACT if name == "pearson_chi2" else _alpha_scales(name)


def _pearson_shrinkage(case: Case, plan: Plan, name: str) -> float | None:
    # Zhat enters Pearson's signal linearly, and the n samples of the batch are n of all of Zhat's.
    return 1 - 1 / (plan.n + plan.past) if name == "pearson_chi2" else None


def _leave_one_out_factor(case: Case, plan: Plan, name: str) -> float | None:
    proposal = case.log_base if plan.off_policy else case.log_policy
    return _factor(case, proposal, plan.n - 1, name)


def _frozen_factor(case: Case, plan: Plan, name: str) -> float | None:
    return _factor(case, case.log_base, plan.past, name)


def _factor(case: Case, proposal: np.ndarray, n: int, name: str) -> float | None:
    return partition_factor(case, proposal, n, alpha=ALPHA[name]) if name in ALPHA else None


def _wrong_factor(case: Case, plan: Plan, name: str) -> float | None:
    if name not in ALPHA:
        return None
    return float(np.exp(estimators.PARTITION_ERROR * (ALPHA[name] - 1)))


def _batch_mean_off_policy(case: Case, plan: Plan, name: str) -> np.ndarray:
    weights = np.exp(case.log_policy - case.log_base)
    signal = score_signal(case.log_policy, case.log_target, divergence=DIVERGENCES[name])
    own = np.exp(case.log_policy) @ ((weights * signal)[:, None] * case.scores)
    return case.gradients[name] - own / plan.n


def _claim(
    fact: str,
    statement: str,
    name: str,
    estimator: Estimator,
    plan: Plan,
    *,
    test: str,
    claimed: str | Callable[[str], str] = EXACT,
    factor: Predict[float | None] | None = None,
    mean: Predict[np.ndarray] | None = None,
) -> None:
    """Add the claim that an estimator has the gradient as its mean over all batches of a plan.

    ``factor`` and ``mean`` predict what it has instead, from case, plan and name of the divergence,
    and are computed apart from the estimator.
    """

    def problems() -> tuple[Case, ...]:
        return cases(holes=plan.holes)

    def finite(divergence: FDivergence) -> bool:
        return divergence.name in problems()[0].gradients

    def compare(case: Case, divergence: FDivergence) -> Comparison:
        called = divergence.name
        return Comparison(
            value=enumerated_mean(estimator, case, plan, divergence),
            truth=case.gradients[called] if mean is None else mean(case, plan, called),
            factor=None if factor is None else factor(case, plan, called),
        )

    ESTIMATORS[name] = estimator
    about = {"test": test, "claimed": claimed, "where": finite, "problems": problems}
    CLAIMS.each(fact, statement, name, **about)(compare)


_claim(
    "F1",
    "E_pi[g'(pi/p) score] = grad D_f",
    "one sample",
    estimators.plain,
    Plan(1),
    test="test_one_sample",
)
_claim(
    "F1",
    "the same with g'(inf) where the target excludes an outcome",
    "one sample, target with a hole",
    estimators.plain,
    Plan(1, holes=1),
    test="test_one_sample_with_a_hole",
)
_claim(
    "F2",
    "a constant baseline changes no mean",
    "constant baseline",
    estimators.constant_baseline,
    Plan(2),
    test="test_constant_baseline",
)
_claim(
    "F3",
    "the leave-one-out baseline is unbiased",
    "LOO baseline",
    estimators.leave_one_out_baseline,
    Plan(3),
    test="test_leave_one_out_baseline",
)
_claim(
    "F3",
    "the batch-mean baseline gives (n-1)/n of the gradient (n = 3)",
    "batch-mean baseline",
    estimators.batch_mean_baseline,
    Plan(3),
    test="test_batch_mean_baseline",
    claimed=PROPORTIONAL,
    factor=_shrinkage,
)
_claim(
    "F6",
    "importance weights pi/q make off-policy samples unbiased",
    "off-policy",
    estimators.plain,
    Plan(2, off_policy=True),
    test="test_off_policy",
)
_claim(
    "F6",
    "off-policy, a leave-one-out baseline of unweighted peers is unbiased",
    "off-policy, LOO baseline",
    estimators.leave_one_out_baseline,
    Plan(3, off_policy=True),
    test="test_off_policy_leave_one_out",
)
_claim(
    "F6",
    "off-policy, a leave-one-out baseline of weighted peers is unbiased",
    "off-policy, weighted LOO baseline",
    estimators.weighted_leave_one_out_baseline,
    Plan(3, off_policy=True),
    test="test_off_policy_leave_one_out",
)
_claim(
    "F5",
    "a verifier's groups with none, one or all successes: exact Z and a LOO baseline are unbiased",
    "groups, exact Z, LOO baseline",
    estimators.grouped_with_exact_z,
    Plan(3, holes=2),
    test="test_groups_of_a_verifier",
)
_claim(
    "F6",
    "... and on samples of another sampler with weights pi/q",
    "groups, exact Z, LOO baseline, off-policy",
    estimators.grouped_with_exact_z,
    Plan(3, off_policy=True, holes=2),
    test="test_groups_of_a_verifier",
)
_claim(
    "F6",
    "off-policy, the weighted batch mean is biased",
    "off-policy, batch-mean baseline",
    estimators.weighted_batch_mean_baseline,
    Plan(3, off_policy=True),
    test="test_off_policy_batch_mean",
    claimed=BIASED,
)
_claim(
    "F6",
    "... and its mean is exactly grad D_f - E_pi[w c score] / n",
    "off-policy, batch mean: predicted mean",
    estimators.weighted_batch_mean_baseline,
    Plan(3, off_policy=True),
    test="test_off_policy_batch_mean",
    mean=_batch_mean_off_policy,
)
_claim(
    "F6",
    "self-normalised weights are biased",
    "off-policy, self-normalised",
    estimators.self_normalised,
    Plan(3, off_policy=True),
    test="test_self_normalised",
    claimed=BIASED,
)
_claim(
    "F5",
    "Z from the same batch is biased, for Pearson exactly (n-1)/n (n = 3)",
    "same-batch Z",
    estimators.same_batch_z,
    Plan(3),
    test="test_same_batch_z",
    claimed=_only_pearson_scales,
    factor=_pearson_shrinkage,
)
_claim(
    "F5",
    "same-batch Z under a leave-one-out baseline: reverse KL is the one exact exception",
    "same-batch Z, LOO baseline",
    estimators.same_batch_z_leave_one_out_baseline,
    Plan(3),
    test="test_same_batch_z_leave_one_out_baseline",
    claimed=_only_reverse_kl,
)
_claim(
    "F5",
    "leave-one-out Z: reverse KL exact, alpha family times E[(Zhat/Z)^(alpha-1)]",
    "LOO Z",
    estimators.leave_one_out_z,
    Plan(3),
    test="test_leave_one_out_z",
    claimed=_independent_z,
    factor=_leave_one_out_factor,
)
_claim(
    "F5",
    "leave-one-out Z off-policy: the same verdicts",
    "LOO Z, off-policy",
    estimators.leave_one_out_z,
    Plan(3, off_policy=True),
    test="test_leave_one_out_z",
    claimed=_independent_z,
    factor=_leave_one_out_factor,
)
_claim(
    "F5",
    "leave-one-out Z under a leave-one-out baseline is biased, even for reverse KL",
    "LOO Z, LOO baseline",
    estimators.leave_one_out_z_leave_one_out_baseline,
    Plan(3),
    test="test_leave_one_out_z_leave_one_out_baseline",
    claimed=BIASED,
)
_claim(
    "F5",
    "frozen or past-only Z: reverse KL exact, alpha family times E[(Zhat/Z)^(alpha-1)]",
    "frozen Z",
    estimators.frozen_z,
    Plan(1, past=2),
    test="test_frozen_z",
    claimed=_independent_z,
    factor=_frozen_factor,
)
_claim(
    "F5",
    "a leave-one-out baseline is safe with a frozen or past-only Z",
    "frozen Z, LOO baseline",
    estimators.frozen_z_leave_one_out_baseline,
    Plan(2, past=2),
    test="test_frozen_z",
    claimed=_independent_z,
    factor=_frozen_factor,
)
_claim(
    "F5",
    "a running mean that includes the batch is biased (Pearson, linear in Z, scales)",
    "past-and-current Z",
    estimators.past_and_current_z,
    Plan(2, past=1),
    test="test_past_and_current_z",
    claimed=_only_pearson_scales,
    factor=_pearson_shrinkage,
)
_claim(
    "F5",
    "a constant error in Z: reverse KL exact, alpha family times (Zhat/Z)^(alpha-1)",
    "Z off by a constant",
    estimators.wrong_z,
    Plan(1),
    test="test_wrong_z",
    claimed=_alpha_scales,
    factor=_wrong_factor,
)
