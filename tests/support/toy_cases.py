"""Cases for the tests of the toy: drawn by hypothesis, and one fixed asymmetric one."""

from __future__ import annotations

from functools import cache

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from toy.families import SoftmaxFamily
from toy.problems import Problem
from toy.verify import run_claims
from toy.verify.cases import Case, case_of
from toy.verify.records import Record


def case_from(policy_logits: np.ndarray, log_score: np.ndarray, log_base: np.ndarray) -> Case:
    """Return a case of the full softmax family with the given numbers."""
    return case_of(
        Problem(
            name="test",
            description="numbers of a test",
            family=SoftmaxFamily(len(policy_logits)),
            start=np.asarray(policy_logits, dtype=float),
            log_base=log_base,
            log_score=np.asarray(log_score, dtype=float),
            labels=tuple(str(i) for i in range(len(policy_logits))),
        )
    )


@cache
def measured() -> list[Record]:
    """Return the records of all claims, measured once for all tests of a process."""
    return run_claims()


@st.composite
def ordinary_cases(draw: st.DrawFn) -> Case:
    """Draw policy, target with any Z, and base, over three outcomes, logits within [-3, 3].

    Wider ones make single terms of Pearson and Neyman e^24 times larger than their sum: those are
    for tests that compare relative to the terms. No outcome sits on the kink of total variation at
    pi = p, where rounding would choose the side.
    """
    logits = st.lists(st.floats(-3, 3), min_size=3, max_size=3).map(np.array)
    base = draw(logits)
    log_base = base - np.log(np.sum(np.exp(base)))
    case = case_from(draw(logits), draw(logits) + draw(st.floats(-2, 2)), log_base)
    _ = assume(np.min(np.abs(case.log_policy - case.log_target)) > 1e-9)
    return case


# Unequal in every respect: pi/p = 3.3, 0.83, 0.71 and 0.16, Z = 1.9, and a base unlike either. The
# digits are odd, so that no estimate of Z puts an outcome on the kink of total variation.
FIXED = case_from(
    np.log([0.531, 0.257, 0.163, 0.049]),
    np.log([0.311, 0.587, 0.437, 0.571]),
    np.log(np.array([0.113, 0.491, 0.107, 0.289])),
)
