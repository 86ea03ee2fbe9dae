"""Vocabularies without a tokenizer, characters and bare ids, and what all of them share."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lm.models.completions import completion_mask, contexts_of, rows_of, without_end

# What a reader sees where a sample holds a special token, or stopped at the length limit without
# an end. Neither is a letter, so that such a text never equals a listed name.
SPECIAL_MARK = "¤"
CUT_MARK = "…"


class VocabularyError(ValueError):
    """Texts, ids or a model that do not fit the vocabulary."""


class Vocabulary(Protocol):
    """What turns texts into contexts and samples into texts."""

    @property
    def token_ids(self) -> dict[str, int]:
        """The id of every token. Two vocabularies are the same if these are, however loaded."""
        ...

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn prompts into whole contexts, the start token included where the model has one.

        Raises
        ------
        VocabularyError
            A text has no tokens in this vocabulary, or the model does not know one of them.
        """
        ...

    def decode(
        self, tokens: Tensor, mask: Tensor, prompts: tuple[Tensor, Tensor] | None = None
    ) -> list[str]:
        """Turn samples into texts.

        Parameters
        ----------
        tokens, mask
            Shape (n, length); the mask says which tokens count.
        prompts
            Tokens and mask of the samples' contexts, shape (n, context length), padded on either
            side: then each text is prompt and completion, decoded in one piece.

        Returns
        -------
        list of str
            n texts, without start and end token.
        """
        ...

    def decode_completions(
        self, tokens: Tensor, mask: Tensor, prompts: tuple[Tensor, Tensor]
    ) -> list[str]:
        """Return what follows each prompt: the end of the text that `decode` gives with prompts."""
        ...

    def chat_text(self, messages: list[dict[str, str]]) -> str | None:
        """Return the prompt that stands for the messages of a chat; None where nothing says so."""
        ...

    def save(self, folder: Path) -> None:
        """Write what a model folder needs to have this vocabulary, beside the token ids."""
        ...


@dataclass(frozen=True)
class CharVocabulary:
    """Characters as tokens: ids 0, 1, 2 are padding, start and end; the letters follow.

    Parameters
    ----------
    letters
        The characters, each once, in the order of their ids.
    """

    letters: str = string.ascii_lowercase

    pad_id = 0
    bos_id = 1
    eos_id = 2

    def __post_init__(self) -> None:
        if not self.letters or len(set(self.letters)) != len(self.letters):
            raise VocabularyError(f"letters must be different characters, got {self.letters!r}")

    def __len__(self) -> int:
        """Return the number of ids."""
        return 3 + len(self.letters)

    @property
    def token_ids(self) -> dict[str, int]:
        """The id of every letter."""
        return {letter: 3 + index for index, letter in enumerate(self.letters)}

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Turn texts into tokens that end in the end token.

        Parameters
        ----------
        texts
            At least one text.

        Returns
        -------
        tokens : Tensor
            Shape (texts, longest + 1), int64, padded on the right.
        mask : Tensor
            The same shape, bool: true up to and including the end token.

        Raises
        ------
        VocabularyError
            A character has no id, or there is no text.
        """
        if not texts:
            raise VocabularyError("there is no text to encode")
        rows = self._letter_ids(texts)
        tokens = torch.full((len(texts), max(map(len, texts)) + 1), self.pad_id)
        for row, letters in enumerate(rows):
            tokens[row, : len(letters) + 1] = torch.tensor([*letters, self.eos_id])
        return tokens, completion_mask(tokens, (self.eos_id,))

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn prompts into whole contexts: the start token, then the letters."""
        return [[self.bos_id, *letters] for letters in self._letter_ids(texts)]

    def decode(
        self, tokens: Tensor, mask: Tensor, prompts: tuple[Tensor, Tensor] | None = None
    ) -> list[str]:
        """Turn tokens back into texts.

        A sequence without an end token gets the mark "…", so that the cut-off start of a name is
        not taken for the name; a special token inside a sequence is shown as "¤".

        Parameters
        ----------
        tokens, mask
            Shape (n, length), as `encode` and `CausalPolicy.sample` return them.
        prompts
            As in `Vocabulary.decode`.

        Returns
        -------
        list of str
            n texts.
        """
        symbols = [SPECIAL_MARK] * 3 + list(self.letters)
        texts = []
        for row, context in zip(
            rows_of(tokens, mask), contexts_of(prompts, len(tokens)), strict=True
        ):
            ended = bool(row) and row[-1] == self.eos_id
            # The start token that opens a context is no part of the text.
            opening = context[1:] if context[:1] == [self.bos_id] else context
            body = "".join(symbols[token] for token in [*opening, *row[: len(row) - ended]])
            texts.append(body if ended else body + CUT_MARK)
        return texts

    def decode_completions(
        self, tokens: Tensor, mask: Tensor, prompts: tuple[Tensor, Tensor]
    ) -> list[str]:
        """Turn tokens into texts: letters do not depend on what is before them."""
        return self.decode(tokens, mask)

    def chat_text(self, messages: list[dict[str, str]]) -> None:
        """Return None: letters have no chat."""

    def save(self, folder: Path) -> None:
        """Write nothing: the letters are stored with the token ids."""

    def _letter_ids(self, texts: Sequence[str]) -> list[list[int]]:
        ids = self.token_ids
        for text in texts:
            unknown = sorted(set(text) - ids.keys())
            if unknown:
                raise VocabularyError(
                    f"{text!r} has the character {unknown[0]!r}; known are {self.letters!r}"
                )
        return [[ids[letter] for letter in text] for text in texts]


