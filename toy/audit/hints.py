"""Hints: common mistakes that a loss can be recognised by, each with what to write instead.

A hint is a measurement, too: it says that a named variation of the loss, such as the same samples
counted once, descends a divergence where the loss itself does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fdpg_ref import DIVERGENCES
from fdpg_ref.display import title_of
from toy.audit.call import NAMED, AuditError, bind, evaluate
from toy.audit.compare import compare
from toy.audit.findings import NO_MINIMUM, is_divergence
from toy.audit.oracle import enumerate_loss
from toy.audit.problems import problems
from toy.audit.sentence import OWN_MEAN, SUM, batch_cause

if TYPE_CHECKING:
    from torch import Tensor

    from toy.audit.call import Loss
    from toy.audit.findings import AuditReport
    from toy.audit.problems import AuditProblem

# What fits closer is the same; distinct divergences differ by some percent.
_SAME = 1e-8
# Log-ratios, without the kink at zero, and log-probabilities at which a loss is looked at.
_RATIOS = np.linspace(-3.0, 3.0, 12)
_LOG_POLICIES = (-0.7, -2.1, -4.4)


def hints(loss: Loss, report: AuditReport) -> list[str]:
    """Return what a loss looks like a common mistake of; empty for a loss without fault.

    Parameters
    ----------
    loss : callable
        The loss that was audited.
    report : AuditReport
        What `toy.audit.audits.audit` found.

    Returns
    -------
    list of str
        Each says what was recognised and what to write instead.
    """
    cause = batch_cause(report)
    found = {
        OWN_MEAN: "take the mean of the other samples as baseline: (sum - own) / (n - 1). The mean "
        "of the whole batch holds the sample's own value, which cancels a part of its gradient.",
        SUM: "divide by the batch size: call .mean(), not .sum(), or the learning rate depends on "
        "it.",
    }
    said = [found[cause]] if cause else []
    # A divergence that is descended needs no other advice; one that is ascended only another sign.
    if report.ascends:
        return [*said, "change its sign."]
    if is_divergence(report.comparison, report.signal):
        return said
    return said + [hint for hint in _misplaced(loss, report) if hint]


def _misplaced(loss: Loss, report: AuditReport) -> Sequence[str]:
    """Return hints that compare a loss with variations of itself."""
    how = {"placement": report.placement, "samples": report.samples, "level": report.level}
    cases, n = problems(report.level), report.batch_size

    # The other place, or fresh samples.
    if report.comparison.zero_gradient and report.placement == "loss":
        name = _descends(loss, cases, n, **(how | {"placement": "reward"}))
        return [
            f"in the reward it descends {name}. In the loss only the derivative of its value "
            "counts."
            if name and report.attached
            else ""
        ]
    if report.samples == "stale":
        name = _descends(loss, cases, n, **(how | {"samples": "on_policy"}))
        return [
            f"on fresh samples it descends {name}. For stale ones multiply it by "
            "torch.exp(log_policy - log_behavior).detach()."
            if name
            else ""
        ]
    if report.placement == "reward" and report.at_reference == NO_MINIMUM:
        name = _descends(loss, cases, n, **(how | {"placement": "loss"}))
        return [f"in the loss it descends {name}; in the reward its value counts." if name else ""]
    if report.placement == "loss" and report.level == "sequence" and n == 1:
        return [_twice(loss, cases, how), _not_detached(loss)]
    return []


def _descends(loss: Loss, cases: Sequence[AuditProblem], n: int, **how: str) -> str | None:
    """Return the title of the divergence that a variation descends, None for no single one."""
    try:
        found = [enumerate_loss(loss, case, **how, n=n) for case in cases]
    except AuditError:
        return None
    size = max(one.size for one in found)
    return _title([one.gradient for one in found], cases, size)


def _title(gradients: Sequence[Tensor], cases: Sequence[AuditProblem], size: float) -> str | None:
    match = compare(gradients, cases, size=size)
    if match.best_match is None or match.ascends:
        return None
    return title_of(match.best_match)


def _twice(loss: Loss, cases: Sequence[AuditProblem], how: dict[str, str]) -> str:
    """Recognise a term of a sum over all outcomes that is averaged over samples."""
    name = None
    try:
        even = [replace(case, behavior=torch.zeros_like(case.policy)) for case in cases]
        found = [enumerate_loss(loss, case, **(how | {"samples": "stale"}), n=1) for case in even]
        # The mean over all outcomes alike, times their number, is their sum.
        sums = [one.gradient * case.outcomes for one, case in zip(found, even, strict=True)]
        name = _title(sums, cases, max(one.size * len(one.gradient) for one in found))
    except AuditError:
        pass
    if name is None:
        return ""
    return (
        f"summed once over every outcome it descends {name}. Samples come as often as the policy "
        "says, so a probability in front of them counts twice. Sum over all outcomes instead, or "
        "take a penalty that is made for samples: --list."
    )


def _not_detached(loss: Loss) -> str:
    """Recognise c(u) log_policy whose factor c is differentiated along, by its values alone."""
    call = bind(loss)

    def value(u: float, log_policy: float) -> float:
        alike = torch.tensor([log_policy], dtype=torch.float64)
        tensors: dict[str, Any] = dict.fromkeys(NAMED, alike)
        tensors["log_reference"] = tensors["log_policy"] - u
        tensors["reward"] = torch.zeros(1, dtype=torch.float64)
        tensors["mask"] = torch.ones(1, dtype=torch.bool)
        return float(evaluate(call, tensors, per_sample=False))

    # The same factor at every log-probability, whose log-ratio alone it knows.
    factors = np.array([[value(u, q) / q for u in _RATIOS] for q in _LOG_POLICIES])
    size = np.max(np.abs(factors))
    if np.max(np.ptp(factors, axis=0)) > _SAME * size or np.ptp(factors[0]) <= _SAME * size:
        return ""
    name = _signal_of(factors[0])
    if not name:
        return ""
    return (
        "it looks like a factor times log_policy that is differentiated along. Detach the factor: "
        f"factor.detach() * log_policy descends {name}."
    )


def _signal_of(factors: np.ndarray) -> str:
    """Return whose signal this is, up to a positive scale and a constant."""
    for name, divergence in DIVERGENCES.items():
        columns = np.stack([divergence.signal(_RATIOS), np.ones_like(_RATIOS)], axis=-1)
        fit = np.linalg.lstsq(columns, factors)[0]
        left = np.linalg.norm(factors - columns @ fit)
        if left <= _SAME * np.linalg.norm(factors) and fit[0] > 0:
            return title_of(name)
    return "an f-divergence" if np.all(np.diff(factors) >= 0) else ""
