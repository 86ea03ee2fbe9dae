"""Means and covariances of whole compositions over all batches, against the closed forms."""

from __future__ import annotations

import numpy as np

from fdpg_ref import FORWARD_KL, NEYMAN_CHI2, FDivergence, exact_divergence, score_signal
from toy.estimators.composition import Composition
from toy.exact import estimator_moments
from toy.verify.cases import Case, cases
from toy.verify.claims.moments import leave_one_out_covariance
from toy.verify.records import BIASED, PROPORTIONAL, Comparison
from toy.verify.register import Claims

CLAIMS = Claims("tests/toy/test_composition.py", cases, test="test_closed_forms")
# Every composition is enumerated at k = 4 and n = 5: 56 multisets for 1,024 batches.
_N = 5


def _signal(case: Case, divergence: FDivergence) -> np.ndarray:
    return score_signal(case.log_policy, case.log_target, divergence=divergence)


@CLAIMS.each(
    "F4",
    "over all batches of 5, Cov(plain) = (E[c^2 s s^T] - g g^T)/n",
    "batch of 5, covariance, no baseline",
)
def _plain(case: Case, divergence: FDivergence) -> Comparison:
    found = Composition(divergence.name, n=_N).moments(case.world())
    predicted = estimator_moments(case.log_policy, _signal(case, divergence), case.scores, n=_N)
    return Comparison(found.covariance, predicted.covariance)


@CLAIMS.each(
    "F4", "the same off-policy, with w c in the place of c", "batch of 5, covariance, off-policy"
)
def _off_policy(case: Case, divergence: FDivergence) -> Comparison:
    found = Composition(divergence.name, proposal="base", n=_N).moments(case.world())
    weighted = np.exp(case.log_policy - case.log_base) * _signal(case, divergence)
    predicted = estimator_moments(case.log_base, weighted, case.scores, n=_N)
    return Comparison(found.covariance, predicted.covariance)


@CLAIMS.each(
    "F4",
    "over all batches of 5, Cov(LOO) = (4(n-2) z1 + 2 z2)/(n(n-1))",
    "batch of 5, covariance, LOO baseline",
)
def _leave_one_out(case: Case, divergence: FDivergence) -> Comparison:
    found = Composition(divergence.name, baseline="leave_one_out", n=_N).moments(case.world())
    return Comparison(
        found.covariance, leave_one_out_covariance(case, _signal(case, divergence), n=_N)
    )


@CLAIMS.each(
    "F4", "the best constant baseline is unbiased and of least trace", "batch of 5, best constant"
)
def _optimal(case: Case, divergence: FDivergence) -> Comparison:
    # The trace of the best constant, and the rise by E[|s|^2]/n one to either side of it.
    found = Composition(divergence.name, baseline="optimal", n=_N).moments(case.world())
    probs, signal = np.exp(case.log_policy), _signal(case, divergence)
    lengths = np.sum(case.scores**2, axis=-1)
    best = (probs @ (signal * lengths)) / (probs @ lengths)
    beside = [
        np.trace(estimator_moments(case.log_policy, signal - c, case.scores, n=_N).covariance)
        for c in (best - 1, best + 1)
    ]
    least = np.trace(found.covariance) + probs @ lengths / _N
    return Comparison(
        np.append(found.mean, beside), np.append(case.gradients[divergence.name], [least] * 2)
    )


@CLAIMS.each(
    "F4",
    "off-policy the best constant is E_q[w^2 c |s|^2]/E_q[w^2 |s|^2]",
    "off-policy, best constant",
)
def _optimal_off_policy(case: Case, divergence: FDivergence) -> Comparison:
    choices = Composition(divergence.name, baseline="optimal", proposal="base", n=2)
    found, probs = choices.moments(case.world()), np.exp(case.log_base)
    weights, signal = np.exp(case.log_policy - case.log_base), _signal(case, divergence)
    lengths = weights**2 * np.sum(case.scores**2, axis=-1)
    best = (probs @ (signal * lengths)) / (probs @ lengths)
    beside = [
        np.trace(
            estimator_moments(case.log_base, weights * (signal - c), case.scores, n=2).covariance
        )
        for c in (best - 1, best + 1)
    ]
    # Here E_q[w s] = 0 as well, so that a constant moves no mean.
    least = np.trace(found.covariance) + probs @ lengths / 2
    return Comparison(
        np.append(found.mean, beside), np.append(case.gradients[divergence.name], [least] * 2)
    )


@CLAIMS.each("F3", "a running mean of past signals is unbiased as a baseline", "running baseline")
def _running(case: Case, divergence: FDivergence) -> Comparison:
    found = Composition(divergence.name, baseline="running", n=2).moments(case.world())
    return Comparison(found.mean, case.gradients[divergence.name])


@CLAIMS.once(
    "F5",
    "with Z from the same batch Pearson keeps exactly (n-1)/n (n = 16)",
    "same-batch Z, batch of 16",
    claimed=PROPORTIONAL,
    divergence="pearson_chi2",
)
def _pearson(case: Case) -> Comparison:
    choices = Composition("pearson_chi2", partition="same_batch", n=16)
    mean = choices.moments(case.world()).mean
    return Comparison(mean, case.gradients["pearson_chi2"], factor=15 / 16)


@CLAIMS.once(
    "F4",
    "the signal of forward KL has second moment chi2(p||pi): its noise where pi << p",
    "E_pi[(1 - p/pi)^2]",
    divergence="forward_kl",
)
def _second_moment(case: Case) -> Comparison:
    moment = np.exp(case.log_policy) @ _signal(case, FORWARD_KL) ** 2
    logs = case.log_policy, case.log_target
    return Comparison(moment, exact_divergence(*logs, divergence=NEYMAN_CHI2))


@CLAIMS.each(
    "F4",
    "leave-one-out changes the noise of every divergence",
    "trace of the covariance: LOO against none",
    claimed=BIASED,
)
def _worse(case: Case, divergence: FDivergence) -> Comparison:
    """Compare the traces of leave-one-out and of no baseline: which is larger depends."""
    world = case.world()
    traces = [
        np.trace(Composition(divergence.name, baseline=baseline, n=_N).moments(world).covariance)
        for baseline in ("leave_one_out", "none")
    ]
    return Comparison(np.asarray(traces[0]), np.asarray(traces[1]))
