"""The expected gradient of a loss, exactly, by enumeration of every batch.

The mean of autograd's gradient over all N^n batches is the expectation, rounding apart. It is held
against the exact gradients of the divergences D(policy‖reference).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch

from toy.audit.call import AuditError, bind, evaluate, said
from toy.audit.compare import Comparison, compare, divergence_gradient, reward_gradient
from toy.audit.precision import Coarsest
from toy.audit.problems import AuditProblem, problems
from toy.checks import check_choice

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from toy.audit.call import Loss

__all__ = [
    "AuditError",
    "AuditProblem",
    "Comparison",
    "Enumeration",
    "compare",
    "divergence_gradient",
    "enumerate_loss",
    "expected_gradient",
    "problems",
    "reward_gradient",
]

PLACEMENTS = ("loss", "reward")
SAMPLES = ("on_policy", "stale")


class Enumeration(NamedTuple):
    """A loss on average over all batches.

    Attributes
    ----------
    gradient : (d,) tensor
        The expected gradient.
    value : float
        The expected value.
    attached : bool
        Whether any gradient was attached.
    dtype : torch.dtype
        The coarsest that the loss computes in.
    size : float
        The expected absolute coefficient of the score: what the terms of the gradient amount to
        before they cancel.
    """

    gradient: Float[Tensor, " d"]
    value: float
    attached: bool
    dtype: torch.dtype
    size: float


def expected_gradient(
    loss: Loss,
    problem: AuditProblem,
    *,
    placement: str = "loss",
    samples: str = "on_policy",
    level: str = "sequence",
    n: int = 1,
) -> Float[Tensor, " d"]:
    """Return the expected gradient of a loss, summed over all batches of n samples.

    Parameters
    ----------
    loss : callable
        Takes log_policy and log_reference, and by name log_behavior, reward, mask; of shape (n,),
        or (n, T) for tokens. Returns a scalar, (n,) or (n, T): tokens are summed, samples averaged.
    problem : AuditProblem
        One of `problems`, or another.
    placement : {"loss", "reward"}
        Differentiated by autograd, or as a detached penalty, subtracted from the reward, that
        multiplies the score of the whole sequence.
    samples : {"on_policy", "stale"}
        Drawn from the policy, where log_behavior is its detached log-probability, or from the
        behaviour policy; weights are the loss's own business.
    level : {"sequence", "token"}
        One log-probability per sample, or one per token.
    n : int
        Batch size.

    Returns
    -------
    (d,) tensor
        sum over batches of q(batch) grad loss(batch): what a step goes against. Zero where nothing
        requires grad.

    Raises
    ------
    AuditError
        If the loss raises, is not finite (its gradient included), is misshapen or not
        deterministic.
    """
    options = {"placement": placement, "samples": samples, "level": level}
    return enumerate_loss(loss, problem, **options, n=n).gradient


def enumerate_loss(
    loss: Loss, problem: AuditProblem, *, placement: str, samples: str, level: str, n: int
) -> Enumeration:
    """Return what `expected_gradient` does, with the value and whether it was attached."""
    check_choice("placement", placement, PLACEMENTS)
    check_choice("samples", samples, SAMPLES)
    options = {"placement": placement, "samples": samples, "level": level, "n": n}
    first = _enumerate_once(loss, problem, **options)
    again = _enumerate_once(loss, problem, **options)
    if first.value != again.value or not torch.equal(first.gradient, again.gradient):
        raise AuditError(
            "the loss is not deterministic: on the same batches its mean was "
            f"{first.value!r} and then {again.value!r} (or its gradient differed); switch off "
            "dropout, random numbers and anything it remembers between calls"
        )
    return first


def _enumerate_once(
    loss: Loss, problem: AuditProblem, *, placement: str, samples: str, level: str, n: int
) -> Enumeration:
    # The loss on every batch, weighted by the probability of the batch.
    with torch.enable_grad():
        theta = problem.policy.clone().requires_grad_()
        proposal = problem.policy if samples == "on_policy" else problem.behavior
        batches = torch.cartesian_prod(*[torch.arange(problem.outcomes)] * n).reshape(-1, n)
        tensors = _gather(problem, theta, proposal, level=level, batches=batches)
        coarsest = Coarsest()
        call = bind(loss, watch=coarsest)
        values = _evaluate_all(call, tensors, per_sample=placement == "reward")
        scored = tensors["log_policy"]
        if placement == "reward":
            scored = problem.log_probs(theta, level="sequence")[batches]
            values = (values.detach() * scored).mean(-1)
        log_mass = problem.log_probs(proposal, level="sequence")[batches].sum(-1)
        total = (log_mass.exp() * values).sum()

    # Its gradient in the policy's logits. A loss may have parameters of its own and leave the
    # policy alone, or require no gradient at all.
    value, gradient, coefficients = float(total.detach()), None, None
    if not math.isfinite(value):
        raise AuditError(
            f"the mean of the loss over all batches is {value}: its values are finite, but too "
            "large for their sum. Scale the loss down"
        )
    if total.requires_grad:
        try:
            gradient, coefficients = torch.autograd.grad(total, (theta, scored), allow_unused=True)
        # A loss may bring a backward of its own, which is a user's function as the loss is.
        except (Exception, SystemExit) as error:
            raise AuditError(f"the gradient of the loss raised {said(error)}") from error
    if gradient is None or coefficients is None:
        zero = torch.zeros_like(problem.policy).flatten()
        return Enumeration(zero, value, attached=False, dtype=coarsest.dtype, size=0.0)
    if not torch.isfinite(gradient).all():
        raise AuditError(
            "the loss is finite but its gradient is not: somewhere in it a derivative is infinite "
            "or 0 times infinity, as behind torch.where, sqrt or a norm at zero"
        )
    size = float(coefficients.abs().sum())
    return Enumeration(gradient.flatten(), value, attached=True, dtype=coarsest.dtype, size=size)


def _gather(
    problem: AuditProblem, theta: Tensor, proposal: Tensor, *, level: str, batches: Tensor
) -> dict[str, Tensor]:
    """Return what a loss may ask for, (batches, n) or (batches, n, T)."""
    log_policy = problem.log_probs(theta, level=level)
    everywhere = torch.ones(problem.outcomes, dtype=torch.bool)
    per_outcome = {
        "log_policy": log_policy,
        "log_reference": problem.log_probs(problem.reference, level=level),
        "log_behavior": problem.log_probs(proposal, level=level),
        "reward": problem.reward,
        "mask": problem.mask if level == "token" else everywhere,
    }
    return {name: tensor[batches] for name, tensor in per_outcome.items()}


def _evaluate_all(
    call: Callable[[Mapping[str, Tensor]], object], tensors: dict[str, Tensor], *, per_sample: bool
) -> Tensor:
    rows = (
        {name: tensor[index] for name, tensor in tensors.items()}
        for index in range(len(tensors["mask"]))
    )
    return torch.stack([evaluate(call, row, per_sample=per_sample) for row in rows])
