"""Run a step of anybody's trainer on the tiny problem, and say what it descended."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

import fdpg_ref as core
from lm.conformance.candidates import (
    REWARD,
    SCALED_REWARD,
    TO_TARGET,
    candidates,
    is_infinite,
    named,
)
from lm.conformance.problem import LogScore, TinyProblem

# Float32 steps agree to 1e-5; distinct candidates differ by percents, and so does every spoiler
# that is known. A constant in a denominator, such as TRL's 1e-4 beside a standard deviation, stays
# below.
TOLERANCE = 1e-3
Step = Callable[[TinyProblem], Mapping[str, Tensor] | None]


@dataclass(frozen=True)
class Verdict:
    """What a training step descended.

    Attributes
    ----------
    asked
        What it was to descend, in words.
    scale
        The factor of the asked gradient that comes nearest; its sign is that of the cosine.
    cosine, relative_error
        Between the step and the asked gradient; the error is what is left after the scale.
    parts
        What explains the step, with its factors: one known objective, or the reward and a penalty;
        empty where nothing known does.
    nearest
        The single known objective with the largest cosine in size, and that cosine.
    """

    asked: str
    scale: float
    cosine: float
    relative_error: float
    parts: tuple[tuple[float, str], ...]
    nearest: tuple[str, float]

    @property
    def descends(self) -> bool:
        """Whether the step descends what was asked for, up to a positive factor."""
        return self.scale > 0 and self.relative_error <= TOLERANCE

    @property
    def sentence(self) -> str:
        """Return what was descended, in plain English."""
        beside = (
            f"beside {self.asked}: cosine {self.cosine:.3g}, relative error "
            f"{self.relative_error:.2g}"
        )
        if not self.cosine and not self.parts:
            return f"The step has no gradient; it was to descend {self.asked}."
        if not self.parts:
            name, cosine = self.nearest
            return (
                f"The step descends nothing known; the nearest is {name} (cosine {cosine:.3g}); "
                f"{beside}."
            )
        words = " and ".join(f"{factor:.3g} times {name}" for factor, name in self.parts)
        return f"The step descends {words}; {beside}."


def descends_on_model(
    step: Step,
    divergence: str = "reverse_kl",
    target: str | LogScore = "reward",
    *,
    family: str = "llama",
    learning_rate: float = 1.0,
) -> Verdict:
    """Run a training step on a tiny language model and say what it descended.

    Parameters
    ----------
    step
        A function of a `TinyProblem`. It builds a trainer on the model in `problem.folder`, calls
        `problem.start(model)`, and trains one step of plain gradient descent (no momentum, decay
        or clipping) on all `problem.group` completions of all `problem.prompts`. How far the
        weights moved is its gradient. Or it returns a gradient, by the names of the weights.
    divergence
        What it is to descend: a key of `fdpg_ref.DIVERGENCES`, or ``alpha_A``.
    target
        To what: ``reward`` for ref exp(r / beta), ``verifier``, or a function of log ref and the
        rewards that gives log P.
    family
        ``llama`` or ``gpt2``, which has a table of positions.
    learning_rate
        That of the step. A large one, such as 64, leaves less rounding in how far weights moved.

    Returns
    -------
    Verdict
        Its `sentence` says it in words.

    Raises
    ------
    ValueError
        An option is unknown, the step took another number of completions, never started, or its
        gradient is not finite.

    Examples
    --------
    >>> from lm.conformance import descends_on_model
    >>> def no_step(problem):
    ...     problem.start(problem.base())
    >>> print(descends_on_model(no_step).sentence)
    The step has no gradient; it was to descend reverse KL to the target.
    """
    record = core.find_divergence(divergence)
    with tempfile.TemporaryDirectory() as folder:
        problem = TinyProblem(folder, target=target, family=family)
        if is_infinite(problem, record):
            raise ValueError(f"{divergence} is infinite for a target that excludes completions")
        found = _gradient(problem, step(problem), learning_rate)
    if wrong := problem.unequal_draws():
        raise ValueError(wrong)
    return _judged(found, named(divergence, TO_TARGET), candidates(problem, divergence))


def assert_descends_on_model(
    step: Step,
    divergence: str = "reverse_kl",
    target: str | LogScore = "reward",
    *,
    family: str = "llama",
    learning_rate: float = 1.0,
) -> None:
    """Fail with a sentence unless a training step descends a divergence, up to a positive factor.

    Parameters
    ----------
    step, divergence, target, family, learning_rate
        As for `descends_on_model`.

    Raises
    ------
    AssertionError
        It descends something else; the message says what.
    """
    verdict = descends_on_model(
        step, divergence, target, family=family, learning_rate=learning_rate
    )
    if not verdict.descends:
        raise AssertionError(verdict.sentence)


def _gradient(
    problem: TinyProblem, returned: Mapping[str, Tensor] | None, learning_rate: float
) -> Tensor:
    """Return the gradient of a step, flat: what it returned, or how far it moved the weights."""
    before = problem.policy_weights
    names = [name for name, _ in problem.policy().named_parameters()]
    if returned is None:
        if problem.started is None:
            raise ValueError(
                "the step returned no gradient and never called problem.start(model): which model "
                "it trained is not known"
            )
        after = dict(problem.started.named_parameters())
        returned = {
            name: (before[name].double() - after[name].detach().cpu().double()) / learning_rate
            for name in names
        }
    if missing := [name for name in names if name not in returned]:
        raise ValueError(f"the step returned no gradient of {missing[0]} ({len(missing)} missing)")

    flat = torch.cat([returned[name].detach().cpu().double().flatten() for name in names])
    if not torch.isfinite(flat).all():
        raise ValueError("the step's gradient is NaN or infinite")
    return flat


def _judged(found: Tensor, asked: str, known: Mapping[str, Tensor]) -> Verdict:
    norm = float(found.norm())
    cosines = {name: _cosine(found, one) for name, one in known.items()}
    nearest = max(cosines, key=lambda name: abs(cosines[name]))
    scale, error = _fit(found, [known[asked]])
    parts: tuple[tuple[float, str], ...] = ()

    # What was asked for first, then each of the others, then a reward and a penalty: to the base
    # before to the target, for the reward's own share of the latter makes many pairs of one step.
    singles = [(asked,), *((name,) for name in known if name != asked)]
    penalties = sorted(known, key=lambda name: name.endswith(TO_TARGET))
    pairs = [(r, n) for r in (REWARD, SCALED_REWARD) for n in penalties if n != r]
    for choice in [*singles, *pairs] if norm else []:
        factors, left = _fit(found, [known[name] for name in choice])
        if left <= TOLERANCE:
            parts = tuple(zip(factors.tolist(), choice, strict=True))
            break
    return Verdict(
        asked=asked,
        scale=float(scale),
        cosine=cosines[asked],
        relative_error=error,
        parts=parts,
        nearest=(nearest, cosines[nearest]),
    )


def _cosine(one: Tensor, other: Tensor) -> float:
    size = float(one.norm() * other.norm())
    return float(one @ other) / size if size else 0.0


def _fit(found: Tensor, columns: list[Tensor]) -> tuple[Tensor, float]:
    """Return the factors of the columns that fit best, and what they leave, as a share."""
    matrix = torch.stack(columns, 1)
    factors = torch.linalg.lstsq(matrix, found[:, None]).solution[:, 0]
    norm = float(found.norm())
    return factors, float((found - matrix @ factors).norm()) / norm if norm else 1.0
