"""How many base samples Z and the samples of p are likely to take, by a few texts of the base."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fdpg_ref import MultipliersNotConverged, UnattainableMoments
from lm.config import RunConfig
from lm.evaluation.target_samples import LEAST, MOST_ROWS
from lm.policy.samples import Samples
from lm.target.bounds import largest_log_weight
from lm.target.decoded import Reading
from lm.target.fit import UNBOUNDED, fit_target
from lm.target.offline import FIRST, BaseSamples
from lm.target.problem import Draft
from lm.target.targets import NoMass

# Below so many effective texts Z is known to a factor at best: then the caps are what is known.
ENOUGH = 8.0


class Draws(NamedTuple):
    """Base samples that are likely to be drawn, over all contexts.

    Attributes
    ----------
    for_z
        Until Z is known to within partition.error.
    for_p
        Until the target has accepted evaluation.target_samples; 0 where none can be drawn.
    """

    for_z: int
    for_p: int


def expected_draws(
    config: RunConfig, draft: Draft, samples: Samples, reading: Reading
) -> Draws | None:
    """Foresee what Z and the samples of p take, from texts that are drawn already.

    Several prompts are looked at as one, so that one of a rare target takes more than is said.

    Parameters
    ----------
    config
        A resolved configuration.
    draft
        Of the same, before anything is drawn.
    samples, reading
        n texts of the base.

    Returns
    -------
    Draws or None
        None where the texts say too little of the target, or nothing depends on them.
    """
    # What a run is measured against instead has samples of p and a Z of its own.
    if config.measure is not None or config.target.kind in {"teacher", "reward"}:
        return None
    here, log_base = draft.evaluated[:1], samples.log_prob.reshape(1, -1)
    texts = BaseSamples(here, log_base, reading, last=True)
    try:
        target = fit_target(config, draft.base, draft.listing, texts, here, prompts=())
    # Of more texts the run can build it, or says what is wrong.
    except (UnattainableMoments, MultipliersNotConverged, NoMass, ValueError):
        return None

    # What the texts weigh.
    log_score = target.log_score_of(samples.log_prob, reading)
    log_weight = (log_score.double() - samples.log_prob.double()).cpu()
    effective = _effective(log_weight)
    log_z = target.log_z
    if log_z is None:
        if not effective >= ENOUGH:
            return None
        log_z = float(torch.logsumexp(log_weight, 0)) - math.log(len(log_weight))
    bound = largest_log_weight(target, draft.listing, most_tokens=draft.base.max_new_tokens)
    heaviest = math.inf if bound is None else math.exp(min(bound - log_z, 700.0))

    spread = len(log_weight) / max(effective, 1.0) - 1.0
    for_z = _for_z(config, len(draft.wanted), spread, heaviest)
    return Draws(for_z, _for_p(config, draft, heaviest))


def _for_z(config: RunConfig, contexts: int, spread: float, heaviest: float) -> int:
    """Return what `lm.target.fit.fit_on_samples` draws: some, and then twice as many as before."""
    asked = config.partition
    if contexts == 0 or asked.samples is not None:
        return asked.at_most if contexts else 0
    needed = 0.0
    if asked.policy != "column":
        unseen = UNBOUNDED / contexts if math.isinf(heaviest) else heaviest / asked.error
        needed = max(spread / asked.error**2, unseen)
    n, most = max(2, FIRST // contexts), asked.at_most // contexts
    while n < min(needed, most):
        n *= 2
    return contexts * min(n, most)


def _for_p(config: RunConfig, draft: Draft, heaviest: float) -> int:
    """Return what `lm.evaluation.target_samples.draw_target_samples` draws, in its rounds."""
    sizes, contexts = config.evaluation.sizes, len(draft.evaluated)
    if sizes.target_samples == 0 or math.isinf(heaviest):
        return 0
    each, rate = max(2, sizes.target_samples // contexts), min(1.0, 1.0 / heaviest)
    most = max(each, sizes.target_draws // contexts)
    too_rare = min(each, most * rate) * contexts < LEAST
    if config.evaluation.target_samples is None and too_rare:
        return 0
    drawn = 0
    while drawn < most and drawn * rate < each:
        drawn += min(most - drawn, max(each, drawn), max(2, MOST_ROWS // contexts))
    return drawn * contexts


def _effective(log_weight: Tensor) -> float:
    """Return (sum w)^2 / sum w^2; 0 without any mass."""
    if not bool((log_weight > -math.inf).any()):
        return 0.0
    twice = 2 * torch.logsumexp(log_weight, 0) - torch.logsumexp(2 * log_weight, 0)
    return float(torch.exp(twice))
