"""The judges that enumerate: gradients, values and batches against the definition of D_f.

They are the ones of ``audit`` and ``verify``: the same random problems, the judge's gradients from
`toy.oracle`, expectations from `toy.exact`. Each factory returns an `Oracle`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fdpg_ref import DIVERGENCES, FDivergence
from toy.audit.oracle import Comparison, compare, divergence_gradient, expected_gradient, problems
from toy.exact import batch_expectation
from toy.measurement.exact import sample_sets
from toy.measurement.worlds import dropping
from toy.museum.records import Measurement, Oracle
from toy.oracle import definition
from toy.verify.cases import Case, cases
from toy.verify.records import ROUNDING

Function = Callable[..., Any]
# Shares of the target that policies drop, and how often a set of samples of the policy shows them.
_DROPPED, _SEEN = (0.09, 0.28), 0.2


def descends(
    divergence: str | FDivergence,
    *,
    placement: str = "loss",
    samples: str = "on_policy",
    level: str = "sequence",
    up_to_scale: bool = False,
) -> Oracle:
    """Judge whether the expected gradient of a loss of ``audit`` is that of the divergence.

    Parameters
    ----------
    divergence : str or FDivergence
        A key of ``DIVERGENCES``, or a record.
    placement, samples, level : str
        As in `toy.audit.oracle.expected_gradient`.
    up_to_scale : bool
        Whether a positive factor is forgiven.
    """

    def measure(loss: Function) -> Measurement:
        every = problems(level)
        gradients = [
            expected_gradient(loss, problem, placement=placement, samples=samples, level=level)
            for problem in every
        ]
        truth = torch.cat([divergence_gradient(problem, divergence) for problem in every])
        value = torch.cat(gradients).numpy()
        error, factor = relative_error(value, truth.numpy(), up_to_scale=up_to_scale)
        text = _descent_text(compare(gradients, every))
        if not text and error <= ROUNDING:
            text = f"descends {_title(name, 'ref')}"
        if not text:
            text = f"no named divergence: {gradient_text(error, factor, up_to_scale)}"
        return Measurement(error, ROUNDING, text)

    drawn = "" if samples == "on_policy" else ", stale samples"
    name = divergence if isinstance(divergence, str) else divergence.name
    tokens = "" if level == "sequence" else ", enumerated sequences"
    return Oracle(f"exact gradient of {_title(name, 'ref')}{drawn}{tokens}", measure)


def estimates(divergence: str, *, off_policy: bool = False) -> Oracle:
    """Judge whether the mean of f(log_policy, log_target, log_proposal) is the divergence.

    Parameters
    ----------
    divergence : str
        A key of ``DIVERGENCES``.
    off_policy : bool
        Whether samples come from the base instead of the policy.
    """

    def measure(function: Function) -> Measurement:
        values, truths = [], []
        for case in cases():
            log_proposal = case.log_base if off_policy else case.log_policy
            terms = function(case.log_policy, case.log_target, log_proposal)
            values.append(float(np.exp(log_proposal) @ terms))
            truths.append(_value(case, divergence))
        return _worst_value(np.array(values), np.array(truths), divergence)

    return Oracle(f"enumerated mean = {_title(divergence)} at large, asymmetric ratios", measure)


def means_of_sample_sets(divergence: str, *, n: int = 1024) -> Oracle:
    """Judge whether f(draw, log_policy, log_target) has the divergence as its mean.

    ``draw(log_law)`` gives all sets of n samples of a law at once, (sets, n) places of outcomes, as
    though it were one. The policies drop a part of the target.

    Parameters
    ----------
    divergence : str
        A key of ``DIVERGENCES``.
    n : int
        Number of samples in a set.
    """

    def measure(function: Function) -> Measurement:
        values, truths = [], []
        for share in _DROPPED:
            world = dropping(share, _SEEN / n)
            laws: list[np.ndarray] = []

            def draw(log_law: np.ndarray, laws: list[np.ndarray] = laws) -> np.ndarray:
                blocks = [*sample_sets(np.exp(log_law), n)]
                laws.append(np.concatenate([masses for _, masses in blocks]))
                places, counts = np.arange(log_law.size), np.concatenate([c for c, _ in blocks])
                return np.stack([np.repeat(places, row) for row in counts])

            found = function(draw, world.log_policy, world.log_target)
            values.append(float(laws[-1] @ found))
            truths.append(world.divergence(DIVERGENCES[divergence]))
        return _worst_value(np.array(values), np.array(truths), divergence)

    return Oracle(f"mean over all sets of {n} samples = {_title(divergence)}", measure)


def equals(divergence: str) -> Oracle:
    """Judge whether f(log_policy, log_target), over all outcomes, is the divergence."""

    def measure(function: Function) -> Measurement:
        values = [float(function(case.log_policy, case.log_target)) for case in cases()]
        truths = [_value(case, divergence) for case in cases()]
        return _worst_value(np.array(values), np.array(truths), divergence)

    return Oracle(f"closed form of {_title(divergence)} at large, asymmetric ratios", measure)


def names_their_divergence(names: tuple[str, ...]) -> Oracle:
    """Judge whether f(name, log_ratio) is the signal g' of each name, up to a constant."""
    ratios = np.linspace(-3.0, 3.0, 13)

    def measure(function: Function) -> Measurement:
        errors = {}
        for name in names:
            signal = function(name, ratios)
            # A constant in the signal is a baseline: free of charge, so it is taken out.
            truth = DIVERGENCES[name].signal(ratios)
            off = (signal - signal[6]) - (truth - truth[6])
            errors[name] = float(np.max(np.abs(off)) / np.max(np.abs(truth - truth[6])))
        wrong = [name for name, error in errors.items() if not error <= ROUNDING]
        which = f" ({', '.join(wrong)})" if wrong else ""
        text = f"{len(wrong)} of {len(names)} names give another signal than theirs{which}"
        return Measurement(float(np.max(list(errors.values()))), ROUNDING, text)

    return Oracle("contract table: name -> signal", measure)


