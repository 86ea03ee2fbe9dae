"""The findings of an audit, as numbers; `toy.audit.sentence` puts them into words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toy.audit.compare import Comparison
from toy.audit.signal import DECREASING, INCREASING, Signal

if TYPE_CHECKING:
    from toy.audit.precision import Precision

# What the reference is to a loss: a minimum, no minimum, a point to which it pulls back wherever
# that was tried, or, where nothing is descended, nothing.
MINIMUM, NO_MINIMUM, TRIED, NOTHING = "minimum", "no minimum", "tried", "nothing"


@dataclass(frozen=True, eq=False)
class AuditReport:
    """The findings about one loss.

    Attributes
    ----------
    name, placement, samples, level : str
        The loss, and how it was used.
    row : int or None
        The row of the dictionary of KL penalties, in an audit of all of them.
    batch_size : int
        Samples per batch.
    comparison : Comparison
        The expected gradient beside those of the divergences D(policy‖reference).
    behavior_match : Comparison or None
        The same against D(policy‖behaviour), for stale samples without a match.
    signal : Signal or None
        The recovered f'(t); None per token and for losses with a reward.
    attached : bool
        Whether the loss requires grad at all.
    at_reference : str
        Whether the loss has a minimum at the reference, measured around it: `MINIMUM`,
        `NO_MINIMUM`, `TRIED` or `NOTHING`. An expected reward that is ascended besides is left out.
    uses_reference : bool
        Whether the gradient depends on the reference.
    precision : Precision
        How closely gradients were compared.
    batch_change : mapping of int to float
        Relative change of the expected gradient at larger batch sizes; empty where a scalar in the
        reward forbids them.
    batch_base : int
        The least batch size, from ``batch_size`` on, at which the gradient is not zero.
    batch_factor : mapping of int to float or None
        The factor by which the gradient differs from that at ``batch_base``, where it is a mere
        factor; None where it is more.
    sentence : str
        The verdict in plain English.
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
    at_reference: str
    uses_reference: bool
    precision: Precision
    batch_change: Mapping[int, float]
    batch_base: int
    batch_factor: Mapping[int, float | None]
    sentence: str = ""

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

    def record(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        found = self.comparison

        # Names of JSON are those of the attributes, but for the numbers of the comparison.
        return {
            # What was audited.
            "name": self.name,
            "row": self.row,
            "placement": self.placement,
            "samples": self.samples,
            "level": self.level,
            "batch_size": self.batch_size,
            # What it descends.
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
            # What that means, and on what it depends.
            "at_reference": self.at_reference,
            "uses_reference": self.uses_reference,
            "batch_change": {str(n): change for n, change in self.batch_change.items()},
            "sentence": self.sentence,
        }


def is_divergence(found: Comparison, signal: Signal | None) -> bool:
    """Return whether a divergence, a sum of two or, by its signal, an f-divergence is descended."""
    if signal is not None and signal.shape == INCREASING:
        return True
    if found.scale is not None:
        return found.scale > 0
    return bool(found.combination) and all(factor > 0 for factor, _ in found.combination)


def _signal_record(signal: Signal) -> dict[str, Any]:
    return {
        "log_ratio": signal.log_ratio.tolist(),
        "values": signal.values[0].tolist(),
        "of_ratio": signal.of_ratio,
        "shape": signal.shape,
    }
