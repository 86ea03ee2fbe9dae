"""The verdict of an audit in plain English."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fdpg_ref.display import title_of
from toy.audit.signal import DECREASING, INCREASING

if TYPE_CHECKING:
    from toy.audit.audits import AuditReport
    from toy.audit.compare import Comparison

__all__ = ["batch_sentence", "sentence", "short_verdict"]

_KL = {"forward_kl": "KL(reference‖policy)", "reverse_kl": "KL(policy‖reference)"}
_ABBREVIATIONS = {"forward_kl": "FKL", "reverse_kl": "RKL"}
# A change with the batch size below this is rounding.
_NO_CHANGE = 1e-10


def sentence(report: AuditReport) -> str:
    """Return what a report found, in one to three sentences.

    Parameters
    ----------
    report : AuditReport
        From `toy.audit.audits.audit`.

    Returns
    -------
    str
        Which divergence is descended or ascended, what else was found, and whether it depends on
        the batch size.
    """
    where = f"{report.title} in the {report.placement}"
    where += ", per token," if report.level == "token" else ""
    where += " on stale samples" if report.samples == "stale" else ""
    parts = [f"{where} {_verdict(report)}.", batch_sentence(report)]
    return " ".join(part for part in parts if part)


def batch_sentence(report: AuditReport) -> str:
    """Return how the expected gradient depends on the batch size; empty where it does not."""
    moved = {n: change for n, change in report.batch_change.items() if change > _NO_CHANGE}
    if not moved:
        return ""
    if all(report.batch_factor[n] is not None for n in moved):
        factors = ", ".join(f"x{report.batch_factor[n]:.4g} at n = {n}" for n in moved)
        return f"The batch size n rescales the gradient ({factors}): a sum is no mean."
    changes = ", ".join(f"by {change:.1%} at n = {n}" for n, change in moved.items())
    return f"It depends on the batch size: the gradient differs {changes}."


def short_verdict(report: AuditReport) -> str:
    """Return the verdict in a few words, for a table."""
    if report.comparison.zero_gradient:
        return "nothing: it is zero"
    if _parts(report):
        return f"{_verb(report)} {_sum(report)}"
    if report.signal is not None and report.signal.shape in (INCREASING, DECREASING):
        return f"{_verb(report)} an unnamed f-divergence"
    behavior = _towards_behavior(report)
    return f"none; {behavior}" if behavior else "none"


def _verdict(report: AuditReport) -> str:
    found = report.comparison
    if not report.attached:
        return (
            "has zero gradient: nothing requires grad, since its value is detached or was computed "
            "under no_grad"
        )
    if found.zero_gradient and found.reward_factor is not None:
        return f"holds no penalty: it only {_reward(found)}"
    if found.zero_gradient:
        return "minimises nothing: its expected gradient is zero"
    if not _parts(report):
        return f"{_unnamed(report)}; {_nearest(found)}"
    reward = "" if found.reward_factor is None else f" and {_reward(found)}"
    verdict = f"{_verb(report)} {_sum(report)}{_abbreviated(report)}{reward}"
    if found.best_match is None:
        verdict += _kind(report)
    return verdict + (": a step makes it larger, so its sign is wrong" if report.ascends else "")


def _verb(report: AuditReport) -> str:
    return "ascends" if report.ascends else "descends"


def _parts(report: AuditReport) -> tuple[tuple[float, str], ...]:
    """Return what the gradient is made of, turned round where it is ascended."""
    found, sign = report.comparison, -1.0 if report.ascends else 1.0
    if found.best_match is not None and found.scale is not None:
        return ((sign * found.scale, found.best_match),)
    parts = ((sign * factor, name) for factor, name in found.combination)
    return tuple(sorted(parts, key=lambda part: -part[0]))


def _unnamed(report: AuditReport) -> str:
    """Say what is descended where no divergence of the table is."""
    none = "descends none of the named divergences to the reference"
    if report.signal is not None and report.signal.shape in (INCREASING, DECREASING):
        shape = report.signal.shape
        return f"{_verb(report)} an f-divergence that is none of the named: f'(t) is {shape}"
    if report.signal is not None and report.signal.of_ratio:
        return f"{none}, nor any other f-divergence: f'(t) both rises and falls"
    if _towards_behavior(report):
        return f"{none}: it {_towards_behavior(report)}"
    if report.signal is not None:
        return f"{none}: what multiplies the score is no function of t = policy/reference"
    return none


def _kind(report: AuditReport) -> str:
    if report.signal is None or not report.signal.of_ratio:
        return ""
    if report.signal.shape in (INCREASING, DECREASING):
        return ", an f-divergence"
    return ", which is no divergence: f'(t) both rises and falls"


def _nearest(found: Comparison) -> str:
    residual = found.relative_residual or {}
    name = min(residual, key=residual.__getitem__)
    return f"the nearest, {title_of(name)}, leaves {residual[name]:.1%} unexplained"


def _towards_behavior(report: AuditReport) -> str:
    match = report.behavior_match
    if match is None or match.best_match is None or match.scale is None:
        return ""
    verb = "ascends" if match.ascends else "descends"
    name = title_of(match.best_match)
    return f"{verb} {_times(abs(match.scale))}{name} to the behaviour policy"


def _reward(found: Comparison) -> str:
    factor = found.reward_factor or 0.0
    verb = "ascends" if factor >= 0 else "descends"
    return f"{verb} {_times(abs(factor))}the expected reward"


def _sum(report: AuditReport) -> str:
    """Return the parts as a sum, a common factor in front."""
    parts = _parts(report)
    common = _common(parts)
    if len(parts) == 1 or common is None or _times(common) == "":
        return _terms(parts, title_of)
    return f"{_times(common)}({_terms([(c / common, name) for c, name in parts], title_of)})"


def _abbreviated(report: AuditReport) -> str:
    """Return a KL by its arguments, and a sum of both in the abbreviations of the literature."""
    parts = _parts(report)
    if not all(name in _KL for _, name in parts):
        return ""
    if len(parts) == 1:
        return f", {_KL[parts[0][1]]}"
    common = _common(parts) or 1.0
    return f" ({_terms([(c / common, name) for c, name in parts], _ABBREVIATIONS.__getitem__)})"


def _common(parts: Sequence[tuple[float, str]]) -> float | None:
    """Return the absolute factor of all parts, None where they differ."""
    sizes = [abs(factor) for factor, _ in parts]
    return sizes[0] if max(sizes) - min(sizes) <= 1e-6 * max(sizes) else None


def _terms(parts: Sequence[tuple[float, str]], called: Callable[[str], str]) -> str:
    text = ""
    for factor, name in parts:
        sign = "-" if factor < 0 else "+" if text else ""
        text += f" {sign} " if text else sign
        text += _times(abs(factor)) + called(name)
    return text


def _times(factor: float) -> str:
    if abs(factor - 1) < 1e-6:
        return ""
    return "half " if abs(factor - 0.5) < 1e-6 else f"{factor:.6g} x "
