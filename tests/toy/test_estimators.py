"""The mean of every gradient estimator (F1 to F3, F5, F6) against a loop over all batches.

Three computations meet in each test: the vectorised estimator on the core, a loop over Python
numbers that shares no code with it, and the gradient that the theory names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import support.toy_slow as slow
from hypothesis import given
from hypothesis import strategies as st
from support.toy_cases import FIXED, ordinary_cases

from fdpg_ref import DIVERGENCES
from toy.estimators.composition import world_of
from toy.estimators.estimates import World, batch_of
from toy.exact import batch_expectation, exact_gradient
from toy.problems import PROBLEMS
from toy.verify import estimators
from toy.verify.cases import Case, case_of, cases
from toy.verify.claims.gradient_table import ESTIMATORS
from toy.verify.gradients import Plan, enumerated_mean

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(DIVERGENCES)
each_divergence = pytest.mark.parametrize("name", NAMES)

# Sums of at most 4^4 products of a few factors, each rounded once: 1e-12 relative to the terms
# (mathematics.md, section 5). Terms are measured by E|c||s| under the slow loop.
ROUNDING = 1e-12
# A bias is asserted on one fixed problem, where every one of them exceeds 1 % of the gradient.
BIAS = 1e-2
# Z from the batch itself, on-policy: see assert_mean.
ON_THE_KINK = (
    estimators.same_batch_z,
    estimators.same_batch_z_leave_one_out_baseline,
    estimators.leave_one_out_z,
    estimators.leave_one_out_z_leave_one_out_baseline,
)


def term_scale(case: Case, name: str) -> float:
    """Return the largest term of the sums: cancellation leaves errors of its size, not smaller."""
    ratios = np.exp(np.concatenate([case.log_policy - case.log_target, [0.0]]))
    spread = np.exp(
        np.ptp(case.log_policy - case.log_base) + np.ptp(case.log_score - case.log_base)
    )
    largest = max(abs(slow.SIGNALS[name](float(t))) for t in np.append(ratios, ratios * spread))
    return 1 + float(largest) * float(np.exp(np.max(np.abs(case.log_policy - case.log_base))))


def assert_mean(
    estimator: Callable,
    coefficients: Callable,
    case: Case,
    name: str,
    plan: Plan,
    *,
    factor: float | None = 1.0,
) -> np.ndarray:
    """Assert loop = vectorised = factor x gradient (None: no factor claimed); return the mean."""
    world = slow.world_of(case)
    loop = slow.slow_mean(
        coefficients, world, name, n=plan.n, past=plan.past, off_policy=plan.off_policy
    )
    vectorised = enumerated_mean(estimator, case, plan, DIVERGENCES[name])
    atol = ROUNDING * term_scale(case, name)
    if name == "total_variation" and estimator in ON_THE_KINK:
        # A batch of one outcome, repeated, has Zhat = P/q, hence t = 1: on the kink, where rounding
        # picks a subgradient. The two means may differ by the mass of such batches.
        proposal = case.log_base if plan.off_policy else case.log_policy
        atol += float(np.sum(np.exp(plan.n * proposal)))
    np.testing.assert_allclose(vectorised, loop, rtol=1e-12, atol=atol)
    if factor is not None:
        np.testing.assert_allclose(loop, factor * slow.gradient(world, name), rtol=0, atol=atol)
    return loop


def relative_bias(mean: np.ndarray, name: str) -> float:
    """Return the distance of a mean on the fixed case from the gradient."""
    truth = FIXED.gradients[name]
    return float(np.linalg.norm(mean - truth) / np.linalg.norm(truth))


def test_the_two_judges_agree():
    # The complex step on the definition, and pi f'(pi/p) score summed by a loop.
    for case in (*cases(), FIXED):
        for name in NAMES:
            expected = slow.gradient(slow.world_of(case), name)
            np.testing.assert_allclose(case.gradients[name], expected, rtol=1e-11)


@each_divergence
@given(case=ordinary_cases())
def test_one_sample(name: str, case: Case):
    _ = assert_mean(estimators.plain, slow.plain, case, name, Plan(1))


@pytest.mark.parametrize(
    "name", [n for n in NAMES if np.isfinite(DIVERGENCES[n].slope_at_infinity)]
)
def test_one_sample_with_a_hole(name: str):
    for case in cases(holes=1):
        world = slow.world_of(case)
        expected = np.zeros(len(world.scores[0]))
        for pi, p, score in zip(world.policy, world.target, world.scores, strict=True):
            own = slow.SIGNALS[name](pi / p) if p > 0 else DIVERGENCES[name].slope_at_infinity
            expected += pi * own * np.array(score)
        mean = enumerated_mean(estimators.plain, case, Plan(1, holes=1), DIVERGENCES[name])
        assert np.min(case.log_score) == -np.inf
        np.testing.assert_allclose(mean, expected, rtol=1e-11)
        np.testing.assert_allclose(mean, case.gradients[name], rtol=1e-10)


@pytest.mark.parametrize("off_policy", [False, True])
@pytest.mark.parametrize(
    "name", [n for n in NAMES if np.isfinite(DIVERGENCES[n].slope_at_infinity)]
)
def test_groups_of_a_verifier(name: str, off_policy: bool):
    def coefficients(world, signal, proposal, batch, past):
        hit = [world.target[x] > 0 for x in batch]
        own = [
            signal(world.policy[x] / world.target[x]) if h else DIVERGENCES[name].slope_at_infinity
            for x, h in zip(batch, hit, strict=True)
        ]
        return [own[i] - sum(own[:i] + own[i + 1 :]) / 2 for i in range(3)]

    # Two of five outcomes are excluded: groups of three hold none, one, two or three successes.
    for case in cases(holes=2)[:2]:
        loop = slow.slow_mean(coefficients, slow.world_of(case), name, n=3, off_policy=off_policy)
        plan = Plan(3, off_policy=off_policy, holes=2)
        mean = enumerated_mean(estimators.grouped_with_exact_z, case, plan, DIVERGENCES[name])
        # Terms are a few hundred times the gradient at most: identities to 1e-10.
        np.testing.assert_allclose(mean, loop, rtol=1e-10)
        np.testing.assert_allclose(mean, case.gradients[name], rtol=1e-10)


@each_divergence
@given(case=ordinary_cases())
def test_constant_baseline(name: str, case: Case):
    _ = assert_mean(estimators.constant_baseline, slow.constant_baseline, case, name, Plan(2))


@each_divergence
@given(case=ordinary_cases())
def test_leave_one_out_baseline(name: str, case: Case):
    _ = assert_mean(estimators.leave_one_out_baseline, slow.leave_one_out, case, name, Plan(3))


@each_divergence
@given(case=ordinary_cases(), n=st.integers(2, 3))
def test_batch_mean_baseline(name: str, case: Case, n: int):
    plan, factor = Plan(n), (n - 1) / n
    _ = assert_mean(
        estimators.batch_mean_baseline, slow.batch_mean, case, name, plan, factor=factor
    )


@each_divergence
@given(case=ordinary_cases())
def test_off_policy(name: str, case: Case):
    _ = assert_mean(estimators.plain, slow.plain, case, name, Plan(2, off_policy=True))


@each_divergence
@given(case=ordinary_cases())
def test_off_policy_leave_one_out(name: str, case: Case):
    plan = Plan(3, off_policy=True)
    _ = assert_mean(estimators.leave_one_out_baseline, slow.leave_one_out, case, name, plan)
    weighted = estimators.weighted_leave_one_out_baseline
    _ = assert_mean(weighted, slow.weighted_leave_one_out, case, name, plan)


@each_divergence
def test_off_policy_batch_mean(name: str):
    plan = Plan(3, off_policy=True)
    estimator, coefficients = estimators.weighted_batch_mean_baseline, slow.weighted_batch_mean
    mean = assert_mean(estimator, coefficients, FIXED, name, plan, factor=None)
    assert relative_bias(mean, name) > BIAS
    world = slow.world_of(FIXED)
    predicted = slow.gradient(world, name)
    for pi, p, q, score in zip(world.policy, world.target, world.base, world.scores, strict=True):
        predicted -= pi * (pi / q) * slow.SIGNALS[name](pi / p) * np.array(score) / 3
    np.testing.assert_allclose(mean, predicted, rtol=1e-12, atol=1e-13)


@each_divergence
def test_self_normalised(name: str):
    plan = Plan(3, off_policy=True)
    estimator, coefficients = estimators.self_normalised, slow.self_normalised
    mean = assert_mean(estimator, coefficients, FIXED, name, plan, factor=None)
    assert relative_bias(mean, name) > BIAS


@each_divergence
def test_same_batch_z(name: str):
    factor = 2 / 3 if name == "pearson_chi2" else None
    mean = assert_mean(
        estimators.same_batch_z, slow.same_batch_z, FIXED, name, Plan(3), factor=factor
    )
    assert relative_bias(mean, name) > BIAS


@each_divergence
def test_same_batch_z_leave_one_out_baseline(name: str):
    estimator = estimators.same_batch_z_leave_one_out_baseline
    factor = 1.0 if name == "reverse_kl" else None
    coefficients = slow.same_batch_z_leave_one_out
    mean = assert_mean(estimator, coefficients, FIXED, name, Plan(3), factor=factor)
    assert bool(relative_bias(mean, name) > BIAS) is (name != "reverse_kl")


@each_divergence
@pytest.mark.parametrize("off_policy", [False, True])
def test_leave_one_out_z(name: str, off_policy: bool):
    world = slow.world_of(FIXED)
    proposal = world.base if off_policy else world.policy
    factor = None
    if name in slow.ALPHA:
        factor = slow.partition_factor(world, proposal, 2, slow.ALPHA[name])
    plan = Plan(3, off_policy=off_policy)
    estimator, coefficients = estimators.leave_one_out_z, slow.leave_one_out_z
    mean = assert_mean(estimator, coefficients, FIXED, name, plan, factor=factor)
    assert_scaled_or_biased(mean, name)


@each_divergence
def test_leave_one_out_z_leave_one_out_baseline(name: str):
    estimator = estimators.leave_one_out_z_leave_one_out_baseline
    coefficients = slow.leave_one_out_z_leave_one_out
    mean = assert_mean(estimator, coefficients, FIXED, name, Plan(3), factor=None)
    assert relative_bias(mean, name) > BIAS


@each_divergence
@pytest.mark.parametrize("baseline", [False, True])
def test_frozen_z(name: str, baseline: bool):
    world, factor = slow.world_of(FIXED), None
    if name in slow.ALPHA:
        factor = slow.partition_factor(world, world.base, 2, slow.ALPHA[name])
    if baseline:
        plan, pair = (
            Plan(2, past=2),
            (
                estimators.frozen_z_leave_one_out_baseline,
                slow.frozen_z_leave_one_out,
            ),
        )
    else:
        plan, pair = Plan(1, past=2), (estimators.frozen_z, slow.frozen_z)
    assert_scaled_or_biased(assert_mean(*pair, FIXED, name, plan, factor=factor), name)


@each_divergence
def test_past_and_current_z(name: str):
    # Two of the three samples behind Zhat are trained on; each is one third of it.
    factor = 2 / 3 if name == "pearson_chi2" else None
    plan = Plan(2, past=1)
    estimator, coefficients = estimators.past_and_current_z, slow.past_and_current_z
    mean = assert_mean(estimator, coefficients, FIXED, name, plan, factor=factor)
    assert relative_bias(mean, name) > BIAS


@each_divergence
def test_wrong_z(name: str):
    factor = np.exp(0.7 * (slow.ALPHA[name] - 1)) if name in slow.ALPHA else None
    mean = assert_mean(estimators.wrong_z, slow.wrong_z, FIXED, name, Plan(1), factor=factor)
    assert_scaled_or_biased(mean, name)


def assert_scaled_or_biased(mean: np.ndarray, name: str) -> None:
    """Assert the verdict of an independent Z: direction kept by the alpha family, by no other."""
    truth = FIXED.gradients[name]
    cosine = mean @ truth / (np.linalg.norm(mean) * np.linalg.norm(truth))
    if name in slow.ALPHA:
        assert cosine == pytest.approx(1, abs=1e-12)
    else:
        assert cosine < 1 - 1e-6  # rounding reaches 1e-15
    if name == "reverse_kl":
        assert relative_bias(mean, name) < 1e-12


@pytest.mark.parametrize(
    ("column", "zeros"),
    [
        ("same-batch Z", []),
        ("LOO Z", ["reverse_kl"]),
        ("same-batch Z, LOO baseline", ["reverse_kl"]),
    ],
)
@pytest.mark.parametrize("n", [2, 4, 6])
def test_zeros_of_the_bias_table(column: str, zeros: list[str], n: int):
    # mathematics.md, end of section 4: the zeros carry over to any problem and batch size.
    estimator = ESTIMATORS[column]
    for name in ("reverse_kl", "pearson_chi2", "jensen_shannon", "forward_kl", "total_variation"):
        mean = enumerated_mean(estimator, FIXED, Plan(n), DIVERGENCES[name])
        if name in zeros or (name, column) == ("pearson_chi2", "LOO Z"):
            assert relative_bias(mean, name) < 1e-11
        elif (name, column) == ("pearson_chi2", "same-batch Z"):
            assert relative_bias(mean, name) == pytest.approx(1 / n, rel=1e-11)
        else:
            assert relative_bias(mean, name) > 1e-3


def test_every_estimator_is_claimed():
    claimed = {id(estimator) for estimator in ESTIMATORS.values()}
    partials = [value for value in vars(estimators).values() if isinstance(value, partial)]
    composed = [*partials, estimators.grouped_with_exact_z]
    assert {id(value) for value in composed} == claimed
    assert len(composed) > 10


def test_case_of_leaves_out_infinite_divergences():
    case = case_of(cases(holes=1)[0].problem)
    assert set(NAMES) - set(case.gradients) == {"reverse_kl", "pearson_chi2", "jeffreys"}


def test_the_bias_that_the_page_on_engines_quotes():
    """Z and baseline from the same four samples, of Jensen-Shannon, on two named problems."""
    divergence, found = DIVERGENCES["jensen_shannon"], []
    for name in ("rlhf", "distributional"):
        problem = PROBLEMS[name]()
        world = world_of(problem)
        rows = np.broadcast_to(world.log_policy, (4, world.log_policy.size))

        def estimate(
            drawn: np.ndarray, world: World = world, rows: np.ndarray = rows
        ) -> np.ndarray:
            batch = batch_of(world, drawn, rows, past=0)
            return estimators.leave_one_out_z_leave_one_out_baseline(batch, divergence)

        mean = batch_expectation(rows, 4, estimate)
        target = problem.log_target
        exact = exact_gradient(world.log_policy, target, world.scores, divergence=divergence)
        found.append(float(np.linalg.norm(mean - exact) / np.linalg.norm(exact)))
    page = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    assert f"by {min(found):.2f} to {max(found):.2f} of the gradient" in page
