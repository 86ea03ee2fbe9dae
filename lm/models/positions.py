"""How many positions of a model have one law of the next token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from transformers import PreTrainedConfig


class Positions(NamedTuple):
    """How long a sequence may be.

    Attributes
    ----------
    number
        Tokens, those of the context included; None where nothing limits them.
    why
        Why it is not what the configuration says; empty if it is.
    """

    number: int | None
    why: str = ""


def usable_positions(config: PreTrainedConfig) -> Positions:
    """Return how long a sequence of a model may be.

    A longrope model (Phi-3) has two sets of rotary factors, for short sequences and for long ones,
    and takes the long set for a whole batch as soon as one row has passed a border. Beyond it the
    probability of a row depends on its neighbours, and what the cache holds was read with the other
    set. So the border is where the positions end.

    Parameters
    ----------
    config
        Of a causal model.
    """
    text = config.get_text_config()
    number: int | None = getattr(text, "max_position_embeddings", None)
    parameters: Any = getattr(text, "rope_parameters", None) or {}

    # Some models have one set of parameters, some have one for each type of layer.
    for part in [parameters, *parameters.values()]:
        if isinstance(part, Mapping) and part.get("rope_type") == "longrope":
            border = part.get("original_max_position_embeddings")
            if border is not None and (number is None or border < number):
                why = f" (of {number}: beyond them longrope changes the law of a whole batch)"
                return Positions(border, why)
    return Positions(number)
