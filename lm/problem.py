"""A base, a target and the listed names: what training and evaluation both work on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fdpg_ref import PartitionState, init_partition
from lm.checks import check_score
from lm.config import RunConfig
from lm.errors import RunError
from lm.features import feature_values
from lm.listed import ListedSupport
from lm.partition import Partition, PartitionEstimate, estimate_partition
from lm.policy import CausalPolicy
from lm.sampling import Samples
from lm.targets import Target, build_target
from lm.vocabulary import CharVocabulary

# Streams of random numbers, so that measuring more often never changes the training.
TRAINING, OFFLINE, EVALUATION, EVALUATION_BASE = range(4)


class Reading(NamedTuple):
    """Samples as people and targets see them: texts, features (n, k) and being listed (n,)."""

    texts: list[str]
    features: Tensor
    listed: Tensor


@dataclass(frozen=True)
class Problem:
    """Everything about a run that does not change while it trains.

    Parameters
    ----------
    base
        The frozen model a.
    support
        The listed names.
    list_log_base
        Shape (names,), float64: log a on the list, in nats.
    list_features
        Shape (names, features), float64: the target's features on the list.
    target
        The target p = P/Z.
    log_z
        Log Z that normalises the target in measurements, in nats: exact, or the offline estimate.
    offline
        The offline estimate from base samples; None if Z is exact and nobody asked for one.
    """

    base: CausalPolicy
    support: ListedSupport
    list_log_base: Tensor
    list_features: Tensor
    target: Target
    log_z: float
    offline: PartitionEstimate | None
    offline_state: PartitionState | None

    def read(self, samples: Samples) -> Reading:
        """Decode samples and evaluate the target's features on them."""
        return _read(self.support, self.target.features, samples)

    def log_score(self, log_base: Tensor, reading: Reading) -> Tensor:
        """Return log P of samples, shape (n,); NaN or +inf stops with the sample's text."""
        log_score = self.target.log_score(log_base, reading.features)
        check_score(log_base, log_score, reading.texts)
        return log_score


def build_problem(config: RunConfig, base: CausalPolicy) -> Problem:
    """Fit the target to the base: exactly over the list, or else on base samples.

    Parameters
    ----------
    config
        A resolved configuration.
    base
        The frozen base model, with the character vocabulary.

    Returns
    -------
    Problem
        With log Z, exact or estimated.

    Raises
    ------
    UnattainableMoments, ValueError
        The target cannot be built on this base.
    """
    support = ListedSupport(("listed",), CharVocabulary(base.ids.letters or ""))
    list_log_base = support.log_prob(base)
    names = config.target.features
    list_features = torch.from_numpy(feature_values(names, support.names))
    offline_needed = config.partition.policy in {"frozen", "past_only"}
    drawn = None
    if offline_needed or not config.target.on_list:
        generator = random_stream(config.seed, OFFLINE)
        drawn = base.sample(config.partition.samples, generator=generator)
    if config.target.on_list:
        rest = list_features.new_zeros(1, list_features.shape[1])
        atoms = torch.cat([list_features, rest])
        target = build_target(config.target, support.with_remainder(list_log_base), atoms)
    else:
        assert drawn is not None
        features = _read(support, names, drawn).features
        uniform = torch.full((len(features),), -math.log(len(features)), dtype=torch.float64)
        target = build_target(config.target, uniform, features)
    offline, state = None, None
    if drawn is not None:
        reading = _read(support, names, drawn)
        log_score = target.log_score(drawn.log_prob, reading.features)
        check_score(drawn.log_prob, log_score, reading.texts)
        offline = estimate_partition(log_score, drawn.log_prob)
        state = init_partition(log_score, drawn.log_prob)
    log_z = target.log_z
    if log_z is None:
        assert offline is not None
        log_z = offline.log_z
    return Problem(base, support, list_log_base, list_features, target, log_z, offline, state)


def build_partition(config: RunConfig, problem: Problem) -> Partition:
    """Return the source of Z that training uses.

    Parameters
    ----------
    config
        A resolved configuration.
    problem
        Holds the exact and the offline value.

    Returns
    -------
    Partition
        Its state starts on samples that are never trained on.
    """
    policy = config.partition.policy
    state = problem.offline_state
    if policy == "exact":
        weights = next(problem.base.model.parameters())
        dtype = torch.promote_types(weights.dtype, torch.float32)
        log_z = torch.tensor(problem.log_z, dtype=dtype, device=weights.device)
        state = PartitionState(log_z, math.inf)
    return Partition(policy, state, config.partition.forgetting)


def random_stream(seed: int, stream: int, step: int = 0) -> torch.Generator:
    """Return a generator on the CPU that depends on the seed, the purpose and the step."""
    state = np.random.SeedSequence([seed, stream, step]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) % 2**63)


def _read(support: ListedSupport, names: tuple[str, ...], samples: Samples) -> Reading:
    texts = support.vocabulary.decode(samples.tokens, samples.mask)
    try:
        values = torch.from_numpy(feature_values(names, texts))
    except ValueError as error:
        raise RunError(f"{error}: a feature must be finite on every text") from error
    known = set(support.names)
    listed = torch.tensor([text in known for text in texts])
    device = samples.log_prob.device
    return Reading(texts, values.to(device, samples.log_prob.dtype), listed.to(device))
