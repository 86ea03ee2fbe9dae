"""The study's batches against one problem at a time, its minima, and its sampled gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize

from fdpg_ref import exact_divergence
from toy import categorical
from toy.exact import estimator_moments
from toy.exact import exact_gradient as exact_gradient_of_one
from toy.families import Family, SoftmaxFamily, TiltFamily
from toy.sequences import TabularFamily
from toy.sweep.config import StudyConfig
from toy.sweep.descents.adam import descend
from toy.sweep.descents.gradients import exact_gradient, sample, sampled_gradient, signal_to_noise
from toy.sweep.descents.minimise import Minimum, minimise
from toy.sweep.descents.objectives import OBJECTIVES, finite_on
from toy.sweep.descents.optimum import minima_of
from toy.sweep.measures import measure
from toy.sweep.random.draws import SHAPES, Shape
from toy.sweep.random.problems import KINDS, RATES, Problems, draw_problems
from toy.sweep.rates import choose

SOFT = [place for place, kind in enumerate(KINDS) if kind != "hard_rare"]
IDS = [f"{shape.world}{shape.size}{'in' if shape.inside else 'out'}" for shape in SHAPES]


def drawn(shape: Shape, kinds: list[int], seed: int = 5) -> Problems:
    seeds = np.random.SeedSequence(seed).spawn(len(kinds))
    return draw_problems(shape, range(len(kinds)), kinds, seeds)


def single(problems: Problems, place: int) -> tuple[Family, np.ndarray, np.ndarray]:
    """Return the family of one problem from the toy, its base, and d(its parameters)/d(theta)."""
    base, size = problems.families.base[place], problems.families.size
    if problems.shape.world == "categorical":
        if problems.families.features is None:
            return SoftmaxFamily(base.size), base.ravel(), np.eye(size)
        tilt = TiltFamily(base.ravel(), problems.families.features[place])
        return tilt, np.zeros(size), np.eye(size)
    family = TabularFamily(*problems.shape.size)
    if problems.shape.inside:
        return family, base.ravel(), np.eye(size)
    # A bigram is a table in which prefixes that end alike have the same row; the empty one is last.
    start = "".join(chr(ord("a") + letter) for letter in range(problems.shape.size[0]))
    labels = [label[:-1] for label in family.labels()][: family.prefixes]
    rows = [start.index(label[-1]) if label else len(start) for label in labels]
    tie = np.kron(np.eye(len(base))[rows], np.eye(base.shape[1]))
    return family, tie @ base.ravel(), tie


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_batched_families_are_those_of_the_toy(shape: Shape):
    rng = np.random.default_rng(2)
    problems = drawn(shape, list(range(6)))
    families = problems.families
    theta, weights = rng.normal(size=families.start.shape), rng.normal(size=problems.feature.shape)
    policy = families.policy(theta)
    contracted, scores = families.contract(policy, weights), families.scores(policy)
    for place in range(6):
        family, base, jacobian = single(problems, place)
        at = base + jacobian @ theta[place]
        expected = family.score_matrix(at) @ jacobian
        np.testing.assert_allclose(policy.log_probs[place], family.log_probs(at), rtol=1e-12)
        np.testing.assert_allclose(problems.log_base[place], family.log_probs(base), rtol=1e-12)
        np.testing.assert_allclose(scores[place], expected, rtol=1e-12, atol=1e-14)
        scale = np.max(np.abs(weights[place]) @ np.abs(expected))
        difference = contracted[place] - weights[place] @ expected
        assert np.max(np.abs(difference)) <= 1e-12 * scale


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_and_noise_are_those_of_the_enumeration(name: str):
    n, divergence = 64, OBJECTIVES[name]
    for shape in (SHAPES[1], SHAPES[7]):
        whole = drawn(shape, list(range(6)))
        problems = whole.take(finite_on(name, whole.hard))
        families, log_target = problems.families, problems.log_target
        theta = np.random.default_rng(4).normal(size=families.start.shape)
        policy = families.policy(theta)
        gradients = exact_gradient(families, policy, log_target, divergence=divergence)
        found = signal_to_noise(families, policy, log_target, divergence=divergence, n=n)
        for place, gradient in enumerate(gradients):
            family, base, jacobian = single(problems, place)
            at = base + jacobian @ theta[place]
            log_probs, scores = family.log_probs(at), family.score_matrix(at) @ jacobian
            one = log_probs, log_target[place]
            expected = exact_gradient_of_one(*one, scores, divergence=divergence)
            signal = divergence.signal(np.where(np.isfinite(one[1]), one[0] - one[1], 0.0))
            signal = np.where(np.isfinite(one[1]), signal, divergence.slope_at_infinity)
            scale = np.max(np.exp(log_probs) * np.abs(signal) @ np.abs(scores))
            assert np.max(np.abs(gradient - expected)) <= 1e-12 * scale
            baseline = np.exp(log_probs) @ signal
            moments = estimator_moments(log_probs, signal - baseline, scores, n=n)
            ratio = np.linalg.norm(moments.mean) / np.sqrt(np.trace(moments.covariance))
            assert found.ratio[place] == pytest.approx(ratio, rel=1e-10)
            norm = np.linalg.norm(expected)
            assert found.gradient_norm[place] == pytest.approx(norm, abs=1e-12 * scale)


def loo_covariance(
    probs: np.ndarray, c: np.ndarray, scores: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of the leave-one-out estimator, by sums over pairs (F4)."""
    gradient = (probs * c) @ scores
    outer = np.outer(gradient, gradient)
    centred = (c - probs @ c)[:, None] * scores
    first = ((probs[:, None] * centred).T @ centred - outer) / 4
    difference = (scores[:, None] - scores[None]) * (c[:, None] - c[None])[..., None]
    pairs = probs[:, None] * probs[None]
    second = np.einsum("ij,ija,ijb->ab", pairs, difference, difference) / 4 - outer
    return gradient, (4 * (n - 2) * first + 2 * second) / (n * (n - 1))


