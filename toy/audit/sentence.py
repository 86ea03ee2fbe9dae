"""The verdict of an audit in plain English."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fdpg_ref.display import title_of
from toy.audit.findings import MINIMUM, NOTHING, TRIED, is_divergence
from toy.audit.signal import DECREASING, FLAT, INCREASING

if TYPE_CHECKING:
    from toy.audit.compare import Comparison
    from toy.audit.findings import AuditReport

_KL = {"forward_kl": "KL(reference‖policy)", "reverse_kl": "KL(policy‖reference)"}
# Where the signal is recovered: `toy.audit.problems.grid_problems`.
_GRID = "for log-ratios from -3 to 3"
_BENDS = f"f'(t) both rises and falls {_GRID}"
# Two common causes of a gradient that the batch size rescales.
SUM, OWN_MEAN = "sum", "own mean"
_ABBREVIATIONS = {"forward_kl": "FKL", "reverse_kl": "RKL"}


def sentence(report: AuditReport) -> str:
    """Return what a report found, in a few sentences.

    Parameters
    ----------
    report : AuditReport
        From `toy.audit.audits.audit`.

    Returns
    -------
    str
        Which divergence is descended or ascended, what else was found, whether it depends on the
        batch size and, last, what the reference is to the loss.
    """
    return f"{details(report)} {_meaning(report)}"


def headline(report: AuditReport) -> str:
    """Return what the reference is to the loss, to be read before anything else."""
    meaning = _meaning(report).removeprefix("It ")
    return meaning[0].upper() + meaning[1:]


def details(report: AuditReport) -> str:
    """Return the sentence but for its last part, which `headline` says."""
    where = f"{report.title} in the {report.placement}"
    where += ", per token," if report.level == "token" else ""
    where += " on stale samples" if report.samples == "stale" else ""
    parts = [f"{where} {_verdict(report)}.", batch_sentence(report)]
    return " ".join(part for part in parts if part)


def batch_sentence(report: AuditReport) -> str:
    """Return how the expected gradient depends on the batch size; empty where it does not."""
    least = report.precision.change
    moved = {n: change for n, change in report.batch_change.items() if change > least}
    if not moved:
        return ""
    if report.batch_base != report.batch_size:
        return (
            f"It compares the samples of a batch, so audit it with a batch size of "
            f"{report.batch_base} or more: at n = {report.batch_size} its gradient is zero, and "
            f"at n = {report.batch_base} it is not{_reason(report)}."
        )
    if all(report.batch_factor.get(n) is not None for n in moved):
        factors = ", ".join(f"x{report.batch_factor[n]:.4g} at n = {n}" for n in moved)
        return f"The batch size n rescales the gradient ({factors}){_reason(report)}."
    changes = ", ".join(f"by {change:.1%} at n = {n}" for n, change in moved.items())
    return f"It depends on the batch size: the gradient differs {changes}."


def batch_cause(report: AuditReport) -> str:
    """Return what makes the batch size rescale a gradient: `SUM`, `OWN_MEAN`, or nothing known."""
    base, factors = report.batch_base, report.batch_factor

    def grows_like(law: Callable[[int], float]) -> bool:
        known = {n: factor for n, factor in factors.items() if factor is not None}
        off = (abs(factor * law(base) - law(n)) for n, factor in known.items())
        return bool(known) and all(error <= report.precision.match * base for error in off)

    if grows_like(lambda n: n):
        return SUM
    return OWN_MEAN if base > 1 and grows_like(lambda n: (n - 1) / n) else ""


def _reason(report: AuditReport) -> str:
    return {
        SUM: ": it is a sum over the batch, not a mean",
        OWN_MEAN: (
            ": (n - 1)/n of it is left, as after a baseline that holds the sample's own value, "
            "such as the mean of the batch; the mean of the other samples leaves all of it"
        ),
        "": "",
    }[batch_cause(report)]


def _meaning(report: AuditReport) -> str:
    """Say what the reference is to the loss."""
    found = report.comparison
    rewarded = bool(found.reward_factor)
    when = "" if report.batch_base == report.batch_size else " at this batch size"
    if not report.uses_reference:
        nothing = found.zero_gradient and not rewarded
        rest = f"and{when} it does nothing" if nothing else "so it has no minimum there"
        return f"It uses no reference, {rest}."
    if report.at_reference == NOTHING:
        subject = "Without the reward it" if rewarded else "It"
        return f"{subject} does nothing{when}."
    subject = "Without the reward it" if rewarded else "It"
    if report.at_reference == TRIED:
        return f"{subject} pulls back to the reference from every point that was tried around it."
    if report.at_reference != MINIMUM:
        return f"{subject} has no minimum at the reference."
    which = "its" if is_divergence(found, report.signal) else "a local"
    return f"{subject} has {which} minimum at the reference."


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
            "has zero gradient: nothing requires grad in log_policy, since its value does not "
            "depend on it, is detached, or was computed under no_grad"
        )
    if found.zero_gradient and found.reward_factor:
        return f"holds no penalty: it only {_reward(found)}"
    if found.zero_gradient:
        return "minimises nothing: its expected gradient is zero"

    # No divergence of the table, nor a sum of two.
    if not _parts(report) and not report.uses_reference:
        behavior = _towards_behavior(report)
        return "descends no divergence to the reference" + (f": it {behavior}" if behavior else "")
    if not _parts(report):
        return f"{_unnamed(report)}; {_nearest(found)}"

    # One divergence or a sum of two, and what it does to the reward.
    reward = f" and {_reward(found)}" if found.reward_factor else ""
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
        return (
            f"{_verb(report)} an f-divergence that is none of the named: f'(t) is {shape} {_GRID}"
        )
    if report.signal is not None and report.signal.shape == FLAT:
        return f"{none}: f'(t) does not change {_GRID}"
    if report.signal is not None and report.signal.of_ratio:
        return f"{none}, nor any other f-divergence: {_BENDS}"
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
    return f", which is no divergence: {_BENDS}"


def _nearest(found: Comparison) -> str:
    residual = found.relative_residual or {}
    name = min(residual, key=residual.__getitem__)
    # Less than half a permille would be printed as nothing, which is what a match leaves.
    left = f"{residual[name]:.1%}" if residual[name] >= 5e-4 else f"{residual[name]:.1e} of it"
    return f"the nearest, {title_of(name)}, leaves {left} unexplained"


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
