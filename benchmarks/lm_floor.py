"""Plain-torch training step of GPT-2, nothing logged or checked: the bar for the engine.

``python -m benchmarks.lm_step --contender floor`` times it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: idle threads shall sleep

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Size(NamedTuple):
    """A model of GPT-2's kind; new tokens of a sample; samples of a step."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    length: int
    samples: int


SIZES = {
    "S": Size(4, 128, 4, 64, 16, 512),
    "M": Size(6, 384, 6, 4096, 40, 128),
    "L": Size(12, 768, 12, 50257, 40, 32),
}


class Block(nn.Module):
    """One layer of GPT-2; with a cache it attends to what earlier positions left there."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.shrink = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, cache: Tensor | None, at: int) -> Tensor:
        """Map (n, positions, width) to the same shape."""
        n, length, width = x.shape
        split = self.attention(self.norm(x)).view(n, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        if cache is not None:  # (2, n, heads, positions, width of a head)
            cache[0, :, :, at], cache[1, :, :, at] = key[:, :, 0], value[:, :, 0]
            key, value = cache[:, :, :, : at + 1]
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=cache is None)
        x = x + self.project(mixed.transpose(1, 2).reshape(n, length, width))
        return x + self.shrink(F.gelu(self.expand(self.norm_mlp(x)), approximate="tanh"))


class Model(nn.Module):
    """GPT-2 with tied embeddings."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokens = nn.Embedding(size.vocabulary, size.width)
        self.places = nn.Embedding(size.length, size.width)
        self.blocks = nn.ModuleList(Block(size.width, size.heads) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)
        for weights in (w for w in self.parameters() if w.ndim == 2):
            nn.init.normal_(weights, std=0.02)

    def forward(self, tokens: Tensor, cache: list[Tensor] | None = None, at: int = 0) -> Tensor:
        """Return the logits that follow tokens (n, positions), the first of them at ``at``."""
        x = self.tokens(tokens) + self.places.weight[at : at + tokens.shape[1]]
        for i, block in enumerate(self.blocks):
            x = block(x, None if cache is None else cache[i], at)
        return F.linear(self.norm(x), self.tokens.weight)


@torch.no_grad()
def sample(model: Model, size: Size) -> Tensor:
    """Draw (samples, 1 + length) tokens after token 0, inverting cumulative distributions."""
    shape = 2, size.samples, size.heads, size.length, size.width // size.heads
    cache = [torch.empty(shape) for _ in range(size.layers)]
    tokens = torch.zeros(size.samples, size.length + 1, dtype=torch.int64)
    for at in range(size.length):
        cumulative = model(tokens[:, at : at + 1], cache, at)[:, 0].softmax(-1).cumsum(-1)
        threshold = torch.rand(size.samples, 1) * (1 - 1e-6) * cumulative[:, -1:]
        tokens[:, at + 1] = torch.searchsorted(cumulative, threshold, right=True)[:, 0]
    return tokens


def score(model: Model, tokens: Tensor) -> Tensor:
    """Return the log-probabilities of samples, (samples,)."""
    logits, chosen = model(tokens[:, :-1]), tokens[:, 1:]
    losses = F.cross_entropy(logits.flatten(0, 1), chosen.flatten(), reduction="none")
    return -losses.view(chosen.shape).sum(-1)


def training(size: Size) -> Iterator[None]:
    """Sample, score under base and policy, descend; token 5 in a sample earns one nat."""
    policy, base = Model(size), Model(size).requires_grad_(False)
    base.load_state_dict(policy.state_dict())
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-5, fused=True)
    while True:
        tokens = sample(policy, size)
        log_base, log_policy = score(base, tokens), score(policy, tokens)
        signal = log_policy.detach() - log_base - (tokens[:, 1:] == 5).any(-1).float()
        advantage = (signal - signal.mean()) * (size.samples / (size.samples - 1))
        (advantage * log_policy).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def matmul_seconds(size: Size) -> float:
    """Return the time of a step's matrix products (five forwards) at the rate of large ones."""
    a, times = torch.randn(2048, 2048), []
    for _ in range(20):
        start = time.perf_counter()
        torch.mm(a, a)
        times.append(time.perf_counter() - start)
    layer = 12 * size.width**2 + size.width * (size.length + 1)  # attention sees half on average
    products = (size.layers * layer + size.width * size.vocabulary) * size.samples * size.length
    return min(times) * 5 * products / 2048**3
