"""The vocabulary of a model folder: its tokenizer if it has one, and never code of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lm.models.completions import contexts_of, rows_of, without_end
from lm.models.token_ids import ModelFolderError, TokenIds
from lm.models.vocabulary import (
    CharVocabulary,
    IdVocabulary,
    Vocabulary,
    VocabularyError,
)

CONFIG_FILE = "tokenizer_config.json"
# Any of these makes a tokenizer: the fast format, SentencePiece, and the older files of BPE.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


class TokenizerVocabulary:
    """The vocabulary of a Hugging Face tokenizer.

    Parameters
    ----------
    tokenizer
        As transformers loads it.
    ids
        The model's start and end tokens.
    size
        Number of the model's tokens; a tokenizer may know more, which the model cannot read.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ids: TokenIds, size: int) -> None:
        self.tokenizer = tokenizer
        self.ids = ids
        self.size = size

    @property
    def token_ids(self) -> dict[str, int]:
        """The id of every token of the tokenizer, added ones included."""
        return dict(self.tokenizer.get_vocab())

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn prompts into contexts as the model was trained on them.

        The tokenizer decides whether a start token opens a context (Llama's adds one, GPT-2's does
        not); an empty context gets one in any case. One that is already written out in the text, as
        chat templates do, is not doubled; an end token that the tokenizer appends is left out.

        Raises
        ------
        VocabularyError
            The tokenizer knows a token that the model does not.
        """
        return [self._context(text) for text in texts]

    def decode(
        self, tokens: Tensor, mask: Tensor, prompts: tuple[Tensor, Tensor] | None = None
    ) -> list[str]:
        """Turn samples into texts without special tokens."""
        pairs = zip(rows_of(tokens, mask), contexts_of(prompts, len(tokens)), strict=True)
        return [
            self._text([*context, *without_end(row, self.ids.eos_ids)]) for row, context in pairs
        ]

    def decode_completions(
        self, tokens: Tensor, mask: Tensor, prompts: tuple[Tensor, Tensor]
    ) -> list[str]:
        """Return what follows each prompt, its first space included.

        Decoders of SentencePiece's kind drop the space before the first word of whatever they are
        given: a completion by itself would lose it.
        """
        whole, alone = self.decode(tokens, mask, prompts), self.decode(tokens, mask)
        contexts = [tuple(row) for row in rows_of(*prompts)]
        given = {context: self._text(list(context)) for context in set(contexts)}
        return [
            # A letter of several bytes may begin in the prompt: then the prompt is no start of it.
            text.removeprefix(given[context]) if text.startswith(given[context]) else by_itself
            for text, context, by_itself in zip(whole, contexts, alone, strict=True)
        ]

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files."""
        self.tokenizer.save_pretrained(folder)

    def chat_text(self, messages: list[dict[str, str]]) -> str | None:
        """Return the text of a chat by the model's template; None if it has none.

        Where the last message is the assistant's, the model goes on with it.
        """
        if self.tokenizer.chat_template is None:
            return None
        ours = messages[-1]["role"] == "assistant"
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=not ours, continue_final_message=ours
        )
        return str(text)

    @cached_property
    def _chat_start(self) -> int | None:
        """The special token that the template writes first, if it does."""
        try:
            text = self.chat_text([{"role": "user", "content": "x"}]) or ""
        except Exception:  # a template for other messages than these
            return None
        first = self._encode(text, special=False)[:1]
        # Also those that the tokenizer has no role for: all_special_ids lacks them.
        added = self.tokenizer.added_tokens_decoder
        return first[0] if first and first[0] in added and added[first[0]].special else None

    def _context(self, text: str) -> list[int]:
        bare = self._encode(text, special=False)
        if bare and bare[0] == self._chat_start:
            # A chat begins as its template says: a start token before it would be a second one.
            return self._known(text, bare)
        ids = self._encode(text, special=True)
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if bos is not None and ids[:2] == [bos, bos] and bare[:1] == [bos]:
            ids = ids[1:]
        if eos is not None and len(ids) > 1 and ids[-1] == eos and bare[-1:] != [eos]:
            ids = ids[:-1]
        return self._known(text, ids) or [self.ids.bos_id]

    def _known(self, text: str, ids: list[int]) -> list[int]:
        unknown = [token for token in ids if token >= self.size]
        if unknown:
            raise VocabularyError(
                f"the tokenizer turns {text!r} into the token {unknown[0]}, but the model has "
                f"{self.size} tokens: tokenizer and model do not belong together"
            )
        return ids

    def _text(self, ids: list[int]) -> str:
        # Tidied spaces ("do n't" to "don't") would give two token sequences one text.
        decode = self.tokenizer.decode
        return str(decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _encode(self, text: str, *, special: bool) -> list[int]:
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise VocabularyError(
                f"the prompt {text!r} holds half of a character (a surrogate without its other "
                "half), which has no tokens: write it in full"
            )
        return list(self.tokenizer.encode(text, add_special_tokens=special))


def load_vocabulary(folder: Path, ids: TokenIds, size: int) -> Vocabulary:
    """Find the vocabulary of a model folder.

    Parameters
    ----------
    folder
        A local Hugging Face folder.
    ids
        As `lm.models.token_ids.load_ids` reads them.
    size
        Number of the model's tokens.

    Returns
    -------
    Vocabulary
        Characters if the ids name letters, the folder's tokenizer if it has one, else bare ids.

    Raises
    ------
    ModelFolderError
        The tokenizer needs code of its own, or cannot be read.
    """
    if ids.letters is not None:
        return CharVocabulary(ids.letters)
    _refuse_code(folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return IdVocabulary(ids.bos_id, ids.eos_ids, size)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    # The tokenizers library raises bare Exceptions for files that it cannot read.
    except Exception as error:
        raise ModelFolderError(f"the tokenizer of {folder} does not load: {error}") from error
    return TokenizerVocabulary(tokenizer, ids, size)


def _refuse_code(folder: Path) -> None:
    path = folder / CONFIG_FILE
    if not path.is_file():
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(stored, dict):
        raise ModelFolderError(f"{path} must hold an object, not {stored!r:.60}")
    if stored.get("auto_map"):
        raise ModelFolderError(
            f"{path} names code of its own (auto_map), which is never run (trust_remote_code is "
            "off): use a tokenizer that transformers implements itself"
        )
