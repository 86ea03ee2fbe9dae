"""Whole sequences: end tokens, lengths, token ratios, and samplers that are not scored."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fdpg_ref import log_softmax
from toy.museum.judges.enumeration import descends
from toy.museum.judges.sampling import NORMALISED, SAMPLER_IS_SCORER, first_end_mask, invert
from toy.museum.records import exhibit


@exhibit(
    17,
    report="huggingface/trl#2995, volcengine/verl#3741",
    oracle=descends("reverse_kl", level="token", up_to_scale=True),
)
class _LengthWeights:
    """Each sequence weighted by 1/length.

    A weight that depends on the sample changes the direction of the gradient, and a constant
    baseline (1 here) is no longer free.
    """

    @staticmethod
    def exhibit(log_policy: Tensor, log_reference: Tensor, mask: Tensor) -> Tensor:
        signal = torch.sum((log_policy - log_reference) * mask, dim=-1).detach() - 1
        score = torch.sum(log_policy * mask, dim=-1)
        return signal * score / torch.sum(mask, dim=-1)

    @staticmethod
    def twin(log_policy: Tensor, log_reference: Tensor, mask: Tensor) -> Tensor:
        signal = torch.sum((log_policy - log_reference) * mask, dim=-1).detach() - 1
        score = torch.sum(log_policy * mask, dim=-1)
        return signal * score / 3


@exhibit(19, report="huggingface/trl#6357, huggingface/trl#3091", oracle=NORMALISED)
class _DroppedEnd:
    """The end token dropped where it is the padding token.

    A mask made by comparing with the padding token drops the end of every sequence, if the two are
    one token: stopping is never scored.
    """

    @staticmethod
    def exhibit(token_log_probs: np.ndarray, tokens: np.ndarray, end: int) -> np.ndarray:
        mask = tokens != end
        return np.sum(token_log_probs * mask, axis=-1)

    @staticmethod
    def twin(token_log_probs: np.ndarray, tokens: np.ndarray, end: int) -> np.ndarray:
        mask = first_end_mask(tokens, end)
        return np.sum(token_log_probs * mask, axis=-1)


@exhibit(20, report="naver/disco", oracle=NORMALISED)
class _UnscoredFirstToken:
    """The first target token of an encoder-decoder not scored.

    The shift by one that a decoder-only model needs is applied to labels that are shifted already.
    """

    @staticmethod
    def exhibit(token_log_probs: np.ndarray, tokens: np.ndarray, end: int) -> np.ndarray:
        scored = token_log_probs * first_end_mask(tokens, end)
        return np.sum(scored[:, 1:], axis=-1)

    @staticmethod
    def twin(token_log_probs: np.ndarray, tokens: np.ndarray, end: int) -> np.ndarray:
        scored = token_log_probs * first_end_mask(tokens, end)
        return np.sum(scored, axis=-1)


@exhibit(21, report="huggingface/trl#3029, OpenRLHF#853, OpenRLHF#1319", oracle=SAMPLER_IS_SCORER)
class _UnscoredTemperature:
    """A temperature used in sampling and not in scoring.

    The log-probabilities that make up the weights are those of another distribution than the one
    that was sampled.
    """

    @staticmethod
    def exhibit(logits: np.ndarray, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        drawn = invert(log_softmax(logits / 0.6), uniforms)
        return drawn, log_softmax(logits)[drawn]

    @staticmethod
    def twin(logits: np.ndarray, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        drawn = invert(log_softmax(logits / 0.6), uniforms)
        return drawn, log_softmax(logits / 0.6)[drawn]


@exhibit(22, report="huggingface/trl#6789, NVIDIA-NeMo/RL#2053", oracle=SAMPLER_IS_SCORER)
class _UnscoredTruncation:
    """Top-k samples scored with the full softmax.

    The mean ratio of scorer to sampler is the kept mass and not 1, and the score no longer has mean
    zero.
    """

    @staticmethod
    def exhibit(logits: np.ndarray, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kept = np.where(logits >= np.sort(logits)[-3], logits, -np.inf)
        drawn = invert(log_softmax(kept), uniforms)
        return drawn, log_softmax(logits)[drawn]

    @staticmethod
    def twin(logits: np.ndarray, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kept = np.where(logits >= np.sort(logits)[-3], logits, -np.inf)
        drawn = invert(log_softmax(kept), uniforms)
        return drawn, log_softmax(kept)[drawn]


# What came with the weights of a model: its makers meant chats.
_GENERATION_CONFIG = {"temperature": 1.0, "suppress_tokens": (0, 3)}


@exhibit(45, report="own finding", oracle=SAMPLER_IS_SCORER)
class _LeakingGenerationConfig:
    """A model's own generation_config, which reaches the sampler and not the scorer.

    What a trainer does not set is filled in from the file beside the weights: tokens are never
    drawn that the scorer gives a probability.
    """

    @staticmethod
    def exhibit(logits: np.ndarray, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        options = _GENERATION_CONFIG | {"temperature": 1.0}
        allowed = ~np.isin(np.arange(logits.size), options["suppress_tokens"])
        drawn = invert(log_softmax(np.where(allowed, logits, -np.inf)), uniforms)
        return drawn, log_softmax(logits)[drawn]

    @staticmethod
    def twin(logits: np.ndarray, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        options = _GENERATION_CONFIG | {"temperature": 1.0, "suppress_tokens": ()}
        allowed = ~np.isin(np.arange(logits.size), options["suppress_tokens"])
        drawn = invert(log_softmax(np.where(allowed, logits, -np.inf)), uniforms)
        return drawn, log_softmax(logits)[drawn]


@exhibit(
    23,
    report="huggingface/trl#6586, volcengine/verl#2775",
    oracle=descends("reverse_kl", samples="stale", level="token"),
)
class _TokenMeanRatio:
    """The sequence ratio replaced by a mean over tokens.

    The geometric mean of the token ratios is not the importance weight of the sequence, which is
    their product.
    """

    @staticmethod
    def exhibit(
        log_policy: Tensor, log_reference: Tensor, log_behavior: Tensor, mask: Tensor
    ) -> Tensor:
        log_ratio = torch.sum((log_policy - log_behavior) * mask, dim=-1)
        ratio = torch.exp(log_ratio / torch.sum(mask, dim=-1))
        return ratio.detach() * torch.sum((log_policy - log_reference) * mask, dim=-1) ** 2 / 2

    @staticmethod
    def twin(
        log_policy: Tensor, log_reference: Tensor, log_behavior: Tensor, mask: Tensor
    ) -> Tensor:
        log_ratio = torch.sum((log_policy - log_behavior) * mask, dim=-1)
        ratio = torch.exp(log_ratio)
        return ratio.detach() * torch.sum((log_policy - log_reference) * mask, dim=-1) ** 2 / 2
