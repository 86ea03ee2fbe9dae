"""Claims about samples of another law: weights, quasi-rejection, the better proposal (F6)."""

from __future__ import annotations

import numpy as np

from fdpg_ref import (
    FORWARD_KL,
    TOTAL_VARIATION,
    FDivergence,
    exact_divergence,
    forward_kl_gain,
    score_signal,
)
from fdpg_ref.related import quasi_rejection
from toy.estimators.composition import Composition
from toy.estimators.estimates import CEILING, World
from toy.exact import batch_expectation
from toy.verify.cases import Case, cases
from toy.verify.records import BIASED, Comparison, at_most
from toy.verify.register import Claims

CLAIMS = Claims("tests/toy/test_sampling.py", cases, test="test_quasi_rejection")
_LOG_BETAS = (-3.0, -1.0, 0.0, 1.0, 3.0)
# Outcomes come as often as q says among this many samples: then a sample mean is the exact sum.
_COPIES = 60


def mixed_world(case: Case) -> World:
    """Return the world of a case with samples of (pi + a)/2, whose weights are at most 2."""
    mixture = np.logaddexp(case.log_policy, case.log_base) - np.log(2)
    return case.world()._replace(log_base=mixture)


def _off_policy(name: str, weights: str, n: int) -> Composition:
    return Composition(name, weights=weights, proposal="base", n=n)


@CLAIMS.each(
    "F6",
    "truncated weights are biased",
    "off-policy, truncated weights",
    test="test_weights",
    claimed=BIASED,
)
def _truncated(case: Case, divergence: FDivergence) -> Comparison:
    mean = _off_policy(divergence.name, "truncated", 2).moments(mixed_world(case)).mean
    return Comparison(mean, case.gradients[divergence.name])


@CLAIMS.each(
    "F6",
    "... by exactly -E_q[max(w - ceiling, 0) c score]",
    "off-policy, truncated: predicted mean",
    test="test_weights",
)
def _truncation_bias(case: Case, divergence: FDivergence) -> Comparison:
    world = mixed_world(case)
    mean = _off_policy(divergence.name, "truncated", 2).moments(world).mean
    signal = score_signal(case.log_policy, case.log_target, divergence=divergence)
    excess = np.maximum(np.exp(case.log_policy - world.log_base) - CEILING, 0)
    cut = (np.exp(world.log_base) * excess * signal) @ case.scores
    return Comparison(mean, case.gradients[divergence.name] - cut)


@CLAIMS.each(
    "F6",
    "stale samples without weights are biased",
    "off-policy, weights ignored",
    test="test_weights",
    claimed=BIASED,
)
def _ignored(case: Case, divergence: FDivergence) -> Comparison:
    mean = _off_policy(divergence.name, "ignored", 2).moments(case.world()).mean
    return Comparison(mean, case.gradients[divergence.name])


@CLAIMS.each(
    "F6",
    "n times the bias of self-normalised weights tends to g Var_q(w) - Cov_q(w, w c s)",
    "off-policy, self-normalised: O(1/n)",
    test="test_self_normalised_rate",
)
def _self_normalised_rate(case: Case, divergence: FDivergence) -> Comparison:
    # n times the bias approaches its limit at rate 1/n: twice the batch, half the distance.
    world, gradient = mixed_world(case), case.gradients[divergence.name]
    probs, weights = np.exp(world.log_base), np.exp(case.log_policy - world.log_base)
    signal = score_signal(case.log_policy, case.log_target, divergence=divergence)
    terms = (weights * signal)[:, None] * case.scores
    spread = probs * (weights - 1)
    limit = gradient * (spread @ weights) - spread @ terms
    distances = [
        np.linalg.norm(
            n * (_off_policy(divergence.name, "self_normalised", n).moments(world).mean - gradient)
            - limit
        )
        for n in (12, 24)
    ]
    return at_most(float(distances[1] / distances[0]), 0.6)


def _counts(case: Case) -> np.ndarray:
    """Return how often each outcome comes among some samples of a proposal near the base."""
    counts = 1 + np.floor((_COPIES - 4) * np.exp(case.log_base)).astype(int)
    counts[0] += _COPIES - np.sum(counts)
    return counts


@CLAIMS.each(
    "sampling",
    "quasi-rejection: its estimate of D_f(p_beta||p) is the exact sum where samples are q",
    "quasi-rejection: D_f(p_beta||p)",
)
def _quality(case: Case, divergence: FDivergence) -> Comparison:
    counts = _counts(case)
    drawn, log_proposal = np.repeat(np.arange(counts.size), counts), np.log(counts / _COPIES)
    found, truth = [], []
    for log_beta in _LOG_BETAS:
        result = quasi_rejection(
            case.log_score[drawn], log_proposal[drawn], log_beta=log_beta, divergence=divergence
        )
        found.append(float(result.divergence.mean))
        accepted = np.minimum(case.log_score, log_beta + log_proposal)
        log_accepted = accepted - np.log(np.sum(np.exp(accepted)))
        truth.append(exact_divergence(log_accepted, case.log_target, divergence=divergence))
    return Comparison(np.array(found), np.array(truth))


