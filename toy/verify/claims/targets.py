"""Claims about targets: RLHF, GDC and DPG are f-DPG with a certain target and divergence."""

from __future__ import annotations

import numpy as np

from fdpg_ref import (
    DIVERGENCES,
    FORWARD_KL,
    REVERSE_KL,
    constrained,
    exact_divergence,
    exact_log_partition,
    exponential_family,
    fit_multipliers,
    reward_tilted,
    score_signal,
)
from toy.categorical import log_probs
from toy.oracle import definition_gradient
from toy.verify.cases import Case, cases
from toy.verify.records import Comparison, at_most
from toy.verify.register import Claims

CLAIMS = Claims("tests/toy/test_targets.py", cases)
_BETA = 0.4


def _reward(case: Case) -> np.ndarray:
    # Any numbers do; the log-score is unrelated to base and policy.
    return np.tanh(case.log_score)


def _tilted(case: Case) -> tuple[np.ndarray, float, np.ndarray]:
    log_score = reward_tilted(case.log_base, _reward(case), beta=_BETA)
    log_z = float(exact_log_partition(log_score))
    return log_score, log_z, log_score - log_z


@CLAIMS.once(
    "targets",
    "RLHF: E_pi[r] - beta KL(pi||a) = beta log Z - beta KL(pi||p)",
    test="test_rlhf",
    divergence="reverse_kl",
)
def _rlhf_value(case: Case) -> Comparison:
    _, log_z, log_target = _tilted(case)
    to_base = exact_divergence(case.log_policy, case.log_base, divergence=REVERSE_KL)
    to_target = exact_divergence(case.log_policy, log_target, divergence=REVERSE_KL)
    penalised = np.exp(case.log_policy) @ _reward(case) - _BETA * to_base
    return Comparison(penalised, np.asarray(_BETA * (log_z - to_target)))


@CLAIMS.once(
    "targets",
    "RLHF: beta (-signal) = r - beta log(pi/a) - beta log Z, outcome by outcome",
    test="test_rlhf",
    divergence="reverse_kl",
)
def _rlhf_signal(case: Case) -> Comparison:
    _, log_z, log_target = _tilted(case)
    signal = score_signal(case.log_policy, log_target, divergence=REVERSE_KL)
    penalised = _reward(case) - _BETA * (case.log_policy - case.log_base)
    return Comparison(-_BETA * signal, penalised - _BETA * log_z)


@CLAIMS.once(
    "targets",
    "RLHF: ascending the penalised reward is descending beta KL(pi||p)",
    test="test_rlhf",
    divergence="reverse_kl",
)
def _rlhf_gradient(case: Case) -> Comparison:
    _, _, log_target = _tilted(case)
    penalised = _reward(case) - _BETA * (case.log_policy - case.log_base)
    ascent = (np.exp(case.log_policy) * penalised) @ case.scores
    family, theta = case.problem.family, case.problem.start
    descent = definition_gradient(family, theta, np.exp(log_target), divergence="reverse_kl")
    return Comparison(ascent, -_BETA * descent)


def _satisfied(case: Case) -> np.ndarray:
    return case.log_score >= np.sort(case.log_score)[-2]


@CLAIMS.once("targets", "GDC pointwise: Z = a(b = 1)", test="test_pointwise")
def _pointwise_z(case: Case) -> Comparison:
    satisfied = _satisfied(case)
    log_z = exact_log_partition(constrained(case.log_base, satisfied))
    return Comparison(np.exp(log_z), np.asarray(np.sum(np.exp(case.log_base)[satisfied])))


@CLAIMS.once(
    "targets",
    "GDC pointwise: the limit beta -> 0 of RLHF with r = b, over e^{1/beta}",
    test="test_pointwise",
)
def _pointwise_limit(case: Case) -> Comparison:
    satisfied = _satisfied(case)
    beta = 1e-2  # e^{-1/beta} = 4e-44: what is excluded weighs nothing beside rounding
    soft = reward_tilted(case.log_base, satisfied.astype(float), beta=beta) - 1 / beta
    return Comparison(np.exp(soft), np.exp(constrained(case.log_base, satisfied)))


