"""The judges of log Z: by the gradient that it leads to, on laws and on a verifier's groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np

from fdpg_ref import DIVERGENCES, score_signal
from toy.museum.judges.enumeration import gradient_text, relative_error
from toy.museum.records import Measurement, Oracle
from toy.verify.cases import cases
from toy.verify.records import ROUNDING

Function = Callable[..., Any]
_GROUP, _RATES = 4, (0.5, 0.02)


def groups_of_a_verifier(pass_rate: float, n: int) -> Iterator[tuple[np.ndarray, float]]:
    """Yield every group of n verdicts with its probability."""
    for verdicts in product((False, True), repeat=n):
        passes = np.array(verdicts)
        yield passes, float(np.prod(np.where(passes, pass_rate, 1 - pass_rate)))


def leads_to_the_gradient(divergence: str) -> Oracle:
    """Judge f(log_base, log_score), over all outcomes, as the log Z of a gradient.

    Parameters
    ----------
    divergence : str
        A key of ``DIVERGENCES``, one whose direction depends on Z.
    """

    def measure(function: Function) -> Measurement:
        results = []
        for case in cases():
            log_target = case.log_score - function(case.log_base, case.log_score)
            signal = score_signal(case.log_policy, log_target, divergence=DIVERGENCES[divergence])
            value = (np.exp(case.log_policy) * signal) @ case.scores
            results.append(relative_error(value, case.gradients[divergence], up_to_scale=True))
        error, factor = max(results)
        return Measurement(error, ROUNDING, gradient_text(error, factor, up_to_scale=True))

    return Oracle(f"direction of grad {DIVERGENCES[divergence].title} with that Z", measure)


def _has_one_size(function: Function) -> Measurement:
    factors = []
    for rate in _RATES:
        mean = 0.0
        for passes, mass in groups_of_a_verifier(rate, _GROUP):
            # grad log pi of the logit of passing, and the gradient of -log of what passes.
            scores = np.where(passes, 1 - rate, -rate)
            mean += mass * float(np.mean(function(passes, rate) * scores))
        factors.append(mean / -(1 - rate))
    words = [f"{f:.3g} x at a pass rate of {r:g}" for f, r in zip(factors, _RATES, strict=True)]
    error = float(np.max(np.abs(np.array(factors) - 1)))
    return Measurement(error, ROUNDING, f"the true gradient {' and '.join(words)}")


# f(passes (n,), pass_rate) -> coefficients (n,), on all groups of the base.
HAS_ONE_SIZE = Oracle(f"all groups of {_GROUP} of a verifier: grad KL(p‖pi)", _has_one_size)
