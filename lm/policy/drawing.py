"""Draw many samples from a policy in blocks that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lm.policy.causal import CausalPolicy
from lm.policy.prompts import Prompts
from lm.policy.sampling import Samples

# Numbers held at once by the key-value cache and the next-token probabilities: 1 GiB of float32.
BUDGET = 2**28


def draw(
    policy: CausalPolicy, n: int, *, generator: torch.Generator, prompts: Prompts | None = None
) -> Samples:
    """Draw n samples of each context, as `CausalPolicy.sample` does, block by block.

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

    Returns
    -------
    Samples
        c x n rows; row i belongs to context i // n.
    """
    rows = rows_in_memory(policy, 1 if prompts is None else prompts.tokens.shape[1])
    if prompts is None:
        counts = [min(rows, n - start) for start in range(0, n, rows)]
        return concatenate([policy.sample(count, generator=generator) for count in counts])
    blocks = [
        policy.sample(count, generator=generator, prompts=prompts.rows(block))
        for block, count in _blocks(len(prompts.tokens), n, rows)
    ]
    return concatenate(blocks, prompts.repeat(n).to(policy.device))


def rows_in_memory(policy: CausalPolicy, context_length: int) -> int:
    """Return how many sequences can be sampled or scored at once.

    Parameters
    ----------
    policy
        Its sizes count: layers, width of keys and values, vocabulary, length limit.
    context_length
        Tokens of the longest prompt.

    Returns
    -------
    int
        At least 1.
    """
    config = policy.config.get_text_config()
    heads = config.num_attention_heads
    share = (getattr(config, "num_key_value_heads", None) or heads) / heads
    cache = 2 * config.num_hidden_layers * config.hidden_size * share
    return max(
        1, int(BUDGET / ((context_length + policy.max_new_tokens) * cache + config.vocab_size))
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


def _blocks(contexts: int, n: int, rows: int) -> Iterator[tuple[slice, int]]:
    if n <= rows:
        some = max(1, rows // n)
        yield from ((slice(start, start + some), n) for start in range(0, contexts, some))
        return
    for context in range(contexts):
        for start in range(0, n, rows):
            yield slice(context, context + 1), min(rows, n - start)
