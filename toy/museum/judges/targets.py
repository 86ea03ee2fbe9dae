"""The judges of log Z: by the gradient that it leads to, on laws and on a verifier's groups."""

from __future__ import annotations

from collections.abc import Callable
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
    error, words, turned = 0.0, [], 0.0
    for rate in _RATES:
        # Two outcomes pass, unequally often, so that a direction is more than a sign.
        law = np.array([rate / 3, 2 * rate / 3, 1 - rate])
        target = np.array([1 / 3, 2 / 3, 0.0])
        mean = np.zeros(3)
        for drawn in product(range(3), repeat=_GROUP):
            group = np.array(drawn)
            # grad log pi of the logits is the outcome less the law.
            terms = function(group < 2, rate) @ (np.eye(3)[group] - law)
            mean += np.prod(law[group]) * terms / _GROUP

        # The gradient of -E_p[log pi], and what is left of the mean beside it.
        true = law - target
        factor = float(mean @ true / (true @ true))
        turned = max(turned, float(np.linalg.norm(mean - factor * true) / np.linalg.norm(mean)))
        error = max(error, abs(factor - 1), turned)
        words.append(f"{factor:.3g} x at a pass rate of {rate:g}")
    direction = "its direction" if turned < ROUNDING else f"a direction that is off by {turned:.0%}"
    return Measurement(error, ROUNDING, f"the true gradient {' and '.join(words)}, in {direction}")


# f(passes (n,), pass_rate) -> coefficients (n,), on all groups of the base.
HAS_ONE_SIZE = Oracle(f"all groups of {_GROUP} of a verifier: grad KL(p‖pi)", _has_one_size)
