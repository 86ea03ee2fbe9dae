"""Categoricals, families, exact expectations and the complex-step judge."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import strategies

from fdpg_ref import DIVERGENCES, exact_divergence
from toy import oracle
from toy.categorical import log_probs, sample, score_matrix
from toy.exact import batch_expectation, exact_gradient
from toy.families import Family, GaussianFamily, SoftmaxFamily, TiltFamily
from toy.problems import PROBLEMS, random_problem

NAMES = sorted(DIVERGENCES)
FAMILIES: dict[str, tuple[Family, np.ndarray]] = {
    "softmax": (SoftmaxFamily(4), np.array([0.3, -1.2, 2.0, 0.4])),
    "tilt": (
        TiltFamily(np.log([0.1, 0.2, 0.3, 0.4]), np.array([[1.0, 0], [0, 2], [1, -1], [3, 0.5]])),
        np.array([0.7, -0.4]),
    ),
    "gaussian": (GaussianFamily(np.linspace(-2, 3, 6)), np.array([0.3, 0.2])),
}


@given(logits=strategies.logits(5, holes=True))
def test_log_probs(logits: np.ndarray):
    result = log_probs(logits)
    highest = max(logits)
    total = math.fsum(math.exp(x - highest) for x in logits)
    expected = [x - highest - math.log(total) for x in logits]
    np.testing.assert_allclose(result, expected, rtol=1e-15, atol=1e-12)
    assert np.array_equal(result == -np.inf, logits == -np.inf)


@given(logits=strategies.logits(4, holes=True))
def test_score_matrix(logits: np.ndarray):
    scores = score_matrix(logits)
    probs = np.exp(log_probs(logits))
    for x in range(4):
        for y in range(4):
            expected = math.fsum(probs[:y]) + math.fsum(probs[y + 1 :]) if x == y else -probs[y]
            assert scores[x, y] == pytest.approx(expected, rel=1e-14, abs=0)
    np.testing.assert_allclose(probs @ scores, 0, atol=1e-15)


@given(logits=strategies.logits(3), other=strategies.logits(3))
def test_score_matrix_of_contexts(logits: np.ndarray, other: np.ndarray):
    together = score_matrix(np.stack([logits, other]))
    np.testing.assert_array_equal(together[0], score_matrix(logits))
    np.testing.assert_array_equal(together[1], score_matrix(other))


def test_score_keeps_the_digits_of_what_is_left():
    # 1 - pi(0) of the first outcome is e^{-50}, far below the spacing of numbers near one.
    scores = score_matrix(np.array([50.0, 0.0]))
    assert scores[0, 0] == pytest.approx(math.exp(-50) / (1 + math.exp(-50)), rel=1e-14)


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_families_against_complex_steps(kind: str):
    family, theta = FAMILIES[kind]
    np.testing.assert_allclose(
        np.exp(family.log_probs(theta)), oracle.probabilities(family, theta), rtol=1e-13
    )
    scores = family.score_matrix(theta)
    assert scores.shape == (len(family.log_probs(theta)), family.size)
    for j in range(family.size):
        moved = theta + 1e-30j * np.eye(family.size)[j]
        probs = oracle.probabilities(family, moved)
        slopes = np.imag(probs) / 1e-30 / np.real(probs)
        np.testing.assert_allclose(scores[:, j], slopes, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_exact_gradient_against_differences(kind: str, name: str):
    family, theta = FAMILIES[kind]
    k = len(family.log_probs(theta))
    log_target = log_probs(np.linspace(-1.5, 1.7, k) ** 2 - 0.3 * np.arange(k))
    gradient = exact_gradient(
        family.log_probs(theta),
        log_target,
        family.score_matrix(theta),
        divergence=DIVERGENCES[name],
    )
    complex_step = oracle.definition_gradient(family, theta, np.exp(log_target), divergence=name)
    np.testing.assert_allclose(gradient, complex_step, rtol=1e-10, atol=1e-13)
    step = 1e-6
    for j, unit in enumerate(np.eye(family.size)):
        sides = [
            float(
                exact_divergence(
                    family.log_probs(theta + s * step * unit),
                    log_target,
                    divergence=DIVERGENCES[name],
                )
            )
            for s in (1, -1)
        ]
        # step^2 times third derivatives (at most 1e4 here) and rounding over step.
        slope = (sides[0] - sides[1]) / (2 * step)
        assert gradient[j] == pytest.approx(slope, rel=1e-5, abs=1e-7)


@given(logits=strategies.logits(3, holes=True), n=st.integers(1, 3), chunk=st.integers(1, 30))
def test_batch_expectation(logits: np.ndarray, n: int, chunk: int):
    log_proposal = log_probs(logits)
    table = np.array([0.5, -2.0, 3.0])

    def spread(drawn: np.ndarray) -> np.ndarray:
        assert drawn.shape[1] == n
        assert len(drawn) <= chunk
        values = table[drawn]
        return np.stack([np.max(values, axis=1), np.prod(values, axis=1)], axis=-1)

    expected = np.zeros(2)
    for batch in itertools.product(range(3), repeat=n):
        mass = math.prod(math.exp(log_proposal[x]) for x in batch)
        values = [table[x] for x in batch]
        expected += mass * np.array([max(values), math.prod(values)])
    result = batch_expectation(log_proposal, n, spread, chunk=chunk)
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


def test_batch_expectation_leaves_out_what_never_happens():
    log_proposal = np.array([0.0, -np.inf])

    def estimator(drawn: np.ndarray) -> np.ndarray:
        return np.where(np.any(drawn == 1, axis=1), np.nan, 5.0)

    assert batch_expectation(log_proposal, 2, estimator) == 5.0


def test_batch_expectation_with_two_proposals():
    rows = np.log([[0.25, 0.75], [0.9, 0.1]])
    # E[10 x0 + x1] with independent positions.
    value = batch_expectation(rows, 2, lambda drawn: drawn @ np.array([10.0, 1.0]))
    assert value == pytest.approx(7.5 + 0.1, rel=1e-14)


def test_sample_frequencies():
    probs = np.array([0.5, 0.3, 0.15, 0.05, 0.0])
    log_proposal = np.append(np.log(probs[:-1]), -np.inf)
    n = 100_000
    drawn = sample(log_proposal, n, rng=np.random.default_rng(11))
    counts = np.bincount(drawn, minlength=5)
    assert counts[4] == 0
    z_scores = (counts[:4] - n * probs[:4]) / np.sqrt(n * probs[:4] * (1 - probs[:4]))
    assert np.max(np.abs(z_scores)) < 5


@given(logits=strategies.logits(4, holes=True), seed=st.integers(0, 2**32 - 1))
def test_sample_stays_in_the_support(logits: np.ndarray, seed: int):
    log_proposal = log_probs(logits)
    drawn = sample(log_proposal, 50, rng=np.random.default_rng(seed))
    again = sample(log_proposal, 50, rng=np.random.default_rng(seed))
    assert np.all(log_proposal[drawn] > -np.inf)
    np.testing.assert_array_equal(drawn, again)


@pytest.mark.parametrize("name", sorted(PROBLEMS))
def test_named_problems(name: str):
    problem = PROBLEMS[name]()
    k = len(problem.labels)
    assert problem.name == name
    assert problem.log_base.shape == problem.log_score.shape == (k,)
    assert problem.start.shape == (problem.family.size,)
    for log in (problem.log_base, problem.log_target, problem.family.log_probs(problem.start)):
        assert np.sum(np.exp(log)) == pytest.approx(1, abs=1e-12)
    assert problem.feature is not None
    assert problem.feature.shape == (k,)


@pytest.mark.parametrize(
    ("name", "alignment"), [("rare", 0.95), ("distributional", 0.5), ("sequences", 0.8)]
)
def test_moments_of_the_fitted_problems(name: str, alignment: float):
    problem = PROBLEMS[name]()
    # fit_multipliers certifies its gradient, which is this difference, at 1e-10.
    assert np.exp(problem.log_target) @ problem.feature == pytest.approx(alignment, abs=1e-9)


@given(seed=st.integers(0, 10**6), holes=st.integers(0, 3), restricted=st.booleans())
def test_random_problem(seed: int, holes: int, restricted: bool):
    parameters = 2 if restricted else None
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, holes=holes, parameters=parameters)
    assert np.sum(problem.log_score == -np.inf) == holes
    assert problem.family.size == (2 if restricted else 4)
    assert np.sum(np.exp(problem.log_target)) == pytest.approx(1, abs=1e-12)
    # Z is a random number: 1 would hide a forgotten normalisation.
    assert abs(problem.log_z) > 1e-6


@pytest.mark.parametrize(("outcomes", "holes"), [(1, 0), (4, 4), (3, -1)])
def test_random_problem_refuses(outcomes: int, holes: int):
    with pytest.raises(ValueError, match=f"holes is {holes}"):
        _ = random_problem(np.random.default_rng(0), outcomes=outcomes, holes=holes)


def test_oracle_refuses_a_family_it_has_no_formula_for():
    class Stranger:
        size = 1

    with pytest.raises(TypeError, match="Stranger has no formula"):
        _ = oracle.probabilities(Stranger(), np.zeros(1))  # pyright: ignore[reportArgumentType]
