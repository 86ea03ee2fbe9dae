"""The objectives of the study: the table of nine, and five members of the alpha family."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from fdpg_ref import DIVERGENCES, FDivergence, alpha_divergence

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

# Between forward KL (0) and reverse KL (1), and beyond both ends; 0.5 is Hellinger in other units.
ALPHAS = (-0.5, 0.25, 0.5, 0.75, 1.5)

OBJECTIVES: Mapping[str, FDivergence] = MappingProxyType(
    dict(DIVERGENCES) | {f"alpha_{alpha}": alpha_divergence(alpha) for alpha in ALPHAS}
)

# Its learning rate is the common one: the papers tuned theirs for it.
COMMON = "forward_kl"


def finite_on(objective: str, hard: Bool[np.ndarray, " B"]) -> Int[np.ndarray, " C"]:
    """Return the places of the problems on which an objective is finite.

    A softmax policy has mass outside a hard target, and each unit of it costs the slope at
    infinity: where that is infinite (reverse KL, Pearson, Jeffreys, alpha of at least 1) there is
    nothing to descend.

    Parameters
    ----------
    objective : str
        A key of `OBJECTIVES`.
    hard : (B,) boolean array
        Whether the target of a problem excludes outcomes.

    Returns
    -------
    (C,) array of int
        Indices into the batch.
    """
    infinite = not isfinite(OBJECTIVES[objective].slope_at_infinity)
    return np.flatnonzero(~hard if infinite else np.ones_like(hard))
