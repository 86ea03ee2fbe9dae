"""Comparing an expected gradient with the exact gradients of divergences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import torch

from fdpg_ref import DIVERGENCES, REVERSE_KL, FDivergence, score_signal
from toy.audit.call import AuditError
from toy.audit.precision import DOUBLE, Precision
from toy.audit.problems import AuditProblem
from toy.checks import check_choice

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class Comparison(NamedTuple):
    """An expected gradient beside those of the divergences, jointly over several problems.

    Attributes
    ----------
    zero_gradient : bool
        Whether nothing is descended.
    ascends : bool
        Whether the gradient is a *negative* multiple of the matched divergence's.
    best_match : str or None
        The divergence whose gradient it is, up to a scale; None where there is none.
    cosine, relative_residual : mapping or None
        For each divergence; the residual is norm(g - scale h) / norm(g) with the best scale. None
        where the gradient is zero.
    scale : float or None
        Of the match: the gradient is scale times that of the divergence.
    combination : tuple of (float, str)
        Two divergences that explain the gradient with these factors, where no single one does.
    reward_factor : float or None
        How much expected reward is ascended besides, where rewards were given and the rest is
        explained.
    """

    zero_gradient: bool
    ascends: bool = False
    best_match: str | None = None
    cosine: Mapping[str, float] | None = None
    relative_residual: Mapping[str, float] | None = None
    scale: float | None = None
    combination: tuple[tuple[float, str], ...] = ()
    reward_factor: float | None = None

    @property
    def explained(self) -> bool:
        """Whether the gradient is zero, that of a divergence, or that of two."""
        return self.zero_gradient or self.best_match is not None or bool(self.combination)


def compare(
    gradients: Sequence[Float[Tensor, " d"]],
    problems: Sequence[AuditProblem],
    *,
    candidates: Mapping[str, FDivergence] = DIVERGENCES,
    to: str = "reference",
    with_reward: bool = False,
    precision: Precision = DOUBLE,
    size: float | None = None,
) -> Comparison:
    """Say which divergence the gradients are those of, with one scale for all problems.

    Parameters
    ----------
    gradients : sequence of (d,) tensors
        One per problem.
    problems : sequence of AuditProblem
        Where they were taken.
    candidates : mapping
        The divergences to compare with.
    to : {"reference", "behavior"}
        The second argument of the divergences.
    with_reward : bool
        Whether the expected reward may explain a part: it is taken out of both sides first.
    precision : Precision
        The bounds of rounding.
    size : float, optional
        What the terms of the gradients amount to, beside which a zero is zero; by default that of
        reverse KL's gradient.

    Returns
    -------
    Comparison
        The verdict, and the numbers behind it.

    Raises
    ------
    AuditError
        If a gradient is NaN or infinite.
    """
    given = torch.cat(list(gradients))
    if not torch.isfinite(given).all():
        bad = float(given[~torch.isfinite(given)][0])
        raise AuditError(f"a gradient is {bad}: only finite gradients can be compared")

    # Squares of the gradient must neither overflow nor vanish: it is compared in a unit of its own.
    unit = float(given.abs().max()) or 1.0
    size = _size_of_reverse_kl(problems) if size is None else size
    given, size = given / unit, size / unit
    exact = {
        name: torch.cat([divergence_gradient(p, divergence, to=to) for p in problems])
        for name, divergence in candidates.items()
    }
    if not with_reward:
        return _rescaled(_compare(given, exact, size, precision), unit)

    # What is left of both sides without the expected reward.
    reward = torch.cat([reward_gradient(p) for p in problems])
    outside = {name: column - _factor(column, reward) * reward for name, column in exact.items()}
    found = _compare(given - _factor(given, reward) * reward, outside, size, precision)
    if not found.explained:
        return _rescaled(found, unit)

    # How much of the reward is ascended besides what was found; rounding is none of it.
    if found.best_match is not None and found.scale is not None:
        given = given - found.scale * exact[found.best_match]
    for factor, name in found.combination:
        given = given - factor * exact[name]
    factor = -_factor(given, reward)
    small = abs(factor) * float(reward.norm()) <= precision.zero * size
    return _rescaled(found._replace(reward_factor=0.0 if small else factor), unit)


def divergence_gradient(
    problem: AuditProblem, divergence: FDivergence | str, *, to: str = "reference"
) -> Float[Tensor, " d"]:
    """Return grad D(policy‖reference), exactly, by a sum over all sequences.

    Parameters
    ----------
    problem : AuditProblem
        Where.
    divergence : FDivergence or str
        A record, or a key of DIVERGENCES.
    to : {"reference", "behavior"}
        The second argument of the divergence.

    Returns
    -------
    (d,) tensor
        E_pi[f'(pi/ref) grad log pi]. Source: Go et al. (2023), arXiv 2302.08215, Theorem 1.
    """
    if isinstance(divergence, str):
        check_choice("divergence", divergence, DIVERGENCES)
        divergence = DIVERGENCES[divergence]
    check_choice("to", to, ("reference", "behavior"))
    second = problem.reference if to == "reference" else problem.behavior
    log_target = problem.log_probs(second, level="sequence")
    log_policy = problem.log_probs(problem.policy, level="sequence")
    return _contract(problem, score_signal(log_policy, log_target, divergence=divergence))


def reward_gradient(problem: AuditProblem) -> Float[Tensor, " d"]:
    """Return the gradient of the policy's expected reward."""
    return _contract(problem, problem.reward)


def _contract(problem: AuditProblem, coefficients: Float[Tensor, " N"]) -> Float[Tensor, " d"]:
    """Return E_pi[c grad log pi]."""
    with torch.enable_grad():
        theta = problem.policy.clone().requires_grad_()
        log_policy = problem.log_probs(theta, level="sequence")
        surrogate = (log_policy.detach().exp() * coefficients * log_policy).sum()
        return torch.autograd.grad(surrogate, theta)[0].flatten()


def _compare(
    target: Tensor,
    exact: Mapping[str, Tensor],
    size: float,
    precision: Precision,
) -> Comparison:
    norm = float(target.norm())
    if norm <= precision.zero * size:
        return Comparison(zero_gradient=True)

    # Every divergence with the scale that fits it best.
    scale = {name: _factor(target, column) for name, column in exact.items()}
    residual = {
        name: float((target - scale[name] * column).norm()) / norm for name, column in exact.items()
    }
    nearest = min(residual, key=residual.__getitem__)
    found = Comparison(
        zero_gradient=False,
        cosine={
            name: float(target @ column / column.norm()) / norm for name, column in exact.items()
        },
        relative_residual=residual,
    )

    # One of them is enough, or two are, or none.
    if not residual[nearest] <= precision.match:
        return found._replace(combination=_pair(target, exact, precision))
    return found._replace(
        best_match=nearest, scale=scale[nearest], ascends=bool(scale[nearest] < 0)
    )


def _rescaled(found: Comparison, unit: float) -> Comparison:
    """Return what was found of gradients divided by the unit, for the gradients themselves."""
    return found._replace(
        scale=None if found.scale is None else unit * found.scale,
        combination=tuple((unit * factor, name) for factor, name in found.combination),
        reward_factor=None if found.reward_factor is None else unit * found.reward_factor,
    )


def _size_of_reverse_kl(problems: Sequence[AuditProblem]) -> float:
    """Return the norm of reverse KL's gradient, beside which a zero is zero."""
    return float(torch.cat([divergence_gradient(p, REVERSE_KL) for p in problems]).norm())


def _factor(target: Tensor, column: Tensor) -> float:
    """Return the best scale of the column; zero for a column of zeros."""
    square = float(column @ column)
    return float(target @ column) / square if square else 0.0


def _pair(
    target: Tensor, exact: Mapping[str, Tensor], precision: Precision
) -> tuple[tuple[float, str], ...]:
    """Return two divergences and their factors that make up the target, the simplest such pair.

    Jeffreys is the sum of the two KLs, so a pair is not unique: the smallest factors are chosen.
    """
    found: list[tuple[float, tuple[tuple[float, str], ...]]] = []
    for names in combinations(exact, 2):
        columns = torch.stack([exact[name] / exact[name].norm() for name in names], dim=-1)
        solution = torch.linalg.lstsq(columns, target).solution
        if not float((columns @ solution - target).norm() / target.norm()) <= precision.match:
            continue
        factors = [float(c / exact[name].norm()) for c, name in zip(solution, names, strict=True)]
        parts = sorted(zip(factors, names, strict=True), key=lambda part: -part[0])
        found.append((sum(map(abs, factors)), tuple(parts)))
    return min(found)[1] if found else ()
