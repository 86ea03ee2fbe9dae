"""What a precision ladder found: a rung a precision, ready for tables, figures and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

# A token whose probability is off by more than a tenth changes what is learned from it.
BAND = (0.9, 1.1)


@dataclass(frozen=True)
class GradientError:
    """A gradient beside that in float64, as vectors over all weights."""

    one_minus_cosine: float
    """1 minus the cosine of the angle between them; kept so, for it is tiny"""
    norm_ratio: float
    """its norm over that in float64"""


@dataclass(frozen=True)
class Rung:
    """What one precision does; errors are against float64, differences within the precision."""

    precision: str
    """float64, float32, bfloat16 or float16"""
    unavailable: str | None = None
    """why it could not be measured here; then nothing below holds"""
    tokens_outside: float = math.nan
    """share of tokens whose probability ratio to float64 leaves [0.9, 1.1]"""
    token_error_max: float = math.nan
    """largest error of a token's log-probability, nats"""
    sequence_error_max: float = math.nan
    """largest error of a sequence's log-probability, nats"""
    sequence_error_mean: float = math.nan
    """mean absolute error of the sequences' log-probabilities, nats"""
    gradients: Mapping[str, GradientError] = field(default_factory=dict)
    """by divergence, from the coefficients that training would use"""
    batch_shape_max: float = math.nan
    """largest difference of a token's log-probability, scored alone and among eight, nats"""
    sampler_scorer_max: float = math.nan
    """largest difference of a sequence's log-probability, sampled and scored, nats"""
    sampler_scorer_mean: float = math.nan
    """mean absolute difference of the same, nats"""
    same_draws: float = math.nan
    """share of sequences that the same random numbers turn into the same tokens as in float64"""
    loss_scale: float = 1.0
    """what float16's scaler settled at; 1 elsewhere"""
    overflows: int = 0
    """how often the scale was halved until the gradients were finite"""


class Ladder(NamedTuple):
    """The rungs, float64 first, and the raw token errors of each for a picture.

    Attributes
    ----------
    rungs
        One a precision.
    token_errors
        By precision: absolute errors of the tokens' log-probabilities, shape (tokens,), nats.
    tokens, sequences
        Size of the batch.
    """

    rungs: tuple[Rung, ...]
    token_errors: Mapping[str, Tensor]
    tokens: int
    sequences: int

    def record(self) -> dict[str, Any]:
        """Return sizes and rungs, ready for JSON; of one that was not measured, the reason."""
        rungs = [
            {"precision": rung.precision, "unavailable": rung.unavailable}
            if rung.unavailable
            else asdict(rung)
            for rung in self.rungs
        ]
        sizes = {"sequences": self.sequences, "tokens": self.tokens, "band": BAND}
        return json_ready({**sizes, "rungs": rungs})


def json_ready(value: Any) -> Any:
    """Return a tree of figures as JSON can hold it: one that is not finite becomes a word."""
    if isinstance(value, Mapping):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
