"""Checks that read values, with messages for users: what is wrong, where, and what to do.

The core reads no values, so infinities and NaN pass through it. Here they are stopped at the door.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from fdpg_ref import DIVERGENCES, FDivergence, InfiniteDivergence, logsumexp

if TYPE_CHECKING:
    from jaxtyping import Float

# A log-softmax in float64 over k outcomes is normalised to about k ulp; 1e-9 leaves room for a
# million outcomes and still refuses float32 log-probabilities that were merely cast to float64.
_NORMALISATION = 1e-9


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise a ValueError that lists the choices and names the nearest, unless ``value`` is one."""
    known = list(choices)
    if value in known:
        return
    near = get_close_matches(str(value), known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name} is {value!r}, which is unknown.{hint} Known: {', '.join(known)}.")


def check_finite(name: str, values: Float[np.ndarray, "..."], *, advice: str) -> None:
    """Raise a ValueError with the first NaN or infinity of ``values``, its index and the advice."""
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"{_entry(name, values, bad[0])}, which is not finite: {advice}")


def check_log_probs(name: str, log_probs: Float[np.ndarray, " k"]) -> None:
    """Check that log-probabilities over all outcomes are numbers, at most 0, and sum to one.

    Parameters
    ----------
    name : str
        How the user knows the array.
    log_probs : (k,) array, nats
        -inf is a probability of zero and allowed.

    Raises
    ------
    ValueError
        For NaN, a value above 0 beyond rounding, or masses that do not sum to one; the value and
        its index are named.
    """
    _refuse_nan(name, log_probs)
    above = np.argwhere(log_probs > _NORMALISATION)
    if len(above):
        raise ValueError(
            f"{_entry(name, log_probs, above[0])}: a log-probability is at most 0. Pass "
            "normalised values, for logits x that is toy.categorical.log_probs(x)"
        )
    log_total = float(logsumexp(log_probs))
    if not abs(log_total) <= _NORMALISATION:
        raise ValueError(
            f"the probabilities of {name} sum to {np.exp(log_total):.12g}, not 1: normalise them "
            "(log_softmax), or check that no outcome is missing"
        )


def check_log_score(name: str, log_score: Float[np.ndarray, " k"]) -> None:
    """Check that an unnormalised log-score defines a target.

    Raises
    ------
    ValueError
        For NaN or +inf, with value and index, or if every entry is -inf.
    """
    _refuse_nan(name, log_score)
    endless = np.argwhere(log_score == np.inf)
    if len(endless):
        raise ValueError(
            f"{_entry(name, log_score, endless[0])}: a log-score is finite, or -inf to exclude an "
            "outcome"
        )
    if np.all(log_score == -np.inf):
        raise ValueError(
            f"all {log_score.size} entries of {name} are -inf: the target excludes every outcome; "
            "loosen the constraint or enlarge the support of the base"
        )


def check_support(
    log_policy: Float[np.ndarray, " k"],
    log_target: Float[np.ndarray, " k"],
    *,
    divergence: FDivergence,
) -> None:
    """Check that the divergence of the policy to the target is finite.

    Parameters
    ----------
    log_policy, log_target : (k,) arrays, nats
        Log-probabilities or, for the target, log-scores; only their -inf entries matter.
    divergence : FDivergence
        Which divergence; its two edge constants decide.

    Raises
    ------
    InfiniteDivergence
        If f'(inf) is infinite and the policy has mass outside the target (a hole), or g(0) is
        infinite and the policy has no mass on a part of the target.
    """
    holes = np.flatnonzero((log_target == -np.inf) & (log_policy > -np.inf))
    if len(holes) and divergence.slope_at_infinity == np.inf:
        raise InfiniteDivergence(
            f"{divergence.name} is infinite: the target excludes outcome {holes[0]}"
            f"{_and_more(holes)}, where the policy has mass "
            f"{np.exp(log_policy[holes[0]]):.3g}. Soften the constraint, or choose a divergence "
            f"with a finite slope at infinity: {', '.join(_finite('slope_at_infinity'))}."
        )
    missed = np.flatnonzero((log_policy == -np.inf) & (log_target > -np.inf))
    if len(missed) and divergence.value_at_zero == np.inf:
        raise InfiniteDivergence(
            f"{divergence.name} is infinite: the policy has no mass on outcome {missed[0]}"
            f"{_and_more(missed)}, which the target allows. Give the policy full support, or "
            f"choose a divergence with a finite value at zero: "
            f"{', '.join(_finite('value_at_zero'))}."
        )


def _refuse_nan(name: str, values: np.ndarray) -> None:
    bad = np.argwhere(np.isnan(values))
    if len(bad):
        raise ValueError(f"{_entry(name, values, bad[0])}: find the feature or reward it came from")


def _entry(name: str, values: np.ndarray, index: np.ndarray) -> str:
    place = ", ".join(str(i) for i in index)
    return f"{name}[{place}] is {values[tuple(index)]}" if place else f"{name} is {values}"


def _and_more(indices: np.ndarray) -> str:
    return f" (and {len(indices) - 1} more)" if len(indices) > 1 else ""


def _finite(constant: str) -> list[str]:
    return [name for name, f in DIVERGENCES.items() if np.isfinite(getattr(f, constant))]
