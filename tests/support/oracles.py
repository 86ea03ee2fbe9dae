"""Independent slow references: textbook formulas in mpmath and loops over Python numbers.

Nothing here imports fdpg_ref. The generators are the *plain* f of the literature, not normalised,
so that agreement with the core also checks its normalisation g = f - f'(1)(t - 1).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import mpmath
from mpmath import mpf

# Set once for the test process: every reference below is evaluated with 60 digits, of which the
# cancellation of the plain formulas (two factors of u, down to 1e-9 here) takes at most 18.
mpmath.mp.dps = 60
# mpmath makes its number type at run time, so that no static name exists for it.
Real = Any
INFINITY = mpf("inf")
HALF = mpf(1) / 2


class Textbook(NamedTuple):
    """A divergence as a paper's table states it: f, f'(1), f''(1), f(0), lim f(t)/t, its dual."""

    f: Callable[[Real], Real]
    slope_at_one: int
    curvature: float | None
    f_at_zero: Real
    f_slope_at_infinity: Real
    dual: str

    def generator(self, u: float | Real) -> Real:
        """Return g(e^u) = f(t) - f'(1)(t - 1), from the definition."""
        t = mpmath.exp(mpf(u))
        return self.f(t) - self.slope_at_one * (t - 1)

    def signal(self, u: float | Real) -> Real:
        """Return f'(t) - f'(1) by numerical differentiation of f."""
        # f is nearly constant or nearly linear far out: what t = e^u adds to it needs |u| / log(10)
        # more digits at one end and twice as many at the other.
        with mpmath.workdps(mpmath.mp.dps + int(abs(u))):
            return mpmath.diff(self.f, mpmath.exp(mpf(u)), relative=True) - self.slope_at_one

    @property
    def value_at_zero(self) -> Real:
        return self.f_at_zero + self.slope_at_one

    @property
    def slope_at_infinity(self) -> Real:
        return self.f_slope_at_infinity - self.slope_at_one


def _jensen_shannon(t: Real) -> Real:
    return HALF * (t * mpmath.log(2 * t / (t + 1)) + mpmath.log(2 / (t + 1)))


_LOG2 = mpmath.log(2)
TEXTBOOK: dict[str, Textbook] = {
    "forward_kl": Textbook(lambda t: -mpmath.log(t), -1, 1.0, INFINITY, mpf(0), "reverse_kl"),
    "reverse_kl": Textbook(lambda t: t * mpmath.log(t), 1, 1.0, mpf(0), INFINITY, "forward_kl"),
    "total_variation": Textbook(lambda t: abs(t - 1) / 2, 0, None, HALF, HALF, "total_variation"),
    "jensen_shannon": Textbook(_jensen_shannon, 0, 0.25, _LOG2 / 2, _LOG2 / 2, "jensen_shannon"),
    "pearson_chi2": Textbook(lambda t: (t - 1) ** 2, 0, 2.0, mpf(1), INFINITY, "neyman_chi2"),
    "neyman_chi2": Textbook(lambda t: (1 - t) ** 2 / t, 0, 2.0, INFINITY, mpf(1), "pearson_chi2"),
    "squared_hellinger": Textbook(
        lambda t: (mpmath.sqrt(t) - 1) ** 2, 0, 0.5, mpf(1), mpf(1), "squared_hellinger"
    ),
    "jeffreys": Textbook(lambda t: (t - 1) * mpmath.log(t), 0, 2.0, INFINITY, INFINITY, "jeffreys"),
    "le_cam": Textbook(lambda t: (t - 1) ** 2 / (t + 1), 0, 1.0, mpf(1), mpf(1), "le_cam"),
}


def normalised(values: Iterable[float]) -> list[Real]:
    """Return the given floats, taken as exact, divided by their exact sum."""
    exact = [mpf(float(v)) for v in values]
    total = mpmath.fsum(exact)
    return [v / total for v in exact]


def divergence(name: str, policy: Sequence[Real], target: Sequence[Real]) -> Real:
    """Return sum_{p>0} p f(pi/p) + f'(inf) pi(p=0) over linear probabilities, by its definition."""
    book = TEXTBOOK[name]
    total = mpf(0)
    for q, p in zip(policy, target, strict=True):
        if p == 0:
            total += q * book.f_slope_at_infinity if q else 0
        elif q == 0:
            total += p * book.f_at_zero
        else:
            total += p * book.f(q / p)
    return total


def exp(values: Iterable[float]) -> list[Real]:
    """Return exp of each float, exactly enough; exp(-inf) is 0."""
    return [mpf(0) if v == -mpmath.inf else mpmath.exp(mpf(float(v))) for v in values]


def log(value: Real) -> float:
    """Return the logarithm as a float; log 0 is -inf."""
    return float(mpmath.log(value)) if value else float("-inf")


def mean(values: Sequence[Real]) -> Real:
    return mpmath.fsum(values) / len(values)


def leave_one_out(values: Sequence[float]) -> list[float]:
    """Return the mean of all the others, one by one."""
    exact = [mpf(float(v)) for v in values]
    return [float(mean(exact[:i] + exact[i + 1 :])) for i in range(len(exact))]


def partition(log_score: Sequence[float], log_proposal: Sequence[float]) -> Real:
    """Return the importance estimate mean(P/q) of Z; a score of -inf contributes zero."""
    return mean([p / q for p, q in zip(exp(log_score), exp(log_proposal), strict=True)])


def batches(probabilities: Sequence[float], n: int) -> Iterable[tuple[tuple[int, ...], float]]:
    """Yield every batch of ``n`` outcomes with its probability: k^n of them."""
    for batch in itertools.product(range(len(probabilities)), repeat=n):
        weight = 1.0
        for outcome in batch:
            weight *= probabilities[outcome]
        yield batch, weight
