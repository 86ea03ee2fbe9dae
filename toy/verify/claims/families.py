"""Claims about whole families: alpha, skew Jensen-Shannon, user-defined f, and conventions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from fdpg_ref import (
    DIVERGENCES,
    FDivergence,
    alpha_divergence,
    dual,
    exact_divergence,
    from_curvature,
    from_generator,
    skew_jensen_shannon,
)
from fdpg_ref.related import conventions
from toy.exact import exact_gradient
from toy.oracle import gradient_of
from toy.verify.cases import Case, cases, partition_factor
from toy.verify.estimators import leave_one_out_z
from toy.verify.gradients import Plan, enumerated_mean
from toy.verify.records import EXACT, PROPORTIONAL, Comparison, at_most
from toy.verify.register import Claims

CLAIMS = Claims("tests/toy/test_families.py", cases, test="test_members")
ALPHAS = (-2.5, -1.0, -1e-6, 0.0, 1e-6, 1 / 3, 0.5, 0.999, 1.0, 2.0, 3.0)
WEIGHTS = (1e-3, 0.25, 0.5, 0.999)
# The generator's 1 / (a (a - 1)) loses digits near its limits: there the judge is the limit itself.
_ORDINARY = tuple(a for a in ALPHAS if min(abs(a), abs(a - 1)) > 1e-3 / 2)

Formula = Callable[[np.ndarray], np.ndarray]


def textbook_alpha(alpha: float) -> Formula:
    """Return f(t) = (t^a - a t - (1 - a)) / (a (a - 1)), and its limits at a = 0 and 1."""
    if alpha == 0:
        return lambda t: -np.log(t) + t - 1
    if alpha == 1:
        return lambda t: t * np.log(t) - t + 1
    return lambda t: (t**alpha - alpha * t - (1 - alpha)) / (alpha * (alpha - 1))


def textbook_skew(weight: float) -> Formula:
    """Return the generator of (1 - l) KL(p||m) + l KL(pi||m) with m = (1 - l) p + l pi."""

    def formula(t: np.ndarray) -> np.ndarray:
        mixture = 1 - weight + weight * t
        return -(1 - weight) * np.log(mixture) + weight * t * np.log(t / mixture)

    return formula


def _gradient(case: Case, divergence: FDivergence) -> np.ndarray:
    return exact_gradient(case.log_policy, case.log_target, case.scores, divergence=divergence)


def _against(case: Case, divergence: FDivergence, formula: Formula) -> Comparison:
    """Compare the core's gradient with a complex step on sum p f(pi/p)."""
    target = np.exp(case.log_target)
    truth = gradient_of(
        case.problem.family,
        case.problem.start,
        lambda policy: complex(np.sum(target * formula(policy / target))),
    )
    return Comparison(_gradient(case, divergence), truth)


def _proportional(case: Case, alpha: float) -> Comparison:
    n = 3
    mean = enumerated_mean(leave_one_out_z, case, Plan(n), alpha_divergence(alpha))
    factor = partition_factor(case, case.log_policy, n - 1, alpha=alpha)
    return Comparison(mean, _gradient(case, alpha_divergence(alpha)), factor=factor)


for _alpha in _ORDINARY:
    CLAIMS.once(
        "F1",
        f"alpha = {_alpha:.4g}: E_pi[g'(pi/p) score] = grad D_f of the textbook",
        f"alpha {_alpha:.4g}, one sample",
        test="test_gradients",
    )(partial(_against, divergence=alpha_divergence(_alpha), formula=textbook_alpha(_alpha)))
for _weight in WEIGHTS:
    CLAIMS.once(
        "F1",
        f"skew JS, l = {_weight:.4g}: E_pi[g'(pi/p) score] = grad D_f of the textbook",
        f"skew JS {_weight:.4g}, one sample",
        test="test_gradients",
    )(partial(_against, divergence=skew_jensen_shannon(_weight), formula=textbook_skew(_weight)))
for _alpha in ALPHAS:
    CLAIMS.once(
        "F5",
        f"alpha = {_alpha:.4g}: leave-one-out Z only scales, by E[(Zhat/Z)^(alpha-1)]",
        f"alpha {_alpha:.4g}, LOO Z",
        test="test_proportional",
        claimed=EXACT if _alpha in (1.0, 2.0) else PROPORTIONAL,
    )(partial(_proportional, alpha=_alpha))


def _stack(case: Case, first: list[FDivergence], second: list[FDivergence]) -> Comparison:
    """Compare values and gradients of two lists of divergences that should be the same."""
    sides = []
    for side in (first, second):
        logs = case.log_policy, case.log_target
        values = [exact_divergence(*logs, divergence=one) for one in side]
        sides.append(np.concatenate([np.array(values), *(_gradient(case, one) for one in side)]))
    return Comparison(*sides)