@CLAIMS.once("sampling", "quasi-rejection: the mean acceptance is unbiased for Z_beta/beta")
def _acceptance(case: Case) -> Comparison:
    log_beta = 0.5

    def rate(drawn: np.ndarray) -> np.ndarray:
        pair = case.log_score[drawn], case.log_base[drawn]
        found = quasi_rejection(*pair, log_beta=log_beta, divergence=TOTAL_VARIATION)
        return found.acceptance_rate

    # Two samples of one outcome have no spread, hence a standard error of zero: no harm here.
    mean = batch_expectation(case.log_base, 2, rate)
    mass = np.sum(np.minimum(np.exp(case.log_score), np.exp(log_beta + case.log_base)))
    return Comparison(mean, mass / np.exp(log_beta))


@CLAIMS.once("sampling", "quasi-rejection: accepted samples follow p_beta ~ min(P, beta q)")
def _accepted_law(case: Case) -> Comparison:
    log_beta = 0.5
    found = quasi_rejection(
        case.log_score, case.log_base, log_beta=log_beta, divergence=TOTAL_VARIATION
    )
    law = np.exp(case.log_base + found.log_acceptance)
    capped = np.minimum(np.exp(case.log_score), np.exp(log_beta + case.log_base))
    return Comparison(law / np.sum(law), capped / np.sum(capped))


@CLAIMS.once("sampling", "quasi-rejection: p_beta is q for small beta and p for large")
def _between(case: Case) -> Comparison:
    # p_beta is q below the least P/q and p above the greatest.
    ratios = case.log_score - case.log_base
    ends = []
    for log_beta in (np.min(ratios) - 1, np.max(ratios) + 1):
        found = quasi_rejection(
            case.log_score, case.log_base, log_beta=log_beta, divergence=TOTAL_VARIATION
        )
        law = np.exp(case.log_base + found.log_acceptance)
        ends.append(law / np.sum(law))
    return Comparison(np.stack(ends), np.exp(np.stack([case.log_base, case.log_target])))


@CLAIMS.once("sampling", "quasi-rejection: total variation to the target never rises with beta")
def _trade(case: Case) -> Comparison:
    """Return how much total variation to the target ever rises as beta does."""
    values = []
    for log_beta in np.linspace(-4, 4, 33):
        accepted = np.minimum(case.log_score, log_beta + case.log_base)
        log_accepted = accepted - np.log(np.sum(np.exp(accepted)))
        values.append(exact_divergence(log_accepted, case.log_target, divergence=TOTAL_VARIATION))
    rise = float(np.max(np.diff(values)))
    return at_most(max(rise, 0.0), 1e-14)


@CLAIMS.once(
    "sampling",
    "KL-adaptive proposal: the gain is KL(p||q) - KL(p||pi)",
    test="test_better_proposal",
)
def _gain(case: Case) -> Comparison:
    counts = _counts(case)
    drawn, log_proposal = np.repeat(np.arange(counts.size), counts), np.log(counts / _COPIES)
    gain = forward_kl_gain(case.log_policy[drawn], log_proposal[drawn], case.log_score[drawn])
    before, after = (
        exact_divergence(law, case.log_target, divergence=FORWARD_KL)
        for law in (log_proposal, case.log_policy)
    )
    # A small gain is a difference of large divergences.
    return Comparison(gain, np.asarray(before - after), scale=float(before + after))


@CLAIMS.once(
    "sampling",
    "KL-adaptive proposal: positive where the policy is nearer to p than q, else negative",
    test="test_better_proposal",
)
def _gain_sign(case: Case) -> Comparison:
    # The policy on the way from the proposal to the target is better; past the proposal, worse.
    counts = _counts(case)
    drawn, log_proposal = np.repeat(np.arange(counts.size), counts), np.log(counts / _COPIES)
    signs = []
    for step in (0.3, -0.3):
        logits = log_proposal + step * (case.log_target - log_proposal)
        log_policy = logits - np.log(np.sum(np.exp(logits)))
        gain = forward_kl_gain(log_policy[drawn], log_proposal[drawn], case.log_score[drawn])
        signs.append(float(np.sign(gain)))
    return Comparison(np.array(signs), np.array([1.0, -1.0]))
