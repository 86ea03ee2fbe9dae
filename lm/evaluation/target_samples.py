"""Samples of the target itself, which see what a policy has dropped.

A base sample x is accepted with probability P(x)/(M a(x)), where M bounds P/a: what is accepted is
distributed as the target, exactly. A teacher is sampled. They are drawn once for a target and serve
every evaluation of every run that descends to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lm.config import EvaluationConfig
from lm.device.streams import TARGET_SAMPLES, random_stream
from lm.errors import RunError
from lm.phases import Phase, each, phase
from lm.policy.drawing import draw, rows_in_memory
from lm.policy.protocol import Policy
from lm.policy.samples import Samples
from lm.target.bounds import largest_log_weight
from lm.target.problem import Problem

# With fewer samples an estimate may miss what few texts carry, and its error with it.
LEAST = 100
# Texts that are looked at together.
MOST_ROWS = 2**16
# Rounding of a bound and of the weight that reaches it, in nats.
ROUNDING = 1e-6
ADVICE = "`python -m lm evaluate RUN --p_samples FILE` takes samples from elsewhere"


class TargetSamples(NamedTuple):
    """Samples of the target.

    Attributes
    ----------
    contexts
        Shape (c,), int64: those that have samples, equally many each.
    samples
        c x n rows, context by context, with log a as their log-probability; None if there are none.
    drawn, accepted
        Base samples that were drawn for them in all, and how many of these the target accepted.
    reason
        Why there are none, or none of some contexts; None if nothing is missing.
    """

    contexts: Tensor
    samples: Samples | None
    drawn: int
    accepted: int
    reason: str | None = None

    def describe(self) -> dict[str, float | int | str]:
        """Return what a record says of them."""
        found: dict[str, float | int | str] = {
            "samples": 0 if self.samples is None else len(self.samples.tokens),
            "contexts": len(self.contexts),
            "drawn": self.drawn,
        }
        if self.drawn > 0:
            found["acceptance"] = self.accepted / self.drawn
        if self.reason is not None:
            found["reason"] = self.reason
        return found


@torch.no_grad()
def draw_target_samples(problem: Problem, config: EvaluationConfig) -> TargetSamples:
    """Draw samples of a problem's target, for the contexts of the evaluations.

    Parameters
    ----------
    problem
        Base and target.
    config
        How many samples, and how many base samples at most.

    Returns
    -------
    TargetSamples
        None of a context that would take more base samples.

    Raises
    ------
    RunError
        A text weighs more than the stated bounds allow.
    """
    contexts, target = problem.evaluated, problem.target
    wanted, draws = config.sizes.target_samples, config.sizes.target_draws
    each = max(2, wanted // len(contexts))
    if wanted == 0:
        return _none("evaluation.target_samples is 0")
    generator = random_stream(0, TARGET_SAMPLES)

    # A model is sampled like any other.
    if target.teacher is not None:
        prompts = None if problem.prompts is None else problem.prompts.rows(contexts)
        drawn = draw(target.teacher, each, generator=generator, prompts=prompts)
        rows = token_rows(drawn)
        return assemble(problem, contexts, rows, drawn=len(rows), accepted=len(rows))

    bound = largest_log_weight(target, problem.listing, most_tokens=problem.base.max_new_tokens)
    if bound is None:
        return _none(_why_unbounded(problem))
    most = max(each, draws // len(contexts))
    # Nobody asked for a number: then it is not tried where it would come to nothing.
    if config.target_samples is None and (reason := _too_rare(problem, bound, each, most)):
        return _none(reason)
    with phase("drawing samples of the target", each * len(contexts)) as progress:
        rows, drawn, accepted = _reject(
            problem, each, most, bound=bound, generator=generator, progress=progress
        )

    # Equally many of each context, so that the most are kept; a rare one may be left out. How many
    # were accepted says nothing of which, so that the first n of them are samples of p as before.
    reached = [min(each, len(own)) for own in rows]
    n = max(reached, key=lambda least: (least * sum(own >= least for own in reached), -least))
    kept = [place for place, own in enumerate(reached) if own >= n]
    if n < 2 or n * len(kept) < min(LEAST, wanted):
        return _none(
            f"the target accepted {accepted} of {drawn:,} base samples, too few: raise "
            f"evaluation.target_draws, or {ADVICE}",
            drawn=drawn,
            accepted=accepted,
        )
    missing = len(rows) - len(kept)
    reason = f"without {missing} of {len(rows)} contexts: too few base samples were accepted"
    flat = [row for place in kept for row in rows[place][:n]]
    found = assemble(problem, contexts[kept], flat, drawn=drawn, accepted=accepted)
    return found._replace(reason=reason if missing else None)


def assemble(
    problem: Problem,
    contexts: Tensor,
    rows: Sequence[Sequence[int]],
    *,
    drawn: int,
    accepted: int,
) -> TargetSamples:
    """Put rows of tokens together, and score them under the base.

    Parameters
    ----------
    problem
        Base, target and prompts.
    contexts
        Shape (c,).
    rows
        Tokens of each sample, end token included; equally many of each context.
    drawn, accepted
        As in `TargetSamples`.
    """
    base, n = problem.base, len(rows) // len(contexts)
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.full((len(rows), int(lengths.max())), base.ids.pad_id)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(row)
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    device = base.device
    prompts = None
    if problem.prompts is not None:
        prompts = problem.prompts.rows(contexts).repeat(n).to(device)
    nothing = torch.zeros(len(rows), device=device)
    samples = Samples(tokens.to(device), mask.to(device), nothing, prompts, base.transform)
    log_base = score_samples(base, samples)
    return TargetSamples(contexts, samples._replace(log_prob=log_base), drawn, accepted)


@torch.no_grad()
def score_samples(policy: Policy, samples: Samples) -> Tensor:
    """Return log pi of samples of any policy, block by block, shape (n,), nats."""
    length = 1 if samples.prompts is None else samples.prompts.tokens.shape[1]
    blocks = torch.arange(len(samples.tokens)).split(rows_in_memory(policy, length))
    some = each("scoring samples", blocks)
    return torch.cat([policy.score(samples.rows(block)) for block in some])


def token_rows(samples: Samples) -> list[list[int]]:
    """Return each sample's tokens without padding."""
    rows, lengths = samples.tokens.tolist(), samples.mask.sum(-1).tolist()
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