def _scaled(divergence: FDivergence, factor: float, case: Case) -> np.ndarray:
    value = exact_divergence(case.log_policy, case.log_target, divergence=divergence)
    return factor * np.append(_gradient(case, divergence), value)


@CLAIMS.once(
    "families",
    "family: alpha = -1, 0, 1/2, 1, 2 are Neyman/2, forward KL, 2 Hellinger^2, RKL, Pearson/2",
    "alpha, named members",
)
def _members(case: Case) -> Comparison:
    known = {
        -1.0: ("neyman_chi2", 0.5),
        0.0: ("forward_kl", 1.0),
        0.5: ("squared_hellinger", 2.0),
        1.0: ("reverse_kl", 1.0),
        2.0: ("pearson_chi2", 0.5),
    }
    mine = [_scaled(alpha_divergence(alpha), 1.0, case) for alpha in known]
    table = [_scaled(DIVERGENCES[name], factor, case) for name, factor in known.values()]
    return Comparison(np.concatenate(mine), np.concatenate(table))


@CLAIMS.once(
    "families",
    "family: the gradient at alpha within 1e-6 of 0 and 1 is the limit's to 1e-6 (1 + max |u|)",
    "alpha, limits",
    test="test_limits",
)
def _limits(case: Case) -> Comparison:
    """Return the largest relative change of the gradient between a limit and 1e-6 beside it."""
    u = case.log_policy - case.log_target
    worst = 0.0
    for limit in (0.0, 1.0):
        there = _gradient(case, alpha_divergence(limit))
        terms = np.exp(case.log_policy) @ np.abs(
            alpha_divergence(limit).signal(u)[:, None] * case.scores
        )
        for step in (-1e-6, 1e-6):
            moved = _gradient(case, alpha_divergence(limit + step)) - there
            worst = max(worst, float(np.linalg.norm(moved) / np.linalg.norm(terms)))
    # d signal / d alpha is at most |u| times the signal: a step of 1e-6 moves it by that much.
    return at_most(worst / (1 + float(np.max(np.abs(u)))), 1e-6)


@CLAIMS.once("families", "family: alpha and 1 - alpha are dual", "alpha, dual")
def _dual_alpha(case: Case) -> Comparison:
    swapped = [dual(alpha_divergence(alpha)) for alpha in (-1.3, 0.25, 2.6)]
    return _stack(case, swapped, [alpha_divergence(1 - alpha) for alpha in (-1.3, 0.25, 2.6)])


@CLAIMS.once("families", "family: skew JS with weight 1/2 is Jensen-Shannon", "skew JS, half")
def _half_skew(case: Case) -> Comparison:
    return _stack(case, [skew_jensen_shannon(0.5)], [DIVERGENCES["jensen_shannon"]])


@CLAIMS.once(
    "families",
    "family: in units of its curvature, skew JS keeps at least half the end's gradient norm",
    "skew JS, weights 1e-3 and 1 - 1e-3",
    test="test_ends_of_skew",
)
def _ends_of_skew(case: Case) -> Comparison:
    """Return the least ratio of the gradient's norm near an end to that of the end, against 1/2."""
    ratios = []
    for weight, end in ((1e-3, "reverse_kl"), (1 - 1e-3, "forward_kl")):
        near = _gradient(case, skew_jensen_shannon(weight, unit_curvature=True))
        ratios.append(np.linalg.norm(near) / np.linalg.norm(case.gradients[end]))
    return at_most(0.5, float(min(ratios)))


@CLAIMS.once("families", "family: unit_curvature divides by l (1 - l)", "skew JS, unit curvature")
def _unit_curvature(case: Case) -> Comparison:
    weights = (0.05, 0.3, 0.9)
    unit = [
        _scaled(skew_jensen_shannon(w, unit_curvature=True), w * (1 - w), case) for w in weights
    ]
    plain = [_scaled(skew_jensen_shannon(w), 1.0, case) for w in weights]
    return Comparison(np.concatenate(unit), np.concatenate(plain))


@CLAIMS.once(
    "families", "family: from_curvature rebuilds reverse KL and Jeffreys", "f from its curvature"
)
def _from_curvature(case: Case) -> Comparison:
    # t^2 f'' = t for reverse KL; 2 t for Jeffreys' two halves: 1 + t.
    mine = [
        from_curvature("rkl", lambda s, m: m.exp(s), value_at_zero=1.0, slope_at_infinity=np.inf),
        from_curvature(
            "jeffreys", lambda s, m: 1 + m.exp(s), value_at_zero=np.inf, slope_at_infinity=np.inf
        ),
    ]
    return _stack(case, mine, [DIVERGENCES["reverse_kl"], DIVERGENCES["jeffreys"]])


