"""Truncated top-k losses to a teacher (F15)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from toy.verify.records import judge
from toy.verify.token_claims import teacher

# The two that are kept have 0.8 of the teacher.
TEACHER = [0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.02]
STUDENT = [0.1, 0.1, 0.2, 0.25, 0.15, 0.1, 0.1]
KEPT = 3


def loss(student, teacher_probs, *, forward: bool, tail: bool) -> float:
    """Return the top-k KL by a loop."""
    pairs = list(zip(student, teacher_probs, strict=True))[:KEPT]
    if tail:
        pairs.append((math.fsum(student[KEPT:]), math.fsum(teacher_probs[KEPT:])))
    if forward:
        return math.fsum(p * math.log(p / q) for q, p in pairs)
    return math.fsum(q * math.log(q / p) for q, p in pairs)


def gradient(student, **kind: bool) -> np.ndarray:
    """Return the gradient in the student's logits, by central differences."""
    slopes, step = [], 1e-5
    for i in range(len(student)):
        sides = []
        for sign in (1, -1):
            logits = [math.log(q) + sign * step * (i == j) for j, q in enumerate(student)]
            total = math.fsum(map(math.exp, logits))
            sides.append(loss([math.exp(x) / total for x in logits], TEACHER, **kind))
        slopes.append((sides[0] - sides[1]) / (2 * step))
    return np.array(slopes)


@pytest.mark.parametrize("forward", [False, True])
def test_top_k(forward: bool):
    function = teacher.teacher_terms if forward else teacher.student_terms
    student, target = np.array(STUDENT), np.array(TEACHER)
    cut = loss(STUDENT, TEACHER, forward=forward, tail=False)
    whole = loss(STUDENT, TEACHER, forward=forward, tail=True)
    assert float(function(student, target)) == pytest.approx(cut, rel=1e-13)
    assert float(teacher.with_tail(function)(student, target)) == pytest.approx(whole, rel=1e-13)
    # Differences of step 1e-5 are good to 1e-9 here.
    np.testing.assert_allclose(gradient(TEACHER, forward=forward, tail=True), 0, atol=1e-9)
    at_teacher = gradient(TEACHER, forward=forward, tail=False)
    assert np.linalg.norm(at_teacher) > 0.1
    found = teacher._gradient(function, np.log(target), target)
    np.testing.assert_allclose(found, at_teacher, atol=1e-9)
    # By hand: -p_i + p_i S in the top-k for KL(p||pi), and p_i S outside it.
    kept = np.arange(7) < KEPT
    mass = math.fsum(TEACHER[:KEPT])
    sign = -1 if not forward else 1
    np.testing.assert_allclose(sign * found, target * (mass - kept), atol=1e-12)
    # Teacher-weighted terms are negative for a student that crowds into the top-k.
    crowded = np.where(kept, 3.0, 1.0) * target
    crowded /= crowded.sum()
    empty = np.where(kept, 0.3, 1.0) * target
    empty /= empty.sum()
    assert float(function(crowded if forward else empty, target)) < 0
    for other in (crowded, empty, student):
        assert float(teacher.with_tail(function)(other, target)) > 0
    for claim in teacher.CLAIMS.listed:
        verdicts = {judge([claim.compare(pupil)]).verdict for pupil in teacher.pupils()[:3]}
        assert claim.claimed in verdicts, claim


def test_the_kept_tokens_are_the_teachers_largest():
    for pupil in teacher.pupils():
        assert np.all(np.diff(pupil.teacher) <= 0)
        for side in pupil:
            assert np.sum(np.exp(side)) == pytest.approx(1, rel=1e-13)
