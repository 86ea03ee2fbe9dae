"""F15: truncated top-k "KLs" to a teacher, with and without a bucket for the tail."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdpg_ref import REVERSE_KL, exact_divergence, log_softmax
from toy.verify.records import BIASED, Comparison, at_most
from toy.verify.register import Claims

if TYPE_CHECKING:
    from jaxtyping import Float

_SEED = 20240613
_PROBLEM_COUNT = 12
_OUTCOMES, _KEPT = 7, 3
_STEP = 1e-30


class Pupil(NamedTuple):
    """A teacher and a student over one vocabulary, the teacher's most probable tokens first.

    Attributes
    ----------
    teacher, student : (k,) arrays, nats
        Log-probabilities.
    """

    teacher: Float[np.ndarray, " k"]
    student: Float[np.ndarray, " k"]


@cache
def pupils() -> tuple[Pupil, ...]:
    """Return random teachers and students, far from each other."""
    rng = np.random.default_rng(_SEED)
    return tuple(
        Pupil(
            teacher=np.sort(log_softmax(1.5 * rng.normal(size=_OUTCOMES)))[::-1],
            student=log_softmax(1.5 * rng.normal(size=_OUTCOMES)),
        )
        for _ in range(_PROBLEM_COUNT)
    )


CLAIMS = Claims("tests/toy/test_teacher.py", pupils, test="test_top_k")


def student_terms(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Return the top-k part of KL(student||teacher), cut off where the teacher is small."""
    return np.sum(student[:_KEPT] * np.log(student[:_KEPT] / teacher[:_KEPT]))


def teacher_terms(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Return the top-k part of KL(teacher||student)."""
    return np.sum(teacher[:_KEPT] * np.log(teacher[:_KEPT] / student[:_KEPT]))


def with_tail(loss: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable:
    """Return a top-k loss plus its term for one bucket that holds the rest of the mass."""

    def bucketed(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
        rest = [np.sum(probs[_KEPT:], keepdims=True) for probs in (student, teacher)]
        # The bucket is put where the loss looks: as the only one of its top-k.
        return loss(student, teacher) + loss(*rest)

    return bucketed


def renormalised(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Return KL(student||teacher) within the top-k, both renormalised there."""
    inside = [probs[:_KEPT] / np.sum(probs[:_KEPT]) for probs in (student, teacher)]
    return student_terms(*inside)


def _at_the_teacher(loss: Callable) -> Callable[[Pupil], Comparison]:
    def compare(pupil: Pupil) -> Comparison:
        gradient = _gradient(loss, pupil.teacher, np.exp(pupil.teacher))
        return Comparison(gradient, np.zeros(_OUTCOMES), scale=1.0)

    return compare


def _nonnegative(loss: Callable) -> Callable[[Pupil], Comparison]:
    def compare(pupil: Pupil) -> Comparison:
        teacher = np.exp(pupil.teacher)
        # A student that left the top-k, or that crowded into it, besides the random one.
        shift = np.where(np.arange(_OUTCOMES) < _KEPT, 1.0, -1.0)
        students = [pupil.student, *(log_softmax(pupil.teacher + a * shift) for a in (-1, 1))]
        return at_most(-min(float(loss(np.exp(s), teacher)) for s in students), 0.0)

    return compare


@CLAIMS.once(
    "F15",
    "renormalised within the top-k, any mass outside it is stationary too",
    "top-k, renormalised, away from the teacher",
)
def _not_unique(pupil: Pupil) -> Comparison:
    # The student keeps the proportions within the top-k and empties it by one nat.
    shift = np.where(np.arange(_OUTCOMES) < _KEPT, -1.0, 0.0)
    student = log_softmax(pupil.teacher + shift)
    gradient = _gradient(renormalised, student, np.exp(pupil.teacher))
    return Comparison(gradient, np.zeros(_OUTCOMES), scale=1.0)


@CLAIMS.once(
    "F15",
    "top-k with a tail bucket is at most the whole KL (merging outcomes)",
    "top-k and tail: at most the whole KL",
)
def _below_the_whole(pupil: Pupil) -> Comparison:
    student, teacher = np.exp(pupil.student), np.exp(pupil.teacher)
    whole = float(exact_divergence(pupil.student, pupil.teacher, divergence=REVERSE_KL))
    return at_most(float(with_tail(student_terms)(student, teacher)), whole)


def _gradient(loss: Callable, student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Return the gradient in the student's logits, by complex steps."""
    steps = student + 1j * _STEP * np.eye(_OUTCOMES)
    return np.imag([loss(np.exp(s) / np.sum(np.exp(s)), teacher) for s in steps]) / _STEP


for _order, _terms, _stationary, _negative in (
    (
        "KL(student||teacher)",
        student_terms,
        "a {} does not have the teacher as a stationary point",
        "a {} goes negative",
    ),
    ("KL(teacher||student)", teacher_terms, "nor does a {}", "so does a {}"),
):
    _cut, _whole = f"top-k {_order}", f"top-k and tail, {_order}"
    CLAIMS.once("F15", _stationary.format(_cut), _cut, claimed=BIASED)(_at_the_teacher(_terms))
    CLAIMS.once("F15", _negative.format(_cut), f"{_cut}: value >= 0", claimed=BIASED)(
        _nonnegative(_terms)
    )
    CLAIMS.once(
        "F15", f"with one tail bucket the gradient at the teacher is zero, {_order}", _whole
    )(_at_the_teacher(with_tail(_terms)))
    CLAIMS.once(
        "F15", f"with one tail bucket no value is negative, {_order}", f"{_whole}: value >= 0"
    )(_nonnegative(with_tail(_terms)))