def _features(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return two features and moments that some full-support distribution (the target) has."""
    features = np.stack(
        [_satisfied(case).astype(float), np.linspace(-1, 1, case.log_base.size)], -1
    )
    return features, np.exp(case.log_target) @ features


def _fitted(case: Case) -> tuple[np.ndarray, np.ndarray]:
    features, moments = _features(case)
    fit = fit_multipliers(case.log_base, features, moments, tolerance=1e-12)
    return fit.multipliers, log_probs(exponential_family(case.log_base, features, fit.multipliers))


@CLAIMS.once(
    "targets", "GDC distributional: E_p[phi] = mu at the fitted lambda", test="test_moments"
)
def _moments(case: Case) -> Comparison:
    features, moments = _features(case)
    _, log_fitted = _fitted(case)
    # A moment may be close to zero, but features are of order one.
    return Comparison(np.exp(log_fitted) @ features, moments, scale=1.0)


@CLAIMS.once(
    "targets",
    "GDC distributional: KL(c||a) = KL(c||p) + KL(p||a) if E_c[phi] = mu",
    test="test_moments",
)
def _pythagoras(case: Case) -> Comparison:
    _, log_fitted = _fitted(case)
    # The target of the case meets the moments, since they were taken from it.
    whole = exact_divergence(case.log_target, case.log_base, divergence=REVERSE_KL)
    first = exact_divergence(case.log_target, log_fitted, divergence=REVERSE_KL)
    second = exact_divergence(log_fitted, case.log_base, divergence=REVERSE_KL)
    return Comparison(first + second, whole)


@CLAIMS.once(
    "targets", "GDC distributional: p is the least KL(.||a) under the moments", test="test_moments"
)
def _projection(case: Case) -> Comparison:
    _, log_fitted = _fitted(case)
    features, _ = _features(case)
    # Any direction that moves neither the mass nor the moments leads to a larger KL(.||a).
    constraints = np.column_stack([np.ones(len(features)), features])
    direction = np.linalg.svd(constraints.T)[2][-1]
    fitted = np.exp(log_fitted)
    step = 0.1 * np.min(fitted / np.abs(direction)) * direction
    near = [np.log(fitted + step), np.log(fitted - step)]
    least = exact_divergence(log_fitted, case.log_base, divergence=REVERSE_KL)
    others = [exact_divergence(log, case.log_base, divergence=REVERSE_KL) for log in near]
    return at_most(float(least), float(min(others)))


@CLAIMS.once(
    "targets",
    "GDC distributional: the dual has gradient E_p[phi] - mu and Hessian Cov_p[phi]",
    test="test_dual_derivatives",
)
def _dual_derivatives(case: Case) -> Comparison:
    features, moments = _features(case)
    multipliers, step = np.array([0.3, -0.8]), 1e-30

    def dual_gradient(point: np.ndarray) -> np.ndarray:
        weights = np.exp(case.log_base + features @ point)
        return weights @ features / np.sum(weights) - moments

    # The derivative of the dual value is compared with the gradient, that of the gradient with the
    # covariance, both by complex steps.
    values = [
        np.log(np.exp(case.log_base) @ np.exp(features @ point)) - point @ moments
        for point in multipliers + 1j * step * np.eye(2)
    ]
    slopes = [dual_gradient(point) for point in multipliers + 1j * step * np.eye(2)]
    probs = np.exp(log_probs(exponential_family(case.log_base, features, multipliers)))
    centred = features - probs @ features
    covariance = (probs[:, None] * centred).T @ centred
    measured = np.concatenate([np.imag(values), np.ravel(np.imag(slopes))]) / step
    predicted = np.concatenate([probs @ features - moments, np.ravel(covariance)])
    return Comparison(measured, predicted)


@CLAIMS.once(
    "targets",
    "GDC distributional: one binary phi has lambda = log[mu(1-m)/(m(1-mu))]",
    test="test_binary_multiplier",
)
def _binary_multiplier(case: Case) -> Comparison:
    feature = _satisfied(case).astype(float)
    moment, mean = 0.5, float(np.exp(case.log_base) @ feature)
    fit = fit_multipliers(case.log_base, feature[:, None], np.array([moment]), tolerance=1e-13)
    closed = np.log(moment * (1 - mean) / (mean * (1 - moment)))
    # Near zero the multiplier is a difference of logarithms of order one.
    return Comparison(fit.multipliers, np.array([closed]), scale=max(1.0, abs(closed)))


@CLAIMS.once(
    "targets", "DPG: grad KL(p||pi) = -E_pi[(p/pi) score]", test="test_dpg", divergence="forward_kl"
)
def _dpg(case: Case) -> Comparison:
    weighted = np.exp(case.log_policy) * np.exp(case.log_target - case.log_policy)
    return Comparison(-weighted @ case.scores, case.gradients["forward_kl"])


@CLAIMS.once(
    "targets",
    "GDC++: its baseline B = Z is the centred signal of forward KL",
    test="test_dpg",
    divergence="forward_kl",
)
def _dpg_baseline(case: Case) -> Comparison:
    # GDC++ subtracts B = Z from the importance weight P/pi: that is Z times the centred signal.
    signal = score_signal(case.log_policy, case.log_target, divergence=FORWARD_KL)
    z = np.exp(case.log_z)
    return Comparison(z - np.exp(case.log_score - case.log_policy), z * signal)


@CLAIMS.once(
    "targets",
    "conditional: contexts on a leading axis give E_c D_f(pi(.|c)||p_c)",
    test="test_conditional",
)
def _conditional(case: Case) -> Comparison:
    # Three contexts on the leading axis: the distributions of the case in three orders.
    order = np.stack([np.roll(np.arange(case.log_policy.size), shift) for shift in range(3)])
    tau = np.array([0.5, 0.3, 0.2])
    log_score = case.log_score[order] + np.array([[0.0], [1.0], [-2.0]])
    log_target = log_score - exact_log_partition(log_score)[:, None]
    log_policy = np.broadcast_to(case.log_policy, log_score.shape)
    together = [
        tau @ exact_divergence(log_policy, log_target, divergence=divergence)
        for divergence in DIVERGENCES.values()
    ]
    apart = [
        sum(
            weight * exact_divergence(case.log_policy, case.log_target[row], divergence=divergence)
            for weight, row in zip(tau, order, strict=True)
        )
        for divergence in DIVERGENCES.values()
    ]
    return Comparison(np.array(together), np.array(apart))
