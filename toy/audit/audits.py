"""What does this loss really minimise? Audits by enumeration, and a helper for tests.

``audit`` takes a penalty by name, a ``file.py:function`` or a torch function, and says which
divergence its expected gradient descends. ``assert_descends`` guards a loss in a test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import torch

from fdpg_ref import DIVERGENCES, FDivergence
from toy.audit.call import AuditError, ScalarReward, asks_for_reward
from toy.audit.compare import Comparison, compare, reward_gradient
from toy.audit.findings import MINIMUM, NO_MINIMUM, NOTHING, TRIED, AuditReport, is_divergence
from toy.audit.losses import F7, find_loss
from toy.audit.oracle import Enumeration, enumerate_loss
from toy.audit.precision import DOUBLE, SINGLE, Precision, coarser
from toy.audit.problems import problems
from toy.audit.sentence import sentence
from toy.audit.signal import recover_signal
from toy.checks import check_choice

if TYPE_CHECKING:
    from torch import Tensor

    from toy.audit.call import Loss
    from toy.audit.problems import AuditProblem
    from toy.audit.signal import Signal

__all__ = ["AuditError", "AuditReport", "assert_descends", "audit", "audit_all"]

# k^n batches: at most 15^3 of them on the largest problem.
_LARGEST_BATCH = 3
# How far from the reference the gradient is looked at, in logits; and in how many directions.
_STEP, _DIRECTIONS = 0.05, 4


def audit(
    loss: Loss | str,
    *,
    placement: str = "loss",
    samples: str = "on_policy",
    level: str = "sequence",
    batch_size: int = 1,
    name: str | None = None,
    row: int | None = None,
    candidates: Mapping[str, FDivergence] = DIVERGENCES,
) -> AuditReport:
    """Say what the expected gradient of a loss descends, by enumeration of every batch.

    Parameters
    ----------
    loss : callable or str
        A torch function of log_policy and log_reference, and by name of log_behavior, reward and
        mask; or a named penalty; or ``file.py:function``.
    placement : {"loss", "reward"}
        Differentiated as a loss, or subtracted from the reward, where its detached value
        multiplies the score.
    samples : {"on_policy", "stale"}
        Drawn from the policy, or from a behaviour policy that it has left.
    level : {"sequence", "token"}
        log-probabilities (n,) of whole sequences, or (n, T) of tokens.
    batch_size : int
        Samples per batch, 1 to 3; losses that compare the samples of a batch need at least 2.
    name : str or None
        What the report calls the loss; by default what was given, or the function's own name.
    row : int or None
        Number under which the report is listed.
    candidates : mapping
        The divergences to compare with.

    Returns
    -------
    AuditReport
        The verdict and the numbers behind it.

    Raises
    ------
    AuditError
        If the loss raises, is misshapen, not finite or not deterministic.
    ValueError
        For an option that is not one of the above.
    """
    if not 1 <= batch_size <= _LARGEST_BATCH:
        raise ValueError(f"batch_size is {batch_size}: choose 1 to {_LARGEST_BATCH}")
    function = find_loss(loss) if isinstance(loss, str) else loss
    own = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    how = {"placement": placement, "samples": samples, "level": level}

    # The expected gradient on every problem, beside those of the divergences.
    cases = problems(level)
    found = [enumerate_loss(function, problem, **how, n=batch_size) for problem in cases]
    with_reward = asks_for_reward(function)
    comparison, precision = _compare(found, cases, candidates, with_reward=with_reward)

    # Where no divergence to the reference explains it: one to the behaviour policy, or any f.
    behavior_match = signal = None
    if samples == "stale" and comparison.best_match is None:
        gradients = [one.gradient for one in found]
        options = {"with_reward": with_reward, "precision": precision, "size": _size_of(found)}
        behavior_match = compare(gradients, cases, to="behavior", **options)
    if level == "sequence" and not with_reward:
        options = {"placement": placement, "samples": samples, "precision": precision}
        signal = recover_signal(function, n=batch_size, **options)

    # What the reference is to the loss, and whether the batch size matters.
    at_reference = _at_reference(function, comparison, signal, batch_size, how, precision=precision)
    used = _uses_reference(function, cases[0], found[0], batch_size, how)
    change, base, factor = _batch_dependence(function, found[0], batch_size, how, precision)
    report = AuditReport(
        name=name or own,
        **how,
        row=row,
        batch_size=batch_size,
        comparison=comparison,
        behavior_match=behavior_match,
        signal=signal,
        attached=any(enumeration.attached for enumeration in found),
        at_reference=at_reference,
        uses_reference=used,
        precision=precision,
        batch_change=change,
        batch_base=base,
        batch_factor=factor,
    )
    return replace(report, sentence=sentence(report))


def audit_all() -> list[AuditReport]:
    """Audit every row of the dictionary of KL penalties in all their columns."""
    return [
        audit(entry.penalty, placement=entry.placement, samples=entry.samples, row=entry.row)
        for entry in F7
    ]


def assert_descends(
    loss: Loss | str,
    divergence: FDivergence | str,
    *,
    placement: str = "loss",
    samples: str = "on_policy",
    level: str = "sequence",
    batch_size: int = 1,
) -> None:
    """Fail unless the expected gradient of a loss is a positive multiple of a divergence's.

    Parameters
    ----------
    loss : callable or str
        As in `audit`.
    divergence : FDivergence or str
        D(policy‖reference): a key of fdpg_ref.DIVERGENCES, or any record.
    placement, samples, level, batch_size
        As in `audit`.

    Raises
    ------
    AssertionError
        If the loss descends anything else; the message says what.
    AuditError, ValueError
        As `audit` does.
    """
    if isinstance(divergence, str):
        check_choice("divergence", divergence, DIVERGENCES)
        divergence = DIVERGENCES[divergence]
    wanted = divergence.name
    report = audit(
        loss,
        placement=placement,
        samples=samples,
        level=level,
        batch_size=batch_size,
        candidates={**DIVERGENCES, wanted: divergence},
    )

    cosine, residual = report.comparison.cosine, report.comparison.relative_residual
    most = report.precision.match
    fits = residual is not None and residual[wanted] <= most
    if not (fits and cosine is not None and cosine[wanted] > 0):
        raise AssertionError(f"{report.title} should descend {wanted}, but {report.sentence}")


def _compare(
    found: Sequence[Enumeration],
    cases: Sequence[AuditProblem],
    candidates: Mapping[str, FDivergence],
    *,
    with_reward: bool,
) -> tuple[Comparison, Precision]:
    """Compare as in float64 and, where that explains nothing, as the loss's own dtype allows."""
    gradients = [enumeration.gradient for enumeration in found]
    options = {"candidates": candidates, "with_reward": with_reward, "size": _size_of(found)}
    strict = compare(gradients, cases, **options)
    coarsest = reduce(coarser, (enumeration.dtype for enumeration in found))
    if strict.explained or coarsest == torch.float64:
        return strict, DOUBLE
    if coarsest != torch.float32:
        raise AuditError(
            f"the loss computes in {coarsest}, whose rounding hides what it descends: audit it in "
            "float64 or float32"
        )
    return compare(gradients, cases, **options, precision=SINGLE), SINGLE