@dataclass(frozen=True)
class IdVocabulary:
    """Token ids as texts, for a model without a tokenizer: "5 17 3".

    Parameters
    ----------
    bos_id
        Opens every context.
    eos_ids
        End a text and are no part of it.
    size
        Number of the model's tokens.
    """

    bos_id: int
    eos_ids: tuple[int, ...]
    size: int

    @property
    def token_ids(self) -> dict[str, int]:
        """Every number, as a word, and itself."""
        return {str(token): token for token in range(self.size)}

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn ids joined by spaces into contexts; the start token is put first if it is missing.

        Raises
        ------
        VocabularyError
            A word is no id of the model.
        """
        return [self._context(text) for text in texts]

    def decode(
        self, tokens: Tensor, mask: Tensor, prompts: tuple[Tensor, Tensor] | None = None
    ) -> list[str]:
        """Turn samples into ids joined by spaces, without start and end token."""
        texts = []
        for row, context in zip(
            rows_of(tokens, mask), contexts_of(prompts, len(tokens)), strict=True
        ):
            opening = context[1:] if context[:1] == [self.bos_id] else context
            texts.append(" ".join(map(str, [*opening, *without_end(row, self.eos_ids)])))
        return texts

    def decode_completions(
        self, tokens: Tensor, mask: Tensor, prompts: tuple[Tensor, Tensor]
    ) -> list[str]:
        """Turn tokens into texts: ids do not depend on what is before them."""
        return self.decode(tokens, mask)

    def chat_text(self, messages: list[dict[str, str]]) -> None:
        """Return None: ids have no chat."""

    def save(self, folder: Path) -> None:
        """Write nothing: the ids are the texts."""

    def _context(self, text: str) -> list[int]:
        words = text.split()
        for word in words:
            # Python refuses to read a number of thousands of digits.
            is_short = word.isascii() and word.isdigit() and len(word) < 20
            if not (is_short and int(word) < self.size):
                raise VocabularyError(
                    f"{word!r:.80} in the prompt {text!r:.80} is no token id: this model has no "
                    f"tokenizer, so a prompt is a row of numbers from 0 to {self.size - 1}, joined "
                    "by spaces"
                )
        ids = [int(word) for word in words]
        return ids if ids[:1] == [self.bos_id] else [self.bos_id, *ids]
