"""Tiny random language models whose every sequence can be enumerated (ring c of the tests)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lm.models import build_gpt2
from lm.policy import CausalPolicy

VOCABULARY = 4


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
    model: PreTrainedModel, *, eos_ids: tuple[int, ...] = (1,), pad_id: int = 0, limit: int = 4
) -> CausalPolicy:
    """Wrap a tiny model; bos is token 0, which may also occur inside a sequence."""
    return CausalPolicy(model, bos_id=0, eos_ids=eos_ids, pad_id=pad_id, max_new_tokens=limit)


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
