"""Baselines: what is subtracted from the signal to lower the variance of the gradient.

E_pi[b grad log pi] = 0 if b does not depend on the sample that it multiplies. Leave-one-out and a
running mean of *past* batches meet this condition. The mean of the batch itself does not, and it
scales the gradient by (n-1)/n. Leave-one-out is no longer unbiased if the signal uses a Z that was
estimated from the same batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fdpg_ref._internal import checks
from fdpg_ref._internal.typing import Array

if TYPE_CHECKING:
    from jaxtyping import Float


class RunningBaseline(NamedTuple):
    """Weighted mean of the signals of past batches, and the number of samples behind it."""

    mean: Array
    weight: float


def leave_one_out(signal: Float[Array, "*batch n"]) -> Array:
    """Return, for each sample, the mean signal of all the others: an unbiased baseline.

    Parameters
    ----------
    signal : (..., n) array
        n >= 2 signals. For off-policy samples too: their weights enter `score_coefficients`.

    Returns
    -------
    (..., n) array
        (sum of the signals - own signal) / (n - 1).

    Raises
    ------
    ValueError, TypeError
        For a single sample; for a wrong dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from fdpg_ref import leave_one_out
    >>> leave_one_out(np.array([1.0, 2.0, 6.0]))
    array([4. , 3.5, 1.5])
    """
    xp = checks.namespace(signal=signal)
    n = checks.require_sample_axis("signal", signal, at_least=2)
    return (xp.sum(signal, axis=-1, keepdims=True) - signal) / (n - 1)


def batch_mean(signal: Float[Array, "*batch n"]) -> Array:
    """Return the mean signal of the batch, a *biased* baseline kept to be shown so.

    The expected gradient is exactly (n-1)/n of the true one: each sample is compared with itself.

    Parameters
    ----------
    signal : (..., n) array
        Signals of a batch.

    Returns
    -------
    (..., 1) array
        Their mean, one per context.
    """
    xp = checks.namespace(signal=signal)
    checks.require_sample_axis("signal", signal)
    return xp.mean(signal, axis=-1, keepdims=True)


def init_running_baseline(signal: Float[Array, "*batch n"]) -> RunningBaseline:
    """Start a running baseline from signals of samples that are not trained on.

    Parameters
    ----------
    signal : (..., n) array
        Signals, for example of samples of the base model.

    Returns
    -------
    RunningBaseline
        Its mean has shape (..., 1).
    """
    return RunningBaseline(batch_mean(signal), float(signal.shape[-1]))


def update_running_baseline(
    state: RunningBaseline, signal: Float[Array, "*batch n"], *, forgetting: float = 1.0
) -> RunningBaseline:
    """Return the running mean with one more batch in it; use ``state.mean`` *before* updating.

    Parameters
    ----------
    state : RunningBaseline
        Mean of past batches.
    signal : (..., n) array
        Signals of the batch that has just been trained on.
    forgetting : float
        Factor in (0, 1] on the weight of the past.

    Returns
    -------
    RunningBaseline
        The new state.

    Raises
    ------
    ValueError
        If ``forgetting`` is not in (0, 1].
    """
    if not 0 < forgetting <= 1:
        raise ValueError(f"forgetting is {forgetting}: it must lie in (0, 1]; 1 forgets nothing")
    checks.namespace(mean=state.mean, signal=signal)
    past = state.weight * checks.plain_number(forgetting)
    batch = float(signal.shape[-1])
    mean = state.mean + (batch_mean(signal) - state.mean) * (batch / (past + batch))
    return RunningBaseline(mean, past + batch)


def optimal_baseline(
    signal: Float[Array, "*batch n"],
    squared_score_norms: Float[Array, "*batch n"],
    *,
    log_mass: Float[Array, "*batch n"] | None = None,
) -> Array:
    """Return the constant that minimises the total variance, E[signal |s|^2] / E[|s|^2].

    Parameters
    ----------
    signal : (..., n) array
        Signals at on-policy samples.
    squared_score_norms : (..., n) array
        |grad log pi(x)|^2 at the same samples.
    log_mass : (..., n) array, nats, optional
        log pi, for an axis that enumerates all outcomes instead of holding samples. A baseline
        estimated from the samples that it is used on is biased, like any mean of the batch.

    Returns
    -------
    (..., 1) array
        The baseline, one per context.

    Raises
    ------
    ValueError, TypeError
        For unequal shapes; for a wrong or mixed dtype or library.
    """
    xp = checks.namespace(signal=signal, squared_score_norms=squared_score_norms)
    checks.require_same_shape(signal=signal, squared_score_norms=squared_score_norms)
    checks.require_sample_axis("signal", signal)
    mass = xp.ones_like(signal) if log_mass is None else xp.exp(log_mass)
    weights = mass * squared_score_norms
    return xp.sum(weights * signal, axis=-1, keepdims=True) / xp.sum(
        weights, axis=-1, keepdims=True
    )
