"""Draw many samples from a policy in blocks that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lm.phases import each
from lm.policy.prompts import Prompts
from lm.policy.protocol import Policy
from lm.policy.samples import Samples, concatenate

# Numbers held at once by the key-value cache and the next-token probabilities: 1 GiB of float32.
BUDGET = 2**28


def draw(
    policy: Policy,
    n: int,
    *,
    generator: torch.Generator,
    prompts: Prompts | None = None,
    what: str = "drawing samples",
) -> Samples:
    """Draw n samples of each context, as `Policy.sample` does, block by block.

    Parameters
    ----------
    policy
        What to sample.
    n
        Samples of each context.
    generator
        Source of the uniforms.
    prompts
        c contexts; None for the start token alone.
    what
        Name of the phase, for those who wait.

    Returns
    -------
    Samples
        c x n rows; row i belongs to context i // n.
    """
    rows = rows_in_memory(policy, 1 if prompts is None else prompts.tokens.shape[1])
    if prompts is None:
        counts = [min(rows, n - start) for start in range(0, n, rows)]
        return concatenate(
            [policy.sample(count, generator=generator) for count in each(what, counts)]
        )
    blocks = [
        policy.sample(count, generator=generator, prompts=prompts.rows(block))
        for block, count in each(what, [*_blocks(len(prompts.tokens), n, rows)])
    ]
    return concatenate(blocks, prompts.repeat(n).to(policy.device))


def rows_in_memory(policy: Policy, context_length: int) -> int:
    """Return how many sequences can be sampled or scored at once.

    Parameters
    ----------
    policy
        Knows what a sequence takes (`Policy.numbers_per_row`).
    context_length
        Tokens of the longest prompt.

    Returns
    -------
    int
        At least 1.
    """
    return max(1, int(BUDGET / policy.numbers_per_row(context_length)))


def _blocks(contexts: int, n: int, rows: int) -> Iterator[tuple[slice, int]]:
    if n <= rows:
        some = max(1, rows // n)
        yield from ((slice(start, start + some), n) for start in range(0, contexts, some))
        return
    for context in range(contexts):
        for start in range(0, n, rows):
            yield slice(context, context + 1), min(rows, n - start)
