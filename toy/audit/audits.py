"""What does this loss really minimise? Audits by enumeration, and a helper for tests.

``audit`` takes a penalty by name, a ``file.py:function`` or a torch function, and says which
divergence its expected gradient descends. ``assert_descends`` guards a loss in a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from fdpg_ref import DIVERGENCES, FDivergence
from toy.audit.call import AuditError, ScalarReward, asks_for_reward
from toy.audit.compare import MATCH, ZERO, Comparison, compare
from toy.audit.losses import F7, find_loss
from toy.audit.oracle import enumerate_loss
from toy.audit.problems import problems
from toy.audit.sentence import sentence
from toy.audit.signal import DECREASING, Signal, recover_signal
from toy.checks import check_choice

if TYPE_CHECKING:
    from torch import Tensor

    from toy.audit.call import Loss

__all__ = ["AuditError", "AuditReport", "assert_descends", "audit", "audit_all"]

# k^n batches: at most 15^3 of them on the largest problem.
_LARGEST_BATCH = 3


@dataclass(frozen=True, eq=False)
class AuditReport:
    """What a loss descends.

    Attributes
    ----------
    name, placement, samples, level : str
        What was audited, and how it was used.
    row : int or None
        The row of the dictionary of KL penalties, in an audit of all of them.
    batch_size : int
        Samples a batch.
    comparison : Comparison
        The expected gradient beside those of the divergences D(policy‖reference).
    behavior_match : Comparison or None
        The same against D(policy‖behaviour), for stale samples without a match.
    signal : Signal or None
        The recovered f'(t); None per token and for losses with a reward.
    attached : bool
        Whether the loss requires grad at all.
    batch_change : mapping of int to float
        Relative change of the expected gradient at larger batch sizes; empty where a scalar in the
        reward forbids them.
    batch_factor : mapping of int to float or None
        The factor by which it changed, where it is a mere factor; None where it is more.
    """

    name: str
    placement: str
    samples: str
    level: str
    row: int | None
    batch_size: int
    comparison: Comparison
    behavior_match: Comparison | None
    signal: Signal | None
    attached: bool
    batch_change: Mapping[int, float]
    batch_factor: Mapping[int, float | None]

    @property
    def title(self) -> str:
        """The name without the path of a file."""
        return self.name.rpartition(":")[2]

    @property
    def ascends(self) -> bool:
        """Whether a divergence, named or not, is ascended."""
        found = self.comparison
        if found.zero_gradient or found.best_match is not None:
            return found.ascends
        if self.signal is not None and self.signal.of_ratio:
            return self.signal.shape == DECREASING
        return bool(found.combination) and all(factor < 0 for factor, _ in found.combination)

    @property
    def sentence(self) -> str:
        """The verdict in plain English."""
        return sentence(self)

    def record(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        found = self.comparison
        return {
            "name": self.name,
            "row": self.row,
            "placement": self.placement,
            "samples": self.samples,
            "level": self.level,
            "batch_size": self.batch_size,
            "zero_gradient": found.zero_gradient,
            "ascends": self.ascends,
            "best_match": found.best_match,
            "scale": found.scale,
            "combination": [{"factor": f, "divergence": name} for f, name in found.combination],
            "cosine": None if found.cosine is None else dict(found.cosine),
            "relative_residual": (
                None if found.relative_residual is None else dict(found.relative_residual)
            ),
            "signal": None if self.signal is None else _signal_record(self.signal),
            "batch_change": {str(n): change for n, change in self.batch_change.items()},
            "sentence": self.sentence,
        }


def audit(
    loss: Loss | str,
    *,
    placement: str = "loss",
    samples: str = "on_policy",
    level: str = "sequence",
    batch_size: int = 1,
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
        Samples a batch, 1 to 3; losses that compare the samples of a batch need at least 2.
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
    how = {"placement": placement, "samples": samples, "level": level}
    cases = problems(level)
    found = [enumerate_loss(function, problem, **how, n=batch_size) for problem in cases]
    gradients = [enumeration.gradient for enumeration in found]
    with_reward = asks_for_reward(function)
    comparison = compare(gradients, cases, candidates=candidates, with_reward=with_reward)
    behavior_match = signal = None
    if samples == "stale" and comparison.best_match is None:
        behavior_match = compare(gradients, cases, to="behavior", with_reward=with_reward)
    if level == "sequence" and not with_reward:
        signal = recover_signal(function, placement=placement, samples=samples, n=batch_size)
    change, factor = _batch_dependence(function, gradients[0], batch_size, how)
    return AuditReport(
        name=loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__),
        **how,
        row=row,
        batch_size=batch_size,
        comparison=comparison,
        behavior_match=behavior_match,
        signal=signal,
        attached=any(enumeration.attached for enumeration in found),
        batch_change=change,
        batch_factor=factor,
    )


def audit_all() -> list[AuditReport]:
    """Audit the nine rows of the dictionary of KL penalties in all their columns."""
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
    if cosine is None or residual is None or residual[wanted] > MATCH or cosine[wanted] < 0:
        raise AssertionError(f"{report.title} should descend {wanted}, but {report.sentence}")


def _batch_dependence(
    loss: Loss, gradient: Tensor, batch_size: int, how: Mapping[str, str]
) -> tuple[dict[int, float], dict[int, float | None]]:
    """Return the change of the gradient at batch sizes up to the largest, on the first problem."""
    change: dict[int, float] = {}
    factor: dict[int, float | None] = {}
    problem = problems(how["level"])[0]
    for n in range(batch_size + 1, max(batch_size + 2, _LARGEST_BATCH + 1)):
        try:
            larger = enumerate_loss(loss, problem, **how, n=n).gradient
        except ScalarReward:  # a number for the batch: nothing says whose it is
            return {}, {}
        size = float(torch.maximum(gradient.norm(), larger.norm()))
        change[n] = float((larger - gradient).norm()) / size if size > ZERO else 0.0
        square = float(gradient @ gradient)
        scale = float(larger @ gradient) / square if square > ZERO**2 else 0.0
        pure = float((larger - scale * gradient).norm()) <= MATCH * size
        factor[n] = scale if pure else None
    return change, factor


def _signal_record(signal: Signal) -> dict[str, Any]:
    return {
        "log_ratio": signal.log_ratio.tolist(),
        "values": signal.values[0].tolist(),
        "of_ratio": signal.of_ratio,
        "shape": signal.shape,
    }
