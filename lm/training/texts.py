"""A few sample texts along a run: the same prompts and random numbers each time.

So a reader sees the same samples change. They serve nobody but the reader: no function of the user
is called on them, no record holds them, and their random numbers are of a stream of their own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from lm.config import RunConfig
from lm.device.streams import SHOWN, random_stream
from lm.policy.drawing import draw
from lm.policy.protocol import Policy
from lm.target.problem import Problem


class Texts(NamedTuple):
    """Samples of one step.

    Attributes
    ----------
    prompts, completions
        As many of each; a prompt is empty where there are none.
    """

    prompts: list[str]
    completions: list[str]


@torch.no_grad()
def draw_texts(config: RunConfig, problem: Problem, policy: Policy) -> Texts:
    """Draw `evaluation.texts_shown` samples of the policy as it is now.

    Parameters
    ----------
    config
        Of the run.
    problem
        Knows the prompts.
    policy
        With whole weights.

    Returns
    -------
    Texts
        One sample of each of the first evaluated prompts; more of each where these are too few.
    """
    number, what = config.evaluation.texts_shown, "drawing sample texts"
    generator = random_stream(config.seed, SHOWN)
    if problem.prompts is None:
        samples = draw(policy, number, generator=generator, what=what)
    else:
        chosen = problem.evaluated[:number]
        each, prompts = number // len(chosen), problem.prompts.rows(chosen)
        samples = draw(policy, each, generator=generator, prompts=prompts, what=what)
    return Texts(*problem.reader.parts(samples, policy.decode(samples)))
