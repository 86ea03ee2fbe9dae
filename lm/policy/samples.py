"""Samples: what a policy draws, and what it says about their probability."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lm.config.sampling import SamplingConfig
from lm.policy.prompts import Prompts
from lm.policy.transforms import IDENTITY


class Samples(NamedTuple):
    """Sampled sequences and what the sampler says about their probability.

    Attributes
    ----------
    tokens
        Shape (n, length), int64: the completion without its context; padded after the end.
    mask
        Shape (n, length), bool: true up to and including the first end token
        (`lm.models.completions.completion_mask`).
    log_prob
        Shape (n,), at least float32: log-probability, in nats, of each sequence under the
        distribution it was drawn from.
    prompts
        The context of each sequence, n rows padded on the left; None if it is the start token.
    transform
        The sampling transform of the policy that drew them.
    log_kept_mass
        Shape (n,): summed over a sequence, the log of the mass that truncation kept, in nats; None
        where the transform does not truncate.
    """

    tokens: Tensor
    mask: Tensor
    log_prob: Tensor
    prompts: Prompts | None = None
    transform: SamplingConfig = IDENTITY
    log_kept_mass: Tensor | None = None

    def rows(self, index: Tensor | slice) -> Samples:
        """Return some of the samples."""
        return Samples(
            self.tokens[index],
            self.mask[index],
            self.log_prob[index],
            None if self.prompts is None else self.prompts.rows(index),
            self.transform,
            None if self.log_kept_mass is None else self.log_kept_mass[index],
        )


def concatenate(parts: list[Samples], prompts: Prompts | None = None) -> Samples:
    """Put samples of one policy one after the other.

    Parameters
    ----------
    parts
        At least one.
    prompts
        The contexts of all rows, for parts may be padded differently.

    Returns
    -------
    Samples
        All rows, in order.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    kept = [part.log_kept_mass for part in parts if part.log_kept_mass is not None]
    return first._replace(
        tokens=torch.cat([part.tokens for part in parts]),
        mask=torch.cat([part.mask for part in parts]),
        log_prob=torch.cat([part.log_prob for part in parts]),
        prompts=prompts,
        log_kept_mass=torch.cat(kept) if kept else None,
    )
