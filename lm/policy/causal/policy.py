"""A causal language model as a distribution over whole sequences: it samples and it scores."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from lm.config.sampling import SamplingConfig
from lm.models.adapter import plain_model
from lm.models.folder import disable_dropout, save_model
from lm.models.positions import Positions, usable_positions
from lm.models.token_ids import TokenIds
from lm.models.vocabulary import CharVocabulary, IdVocabulary, Vocabulary
from lm.phases import phase
from lm.policy.causal.law import law_fault, rounding_of
from lm.policy.causal.sampling import sample_sequences
from lm.policy.causal.saved import check_saved
from lm.policy.causal.scoring import TokenScorer
from lm.policy.prompts import PromptError, Prompts
from lm.policy.protocol import Policy
from lm.policy.samples import Samples
from lm.policy.transforms import IDENTITY


class CausalPolicy(Policy):
    """The policy of a causal language model: samples token by token, scores in one pass.

    What its methods take and return is said in `lm.policy.protocol.Policy`.

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
        model = plain_model(model)
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
        """Draw sequences: n for each context, row i of context i // n."""
        if n < 1:
            raise ValueError(f"the number of samples must be at least 1, got {n}")

        # Which rows, and their contexts.
        count = n if prompts is None else n * len(prompts.tokens)
        share = torch.arange(count)[slice(None) if rows is None else rows]
        if prompts is not None:
            prompts = self._contexts(prompts).rows(share // n)
        if len(share) == 0:
            raise ValueError(f"{rows} selects none of the {count} samples")

        # The uniforms of the whole batch, whoever draws which of its rows.
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
            eos_ids=self.ids.eos_ids,
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
        """Return log pi(x | context) of whole sequences, shape (n,), differentiable."""
        tokens, mask, contexts = self._inputs(tokens, mask, prompts)
        return self.scorer(tokens, mask, *contexts)

    def token_log_probs(self, samples: Samples) -> Tensor:
        """Return the law of every next token, shape (n, length, vocabulary)."""
        tokens, _, contexts = self._inputs(samples.tokens, samples.mask, samples.prompts)
        return self._bare_scorer.law(tokens, contexts).log_probs

    def numbers_per_row(self, context_length: int) -> float:
        """Return the sizes of a sequence's key-value cache and of its next-token law, together."""
        config = self.config.get_text_config()
        heads = config.num_attention_heads
        share = (getattr(config, "num_key_value_heads", None) or heads) / heads
        cache = 2 * config.num_hidden_layers * config.hidden_size * share
        return (context_length + self.max_new_tokens) * cache + config.vocab_size

    def fault(self) -> str:
        """Return why the model has no law of the next token (`lm.policy.causal.law.law_fault`)."""
        return law_fault(self.model)

    def rounding(self) -> float:
        """Return what the model's depth and its largest logit make of a rounding error."""
        return rounding_of(self.model, self.ids.bos_id)

    def score_in_chunks(self, chunk: int | None) -> None:
        """Bound how many positions have their logits in memory at once (`TokenScorer`)."""
        self._bare_scorer.score_chunk = chunk

    def with_transform(self, transform: SamplingConfig) -> Self:
        """Return a policy with the same weights, shared, and another sampling transform."""
        other = self.with_model(self.model)
        other._bare_scorer.transform = transform
        return other

    def with_model(self, model: Any) -> Self:
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
        with phase("saving the policy"):
            save_model(
                self.model,
                self.ids,
                Path(folder),
                vocabulary=self.vocabulary,
                transform=self.transform,
            )
        with phase("loading the policy again, to check what was saved"):
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

    def check_prompts(self, prompts: Prompts) -> None:
        """Raise a PromptError unless every prompt leaves room for a completion."""
        _ = self._contexts(prompts)

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


def _check_limit(max_new_tokens: int, positions: Positions) -> None:
    # The start token takes the first position and the last token is never an input.
    if max_new_tokens < 1 or (positions.number and max_new_tokens > positions.number):
        raise ValueError(
            f"max_new_tokens must lie between 1 and the model's {positions.number} positions"
            f"{positions.why}, got {max_new_tokens}"
        )
