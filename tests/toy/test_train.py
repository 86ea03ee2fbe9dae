"""Gradient descent of the toy: it descends, it uses the core, and it stops where it must."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdpg_ref import DIVERGENCES, InfiniteDivergence, PartitionState
from toy import checks, train
from toy.config import TrainConfig
from toy.estimators.partition import PARTITION_POLICIES
from toy.exact import estimator_moments, exact_gradient
from toy.problems import PROBLEMS
from toy.train import sampled_gradient


def spy_on(monkeypatch: pytest.MonkeyPatch, name: str) -> list[dict]:
    """Replace a function of toy.train by itself, and record its keyword arguments."""
    calls, original = [], getattr(train, name)

    def spy(*args, **kwargs):
        calls.append({"args": args, **kwargs})
        return original(*args, **kwargs)

    monkeypatch.setattr(train, name, spy)
    return calls


def test_a_sampled_step_goes_through_the_core(monkeypatch: pytest.MonkeyPatch):
    signals = spy_on(monkeypatch, "score_signal")
    coefficients = spy_on(monkeypatch, "score_coefficients")
    steps = 3
    _ = train.train(TrainConfig(problem="rlhf", gradient="sampled", steps=steps, batch_size=8))
    assert len(signals) == len(coefficients) == steps
    assert signals[0]["divergence"] is DIVERGENCES["jensen_shannon"]
    assert signals[0]["args"][0].shape == (8,)
    # On-policy the weights are one; the baseline is the mean of the other seven signals.
    np.testing.assert_array_equal(coefficients[0]["log_weights"], np.zeros(8))
    signal = coefficients[0]["args"][0]
    np.testing.assert_allclose(coefficients[0]["baseline"], (np.sum(signal) - signal) / 7)


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
@pytest.mark.parametrize("proposal", ["policy", "base"])
def test_sampled_gradients_scatter_about_the_exact_one(name: str, proposal: str):
    problem = PROBLEMS["distributional"]()
    theta = problem.start + np.linspace(-0.6, 0.6, 10)
    n = 20_000
    config = TrainConfig(
        divergence=name, gradient="sampled", batch_size=n, proposal=proposal, seed=4
    )
    state = PartitionState(log_z=np.asarray(problem.log_z), weight=np.inf)
    rng = np.random.default_rng(config.seed)
    estimate, after = sampled_gradient(problem, theta, state, config, rng=rng)
    log_policy, scores = problem.family.log_probs(theta), problem.family.score_matrix(theta)
    divergence = DIVERGENCES[name]
    truth = exact_gradient(log_policy, problem.log_target, scores, divergence=divergence)
    # The leave-one-out baseline is the mean signal up to O(1/n), so the covariance is that of the
    # centred coefficients; the scores sum to zero over parameters, so one of them is left out.
    log_proposal = log_policy if proposal == "policy" else problem.log_base
    signal = divergence.signal(log_policy - problem.log_target)
    centred = signal - np.exp(log_proposal) @ signal
    weighted = np.exp(log_policy - log_proposal) * centred
    covariance = estimator_moments(log_proposal, weighted, scores, n=n).covariance[:-1, :-1]
    deviation = (estimate - truth)[:-1]
    # Mahalanobis distance squared: chi-squared of nine degrees, 99.99994 % of which is below 46
    # (|z| < 5).
    assert deviation @ np.linalg.solve(covariance, deviation) < 46
    assert after is state


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_exact_descent_descends(name: str):
    config = TrainConfig(divergence=name, problem="rlhf", learning_rate=0.05, steps=200)
    path = train.train(config).divergences[name]
    assert len(path) == 201
    assert path[-1] < 0.9 * path[0]
    if name != "total_variation":  # its gradient jumps, so that a step may overshoot the kink
        assert np.all(np.diff(path) < 0)


@pytest.mark.parametrize("partition", sorted(PARTITION_POLICIES))
def test_sampled_descent_with_every_partition_policy(partition: str):
    config = TrainConfig(
        divergence="reverse_kl",
        problem="rlhf",
        gradient="sampled",
        partition=partition,
        learning_rate=0.3,
        steps=200,
    )
    path = train.train(config).divergences["reverse_kl"]
    assert path[-1] < 0.1 * path[0]


def test_restricted_family_separates_the_divergences():
    ends = {}
    for name in ("forward_kl", "reverse_kl"):
        config = TrainConfig(divergence=name, problem="bimodal", steps=600)
        ends[name] = train.train(config)
    # Mass covering spans both modes, mode seeking sits on one: each wins by its own measure.
    assert ends["forward_kl"].entropy[-1] > ends["reverse_kl"].entropy[-1] + 1
    for own, other in (("forward_kl", "reverse_kl"), ("reverse_kl", "forward_kl")):
        assert ends[own].divergences[own][-1] < ends[other].divergences[own][-1]


def test_the_seed_decides():
    config = TrainConfig(problem="coin", gradient="sampled", steps=5, seed=1)
    first, again = train.train(config), train.train(config)
    other = train.train(TrainConfig(problem="coin", gradient="sampled", steps=5, seed=2))
    np.testing.assert_array_equal(first.theta, again.theta)
    assert not np.array_equal(first.theta, other.theta)


def test_trajectory_reports_what_it_says():
    trajectory = train.train(TrainConfig(problem="coin", divergence="le_cam", steps=2))
    assert list(trajectory.divergences) == [*train.REPORTED, "le_cam"]
    probs = np.exp(trajectory.log_policy)
    assert trajectory.alignment is not None
    np.testing.assert_allclose(trajectory.alignment, probs[:, 0])
    np.testing.assert_allclose(
        trajectory.entropy, [-sum(p * np.log(p) for p in row) for row in probs], rtol=1e-13
    )


@pytest.mark.parametrize("name", ["reverse_kl", "pearson_chi2", "jeffreys"])
def test_holes_are_refused_with_advice(name: str):
    with pytest.raises(InfiniteDivergence, match=r"excludes outcome 0 \(and 7 more\).*jensen_sh"):
        _ = train.train(TrainConfig(divergence=name, problem="hard", steps=1))


def test_a_step_that_diverges_is_named():
    config = TrainConfig(divergence="neyman_chi2", problem="rare", learning_rate=1e6, steps=50)
    with pytest.raises(ValueError, match=r"theta\[\d+\] is .* step \d+ diverged; lower learning"):
        _ = train.train(config)


def test_an_estimate_of_z_without_support_is_named():
    # Eight samples of the base see the target, 0.6 % of it, with a probability of 5 %.
    config = TrainConfig(
        problem="hard", gradient="sampled", partition="same_batch", batch_size=8, steps=1
    )
    with pytest.raises(ValueError, match="log_z is -inf, which is not finite: no sample"):
        _ = train.train(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"divergence": "jensen_shanon"}, "Did you mean 'jensen_shannon'"),
        ({"problem": "bimodel"}, "Did you mean 'bimodal'"),
        ({"gradient": "exakt"}, "Did you mean 'exact'"),
        ({"partition": "loo"}, "Known: exact, frozen"),
        ({"proposal": "target"}, "Known: policy, base"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_config_refuses(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        _ = TrainConfig(**settings)


# ---------------------------------------------------------------- checks of values


@given(index=st.integers(0, 4))
def test_checks_name_value_and_index(index: int):
    log_probs = np.log(np.full(5, 0.2))
    checks.check_log_probs("log_policy", log_probs)
    for value, message in [
        (np.nan, rf"log_policy\[{index}\] is nan"),
        (0.5, rf"log_policy\[{index}\] is 0.5: a log-probability is at most 0"),
        (-np.inf, r"log_policy sum to 0.8, not 1"),
    ]:
        broken = log_probs.copy()
        broken[index] = value
        with pytest.raises(ValueError, match=message):
            checks.check_log_probs("log_policy", broken)
    for value in (np.nan, np.inf):
        broken = log_probs.copy()
        broken[index] = value
        with pytest.raises(ValueError, match=rf"P\[{index}\] is {value}"):
            checks.check_log_score("P", broken)
        with pytest.raises(ValueError, match=rf"P\[{index}\] is {value}, which is not finite: so"):
            checks.check_finite("P", broken, advice="so")


def test_checks_name_both_indices_of_a_table():
    table = np.zeros((2, 3))
    table[1, 2] = np.inf
    with pytest.raises(ValueError, match=r"scores\[1, 2\] is inf"):
        checks.check_finite("scores", table, advice="look")


def test_a_certain_outcome_is_no_error():
    # log-softmax may leave 1e-16 above zero.
    checks.check_log_probs("log_policy", np.array([2e-16, -np.inf]))


def test_float32_logs_in_float64_are_not_normalised():
    log_probs = np.log(np.full(7, 1 / 7)).astype(np.float32).astype(np.float64)
    with pytest.raises(ValueError, match="sum to"):
        checks.check_log_probs("log_policy", log_probs)


def test_empty_target():
    with pytest.raises(ValueError, match="all 3 entries of P are -inf"):
        checks.check_log_score("P", np.full(3, -np.inf))


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_support_is_checked_on_both_sides(name: str):
    divergence = DIVERGENCES[name]
    full, missing = np.log([0.5, 0.5]), np.array([0.0, -np.inf])
    checks.check_support(full, full, divergence=divergence)
    checks.check_support(missing, missing, divergence=divergence)
    for pair, constant, message in [
        ((full, missing), divergence.slope_at_infinity, "the target excludes outcome 1"),
        ((missing, full), divergence.value_at_zero, "the policy has no mass on outcome 1"),
    ]:
        if np.isfinite(constant):
            checks.check_support(*pair, divergence=divergence)
        else:
            with pytest.raises(InfiniteDivergence, match=f"{name} is infinite: {message}"):
                checks.check_support(*pair, divergence=divergence)
