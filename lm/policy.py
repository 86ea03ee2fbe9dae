"""A causal language model as a distribution over whole sequences: it samples and it scores."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lm.models import disable_dropout, load_model, save_model
from lm.sampling import Samples, sample_sequences, score_sequences
from lm.token_ids import ModelFolderError, TokenIds, load_ids
from lm.vocabulary import CharVocabulary, VocabularyError


class CausalPolicy:
    """A distribution over sequences of at most `max_new_tokens` tokens.

    Frozen base, proposal and policy are this one class. The policy owns its sampling transform
    (none so far), so that `sample` and `log_prob` cannot disagree about the distribution.

    Parameters
    ----------
    model
        A causal language model of transformers. Its dropout is switched off.
    bos_id
        Start token: given, not scored.
    eos_ids
        Tokens that end a sequence; the first one that occurs is counted, once.
    pad_id
        Fills ended rows; may equal an end token.
    max_new_tokens
        Length limit, the end token included. A sequence cut there has no end term.
    letters
        The characters of the model's `CharVocabulary`; None if it has another vocabulary.

    Raises
    ------
    ValueError
        The limit is not positive or beyond the model's positions.
    VocabularyError
        An id lies outside the model's vocabulary, or the letters do not fill it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        bos_id: int,
        eos_ids: tuple[int, ...],
        pad_id: int,
        max_new_tokens: int,
        letters: str | None = None,
    ) -> None:
        self.config = model.config
        _check_limit(max_new_tokens, getattr(self.config, "max_position_embeddings", None))
        # transformers compares every input with this id and warns where bos or a sample equals it;
        # padding here is masked by `mask` and invisible to a causal model.
        self.config.pad_token_id = None
        self.model: torch.nn.Module = disable_dropout(model).eval()
        self.max_new_tokens = max_new_tokens
        self.ids = TokenIds(bos_id, tuple(eos_ids), pad_id, max_new_tokens, letters)
        self.ids.check(self.config.vocab_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids."""
        return self.config.vocab_size

    @property
    def vocabulary(self) -> CharVocabulary:
        """The character vocabulary of this policy.

        Raises
        ------
        VocabularyError
            The model's tokens are not single characters.
        """
        if self.ids.letters is None:
            raise VocabularyError(
                f"the model has {self.vocabulary_size} tokens but no character vocabulary; use a "
                "base trained by `python -m lm base`"
            )
        return CharVocabulary(self.ids.letters)

    def sample(self, n: int, *, generator: torch.Generator) -> Samples:
        """Draw sequences.

        Parameters
        ----------
        n
            How many, at least 1.
        generator
            Source of n x max_new_tokens uniforms, drawn in one block: what a sample becomes does
            not depend on when other samples end.

        Returns
        -------
        Samples
            tokens and mask of shape (n, max_new_tokens), log_prob of shape (n,) in nats under the
            distribution that was sampled; no gradient.
        """
        if n < 1:
            raise ValueError(f"the number of samples must be at least 1, got {n}")
        shape = (n, self.max_new_tokens)
        uniforms = torch.rand(
            shape, generator=generator, dtype=torch.float64, device=generator.device
        )
        return sample_sequences(
            _unwrap(self.model),
            uniforms.to(self.device),
            bos_id=self.ids.bos_id,
            eos_ids=torch.tensor(self.ids.eos_ids, dtype=torch.int64, device=self.device),
            pad_id=self.ids.pad_id,
        )

    def log_prob(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return log pi(x) of whole sequences, differentiable.

        log pi(x) = sum_t mask_t log softmax(logits_t)[x_t], in float32 or wider.

        Parameters
        ----------
        tokens
            Shape (n, length), int64, without the start token; any filling after the end.
        mask
            Shape (n, length), bool: true up to and including the first end token, or everywhere
            in a sequence cut at the limit.

        Returns
        -------
        Tensor
            Shape (n,), nats.

        Raises
        ------
        ValueError
            Shapes or dtypes do not fit, or a sequence is longer than the limit.
        """
        if tokens.shape != mask.shape or tokens.ndim != 2 or mask.dtype != torch.bool:
            raise ValueError(
                "tokens (n, length) and a bool mask of the same shape are needed, got "
                f"{tuple(tokens.shape)} and {tuple(mask.shape)} of {mask.dtype}"
            )
        longest = int(mask.sum(-1).max())
        if not 1 <= longest <= self.max_new_tokens:
            raise ValueError(
                f"a sequence has {longest} tokens; this policy's have 1 to {self.max_new_tokens}"
            )
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        return score_sequences(self.model, tokens, mask, bos_id=self.ids.bos_id)

    def trainable_copy(self) -> Self:
        """Return an independent copy whose weights take gradients."""
        return self._copy(requires_grad=True)

    def frozen_copy(self) -> Self:
        """Return an independent copy whose weights take none."""
        return self._copy(requires_grad=False)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model as a plain Hugging Face folder with fdpg_ref.json; the folder exists."""
        save_model(_unwrap(self.model), self.ids, Path(folder))

    def _copy(self, *, requires_grad: bool) -> Self:
        model = copy.deepcopy(_unwrap(self.model)).requires_grad_(requires_grad)
        ids = self.ids
        return type(self)(
            model,
            bos_id=ids.bos_id,
            eos_ids=ids.eos_ids,
            pad_id=ids.pad_id,
            max_new_tokens=self.max_new_tokens,
            letters=ids.letters,
        )


def load_policy(
    folder: str | os.PathLike[str],
    *,
    max_new_tokens: int | None = None,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> CausalPolicy:
    """Load a model folder as a frozen policy.

    Parameters
    ----------
    folder
        A local Hugging Face folder of a causal model, with fdpg_ref.json or with eos_token_id (and
        optionally bos_token_id and pad_token_id) in its configuration.
    max_new_tokens
        Length limit; None takes the folder's.
    dtype
        Of the weights; None keeps the stored one.
    device
        Where the weights go.

    Returns
    -------
    CausalPolicy
        Without gradients; `trainable_copy` gives one to train.

    Raises
    ------
    MissingModelFolder
        There is no such folder (a FileNotFoundError).
    ModelFolderError
        The folder cannot be used (a ValueError): remote code, pickled weights, foreign ids, no
        length limit.
    """
    path = Path(folder)
    model = load_model(path, dtype=dtype)
    ids = load_ids(path, model.config)
    limit = ids.max_new_tokens if max_new_tokens is None else max_new_tokens
    if limit is None:
        raise ModelFolderError(f"{path} fixes no length limit: give max_new_tokens")
    policy = CausalPolicy(
        model.requires_grad_(False),
        bos_id=ids.bos_id,
        eos_ids=ids.eos_ids,
        pad_id=ids.pad_id,
        max_new_tokens=limit,
        letters=ids.letters,
    )
    policy.model.to(device)
    return policy


def _unwrap(model: torch.nn.Module) -> PreTrainedModel:
    """Return the model inside a wrapper for several processes, whose hooks are for training."""
    inner = getattr(model, "module", model)
    if not isinstance(inner, PreTrainedModel):
        raise TypeError(f"a policy needs a model of transformers, got {type(inner).__name__}")
    return inner


def _check_limit(max_new_tokens: int, positions: int | None) -> None:
    # The start token takes the first position and the last token is never an input.
    if max_new_tokens < 1 or (positions is not None and max_new_tokens > positions):
        raise ValueError(
            f"max_new_tokens must lie between 1 and the model's {positions} positions, got "
            f"{max_new_tokens}"
        )