def _reject(
    problem: Problem,
    each: int,
    most: int,
    *,
    bound: float,
    generator: torch.Generator,
    progress: Phase,
) -> tuple[list[list[list[int]]], int, int]:
    """Return what was accepted, by context, and how many were drawn and accepted in all."""
    found: list[list[list[int]]] = [[] for _ in problem.evaluated]
    active, drawn, total = list(range(len(found))), 0, 0
    while active and drawn < most:
        # Twice as many as before, so that few rounds suffice, while they fit in memory.
        n = min(most - drawn, max(each, drawn), max(2, MOST_ROWS // len(active)))
        chosen = problem.evaluated[active]
        prompts = None if problem.prompts is None else problem.prompts.rows(chosen)
        samples = draw(problem.base, n, generator=generator, prompts=prompts)
        accepted = _accepted(problem, samples, bound, generator).reshape(len(active), n)

        rows = token_rows(samples)
        for place, context in enumerate(active):
            found[context] += [rows[place * n + int(k)] for k in accepted[place].nonzero()[:, 0]]
        drawn, total = drawn + n, total + n * len(active)
        progress.update(
            sum(min(each, len(own)) for own in found), words=f"{total:,} base samples drawn"
        )
        active = [context for context in active if len(found[context]) < each]
    return found, total, sum(map(len, found))


def _accepted(
    problem: Problem, samples: Samples, bound: float, generator: torch.Generator
) -> Tensor:
    reading = problem.read(samples)
    log_score = problem.log_score(samples.log_prob, reading)
    log_weight = (log_score.double() - samples.log_prob.double()).cpu()
    # The score was added to log a in its precision, and carries that rounding.
    rounding = ROUNDING + 4 * torch.finfo(log_score.dtype).eps * log_score.abs().double().cpu()
    above = (log_weight > bound + rounding).nonzero()
    if len(above) > 0:
        worst = int(above[0])
        raise RunError(
            f"the target's weight of {reading.texts[worst]!r} is {float(log_weight[worst]):.6g} "
            f"nats over the base, above {bound:.6g}, the most that target.bounds allows: correct "
            "the bounds, or set evaluation.target_samples 0"
        )
    uniform = torch.rand(len(log_weight), generator=generator, dtype=torch.float64)
    return uniform.log() < log_weight - bound


def _too_rare(problem: Problem, bound: float, each: int, most: int) -> str | None:
    """Return why too few samples would be accepted, by what Z says of it; None if enough are."""
    log_z = problem.log_z[problem.evaluated]
    # P(x)/(M a(x)) is accepted on average with probability Z/M.
    rates = torch.exp(log_z - bound).clamp(max=1.0)
    if float((most * rates).clamp(max=each).sum()) >= LEAST:
        return None
    rate = max(float(rates.mean()), 1e-30)
    return (
        f"the target accepts about one in {1 / rate:,.0f} base samples, so that {LEAST} take about "
        f"{LEAST / rate:,.0f}, more than evaluation.target_draws, {most * len(log_z):,}: raise it, "
        f"or {ADVICE}"
    )


def _none(reason: str, *, drawn: int = 0, accepted: int = 0) -> TargetSamples:
    return TargetSamples(torch.zeros(0, dtype=torch.int64), None, drawn, accepted, reason)


def _why_unbounded(problem: Problem) -> str:
    if problem.target.features:
        names = ", ".join(problem.target.features)
        return (
            f"a feature of the target has no known bounds, so that none can be drawn by rejection: "
            f"state target.bounds of {names}, or {ADVICE}"
        )
    return f"P/a of a custom target has no known bound: {ADVICE}"
