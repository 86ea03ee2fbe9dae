"""Textbook forms of the alpha and skew families, and how far a record may be from them."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import numpy as np
from mpmath import mpf
from support import oracles
from support.oracles import Real

from benchmarks import accuracy
from fdpg_ref import FDivergence

BOUNDS = {"float64": 1e-12, "float32": 1e-4}


def textbook_alpha(alpha: float) -> oracles.Textbook:
    """Return g itself as f: the alpha divergences are commonly stated in normalised form."""
    a = mpf(alpha)
    if alpha == 0:
        return oracles.Textbook(lambda t: t - 1 - mpmath.log(t), 0, 1.0, mpf(0), mpf(0), "")
    if alpha == 1:
        return oracles.Textbook(lambda t: t * mpmath.log(t) - t + 1, 0, 1.0, mpf(0), mpf(0), "")
    return oracles.Textbook(
        lambda t: (t**a - a * t - (1 - a)) / (a * (a - 1)), 0, 1.0, mpf(0), mpf(0), ""
    )


def textbook_skew(weight: float) -> oracles.Textbook:
    w = mpf(weight)

    def f(t: Real) -> Real:
        mixture = (1 - w) + w * t
        return -(1 - w) * mpmath.log(mixture) + w * t * mpmath.log(t / mixture)

    return oracles.Textbook(f, 0, weight * (1 - weight), mpf(0), mpf(0), "")


def relative_errors(
    record: FDivergence, book: Callable[[Real], Real], dtype: str, points: int
) -> tuple[float, tuple[float, ...]]:
    """Return the worst relative error of p*g at the points of the accuracy table, and where."""
    rng, info = np.random.default_rng(0), np.finfo(dtype)
    drawn, exact = [], []
    with mpmath.workdps(accuracy.DIGITS):
        for pair in accuracy._pairs(rng, dtype):
            q, p = (mpf(float(v)) for v in pair)
            value = mpmath.exp(p) * book(q - p)
            # e^(lp + alpha u) and the like, inside the kernel, must not overflow either.
            if info.tiny <= value <= info.max / 1e3:
                drawn.append(pair)
                exact.append(value)
            if len(drawn) == points:
                break
    values = record.density(*np.array(drawn, dtype=dtype).T)
    errors = [
        float(abs(mpf(float(v)) / e - 1)) if math.isfinite(v) else math.inf
        for v, e in zip(values, exact, strict=True)
    ]
    worst = int(np.argmax(errors))
    return errors[worst], tuple(map(float, drawn[worst]))
