"""F7: what a KL penalty h(u) descends, u = log pi - log ref, in the loss and in the reward.

Nothing is differentiated by hand. In the loss the samples are held fixed and h moves with theta; in
the reward h is held fixed and the samples' law moves. Both are complex steps on the enumerated sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np

from fdpg_ref import DIVERGENCES, FDivergence
from fdpg_ref.display import title_of
from fdpg_ref.related import log_ratio_penalty
from toy.oracle import definition, gradient_of, slope, slope_at_one
from toy.verify.cases import Case, cases
from toy.verify.records import BIASED, EXACT, Comparison, Record, record
from toy.verify.register import Claims

CLAIMS = Claims("tests/toy/test_penalties.py", cases, test="test_convex_penalties")
# Gradients of distinct divergences differ by some percent: what fits closer than this is the same.
_SAME = 1e-8

Penalty = Callable[[np.ndarray], np.ndarray]


def _absolute(u: np.ndarray) -> np.ndarray:
    return np.sign(np.real(u)) * u


# The penalties in use; each is analytic off its kink, so that complex steps go through.
PENALTIES: Mapping[str, Penalty] = {
    "k1": lambda u: u,
    "k2": lambda u: u**2 / 2,
    "k3": lambda u: np.exp(-u) - 1 + u,
    "abs": _absolute,
    "k3_reversed": lambda u: np.exp(u) - 1 - u,
    # The value of Jensen-Shannon at a sample, f(t)/t, and minus the reward log((p/pi + 1)/2) of a
    # teacher that is mixed half and half with the policy.
    "js_value": lambda u: (
        (np.log(2 / (1 + np.exp(-u))) + np.exp(-u) * np.log(2 / (1 + np.exp(u)))) / 2
    ),
    "skew": lambda u: np.log(2 / (1 + np.exp(-u))),
}

# What their means over samples of the policy are, as multiples of divergences.
MEANS: Mapping[str, Mapping[str, float]] = {
    "k1": {"reverse_kl": 1.0},
    "k3": {"reverse_kl": 1.0},
    "k3_reversed": {"pearson_chi2": 1.0, "reverse_kl": -1.0},
}
# What they are beside that: the value of Jensen-Shannon has it as its mean, and no row of the note.
VALUES: Mapping[str, Mapping[str, float]] = {"js_value": {"jensen_shannon": 1.0}}

# Gauss-Legendre on [0, 1]: exact to rounding for e^s over more nats than any problem has.
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(80)
_POINTS, _WEIGHTS = (_POINTS + 1) / 2, _WEIGHTS / 2


def convex(name: str) -> Penalty:
    """Return h(u) = int_0^u (f'(e^s) - f'(1)) ds of a textbook generator.

    Parameters
    ----------
    name : str
        A key of `toy.oracle.GENERATORS`.

    Returns
    -------
    callable
        Of log-ratios with the tiny imaginary parts of complex steps, which h' multiplies.
    """

    def signal(u: np.ndarray) -> np.ndarray:
        return slope(name, np.exp(u)) - slope_at_one(name)

    def penalty(u: np.ndarray) -> np.ndarray:
        real = np.real(u)
        height = real * (signal(real[..., None] * _POINTS) @ _WEIGHTS)
        return height + 1j * np.imag(u) * signal(real)

    return penalty


class Entry(NamedTuple):
    """One cell of the dictionary.

    Attributes
    ----------
    row : int
        Its row in the table of the theory.
    penalty, placement, samples : str
        A key of `PENALTIES`; "loss", "reward" or "ratio" (in the loss, times pi/pi_old with the
        ratio differentiated too); "on_policy" or "stale".
    descends : mapping or None
        Multiples of named divergences whose gradient this is; None for none of the named ones.
    """

    row: int
    penalty: str
    placement: str
    samples: str
    descends: Mapping[str, float] | None


DICTIONARY: tuple[Entry, ...] = (
    Entry(1, "k1", "loss", "on_policy", {}),
    Entry(1, "k1", "reward", "on_policy", {"reverse_kl": 1.0}),
    Entry(2, "k2", "loss", "on_policy", {"reverse_kl": 1.0}),
    Entry(2, "k2", "reward", "on_policy", None),
    Entry(3, "k3", "loss", "on_policy", {"forward_kl": 1.0}),
    Entry(3, "k3", "reward", "on_policy", {"reverse_kl": 1.0, "forward_kl": -1.0}),
    Entry(4, "abs", "loss", "on_policy", {"total_variation": 2.0}),
    Entry(4, "abs", "reward", "on_policy", None),
    Entry(5, "k3_reversed", "loss", "on_policy", {"pearson_chi2": 0.5}),
    Entry(5, "k3_reversed", "reward", "on_policy", {"pearson_chi2": 0.5, "reverse_kl": -1.0}),
    Entry(6, "k1", "ratio", "on_policy", {"reverse_kl": 1.0}),
    Entry(6, "k1", "ratio", "stale", {"reverse_kl": 1.0}),
    Entry(7, "k3", "ratio", "on_policy", {"reverse_kl": 1.0}),
    Entry(7, "k3", "ratio", "stale", {"reverse_kl": 1.0}),
    Entry(8, "k2", "ratio", "on_policy", None),
    Entry(8, "k2", "ratio", "stale", None),
    Entry(9, "k1", "loss", "stale", None),
    Entry(9, "k2", "loss", "stale", None),
    Entry(9, "k3", "loss", "stale", None),
    Entry(10, "js_value", "loss", "on_policy", None),
    Entry(10, "js_value", "reward", "on_policy", None),
    Entry(11, "skew", "reward", "on_policy", {"jensen_shannon": 2.0}),
)


class Finding(NamedTuple):
    """What enumeration found an entry to descend.

    Attributes
    ----------
    entry : Entry
        The cell.
    descends : mapping or None
        Fitted multiples of at most two named divergences, {} for a zero gradient, None for none.
    residual : float
        Relative residual of that fit; for None, of the best single divergence after scaling.
    nearest : str
        The single divergence that comes closest.
    """

    entry: Entry
    descends: Mapping[str, float] | None
    residual: float
    nearest: str


def dictionary_records() -> Iterator[Record]:
    """Yield the record of every cell of the dictionary."""
    yield from map(_entry_record, DICTIONARY)


def expected_gradient(case: Case, entry: Entry) -> np.ndarray:
    """Return the gradient that autograd takes of the expected penalty, by complex steps.

    Parameters
    ----------
    case : Case
        Its target is the reference, its base the policy of stale samples.
    entry : Entry
        The penalty and its place.

    Returns
    -------
    (d,) array
        Descending it is what the loss does.
    """
    return _gradient(case, PENALTIES[entry.penalty], entry.placement, entry.samples)


def find(entry: Entry) -> Finding:
    """Measure what an entry descends: nothing, one or two of the named divergences, or none.

    Parameters
    ----------
    entry : Entry
        Its ``descends`` is not looked at.

    Returns
    -------
    Finding
        The fit with the fewest divergences, one factor for all problems together.
    """
    value = np.concatenate([expected_gradient(case, entry) for case in cases()])
    named = {n: np.concatenate([case.gradients[n] for case in cases()]) for n in DIVERGENCES}
    size = np.linalg.norm(named["reverse_kl"])
    if np.linalg.norm(value) <= _SAME * size:
        return Finding(entry, {}, float(np.linalg.norm(value) / size), "")
    singles = [_fit(value, named, (name,)) for name in named]
    nearest = min(singles, key=lambda fit: fit[1])
    pairs = [_fit(value, named, names) for names in combinations(named, 2)]
    for fit, residual in (nearest, min(pairs, key=lambda fit: fit[1])):
        if residual <= _SAME:
            return Finding(entry, fit, residual, next(iter(nearest[0])))
    return Finding(entry, None, nearest[1], next(iter(nearest[0])))


def _fit(
    value: np.ndarray, named: Mapping[str, np.ndarray], names: tuple[str, ...]
) -> tuple[dict[str, float], float]:
    columns = np.stack([named[name] for name in names], axis=-1)
    factors = np.linalg.lstsq(columns, value)[0]
    residual = np.linalg.norm(value - columns @ factors) / np.linalg.norm(value)
    return dict(zip(names, map(float, factors), strict=True)), float(residual)


def _entry_record(entry: Entry) -> Record:
    where = {
        "loss": "in the loss",
        "reward": "in the reward",
        "ratio": "times a differentiable ratio, in the loss",
    }[entry.placement]
    samples = entry.samples.replace("_", "-")

    # What it is compared with: what it should descend or, for none, the nearest one.
    if entry.descends is None:
        nearest = find(entry).nearest
        values = [expected_gradient(case, entry) for case in cases()]
        named = [case.gradients[nearest] for case in cases()]
        factor = np.sum([v @ g for v, g in zip(values, named, strict=True)])
        factor /= np.sum([g @ g for g in named])
        comparisons = [Comparison(v, factor * g) for v, g in zip(values, named, strict=True)]
        statement = "is the gradient of none of the nine, up to scale"
    else:
        comparisons = [_against(case, entry, entry.descends) for case in cases()]
        statement = f"has gradient {describe(entry.descends)}"

    return record(
        "F7",
        f"row {entry.row}: {entry.penalty} {where}, {samples}, {statement}",
        comparisons,
        claimed=BIASED if entry.descends is None else EXACT,
        estimator=f"{entry.penalty} {where}, {samples}",
        test_id="tests/toy/test_penalties.py::test_dictionary",
    )


def describe(descends: Mapping[str, float]) -> str:
    """Return a combination of gradients in words, such as "1 reverse KL - 1 forward KL"."""
    if not descends:
        return "zero"
    words = []
    for name, factor in sorted(descends.items(), key=lambda item: -item[1]):
        sign = "-" if factor < 0 else "+"
        number = "" if abs(abs(factor) - 1) < _SAME else f"{abs(factor):.4g} "
        words.append(f"{sign} {number}grad {title_of(name)}")
    return " ".join(words).removeprefix("+ ")


def _against(case: Case, entry: Entry, descends: Mapping[str, float]) -> Comparison:
    truth = np.zeros(case.scores.shape[-1])
    for name, factor in descends.items():
        truth = truth + factor * case.gradients[name]
    # A zero, or a difference, is measured against what it could have been.
    scale = sum(np.linalg.norm(case.gradients[name]) for name in descends or ("reverse_kl",))
    return Comparison(expected_gradient(case, entry), truth, scale=float(scale))


@CLAIMS.each(
    "F7",
    "a convex penalty h(u) in the loss descends the f with f'(e^u) = h'(u)",
    "penalty h in the loss",
)
def _convex_penalty(case: Case, divergence: FDivergence) -> Comparison:
    name = divergence.name
    return Comparison(_gradient(case, convex(name), "loss", "on_policy"), case.gradients[name])


@CLAIMS.each("F7", "the core's penalty is that h, zero at u = 0", "log_ratio_penalty")
def _core_penalty(case: Case, divergence: FDivergence) -> Comparison:
    u = case.log_policy - case.log_target
    textbook = np.real(convex(divergence.name)(u))
    return Comparison(log_ratio_penalty(u, divergence=divergence), textbook)


@CLAIMS.once(
    "F7",
    "row 9: k1 in the loss on stale samples ascends KL(pi_old||pi)",
    "k1, in the loss, stale: against -grad KL(pi_old||pi)",
    test="test_stale_k1",
)
def _stale_k1(case: Case) -> Comparison:
    stale = Entry(9, "k1", "loss", "stale", None)
    old = np.exp(case.log_base)

    def value(policy: np.ndarray) -> complex:
        return complex(np.sum(old * (case.log_base - np.log(policy))))

    return Comparison(
        expected_gradient(case, stale), -gradient_of(case.problem.family, case.problem.start, value)
    )


def _mean_of(name: str) -> Callable[[Case], Comparison]:
    # What is compared with KL although it is not its mean is found out.
    means = {**MEANS, **VALUES}.get(name, {"reverse_kl": 1.0})

    def compare(case: Case) -> Comparison:
        policy, target = np.exp(case.log_policy), np.exp(case.log_target)
        found = policy @ PENALTIES[name](case.log_policy - case.log_target)
        parts = [c * np.real(definition(policy, target, divergence=f)) for f, c in means.items()]
        return Comparison(found, np.sum(parts))

    return compare


for _name, _says, _claimed in (
    ("k1", "KL(pi||ref)", EXACT),
    ("k3", "KL(pi||ref)", EXACT),
    ("k3_reversed", "chi2(pi||ref) - KL(pi||ref)", EXACT),
    ("k2", "not KL(pi||ref)", BIASED),
    ("js_value", "the Jensen-Shannon divergence", EXACT),
):
    _ = CLAIMS.once(
        "F7",
        f"value: the mean of {_name} over samples of pi is {_says}",
        f"{_name}: its mean",
        test="test_means",
        claimed=_claimed,
    )(_mean_of(_name))


def _gradient(case: Case, penalty: Penalty, placement: str, samples: str) -> np.ndarray:
    fixed = np.exp(case.log_policy if samples == "on_policy" else case.log_base)
    detached = np.asarray(penalty(case.log_policy - case.log_target))

    def value(policy: np.ndarray) -> complex:
        if placement == "reward":
            return complex(np.sum(policy * detached))
        u = np.log(policy) - case.log_target
        ratio = policy / fixed if placement == "ratio" else 1.0
        return complex(np.sum(fixed * ratio * penalty(u)))

    return gradient_of(case.problem.family, case.problem.start, value)
