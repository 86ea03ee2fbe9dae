"""A vocabulary of single characters with three special tokens."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# What a reader sees where a sample holds a special token, or stopped at the length limit without
# an end. Neither is a letter, so that such a text never equals a listed name.
SPECIAL_MARK = "¤"
CUT_MARK = "…"


class VocabularyError(ValueError):
    """Texts, ids or a model that do not fit the vocabulary."""


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
        ids = {letter: 3 + index for index, letter in enumerate(self.letters)}
        tokens = torch.full((len(texts), max(map(len, texts)) + 1), self.pad_id)
        for row, text in enumerate(texts):
            unknown = sorted(set(text) - ids.keys())
            if unknown:
                raise VocabularyError(
                    f"{text!r} has the character {unknown[0]!r}; known are {self.letters!r}"
                )
            tokens[row, : len(text) + 1] = torch.tensor([ids[c] for c in text] + [self.eos_id])
        lengths = torch.tensor([len(text) + 1 for text in texts])
        return tokens, torch.arange(tokens.shape[1]) < lengths[:, None]

    def decode(self, tokens: Tensor, mask: Tensor) -> list[str]:
        """Turn tokens back into texts.

        A sequence without an end token gets the mark "…", so that the cut-off start of a name is
        not taken for the name; a special token inside a sequence is shown as "¤".

        Parameters
        ----------
        tokens, mask
            Shape (n, length), as `encode` and `CausalPolicy.sample` return them.

        Returns
        -------
        list of str
            n texts.
        """
        symbols = [SPECIAL_MARK] * 3 + list(self.letters)
        texts = []
        for row, length in zip(tokens.tolist(), mask.sum(-1).tolist(), strict=True):
            ended = length > 0 and row[length - 1] == self.eos_id
            body = "".join(symbols[token] for token in row[: length - ended])
            texts.append(body if ended else body + CUT_MARK)
        return texts