def _size_of(found: Sequence[Enumeration]) -> float:
    return max(one.size for one in found)


def _at_reference(
    loss: Loss,
    comparison: Comparison,
    signal: Signal | None,
    batch_size: int,
    how: Mapping[str, str],
    *,
    precision: Precision,
) -> str:
    """Return what the reference is to the loss: by its slope around it, then by its curvature."""
    if comparison.zero_gradient:
        return NOTHING
    problem = problems(how["level"])[0]

    def gradient_at(shift: Tensor) -> Tensor:
        moved = replace(problem, policy=problem.reference + shift)
        gradient = enumerate_loss(loss, moved, **how, n=batch_size).gradient
        if comparison.reward_factor:
            gradient = gradient + comparison.reward_factor * reward_gradient(moved)
        return gradient

    # One slope that is not uphill, away from the reference, is a proof that it is no minimum.
    rng = np.random.default_rng(0)
    for _ in range(_DIRECTIONS):
        direction = torch.from_numpy(rng.normal(size=problem.policy.shape))
        for step in (_STEP, -_STEP):
            slope = _cosine(gradient_at(step * direction), step * direction.flatten())
            if not slope > precision.match:
                return NO_MINIMUM

    # A divergence is zero at the reference alone; of anything else the curvature decides.
    if is_divergence(comparison, signal):
        return MINIMUM
    least, error = _least_curvature(gradient_at, problem.policy, precision)
    if least < -error:
        return NO_MINIMUM
    return MINIMUM if least > error else TRIED


