"""The token ids that sampling and scoring need, and where a model folder keeps them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from lm.models.vocabulary import CharVocabulary, VocabularyError

IDS_FILE = "fdpg_ref.json"
GENERATION_FILE = "generation_config.json"


class ModelFolderError(ValueError):
    """A folder that exists but cannot be used as a model; the message says why and what to do."""


@dataclass(frozen=True)
class TokenIds:
    """The ids that a model's folder fixes for sampling and scoring.

    Parameters
    ----------
    bos_id
        Start token, given and never scored.
    eos_ids
        Tokens that end a sequence.
    pad_id
        What fills an ended row; may equal an end token.
    max_new_tokens
        Length limit, the end token included; None if the folder does not fix one.
    letters
        The characters of a `CharVocabulary`; None for a model with a tokenizer.
    """

    bos_id: int
    eos_ids: tuple[int, ...]
    pad_id: int
    max_new_tokens: int | None = None
    letters: str | None = None

    def check(self, vocabulary_size: int) -> None:
        """Check that every id is one of the model's tokens.

        Raises
        ------
        VocabularyError
            An id lies outside the model's vocabulary, or the letters do not fill it.
        """
        roles = [("bos", self.bos_id), ("pad", self.pad_id), *(("eos", e) for e in self.eos_ids)]
        for role, token in roles:
            if not 0 <= token < vocabulary_size:
                raise VocabularyError(
                    f"the {role} id {token} lies outside the model's vocabulary of "
                    f"{vocabulary_size} tokens"
                )
        if self.letters is not None and len(CharVocabulary(self.letters)) != vocabulary_size:
            raise VocabularyError(
                f"{len(self.letters)} letters and 3 special tokens do not make the model's "
                f"vocabulary of {vocabulary_size} tokens"
            )


def save_ids(ids: TokenIds, folder: Path) -> None:
    """Write the ids beside a model."""
    (folder / IDS_FILE).write_text(json.dumps(asdict(ids), indent=2) + "\n", encoding="utf-8")


def load_ids(folder: Path, config: PreTrainedConfig) -> TokenIds:
    """Read the ids of a model folder.

    They stand in fdpg_ref.json; else in generation_config.json, where a model that ends its texts
    in several ways names all of its end tokens; else in config.json. A missing start or pad token
    is the first end token.

    Raises
    ------
    ModelFolderError
        There is no end token, or an id lies outside the model's vocabulary.
    """
    path = folder / IDS_FILE
    ids = _ids_from_json(path) if path.exists() else _ids_from_config(folder, config)
    try:
        ids.check(config.get_text_config().vocab_size)
    except VocabularyError as error:
        raise ModelFolderError(
            f"{folder}: {error}; the folder mixes a model with another one's ids"
        ) from error
    return ids


def _ids_from_json(path: Path) -> TokenIds:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        ids = TokenIds(**{**stored, "eos_ids": tuple(stored["eos_ids"])})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelFolderError(f"{path} does not hold the token ids of a model: {error}") from error
    return _whole_numbers(ids, path)


def _ids_from_config(folder: Path, config: PreTrainedConfig) -> TokenIds:
    stored = _generation_ids(folder)
    eos = _first(stored.get("eos_token_id"), config.eos_token_id)
    if eos is None:
        raise ModelFolderError(
            f"{folder} names no end token: set eos_token_id in config.json, or write {IDS_FILE} "
            'with "bos_id", "eos_ids", "pad_id" and "max_new_tokens"'
        )
    eos_ids = tuple(eos) if isinstance(eos, list | tuple) else (eos,)
    pad = _first(stored.get("pad_token_id"), config.pad_token_id, eos_ids[0])
    ids = TokenIds(
        bos_id=_first(stored.get("bos_token_id"), config.bos_token_id, eos_ids[0]),
        eos_ids=eos_ids,
        pad_id=pad,
    )
    _ = _whole_numbers(ids, folder)
    # Some models say -1 for "none"; what fills an ended row is masked in any case.
    return replace(ids, pad_id=eos_ids[0]) if pad < 0 else ids


def _whole_numbers(ids: TokenIds, where: Path) -> TokenIds:
    """Return the ids, once each is a number: a JSON file may hold anything."""
    limit, letters = ids.max_new_tokens, ids.letters
    numbers = [ids.bos_id, ids.pad_id, *ids.eos_ids, *([] if limit is None else [limit])]
    wrong = [value for value in numbers if type(value) is not int]
    if wrong or not ids.eos_ids or not isinstance(letters, str | None):
        found = wrong[0] if wrong else letters if ids.eos_ids else "no end token"
        raise ModelFolderError(
            f"{where}: a token id or length must be a whole number: {found!r:.60}"
        )
    return ids


def _generation_ids(folder: Path) -> dict[str, Any]:
    path = folder / GENERATION_FILE
    if not path.is_file():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path} is not valid JSON: {error}") from error
    return stored if isinstance(stored, dict) else {}


def _first(*candidates: Any) -> Any:
    """Return the first candidate that is not None; an empty list of end tokens counts as none."""
    return next((c for c in candidates if c is not None and c != []), None)