def all_batches(divergence: str, *, n: int = 3, past: int = 0, up_to_scale: bool = False) -> Oracle:
    """Judge the coefficients f(log_policy, log_score, past_log_weights) of batches, (..., n).

    Parameters
    ----------
    divergence : str
        Whose gradient the mean over all batches should be; samples are on-policy.
    n, past : int
        Size of the batch, and number of earlier samples whose log(P/pi) is passed on.
    up_to_scale : bool
        Whether a positive factor is forgiven, so that only a wrong direction counts.
    """

    def measure(function: Function) -> Measurement:
        results = []
        for case in cases():
            mean, broken = _mean_gradient(case, function, n, past)
            truth = case.gradients[divergence]
            results.append((*relative_error(mean, truth, up_to_scale=up_to_scale), broken))
        error, factor, broken = max(results)
        text = gradient_text(error, factor, up_to_scale)
        if broken:
            text = f"coefficients NaN or infinite in {broken} batches; else {text}"
            error = np.inf
        return Measurement(error, ROUNDING, text)

    title = "direction of" if up_to_scale else "mean ="
    return Oracle(f"all batches of {n}: {title} grad {_title(divergence)}", measure)


def relative_error(
    value: np.ndarray, truth: np.ndarray, *, up_to_scale: bool = False
) -> tuple[float, float]:
    """Return the relative error of a vector, and the factor of the truth that it is closest to.

    Parameters
    ----------
    value, truth : (d,) arrays
        Measured and true.
    up_to_scale : bool
        Whether the vector may first be given its best scale, which is not negative.
    """
    factor = float(value @ truth / (truth @ truth))
    square = float(value @ value)
    best = max(float(value @ truth) / square, 0.0) if square else 0.0
    scaled = best * value if up_to_scale else value
    return float(np.linalg.norm(scaled - truth) / np.linalg.norm(truth)), factor


def gradient_text(error: float, factor: float, up_to_scale: bool = False) -> str:
    """Put the error of a gradient in words."""
    if error <= ROUNDING:
        return "right to rounding" + (" up to a positive factor" if up_to_scale else "")
    scaled = " after the best scaling" if up_to_scale else f" ({factor:.3g} x the true one)"
    return f"gradient off by {short(error)}{scaled}"


def short(number: float) -> str:
    """Return an error as a percentage, or as a power of ten where it is tiny or huge."""
    if 1e-4 <= number < 100:
        return f"{number:.2%}" if number < 0.01 else f"{number:.0%}"
    return f"{number:.1e}" if number else "0"


def _descent_text(found: Comparison) -> str:
    """Name what is descended; empty where neither a divergence nor two of them explain it."""
    if found.zero_gradient:
        return "its expected gradient is zero"
    if found.best_match is not None and found.scale is not None:
        verb = "ascends" if found.ascends else "descends"
        factor = "" if abs(abs(found.scale) - 1) < ROUNDING else f"{abs(found.scale):.3g} x "
        return f"{verb} {factor}{_title(found.best_match, 'ref')}"
    parts = [f"{scale:+.3g} x {_title(name, 'ref')}" for scale, name in found.combination]
    return f"descends {' '.join(parts)}" if parts else ""


def _mean_gradient(case: Case, function: Function, n: int, past: int) -> tuple[np.ndarray, int]:
    """Average over all batches; those with a coefficient that is not finite are counted apart."""
    log_weights = case.log_score - case.log_policy

    def estimate(drawn: np.ndarray) -> np.ndarray:
        now, before = drawn[:, :n], drawn[:, n:]
        # A degenerate batch may divide by zero: that is what is being measured.
        with np.errstate(all="ignore"):
            coefficients = function(case.log_policy[now], case.log_score[now], log_weights[before])
        bad = ~np.all(np.isfinite(coefficients), axis=-1)
        terms = np.where(bad[:, None], 0.0, coefficients)[..., None] * case.scores[now]
        broken.append(int(np.sum(bad)))
        return np.mean(terms, axis=-2)

    broken: list[int] = []
    return batch_expectation(case.log_policy, n + past, estimate), sum(broken)


def _value(case: Case, divergence: str) -> float:
    policy, target = np.exp(case.log_policy), np.exp(case.log_target)
    return definition(policy, target, divergence=divergence).real


def _worst_value(values: np.ndarray, truths: np.ndarray, divergence: str) -> Measurement:
    errors = np.abs(values - truths) / truths
    worst = int(np.argmax(errors))
    if errors[worst] <= ROUNDING:
        return Measurement(float(errors[worst]), ROUNDING, "right to rounding")
    beyond = divergence == "jensen_shannon" and values[worst] > np.log(2)
    bound = " and the bound log 2" if beyond else ""
    text = f"{values[worst]:.4g} nats where the truth is {truths[worst]:.4g}{bound}"
    return Measurement(float(errors[worst]), ROUNDING, text)


def _title(divergence: str, target: str = "p") -> str:
    """Return a divergence as people write it, with the name of its second argument."""
    kl = {"forward_kl": f"KL({target}‖pi)", "reverse_kl": f"KL(pi‖{target})"}
    return kl.get(divergence, divergence.replace("_", " "))
