"""Samples as people, features and targets see them: texts, prompts, completions, values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lm.features.registry import feature_values
from lm.policy.prompts import Prompts
from lm.policy.protocol import Policy
from lm.policy.samples import Samples


class Reading(NamedTuple):
    """Samples as texts.

    Attributes
    ----------
    texts, prompts, completions
        n strings each: the whole text, what was given (empty without prompts), what was written.
    tokens
        Token ids of each completion, its end token included.
    features
        Shape (n, features): the target's features; no columns for a target without any.
    listed
        Shape (n,), bool: whether the text is a name on the list; never where there is no list.
    columns
        What else is known of each text's prompt: n values by name; none without prompts.
    """

    texts: list[str]
    prompts: list[str]
    completions: list[str]
    tokens: list[list[int]]
    features: Tensor
    listed: Tensor
    columns: Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Reader:
    """Turns samples into texts and features.

    Parameters
    ----------
    base
        Knows the vocabulary.
    features
        Names of the target's features.
    known
        The listed names.
    prompt_texts
        The text of every prompt, by its tokens.
    prompt_columns
        What else is known of every prompt, likewise; all have the same columns, or there are none.
    """

    base: Policy
    features: tuple[str, ...]
    known: frozenset[str]
    prompt_texts: Mapping[tuple[int, ...], str]
    prompt_columns: Mapping[tuple[int, ...], Mapping[str, Any]] = field(default_factory=dict)

    def read(self, samples: Samples) -> Reading:
        """Decode samples and evaluate the features on them.

        Parameters
        ----------
        samples
            Of any policy over the base's vocabulary.

        Returns
        -------
        Reading
            Features and listed on the samples' device.

        Raises
        ------
        RunError
            A feature raises or is not finite; the text is named.
        """
        rows, lengths = samples.tokens.tolist(), samples.mask.sum(-1).tolist()
        tokens = [row[:length] for row, length in zip(rows, lengths, strict=True)]
        texts = self.base.decode(samples)
        prompts, completions = self.parts(samples, texts)
        columns = dict[str, list[Any]]()
        if samples.prompts is not None and self.prompt_texts:
            # What stands beside each prompt comes with its samples.
            columns = self._columns_of(prompt_keys(samples.prompts))

        # The target's features, on the device of the samples.
        log_prob = samples.log_prob
        values = log_prob.new_zeros(len(texts), 0)
        if self.features:
            found = feature_values(
                self.features,
                texts,
                prompts=prompts,
                completions=completions,
                tokens=tokens,
                columns=columns,
            )
            values = torch.from_numpy(found).to(log_prob)
        listed = torch.tensor([text in self.known for text in texts], device=log_prob.device)
        return Reading(texts, prompts, completions, tokens, values, listed, columns)

    def parts(self, samples: Samples, texts: list[str]) -> tuple[list[str], list[str]]:
        """Return what was given and what was written of each sample; no feature is called."""
        if samples.prompts is None or not self.prompt_texts:
            return [""] * len(texts), texts
        prompts = [self.prompt_texts[key] for key in prompt_keys(samples.prompts)]
        return prompts, self.base.vocabulary.decode_completions(
            samples.tokens, samples.mask, samples.prompts
        )

    def _columns_of(self, keys: list[tuple[int, ...]]) -> dict[str, list[Any]]:
        if not self.prompt_columns:
            return {}
        rows = [self.prompt_columns[key] for key in keys]
        return {name: [row[name] for row in rows] for name in rows[0]}


def prompt_keys(prompts: Prompts) -> list[tuple[int, ...]]:
    """Return the tokens of each prompt without its padding."""
    rows = zip(prompts.tokens.tolist(), prompts.mask.tolist(), strict=True)
    return [
        tuple(token for token, real in zip(tokens, mask, strict=True) if real)
        for tokens, mask in rows
    ]
