"""The theorem of Go et al. (2023) and the normalised generator, beyond F1."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.optimize import minimize, root

from fdpg_ref import DIVERGENCES, FDivergence, exact_divergence, score_signal
from toy.exact import exact_gradient
from toy.oracle import GENERATORS, curvature, definition, gradient_of, slope, slope_at_one
from toy.verify.cases import ALPHA, Case, cases
from toy.verify.records import BIASED, EXACT, PROPORTIONAL, Comparison, at_most
from toy.verify.register import Claims

CLAIMS = Claims("tests/toy/test_theorem.py", cases, test="test_theorem")
# A multiple of t - 1 that is added to f: it moves f' by itself and the divergence not at all.
_TILT = 1.7
# log of the factor by which Z is off.
_ERROR = 0.7


def _ratio(case: Case) -> np.ndarray:
    return np.exp(case.log_policy - case.log_target)


@CLAIMS.each(
    "theorem",
    "any generator f + c (t - 1) gives the same gradient, E_pi[f'(t) score]",
    "textbook f' + 1.7",
)
def _any_generator(case: Case, divergence: FDivergence) -> Comparison:
    signal = slope(divergence.name, _ratio(case)) + _TILT
    mean = (np.exp(case.log_policy) * signal) @ case.scores
    return Comparison(mean, case.gradients[divergence.name])


def _extra_verdict(name: str) -> str:
    if name in ("reverse_kl", "total_variation"):
        return EXACT
    return PROPORTIONAL if name in ALPHA else BIASED


@CLAIMS.each(
    "theorem",
    "a term for the dependence of f' on theta is wrong: times alpha, or biased",
    "E_pi[(f' + t f'') score]",
    claimed=_extra_verdict,
)
def _extra_term(case: Case, divergence: FDivergence) -> Comparison:
    # The derivative of f'(t) itself is t f''(t) score: a tempting term, and wrong.
    t = _ratio(case)
    signal = slope(divergence.name, t) + t * curvature(divergence.name, t)
    mean = (np.exp(case.log_policy) * signal) @ case.scores
    return Comparison(
        mean, case.gradients[divergence.name], factor=ALPHA.get(divergence.name), scale=_size(case)
    )


def _size(case: Case) -> float:
    """Return the largest gradient of the case, which zero is measured against."""
    return float(max(np.linalg.norm(gradient) for gradient in case.gradients.values()))


@CLAIMS.each(
    "theorem", "the core's g is f(t) - f(1) - f'(1)(t - 1) of the textbook", "normalised generator"
)
def _normalised(case: Case, divergence: FDivergence) -> Comparison:
    t = _ratio(case)
    u = np.log(t)
    by_hand = GENERATORS[divergence.name](t) - (t - 1) * slope_at_one(divergence.name)
    # g cancels where t is near one; the textbook sum is what it is relative to.
    scale = float(np.linalg.norm(np.abs(GENERATORS[divergence.name](t)) + np.abs(t - 1)))
    return Comparison(divergence.generator(u), by_hand, scale=scale)


@CLAIMS.each("theorem", "p g(pi/p) is never negative", "terms of the sum: >= 0")
def _nonnegative(case: Case, divergence: FDivergence) -> Comparison:
    u = np.linspace(-12.0, 12.0, 97) * case.log_policy[0]
    density = divergence.density(u + case.log_base[0], 0 * u + case.log_base[0])
    return at_most(-float(np.min(density)), 0.0)


@CLAIMS.each("theorem", "every coefficient vanishes at pi = p", "signal at the target")
def _vanishing(case: Case, divergence: FDivergence) -> Comparison:
    signal = score_signal(case.log_target, case.log_target, divergence=divergence)
    return Comparison(signal, np.zeros(signal.size), scale=1.0)


@CLAIMS.each("F13", "D_f(p||p) = 0", "value at the target")
def _zero_at_target(case: Case, divergence: FDivergence) -> Comparison:
    value = exact_divergence(case.log_target, case.log_target, divergence=divergence)
    return Comparison(value, np.asarray(0.0), scale=1.0)


@CLAIMS.each(
    "F13", "D_f > 0 away from the target", "value away from the target: zero", claimed=BIASED
)
def _positive_elsewhere(case: Case, divergence: FDivergence) -> Comparison:
    value = exact_divergence(case.log_policy, case.log_target, divergence=divergence)
    return Comparison(value, np.asarray(0.0), scale=1.0)


@CLAIMS.each(
    "F13",
    "Pinsker's inequality, 2 TV^2 <= KL, in both directions",
    where=lambda divergence: divergence.name in ("forward_kl", "reverse_kl"),
)
def _pinsker(case: Case, divergence: FDivergence) -> Comparison:
    logs = case.log_policy, case.log_target
    variation = float(exact_divergence(*logs, divergence=DIVERGENCES["total_variation"]))
    bound = float(exact_divergence(*logs, divergence=divergence))
    return at_most(2 * variation**2, bound)


@CLAIMS.each(
    "F5", "Z off by a constant descends the divergence of f(ct)/c", "Z off by a constant: f(ct)/c"
)
def _rescaled(case: Case, divergence: FDivergence) -> Comparison:
    """Compare a gradient under a wrong Z with that of the divergence of f(ct)/c."""
    signal = score_signal(case.log_policy, case.log_target - _ERROR, divergence=divergence)
    value = (np.exp(case.log_policy) * signal) @ case.scores
    factor = np.exp(_ERROR)
    target = np.exp(case.log_target)
    truth = gradient_of(
        case.problem.family,
        case.problem.start,
        lambda policy: definition(factor * policy, target, divergence=divergence.name),
    )
    # Total variation may have lost its gradient: zero is measured against what it was.
    scale = float(np.linalg.norm(truth) + np.linalg.norm(case.gradients[divergence.name]))
    return Comparison(value, truth / factor, scale=scale)


@CLAIMS.each(
    "F5",
    "Z off by a constant leaves the optimum pi = p where it is",
    "Z off by a constant, at the target",
)
def _optimum_inside(case: Case, divergence: FDivergence) -> Comparison:
    signal = score_signal(case.log_target, case.log_target - _ERROR, divergence=divergence)
    probs = np.exp(case.log_target)
    scores = np.eye(probs.size) - probs
    return Comparison((probs * signal) @ scores, np.zeros(probs.size), scale=1.0)


@cache
def optimum(index: int, name: str) -> np.ndarray:
    """Return the parameters at which a restricted family is nearest to the target of a case.

    Parameters
    ----------
    index : int
        Of a case whose family does not hold its target.
    name : str
        Of a smooth divergence.

    Returns
    -------
    (d,) array
        Where the gradient of the divergence vanishes, to rounding.
    """
    case, divergence = cases()[index], DIVERGENCES[name]
    family = case.problem.family

    def gradient(theta: np.ndarray) -> np.ndarray:
        logs = family.log_probs(theta), case.log_target
        return exact_gradient(*logs, family.score_matrix(theta), divergence=divergence)

    def value(theta: np.ndarray) -> float:
        logs = family.log_probs(theta), case.log_target
        return float(exact_divergence(*logs, divergence=divergence))

    near = minimize(value, np.zeros(family.size), jac=gradient, method="BFGS").x
    return root(gradient, near, tol=1e-14).x


def _restricted() -> list[int]:
    return [i for i, case in enumerate(cases()) if len(case.problem.start) < 3]


@CLAIMS.each(
    "F5",
    "outside the family, Z off by a constant moves the optimum, but alpha's stays",
    "Z off by a constant, at the optimum of a restricted family",
    test="test_optimum_outside_the_family",
    claimed=lambda name: EXACT if name in ALPHA else BIASED,
    problems=_restricted,
    # Total variation has corners for optima, where no gradient vanishes.
    where=lambda divergence: divergence.curvature is not None,
)
def _optimum_outside(index: int, divergence: FDivergence) -> Comparison:
    case, theta = cases()[index], optimum(index, divergence.name)
    family = case.problem.family
    log_policy, scores = family.log_probs(theta), family.score_matrix(theta)
    signal = score_signal(log_policy, case.log_target - _ERROR, divergence=divergence)
    terms = np.exp(log_policy) * np.abs(signal) @ np.abs(scores)
    value = (np.exp(log_policy) * signal) @ scores
    return Comparison(value, np.zeros(family.size), scale=float(np.linalg.norm(terms)))


@CLAIMS.each(
    "F5",
    "around p, total variation loses its gradient altogether; the others keep it",
    "Z off by a constant, near the target: zero",
    claimed=lambda name: EXACT if name == "total_variation" else BIASED,
)
def _flat(case: Case, divergence: FDivergence) -> Comparison:
    """Return the gradient a quarter of the error away from the target, in every direction."""
    moved = case.log_target + _ERROR / 4 * np.cos(np.arange(case.log_target.size))
    log_policy = moved - np.log(np.sum(np.exp(moved)))
    signal = score_signal(log_policy, case.log_target - _ERROR, divergence=divergence)
    probs = np.exp(log_policy)
    return Comparison(
        (probs * signal) @ (np.eye(probs.size) - probs), np.zeros(probs.size), None, 1
    )
