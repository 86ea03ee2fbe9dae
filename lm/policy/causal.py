"""A causal language model as a distribution over whole sequences: it samples and it scores."""

from __future__ import annotations

import copy
import inspect
import os
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lm.config.sampling import SamplingConfig
from lm.models.adapter import mark_trainable
from lm.models.folder import disable_dropout, load_model, save_model
from lm.models.hub import find_model
from lm.models.positions import Positions, usable_positions
from lm.models.token_ids import ModelFolderError, TokenIds, load_ids
from lm.models.tokenizer import load_vocabulary
from lm.models.vocabulary import CharVocabulary, IdVocabulary, Vocabulary
from lm.policy.law import law_fault
from lm.policy.prompts import PromptError, Prompts
from lm.policy.sampling import Samples, sample_sequences
from lm.policy.saved import check_saved
from lm.policy.scoring import TokenScorer
from lm.policy.transforms import IDENTITY


class SamplerMismatch(ValueError):
    """Samples of one transform scored under another without saying so."""


class CausalPolicy:
    """A distribution over sequences of at most `max_new_tokens` tokens, given a context.

    Frozen base, proposal and policy are this one class. The policy owns its sampling transform, so
    that `sample` and `log_prob` cannot disagree about the distribution. Without prompts the context
    is the start token.

    Parameters
    ----------
    model
        A causal language model of transformers, or one that peft has put adapters into. Its dropout
        is switched off.
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
    vocabulary
        What turns texts into tokens and back; None takes the letters, or the ids themselves.
    transform
        Changes the law of each next token; by default, not at all.

    Attributes
    ----------
    scorer
        The module that scores: what is wrapped for several processes, and put back here.

    Raises
    ------
    ValueError
        The limit is not positive or beyond the model's positions.
    TypeError
        The model is none of transformers, or keeps no key-value cache.
    VocabularyError
        An id lies outside the model's vocabulary, or the letters do not fill it.
    """

    def __init__(
        self,
        model: Any,
        *,
        bos_id: int,
        eos_ids: tuple[int, ...],
        pad_id: int,
        max_new_tokens: int,
        letters: str | None = None,
        vocabulary: Vocabulary | None = None,
        transform: SamplingConfig = IDENTITY,
    ) -> None:
        model = _plain(model)
        self.config = model.config
        self._positions = usable_positions(self.config)
        _check_limit(max_new_tokens, self._positions)
        # transformers compares every input with this id and warns where bos or a sample equals it;
        # padding here is masked, or stands where a causal model never looks.
        self.config.pad_token_id = None
        self.scorer: Any = TokenScorer(disable_dropout(model).eval(), transform)
        self.max_new_tokens = max_new_tokens
        self.ids = TokenIds(bos_id, tuple(eos_ids), pad_id, max_new_tokens, letters)
        self.ids.check(self.vocabulary_size)
        self._vocabulary = vocabulary

    @property
    def model(self) -> Any:
        """The model of transformers itself, whatever wraps its scorer."""
        return self._bare_scorer.model

    @property
    def transform(self) -> SamplingConfig:
        """What changes the law of each next token."""
        return self._bare_scorer.transform

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids."""
        return self.config.get_text_config().vocab_size

    @property
    def vocabulary(self) -> Vocabulary:
        """What turns texts into tokens and back."""
        if self._vocabulary is not None:
            return self._vocabulary
        if self.ids.letters is not None:
            return CharVocabulary(self.ids.letters)
        return IdVocabulary(self.ids.bos_id, self.ids.eos_ids, self.vocabulary_size)

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator,
        prompts: Prompts | None = None,
        rows: slice | None = None,
    ) -> Samples:
        """Draw sequences.

        Parameters
        ----------
        n
            How many for each of the c contexts, at least 1. Row i belongs to context i // n.
        generator
            Source of c x n x max_new_tokens uniforms, drawn in one block: what a sample becomes
            does not depend on when other samples end, nor on who draws them.
        prompts
            The contexts; None takes the start token (c = 1).
        rows
            Which of the c x n rows to draw; None draws all. Several processes take a share each.

        Returns
        -------
        Samples
            tokens and mask of shape (rows, max_new_tokens), log_prob of shape (rows,) in nats under
            the distribution that was sampled; no gradient.

        Raises
        ------
        ValueError
            n is not positive, or `rows` selects nothing.
        PromptError
            The prompts do not fit the model (a ValueError).
        """
        if n < 1:
            raise ValueError(f"the number of samples must be at least 1, got {n}")
        count = n if prompts is None else n * len(prompts.tokens)
        share = torch.arange(count)[slice(None) if rows is None else rows]
        if prompts is not None:
            prompts = self._contexts(prompts).rows(share // n)
        if len(share) == 0:
            raise ValueError(f"{rows} selects none of the {count} samples")
        uniforms = torch.rand(
            (count, self.max_new_tokens),
            generator=generator,
            dtype=torch.float64,
            device=generator.device,
        )
        contexts = self._start(len(share)) if prompts is None else prompts
        samples = sample_sequences(
            self.model,
            uniforms[share.to(uniforms.device)].to(self.device),
            contexts=contexts,
            eos_ids=torch.tensor(self.ids.eos_ids, dtype=torch.int64, device=self.device),
            pad_id=self.ids.pad_id,
            transform=self.transform,
        )
        return samples._replace(prompts=None if prompts is None else contexts)

    def log_prob(
        self,
        tokens: Tensor,
        mask: Tensor,
        *,
        prompts: Prompts | None = None,
    ) -> Tensor:
        """Return log pi(x | context) of whole sequences, differentiable.

        log pi(x | c) = sum_t mask_t log q(x_t | c, x_<t), in float32 or wider, with q the softmax
        of the model's logits under this policy's transform.

        Parameters
        ----------
        tokens
            Shape (n, length), int64, without the context; any filling after the end.
        mask
            Shape (n, length), bool: true up to and including the first end token, or everywhere
            in a sequence cut at the limit.
        prompts
            n contexts, one for each sequence; None takes the start token.

        Returns
        -------
        Tensor
            Shape (n,), nats; -inf where the transform excludes the sequence.

        Raises
        ------
        ValueError
            Shapes or dtypes do not fit, or a sequence is longer than the limit.
        PromptError
            The prompts do not fit the model or the sequences (a ValueError).
        """
        tokens, mask, contexts = self._inputs(tokens, mask, prompts)
        return self.scorer(tokens, mask, *contexts)

    def score(self, samples: Samples, *, off_policy: bool = False) -> Tensor:
        """Return log pi(x | context) of samples, differentiable.

        Parameters
        ----------
        samples
            Of any policy over the same vocabulary.
        off_policy
            Whether the samples may come from another transform than this policy's. Then they are
            samples of another law: weigh them by exp(this - samples.log_prob).

        Returns
        -------
        Tensor
            Shape (n,), nats.

        Raises
        ------
        SamplerMismatch
            The transforms differ, and `off_policy` is not set.
        """
        if samples.transform != self.transform and not off_policy:
            raise SamplerMismatch(
                f"samples drawn under {samples.transform} are not this policy's, which has "
                f"{self.transform}: score them with a policy of their transform, or set off_policy "
                "and weigh them"
            )
        return self.log_prob(samples.tokens, samples.mask, prompts=samples.prompts)

    def token_log_probs(self, samples: Samples) -> Tensor:
        """Return the law of every next token along samples, differentiable.

        Parameters
        ----------
        samples
            n samples of any policy over the same vocabulary. All are in memory at once: give a few
            rows at a time.

        Returns
        -------
        Tensor
            Shape (n, length, vocabulary), nats; meaningless after the end of a sequence.
        """
        tokens, _, contexts = self._inputs(samples.tokens, samples.mask, samples.prompts)
        return self._bare_scorer.law(tokens, contexts).log_probs

    def decode(self, samples: Samples) -> list[str]:
        """Return the texts of samples: prompt and completion, without start and end token."""
        return self.vocabulary.decode(samples.tokens, samples.mask, samples.prompts)

    def trainable_copy(self) -> Self:
        """Return an independent copy whose weights take gradients; an adapter's only, if any."""
        model = copy.deepcopy(self.model)
        mark_trainable(model)
        return self.with_model(model)

    def frozen_copy(self) -> Self:
        """Return an independent copy whose weights take none."""
        return self.with_model(copy.deepcopy(self.model).requires_grad_(False))

    def with_transform(self, transform: SamplingConfig) -> Self:
        """Return a policy with the same weights, shared, and another sampling transform."""
        other = self.with_model(self.model)
        other._bare_scorer.transform = transform
        return other

    def with_model(self, model: PreTrainedModel) -> Self:
        """Return a policy like this one around another model, over the same vocabulary."""
        ids, scorer = self.ids, self._bare_scorer
        other = type(self)(
            model,
            bos_id=ids.bos_id,
            eos_ids=ids.eos_ids,
            pad_id=ids.pad_id,
            max_new_tokens=self.max_new_tokens,
            letters=ids.letters,
            transform=scorer.transform,
            vocabulary=self._vocabulary,
        )
        other._bare_scorer.score_chunk = scorer.score_chunk
        other._bare_scorer.single_group = scorer.single_group
        return other

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a plain Hugging Face folder with fdpg_ref.json; the folder exists.

        Raises
        ------
        WrongSave
            The folder, loaded again, is another policy than this one (a RunError).
        """
        save_model(
            self.model,
            self.ids,
            Path(folder),
            vocabulary=self.vocabulary,
            transform=self.transform,
        )
        check_saved(self, Path(folder))

    @property
    def _bare_scorer(self) -> TokenScorer:
        scorer = getattr(self.scorer, "module", self.scorer)
        if not isinstance(scorer, TokenScorer):
            raise TypeError(f"a policy's scorer is a TokenScorer, got {type(scorer).__name__}")
        return scorer

    def _start(self, n: int) -> Prompts:
        tokens = torch.full((n, 1), self.ids.bos_id, device=self.device)
        return Prompts(tokens, torch.ones_like(tokens, dtype=torch.bool))

    def _contexts(self, prompts: Prompts) -> Prompts:
        """Check prompts and pad them on the left."""
        prompts = prompts.checked(self.vocabulary_size)
        prompts.check_room(self.max_new_tokens, self._positions)
        return prompts.to(self.device)

    def _inputs(
        self, tokens: Tensor, mask: Tensor, prompts: Prompts | None
    ) -> tuple[Tensor, Tensor, Prompts]:
        """Check what is scored and put it where the weights are."""
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
        if prompts is None:
            contexts = self._start(len(tokens))
        elif len(prompts.tokens) == len(tokens):
            contexts = self._contexts(prompts)
        else:
            raise PromptError(
                f"{len(prompts.tokens)} prompts do not go with {len(tokens)} sequences: give one "
                "for each (prompts.repeat(n))"
            )
        return tokens.to(self.device), mask.to(self.device), contexts


def load_policy(
    name_or_folder: str | os.PathLike[str],
    *,
    max_new_tokens: int | None = None,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    transform: SamplingConfig = IDENTITY,
) -> CausalPolicy:
    """Load a model as a frozen policy.

    Parameters
    ----------
    name_or_folder
        A local Hugging Face folder of a causal model, or its name on the hub
        (`lm.models.hub.find_model`); with fdpg_ref.json or with eos_token_id (and optionally
        bos_token_id and pad_token_id) in its configuration.
    max_new_tokens
        Length limit; None takes the folder's.
    dtype
        Of the weights; None keeps the stored one.
    device
        Where the weights go.
    transform
        The policy's sampling transform.

    Returns
    -------
    CausalPolicy
        Without gradients; `trainable_copy` gives one to train.

    Raises
    ------
    MissingModelFolder
        There is no such folder and no such model on the hub (a FileNotFoundError).
    ModelFolderError
        The folder cannot be used (a ValueError): remote code, pickled weights, foreign ids, no
        length limit.
    """
    path = find_model(name_or_folder)
    model = load_model(path, dtype=dtype)
    ids = load_ids(path, model.config)
    limit = ids.max_new_tokens if max_new_tokens is None else max_new_tokens
    if limit is None:
        raise ModelFolderError(
            f"{path} fixes no length limit for samples: give max_new_tokens (on the command line "
            "--max_new_tokens N)"
        )
    policy = CausalPolicy(
        model.requires_grad_(False),
        bos_id=ids.bos_id,
        eos_ids=ids.eos_ids,
        pad_id=ids.pad_id,
        max_new_tokens=limit,
        letters=ids.letters,
        transform=transform,
        vocabulary=load_vocabulary(path, ids, model.config.get_text_config().vocab_size),
    )
    policy.scorer.to(device)
    if fault := law_fault(policy.model):
        raise ModelFolderError(f"{path} ({type(model).__name__}) cannot be used: {fault}")
    return policy


def _plain(model: Any) -> PreTrainedModel:
    """Return the model of transformers, without the wrapper that peft puts around it."""
    # By the name of peft's method: importing peft costs a second. The adapters stay, in the layers.
    unwrap: Any = (
        None if isinstance(model, PreTrainedModel) else getattr(model, "get_base_model", None)
    )
    inner: Any = model if unwrap is None else unwrap()
    if not isinstance(inner, PreTrainedModel):
        raise TypeError(f"a policy needs a model of transformers, got {type(inner).__name__}")
    adapter: Any = None if unwrap is None else getattr(model, "active_peft_config", None)
    if adapter is not None and adapter.is_prompt_learning:
        raise TypeError(
            f"{adapter.peft_type} puts virtual tokens before the prompt instead of adapters into "
            "the model, which a policy would leave out: use LoRA"
        )
    if "past_key_values" not in inspect.signature(inner.forward).parameters:
        # It would be ignored, and every token sampled as if it were the first one.
        raise TypeError(
            f"{type(inner).__name__} takes no past_key_values, which sampling token by token rests "
            "on: use an architecture with attention"
        )
    return inner


def _check_limit(max_new_tokens: int, positions: Positions) -> None:
    # The start token takes the first position and the last token is never an input.
    if max_new_tokens < 1 or (positions.number and max_new_tokens > positions.number):
        raise ValueError(
            f"max_new_tokens must lie between 1 and the model's {positions.number} positions"
            f"{positions.why}, got {max_new_tokens}"
        )
