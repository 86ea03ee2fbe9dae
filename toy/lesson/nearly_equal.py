"""Relative error of KL and Jensen-Shannon between nearly equal distributions, ours and others'.

1,000 outcomes, policy = target (1 + d z) with z normal. The reference is 60-digit arithmetic on the
given floats, normalised exactly. Notebook 01 draws it; ``python -m benchmarks.nearly_equal`` prints
it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
import numpy as np
from mpmath import mpf
from scipy.spatial.distance import jensenshannon
from scipy.special import kl_div, rel_entr

from fdpg_ref import (
    JENSEN_SHANNON,
    REVERSE_KL,
    FDivergence,
    exact_divergence,
    exact_divergence_from_probabilities,
)

# mpmath makes its number type at run time, so that no static name exists for it.
Real = Any
DISTANCES = (1e-4, 1e-8, 1e-12)
Evaluate = Callable[[np.ndarray, np.ndarray], float]


class Row(NamedTuple):
    """One implementation and its relative error at each distance; NaN where it returned NaN."""

    quantity: str
    implementation: str
    errors: tuple[float, ...]
    negative: bool


def nearly_equal_pair(
    distance: float, *, outcomes: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return (policy, target), each normalised in floats, at relative distance ``distance``."""
    rng = np.random.default_rng(seed)
    target = rng.dirichlet(np.ones(outcomes))
    policy = target * (1 + distance * rng.standard_normal(outcomes))
    return policy / policy.sum(), target / target.sum()


def reference(quantity: str, policy: np.ndarray, target: np.ndarray) -> Real:
    """Return KL(policy‖target) or their Jensen-Shannon divergence in 60-digit arithmetic."""
    with mpmath.workdps(60):
        q = [mpf(float(v)) for v in policy]
        p = [mpf(float(v)) for v in target]
        q_sum, p_sum = mpmath.fsum(q), mpmath.fsum(p)
        pairs = [(a / q_sum, b / p_sum) for a, b in zip(q, p, strict=True)]
        if quantity == "KL":
            return mpmath.fsum(a * mpmath.log(a / b) for a, b in pairs)
        middle = [(a, b, (a + b) / 2) for a, b in pairs]
        return mpmath.fsum(a * mpmath.log(a / m) + b * mpmath.log(b / m) for a, b, m in middle) / 2


def measure(distances: tuple[float, ...] = DISTANCES) -> list[Row]:
    """Return the relative errors of every implementation at every distance, in float64."""
    pairs = [nearly_equal_pair(d) for d in distances]
    rows = []
    for quantity, implementations in _implementations().items():
        exact = [reference(quantity, *pair) for pair in pairs]
        for name, evaluate in implementations.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # scipy takes the root of a negative number
                values = [evaluate(*pair) for pair in pairs]
            with mpmath.workdps(60):  # in 15 digits an error below 1e-16 would read as none
                errors = tuple(float(abs(v / e - 1)) for v, e in zip(values, exact, strict=True))
            rows.append(Row(quantity, name, errors, negative=any(v < 0 for v in values)))
    return rows


def _implementations() -> dict[str, dict[str, Evaluate]]:
    kl: dict[str, Evaluate] = {
        "scipy rel_entr": lambda q, p: float(rel_entr(q, p).sum()),
        "scipy kl_div": lambda q, p: float(kl_div(q, p).sum()),
        **_torch_implementations(),
    }
    js: dict[str, Evaluate] = {
        "scipy jensenshannon squared": lambda q, p: float(jensenshannon(q, p)) ** 2,
    }
    return {"KL": kl | _ours(REVERSE_KL), "JS": js | _ours(JENSEN_SHANNON)}


def _ours(divergence: FDivergence) -> dict[str, Evaluate]:
    return {
        "fdpg_ref, from log-probabilities": lambda q, p: float(
            exact_divergence(np.log(q), np.log(p), divergence=divergence)
        ),
        "fdpg_ref, from probabilities": lambda q, p: float(
            exact_divergence_from_probabilities(q, p, divergence=divergence)
        ),
    }


def _torch_implementations() -> dict[str, Evaluate]:
    try:
        import torch  # noqa: PLC0415 - torch is optional here: without it two rows are missing
    except ImportError:
        return {}
    distributions, functional = torch.distributions, torch.nn.functional

    def categorical(q: np.ndarray, p: np.ndarray) -> float:
        policy = distributions.Categorical(probs=torch.from_numpy(q))
        target = distributions.Categorical(probs=torch.from_numpy(p))
        return float(distributions.kl_divergence(policy, target))

    def kl_div_function(q: np.ndarray, p: np.ndarray) -> float:
        log_target = torch.from_numpy(p).log()
        return float(functional.kl_div(log_target, torch.from_numpy(q), reduction="sum"))

    return {"torch Categorical": categorical, "torch F.kl_div": kl_div_function}
