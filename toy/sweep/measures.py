"""The measures of a policy: exact distances to the target, alignment, and entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fdpg_ref import DIVERGENCES, FDivergence, exact_divergence
from toy.sweep.descents.adam import entropy
from toy.sweep.descents.gradients import exact_gradient
from toy.sweep.random.problems import Problems

if TYPE_CHECKING:
    from jaxtyping import Float

# The distances on which all objectives are compared.
DISTANCES = ("forward_kl", "reverse_kl", "total_variation", "jensen_shannon")


def measure(
    problems: Problems, theta: Float[np.ndarray, "B d"], *, divergence: FDivergence
) -> dict[str, Float[np.ndarray, " B"]]:
    """Return the exact measures of the policies at theta.

    Parameters
    ----------
    problems : Problems
        The batch.
    theta : (B, d) array
        Where the policies are.
    divergence : FDivergence
        The objective, for its own value and gradient.

    Returns
    -------
    dict of (B,) arrays
        `DISTANCES`, ``own``, ``entropy``, ``kl_policy_base`` and ``gradient_norm_end`` in nats, and
        ``alignment`` in units of the feature. Reverse KL to a hard target is infinite.
    """
    policy = problems.families.policy(theta)
    log_probs, log_target = policy.log_probs, problems.log_target
    with np.errstate(over="ignore", invalid="ignore"):
        found = {
            name: exact_divergence(log_probs, log_target, divergence=DIVERGENCES[name])
            for name in DISTANCES
        }
        found["own"] = exact_divergence(log_probs, log_target, divergence=divergence)
        gradient = exact_gradient(problems.families, policy, log_target, divergence=divergence)
    found["gradient_norm_end"] = np.linalg.norm(gradient, axis=-1)
    found["alignment"] = np.sum(np.exp(log_probs) * problems.feature, axis=-1)
    found["entropy"] = entropy(log_probs)
    to_base = DIVERGENCES["reverse_kl"]
    found["kl_policy_base"] = exact_divergence(log_probs, problems.log_base, divergence=to_base)
    return found


def describe(problems: Problems) -> dict[str, np.ndarray]:
    """Return what is known of each problem before anything is descended.

    Parameters
    ----------
    problems : Problems
        The batch.

    Returns
    -------
    dict of (B,) arrays
        Number, kind, sizes, base rate, and alignment and entropy (nats) of the target.
    """
    batch, outcomes = problems.log_target.shape
    return {
        "problem": problems.number,
        "kind": problems.kind,
        "world": np.full(batch, problems.shape.world),
        "inside": np.full(batch, problems.shape.inside),
        "base_rate": problems.base_rate,
        "outcomes": np.full(batch, outcomes),
        "parameters": np.full(batch, problems.families.size),
        "alignment_target": np.sum(np.exp(problems.log_target) * problems.feature, axis=-1),
        "entropy_target": entropy(problems.log_target),
    }