@CLAIMS.once("families", "family: from_generator rebuilds Le Cam", "f from its formula")
def _from_generator(case: Case) -> Comparison:
    mine = from_generator(
        "le cam",
        lambda t, m: (t - 1) ** 2 / (t + 1),
        lambda t, m: 1 - 4 / (t + 1) ** 2,
        value_at_zero=1.0,
        slope_at_infinity=1.0,
        curvature=1.0,
    )
    return _stack(case, [mine], [DIVERGENCES["le_cam"]])


def _value(case: Case, formula: Formula) -> float:
    target = np.exp(case.log_target)
    return float(np.sum(target * formula(np.exp(case.log_policy) / target)))


@CLAIMS.once(
    "families",
    "conventions: the paper's Jensen-Shannon is twice the textbook's",
    "paper JS",
    test="test_conventions",
)
def _paper_scale(case: Case) -> Comparison:
    # Table 1 of arXiv 2302.08215.
    paper = _value(case, lambda t: t * np.log(t) - (t + 1) * np.log((t + 1) / 2))
    logs = case.log_policy, case.log_target
    ours = exact_divergence(*logs, divergence=DIVERGENCES["jensen_shannon"])
    return Comparison(conventions.PAPER_JENSEN_SHANNON_SCALE * ours, np.asarray(paper))


@CLAIMS.once(
    "families", "conventions: Amari's a is 2 alpha - 1", "Amari's alpha", test="test_conventions"
)
def _amari(case: Case) -> Comparison:
    # f = 4 (1 - t^((1+a)/2)) / (1 - a^2), Amari (2009).
    amari = (-0.6, 0.2, 2.0)
    paper = [_value(case, lambda t, a=a: 4 / (1 - a**2) * (1 - t ** ((1 + a) / 2))) for a in amari]
    logs = case.log_policy, case.log_target
    ours = [
        exact_divergence(*logs, divergence=alpha_divergence(conventions.alpha_from_amari(a)))
        for a in amari
    ]
    return Comparison(np.array(ours), np.array(paper))


@CLAIMS.once(
    "families",
    "conventions: alpha-DPG's alpha is ours, pseudo-reward by pseudo-reward",
    "alpha of alpha-DPG",
    test="test_conventions",
)
def _alpha_dpg(case: Case) -> Comparison:
    # Its pseudo-reward is ((p/pi)^(1-a) - 1) / (1-a) up to a constant: the negative of our signal.
    alphas = (0.1, 0.5, 0.9)
    t = np.exp(case.log_policy - case.log_target)
    paper = [(t ** -(1 - a) - 1) / (1 - a) for a in alphas]
    ours = [
        -alpha_divergence(conventions.alpha_from_alpha_dpg(a)).signal(np.log(t)) for a in alphas
    ]
    return Comparison(np.stack(ours), np.stack(paper))


@CLAIMS.once(
    "families",
    "conventions: GKD's JSD(beta) is skew JS of weight 1 - beta",
    "beta of GKD",
    test="test_conventions",
)
def _gkd(case: Case) -> Comparison:
    # JSD(beta) = beta KL(p||m) + (1 - beta) KL(pi||m), m = beta p + (1 - beta) pi.
    policy, target = np.exp(case.log_policy), np.exp(case.log_target)
    paper, ours = [], []
    for beta in (0.1, 0.5, 0.8):
        mixture = beta * target + (1 - beta) * policy
        paper.append(
            beta * np.sum(target * np.log(target / mixture))
            + (1 - beta) * np.sum(policy * np.log(policy / mixture))
        )
        skew = skew_jensen_shannon(conventions.weight_from_gkd_beta(beta))
        ours.append(exact_divergence(case.log_policy, case.log_target, divergence=skew))
    return Comparison(np.array(ours), np.array(paper))


@CLAIMS.once(
    "families",
    "conventions: every converter is undone by its inverse",
    "round trips",
    test="test_conventions",
)
def _round_trips(case: Case) -> Comparison:
    pairs = (
        (conventions.alpha_from_amari, conventions.amari_from_alpha),
        (conventions.alpha_from_alpha_dpg, conventions.alpha_dpg_from_alpha),
        (conventions.weight_from_gkd_beta, conventions.gkd_beta_from_weight),
    )
    numbers = np.tanh(case.log_policy)
    returned = [back(there(float(x))) for there, back in pairs for x in numbers]
    return Comparison(np.array(returned), np.tile(numbers, len(pairs)))