@pytest.mark.parametrize("name", ["forward_kl", "jensen_shannon", "reverse_kl", "alpha_0.25"])
@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[7]], ids=[IDS[1], IDS[7]])
def test_sampled_gradients_have_the_exact_mean_and_covariance(name: str, shape: Shape):
    n, repeats, divergence = 8, 20_000, OBJECTIVES[name]
    problem = drawn(shape, [KINDS.index("soft_common")])
    families = problem.families
    policy = families.policy(families.start + 0.3)
    signal = divergence.signal(policy.log_probs[0] - problem.log_target[0])
    scores = families.scores(policy)[0]
    mean, covariance = loo_covariance(np.exp(policy.log_probs[0]), signal, scores, n)

    many = problem.take(np.zeros(repeats, dtype=int))
    policies = many.families.policy(many.families.start + 0.3)
    uniforms = np.random.default_rng(6).random((repeats, n))
    drawn_gradients = sampled_gradient(
        many.families, policies, many.log_target, uniforms, divergence=divergence
    )
    # In the eigenbasis of the exact covariance; directions without noise have no z-score.
    values, vectors = np.linalg.eigh(covariance)
    kept = values > 1e-12 * values[-1]
    z = (np.mean(drawn_gradients, axis=0) - mean) @ vectors[:, kept]
    assert np.max(np.abs(z / np.sqrt(values[kept] / repeats))) < 5
    squares = np.sum((drawn_gradients - mean) ** 2, axis=-1)
    error = np.std(squares) / np.sqrt(repeats)
    assert abs(np.mean(squares) - np.trace(covariance)) < 5 * error


def test_samples_are_those_of_the_toy():
    problems = drawn(SHAPES[0], [0, 1, 2])
    uniforms = np.stack([np.random.default_rng(seed).random(500) for seed in range(3)])
    for seed, found in enumerate(sample(problems.log_base, uniforms)):
        rng = np.random.default_rng(seed)
        expected = categorical.sample(problems.log_base[seed], 500, rng=rng)
        np.testing.assert_array_equal(found, expected)


def test_problems_are_what_their_kinds_say():
    for shape in SHAPES:
        problems = drawn(shape, list(range(6)) * 4)
        assert problems.hard.tolist() == (problems.kind == KINDS.index("hard_rare")).tolist()
        alignment = np.sum(np.exp(problems.log_target) * problems.feature, axis=-1)
        np.testing.assert_allclose(np.sum(np.exp(problems.log_target), axis=-1), 1, rtol=1e-12)
        for kind, rates in enumerate(RATES.values()):
            rows = problems.kind == kind
            if rates is None:
                assert np.all(np.isnan(problems.base_rate[rows]))
                continue
            assert np.all(problems.base_rate[rows] >= rates[0] * (1 - 1e-12))
            assert np.all(problems.base_rate[rows] <= rates[1] * (1 + 1e-12))
        np.testing.assert_allclose(alignment[problems.kind == 0], 0.95, rtol=1e-9)
        np.testing.assert_allclose(alignment[problems.kind == 1], 1.0, rtol=1e-12)
        np.testing.assert_allclose(alignment[problems.kind == 3], 0.5, rtol=1e-9)


def test_infinite_objectives_are_left_out_on_hard_targets_only():
    hard = np.array([False, True, False])
    left_out = {name for name in OBJECTIVES if finite_on(name, hard).tolist() == [0, 2]}
    assert left_out == {"reverse_kl", "pearson_chi2", "jeffreys", "alpha_1.5"}
    for name in set(OBJECTIVES) - left_out:
        assert finite_on(name, hard).tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"total_variation"}))