def _least_curvature(
    gradient_at: Callable[[Tensor], Tensor], logits: Tensor, precision: Precision
) -> tuple[float, float]:
    """Return the least eigenvalue of the gradient's Jacobian at the reference, and its error.

    Symmetrised: a gradient that is the slope of no function also pulls back where x^T J x > 0 for
    every x. Central differences at two steps: what these differ by bounds the error (Weyl).
    """
    # The same number added to all logits of a row changes no probability: a basis without those.
    rows, tokens = logits.shape
    ones = torch.ones(tokens, 1, dtype=logits.dtype)
    across = torch.linalg.qr(ones, mode="complete").Q[:, 1:]
    basis = torch.block_diag(*[across] * rows)

    def jacobian(step: float) -> Tensor:
        shifts = [(step * column).reshape(logits.shape) for column in basis.T]
        columns = [(gradient_at(shift) - gradient_at(-shift)) / (2 * step) for shift in shifts]
        whole = basis.T @ torch.stack(columns, dim=-1)
        return (whole + whole.T) / 2

    step = precision.match**0.5
    fine, coarse = jacobian(step), jacobian(2 * step)
    # In a unit of its own, lest its squares overflow or vanish.
    unit = max(float(fine.abs().max()), float(coarse.abs().max())) or 1.0
    fine, coarse = fine / unit, coarse / unit

    # Rounding is divided by the step, the root of what it is in a gradient.
    error = float(torch.linalg.matrix_norm(fine - coarse, 2)) + 10 * precision.match
    return float(torch.linalg.eigvalsh(fine).min()), error


def _cosine(one: Tensor, other: Tensor) -> float:
    """Return the cosine of two vectors; zero where one is zero."""
    largest = [float(vector.abs().max()) for vector in (one, other)]
    if not all(largest):
        return 0.0
    one, other = one / largest[0], other / largest[1]
    return float(one @ other / (one.norm() * other.norm()))


def _uses_reference(
    loss: Loss, problem: AuditProblem, found: Enumeration, batch_size: int, how: Mapping[str, str]
) -> bool:
    """Return whether another reference gives another value or another gradient."""
    moved = replace(problem, reference=problem.reference.flip(-1))
    other = enumerate_loss(loss, moved, **how, n=batch_size)
    return other.value != found.value or not torch.equal(other.gradient, found.gradient)


def _batch_dependence(
    loss: Loss, found: Enumeration, batch_size: int, how: Mapping[str, str], precision: Precision
) -> tuple[dict[int, float], int, dict[int, float | None]]:
    """Return the change of the gradient at batch sizes up to the largest, on the first problem.

    Also the least batch size at which it is not zero, and the factors from there.
    """
    change: dict[int, float] = {}
    factor: dict[int, float | None] = {}
    problem = problems(how["level"])[0]
    base, at_base = batch_size, found
    for n in range(batch_size + 1, max(batch_size + 2, _LARGEST_BATCH + 1)):
        try:
            larger = enumerate_loss(loss, problem, **how, n=n)
        except ScalarReward:  # a number for the batch: nothing says whose it is
            return {}, batch_size, {}

        # In a unit in which no square overflows or vanishes.
        unit = max(float(one.gradient.abs().max()) for one in (found, at_base, larger)) or 1.0
        here, there, start = (one.gradient / unit for one in (found, larger, at_base))
        size = max(float(here.norm()), float(there.norm()))
        zero = precision.zero * max(one.size for one in (found, at_base, larger)) / unit
        change[n] = float((there - here).norm()) / size if size > zero else 0.0

        # A mere factor from the least batch size on whose gradient is not zero.
        square = float(start @ start)
        if square <= zero**2:
            base, at_base = (n, larger) if size > zero else (base, at_base)
            continue
        scale = float(there @ start) / square
        pure = float((there - scale * start).norm()) <= precision.match * size
        factor[n] = scale if pure else None
    return change, base, factor
