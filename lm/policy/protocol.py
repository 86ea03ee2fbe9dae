"""What every family of policies is: a distribution over whole sequences that samples and scores.

The loop, the targets and the evaluation know a policy by this alone. A new family (an
encoder-decoder, say) is a package beside `lm.policy.causal` with a class that inherits from
`Policy` and writes out the methods that have no body here; `lm.policy.load.load_policy` is where a
model's configuration chooses it. `tests/lm/test_second_family.py` trains one.
"""

from __future__ import annotations

import copy
import os
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from lm.config.sampling import SamplingConfig
from lm.errors import RunError
from lm.models.adapter import mark_trainable
from lm.models.token_ids import TokenIds
from lm.models.vocabulary import Vocabulary
from lm.policy.prompts import Prompts
from lm.policy.samples import Samples


class SamplerMismatch(ValueError):
    """Samples of one transform scored under another without saying so."""


class Policy(Protocol):
    """A distribution over sequences of at most `max_new_tokens` tokens, given a context.

    Frozen base, proposal and trained policy are all of this kind. A policy owns its sampling
    transform, so that `sample` and `log_prob` cannot disagree about the distribution. Without
    prompts the context is the start token.

    Attributes
    ----------
    scorer
        The torch module that scores: what is wrapped for several processes, and put back here.
    ids
        Start, end and filling tokens.
    max_new_tokens
        Length limit, the end token included. A sequence cut there has no end term.
    """

    scorer: Any
    ids: TokenIds
    max_new_tokens: int

    @property
    def model(self) -> Any:
        """The torch module that holds the weights, whatever wraps the scorer."""
        ...

    @property
    def transform(self) -> SamplingConfig:
        """What changes the law of each next token."""
        ...

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """What turns texts into tokens and back."""
        ...

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
        ...

    def log_prob(self, tokens: Tensor, mask: Tensor, *, prompts: Prompts | None = None) -> Tensor:
        """Return log pi(x | context) of whole sequences, differentiable.

        log pi(x | c) = sum_t mask_t log q(x_t | c, x_<t), in float32 or wider, with q the softmax
        of the model's logits under this policy's transform.

        Parameters
        ----------
        tokens
            Shape (n, length), int64, without the context; any filling after the end.
        mask
            Shape (n, length), bool: true up to and including the first end token, or everywhere
            in a sequence cut at the limit (`lm.models.completions.completion_mask`).
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
        ...

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
        ...

    def numbers_per_row(self, context_length: int) -> float:
        """Return how many numbers one sequence keeps in memory while it is sampled or scored.

        Parameters
        ----------
        context_length
            Tokens of the longest prompt.
        """
        ...

    def with_model(self, model: Any) -> Self:
        """Return a policy like this one around another model, over the same vocabulary."""
        ...

    def with_transform(self, transform: SamplingConfig) -> Self:
        """Return a policy with the same weights, shared, and another sampling transform."""
        ...

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write what `lm.policy.load.load_policy` reads; the folder exists."""
        ...

    # What follows is the same in every family.

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

    def score_in_chunks(self, chunk: int | None) -> None:
        """Bound how many positions have their logits in memory at once while scoring.

        Parameters
        ----------
        chunk
            None is no bound.

        Raises
        ------
        RunError
            This family has no such bound.
        """
        if chunk is not None:
            raise RunError(
                f"score_chunk is {chunk}, but {type(self).__name__} cannot score in chunks: leave "
                "it out; a smaller micro_batch_size bounds the memory as well"
            )

    def fault(self) -> str:
        """Return why the model cannot be sampled and scored by one law; an empty text if it can."""
        return ""

    def rounding(self) -> float:
        """Return how many times the usual rounding a log-probability of this model may show."""
        return 1.0

    def check_prompts(self, prompts: Prompts) -> None:
        """Raise a PromptError if a prompt cannot be continued, before anything is drawn."""

    def decode(self, samples: Samples) -> list[str]:
        """Return the texts of samples: prompt and completion, without start and end token."""
        return self.vocabulary.decode(samples.tokens, samples.mask, samples.prompts)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def trainable_copy(self) -> Self:
        """Return an independent copy whose weights take gradients; an adapter's only, if any."""
        model = copy.deepcopy(self.model)
        mark_trainable(model)
        return self.with_model(model)

    def frozen_copy(self) -> Self:
        """Return an independent copy whose weights take none."""
        return self.with_model(copy.deepcopy(self.model).requires_grad_(False))