def test_minima_have_no_gradient_and_no_better_neighbour(name: str):
    divergence = OBJECTIVES[name]
    problems = drawn(SHAPES[3], SOFT * 2)
    found = minimise(problems, problems.families.start, divergence=divergence)
    assert np.mean(found.converged) >= 0.9
    assert np.all(found.gradient_norm[found.converged] <= 1e-6 * found.value[found.converged])
    rng = np.random.default_rng(7)
    for scale in (1e-3, 1e-2, 0.1):
        theta = found.theta + scale * rng.normal(size=found.theta.shape)
        value = measure(problems, theta, divergence=divergence)["own"]
        # A minimum is known to rounding: the sum of a few dozen terms.
        assert np.all(value[found.converged] >= found.value[found.converged] * (1 - 1e-12))


@pytest.fixture(scope="module")
def minimised() -> tuple[Problems, dict[str, Minimum]]:
    problems = drawn(SHAPES[1], SOFT)
    return problems, minima_of(problems, 120)


@pytest.mark.slow
def test_minima_are_at_least_as_low_as_those_of_scipy(minimised):
    problems, minima = minimised
    for name, divergence in OBJECTIVES.items():
        for place in (0, len(SOFT) - 1):
            part = problems.take(np.array([place]))

            def value(theta: np.ndarray, part=part, divergence=divergence) -> float:
                log_probs = part.families.policy(theta[None]).log_probs
                return float(exact_divergence(log_probs, part.log_target, divergence=divergence)[0])

            expected = scipy_minimize(value, np.zeros(3), method="Nelder-Mead").fun
            # Total variation ends at a kink, to about six digits.
            assert minima[name].value[place] <= expected * (1 + 1e-5), name


def test_no_other_objective_is_better_on_a_measure_than_its_own_minimum(minimised):
    problems, minima = minimised
    for name in ("forward_kl", "reverse_kl", "jensen_shannon", "pearson_chi2"):
        divergence = OBJECTIVES[name]
        for other in OBJECTIVES:
            theirs = measure(problems, minima[other].theta, divergence=divergence)["own"]
            assert np.all(theirs >= minima[name].value * (1 - 2e-6)), (name, other)


def test_descent_is_adam_on_one_problem_at_a_time():
    config = StudyConfig(steps=6, checkpoints=(0, 2))
    divergence = OBJECTIVES["jensen_shannon"]
    problems = drawn(SHAPES[7], [0, 1, 4])
    rates = np.array([0.1, 0.2, 0.5])
    found = descend(problems, rates, divergence=divergence, config=config)
    assert np.all(found.finite)
    for place in range(3):
        family, base, jacobian = single(problems, place)
        theta, first, second = np.zeros(problems.families.size), 0.0, 0.0
        entropies, ratios = [], []
        for step in range(1, config.steps + 2):
            log_probs = family.log_probs(base + jacobian @ theta)
            scores = family.score_matrix(base + jacobian @ theta) @ jacobian
            gradient = exact_gradient_of_one(
                log_probs, problems.log_target[place], scores, divergence=divergence
            )
            entropies.append(-np.exp(log_probs) @ log_probs)
            if step - 1 in config.checkpoints:
                part = problems.take(np.array([place]))
                policy = part.families.policy(theta[None])
                ratios.append(
                    signal_to_noise(
                        part.families, policy, part.log_target, divergence=divergence, n=64
                    ).ratio[0]
                )
            if step > config.steps:
                break
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            step_length = np.sqrt(second / (1 - 0.999**step)) + 1e-8
            theta = theta - rates[place] * first / (1 - 0.9**step) / step_length
        np.testing.assert_allclose(found.theta[place], theta, rtol=1e-8)
        assert found.min_entropy[place] == pytest.approx(min(entropies), rel=1e-10)
        assert found.snr_path[place] == pytest.approx(np.exp(np.mean(np.log(ratios))), rel=1e-8)


def test_a_descent_that_overflows_stops_and_says_so():
    problems = drawn(SHAPES[0], [4, 4])
    log_target = problems.log_target.copy()
    log_target[1, 0] = -800.0  # pi/p beyond the largest float
    problems = replace(problems, log_target=log_target)
    config = StudyConfig(steps=5)
    rates = np.array([0.1, 0.1])
    found = descend(problems, rates, divergence=OBJECTIVES["pearson_chi2"], config=config)
    assert found.finite.tolist() == [True, False]
    assert np.any(found.theta[0] != 0)
    assert np.all(found.theta[1] == 0)


def test_the_pilot_chooses_the_lowest_median():
    setting = "categorical", True, "reward", "forward_kl", "exact"
    left = np.array([[0.5, 0.6, np.inf], [0.4, 0.5, np.inf], [0.1, np.inf, np.inf]])
    assert choose({setting: left}, (0.1, 0.2, 0.5)) == {setting: 0.2}


def test_a_gradient_that_is_not_finite_is_no_minimum(monkeypatch):
    problems = drawn(SHAPES[3], SOFT * 2)
    start = problems.families.start
    nothing = np.full_like(start, np.nan)
    monkeypatch.setattr("toy.sweep.descents.minimise.exact_gradient", lambda *_, **__: nothing)
    found = minimise(problems, start, divergence=OBJECTIVES["jensen_shannon"])
    assert not found.converged.any()
    assert np.isinf(found.value).all()
