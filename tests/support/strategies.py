"""Hypothesis strategies that aim at trouble: near one-hot, ties, -inf atoms, logits at +-1000."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from scipy.special import log_softmax

_ORDINARY = st.floats(-6.0, 6.0)
_LOGIT_KINDS = {
    "ordinary": _ORDINARY,
    "ties": st.sampled_from([-1.0, 0.0, 0.0, 2.0]),
    "near one-hot": st.sampled_from([-40.0, -35.0, 0.0, 40.0]),
    "huge": st.sampled_from([-1000.0, -999.5, 0.0, 1000.0]),
    "tiny gaps": st.floats(-1e-9, 1e-9),
}


@st.composite
def logits(draw: st.DrawFn, size: int, *, holes: bool = False) -> np.ndarray:
    """Draw ``size`` logits of one kind; with ``holes`` some (never all) become -inf."""
    kind = _LOGIT_KINDS[draw(st.sampled_from(sorted(_LOGIT_KINDS)))]
    values = np.array(draw(st.lists(kind, min_size=size, max_size=size)))
    if holes:
        kept = draw(st.integers(0, size - 1))
        for i in range(size):
            if i != kept and draw(st.booleans()):
                values[i] = -np.inf
    return values


@st.composite
def log_probs(draw: st.DrawFn, size: int, *, holes: bool = False) -> np.ndarray:
    """Draw normalised log-probabilities of ``size`` outcomes."""
    return log_softmax(draw(logits(size, holes=holes)))


@st.composite
def log_prob_pairs(
    draw: st.DrawFn, *, min_size: int = 2, max_size: int = 6, holes: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Draw (log_policy, log_target) over the same outcomes."""
    size = draw(st.integers(min_size, max_size))
    return draw(log_probs(size, holes=holes)), draw(log_probs(size, holes=holes))


@st.composite
def ordinary_pairs(
    draw: st.DrawFn, *, min_size: int = 2, max_size: int = 6
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a pair with logits in [-6, 6]: every divergence is finite and far from overflow."""
    size = draw(st.integers(min_size, max_size))
    rows = st.lists(_ORDINARY, min_size=size, max_size=size)
    return log_softmax(np.array(draw(rows))), log_softmax(np.array(draw(rows)))
