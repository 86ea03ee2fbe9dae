"""Tiny random language models whose every sequence can be enumerated (ring c of the tests)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lm.config.sampling import SamplingConfig
from lm.models.folder import build_gpt2
from lm.policy.causal import CausalPolicy
from lm.policy.prompts import Prompts
from lm.policy.transforms import IDENTITY
from lm.training.sharding import WholeWeights

VOCABULARY = 4
# Unequal lengths; the ids of start, end and padding occur inside, as in any real prompt.
CONTEXTS = ([0], [2, 3], [3, 1, 0])
# Every transform alone, and together. Sharp enough to cut something of every tiny model.
TRANSFORMS = {
    "identity": IDENTITY,
    "temperature": SamplingConfig(temperature=0.7),
    "top_k": SamplingConfig(top_k=2),
    "top_p": SamplingConfig(top_p=0.8),
    "min_p": SamplingConfig(min_p=0.5),
    "hot_top_p": SamplingConfig(temperature=1.5, top_p=0.6),
    "all": SamplingConfig(temperature=1.5, top_k=3, top_p=0.9, min_p=0.4),
}


def tiny_gpt2(*, seed: int = 0, scale: float = 12.0, positions: int = 4) -> PreTrainedModel:
    """Build a random GPT-2, float64; `scale` multiplies its weights away from uniformity."""
    model = build_gpt2(
        vocabulary_size=VOCABULARY, positions=positions, layers=2, width=8, heads=2, seed=seed
    )
    # Scaled in float32 and then widened: a float32 copy holds the same weights exactly.
    return _sharpen(model, scale).double()


def tiny_llama(*, seed: int = 0, scale: float = 12.0, positions: int = 4) -> PreTrainedModel:
    """Build a random Llama-like model, float32: its norms compute in that whatever the dtype."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        _ = torch.manual_seed(seed)
        return _sharpen(LlamaForCausalLM(config), scale)


def tiny_policy(
    model: nn.Module,
    *,
    eos_ids: tuple[int, ...] = (1,),
    pad_id: int = 0,
    limit: int = 4,
    transform: SamplingConfig = IDENTITY,
) -> CausalPolicy:
    """Wrap a tiny model; bos is token 0, which may also occur inside a sequence."""
    return CausalPolicy(
        model,
        bos_id=0,
        eos_ids=eos_ids,
        pad_id=pad_id,
        max_new_tokens=limit,
        transform=transform,
    )


def padded_prompts(side: str, *, filler: int = 1) -> Prompts:
    """Pad `CONTEXTS` on one side with a token that must not be seen; by default an end token."""
    longest = max(map(len, CONTEXTS)) + 1
    tokens = torch.full((len(CONTEXTS), longest), filler)
    mask = torch.zeros((len(CONTEXTS), longest), dtype=torch.bool)
    for row, context in enumerate(CONTEXTS):
        place = slice(longest - len(context), None) if side == "left" else slice(len(context))
        tokens[row, place] = torch.tensor(context)
        mask[row, place] = True
    return Prompts(tokens, mask)


class NaiveScorer:
    """Scores token by token, each prefix alone: no padding, no cache, transformers' own warpers."""

    def __init__(self, model: Any, transform: SamplingConfig) -> None:
        self.model = model
        self.warpers = naive_warpers(transform)
        self.laws: dict[tuple[int, ...], Tensor] = {}

    def log_prob(self, context: list[int], completion: list[int]) -> Tensor:
        """Return the log-probability of one completion, differentiable."""
        total = torch.zeros((), dtype=torch.float64)
        for position, token in enumerate(completion):
            prefix = (*context, *completion[:position])
            if prefix not in self.laws:
                inputs = torch.tensor([prefix])
                logits = self.model(input_ids=inputs, use_cache=False).logits[:, -1]
                self.laws[prefix] = torch.log_softmax(self.warpers(inputs, logits)[0], -1)
            total = total + self.laws[prefix][token]
        return total


def naive_warpers(transform: SamplingConfig) -> Callable[[Any, Tensor], Tensor]:
    """Return transformers' warpers in the order of its generate()."""
    warpers = LogitsProcessorList()
    if transform.temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(transform.temperature))
    if transform.top_k:
        warpers.append(TopKLogitsWarper(transform.top_k))
    if transform.top_p < 1:
        warpers.append(TopPLogitsWarper(transform.top_p))
    if transform.min_p > 0:
        warpers.append(MinPLogitsWarper(transform.min_p))
    return warpers


def enumerate_sequences(
    *, eos_ids: tuple[int, ...], pad_id: int, limit: int
) -> tuple[Tensor, Tensor]:
    """List every sequence that ends within the limit and every one that is cut there."""
    others = [token for token in range(VOCABULARY) if token not in eos_ids]
    ended = [
        (*body, eos)
        for length in range(limit)
        for body in itertools.product(others, repeat=length)
        for eos in eos_ids
    ]
    sequences = ended + list(itertools.product(others, repeat=limit))
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    padded = [(*sequence, *[pad_id] * (limit - len(sequence))) for sequence in sequences]
    return torch.tensor(padded), torch.arange(limit) < lengths[:, None]


def _sharpen(model: PreTrainedModel, scale: float) -> PreTrainedModel:
    with torch.no_grad():
        for parameter in model.parameters():
            # Matrices only: the gains of the norms stay 1, and the biases 0.
            if parameter.ndim > 1:
                _ = parameter.mul_(scale)
    return model.eval()


def numbers_held(weights: WholeWeights) -> int:
    """Return how many weights the lender's copy holds now: none but inside `of`."""
    copy = weights._copy
    return 0 if copy is None else sum(part.numel() for part in copy.model.parameters())
