"""Reading prompts: from a text file with one per line, JSON lines, or a data set."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from lm.errors import RunError
from lm.target.data_set import HUB, read_rows
from lm.target.partition import StatedZ

JSON_LINES = (".jsonl", ".ndjson")
# Files that hold prompts in a form of their own: as text, each would become nonsense.
OTHER_FORMS = (
    *(".json", ".csv", ".tsv", ".yaml", ".yml", ".xml", ".html", ".parquet", ".arrow", ".feather"),
    *(".pkl", ".pickle", ".npy", ".npz", ".pt", ".safetensors", ".xls", ".xlsx", ".ods", ".sqlite"),
    *(".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".pdf", ".doc", ".docx", ".rtf"),
)
# Messages of a chat may stand here as well as under the prompt's own key.
MESSAGES = "messages"
# From messages to the text that the model is given; None for a model without a template.
Chat = Callable[[list[dict[str, str]]], str | None]
ADVICE = (
    'name a text file with one prompt per line, a .jsonl file with the key "prompt", or the folder '
    "of a data set"
)


# The columns that `python -m lm partition` writes: nats, and their standard error.
Z_COLUMNS = ("log_z", "log_z_error")


class PromptLine(NamedTuple):
    """A prompt, the line of its file (from 1), what else stands there, and the line as it was."""

    number: int
    text: str
    columns: Mapping[str, Any] = MappingProxyType({})
    row: Mapping[str, Any] | None = None


def read_prompt_lines(
    path: str, *, column: str = "prompt", split: str = "train", chat: Chat | None = None
) -> list[PromptLine]:
    """Read the prompts of a run, each with its line and its columns.

    Parameters
    ----------
    path
        A text file with one prompt per line (empty lines are left out); a ``.jsonl`` or ``.ndjson``
        file whose lines are objects with the prompt under a key, which may hold line breaks; the
        folder of a data set, or ``hf:NAME`` of one on the hub.
    column
        The key or column that holds the prompt.
    split
        Of a data set that has several.
    chat
        The model's chat template, for prompts that are messages.

    Returns
    -------
    list of PromptLine
        At least one prompt, none of them empty, none twice.

    Raises
    ------
    RunError
        The file cannot be read, a line is not what it should be, nothing is left, there is no such
        column, or the model has no template.
    """
    suffix = Path(path).suffix.lower()
    if path.startswith(HUB) or Path(path).is_dir():
        prompts = list(_from_rows(path, read_rows(path, split), column, chat))
    elif suffix in OTHER_FORMS:
        raise RunError(f"prompts.file {path} is a {suffix} file, which is not read: {ADVICE}")
    elif suffix in JSON_LINES:
        prompts = list(_from_rows(path, _from_json_lines(path, _text_of(path)), column, chat))
    else:
        prompts = [
            PromptLine(number, prompt) for number, prompt in _from_text(path, _text_of(path))
        ]

    if not prompts:
        raise RunError(f"prompts.file {path} holds no prompt: give it one per line")
    first: dict[str, int] = {}
    for number, prompt, *_ in prompts:
        if not _is_unicode(prompt):
            raise RunError(
                f"prompts.file {path}, line {number} holds half of a character (a lone "
                f"surrogate), which no tokenizer takes: {prompt!r:.80}"
            )
        if prompt in first:
            raise RunError(
                f"prompts.file {path} holds {prompt!r:.80} twice, in the lines {first[prompt]} and "
                f"{number}: every prompt has a Z of its own, so leave each one in once"
            )
        first[prompt] = number
    return prompts


def shared_columns(lines: Sequence[PromptLine]) -> list[str]:
    """Return the columns that every prompt has."""
    if not lines:
        return []
    return [name for name in lines[0].columns if all(name in line.columns for line in lines)]


def columns_of(lines: Sequence[PromptLine]) -> list[dict[str, Any]]:
    """Return for every prompt what stands in the columns that all have."""
    shared = shared_columns(lines)
    return [{name: line.columns[name] for name in shared} for line in lines]


def stated_z(path: str, lines: Sequence[PromptLine], *, most: float = math.inf) -> StatedZ:
    """Return log Z of every prompt as the columns log_z and log_z_error state it.

    Parameters
    ----------
    path
        The file, for messages.
    lines
        Its prompts.
    most
        The largest log Z that the target can have, in nats.

    Returns
    -------
    StatedZ
        Without errors where no line states one.

    Raises
    ------
    RunError
        A line states none or no finite number, or a prompt has no target mass.
    """
    name, beside = Z_COLUMNS
    if not any(name in line.columns for line in lines):
        there = ", ".join(shared_columns(lines)) or "none"
        raise RunError(
            f"partition.policy column takes log Z of each prompt from the column {name}, which "
            f"prompts.file {path} does not have (it has {there}): python -m lm partition writes it"
        )
    log_z = [_stated(path, line, name) for line in lines]
    for line, value in zip(lines, log_z, strict=True):
        if value > most:
            raise RunError(
                f"prompts.file {path}, line {line.number} has {name} {value:g}: of a constraint Z "
                "is the share of the base's texts that pass, so that its natural logarithm is at "
                "most 0"
            )
    if not any(beside in line.columns for line in lines):
        return StatedZ(torch.tensor(log_z, dtype=torch.float64), None)

    errors = [_stated(path, line, beside) for line in lines]
    negative = [line.number for line, error in zip(lines, errors, strict=True) if error < 0]
    if negative:
        raise RunError(f"prompts.file {path}, line {negative[0]} has a negative {beside}")
    return StatedZ(*(torch.tensor(column, dtype=torch.float64) for column in (log_z, errors)))


def _stated(path: str, line: PromptLine, name: str) -> float:
    where, value = f"prompts.file {path}, line {line.number}", line.columns.get(name)
    if value is None:
        raise RunError(
            f"{where} has no {name}, which partition.policy column needs for every prompt: "
            "python -m lm partition leaves it empty where no sample met the target; leave the "
            "line out, or use more --samples there"
        )
    if value == -math.inf:
        raise RunError(
            f"{where} has {name} -inf: the prompt has no target mass, so there is nothing to "
            "learn from it: leave the line out"
        )
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # JSON holds whole numbers of any size, and isfinite takes no more than a float does.
    if not number or not abs(value) <= sys.float_info.max:
        raise RunError(f"{where} has {name} {value!r:.60}: it must be a finite number, in nats")
    return float(value)


def refuse_same_tokens(
    path: str, lines: Sequence[PromptLine], rows: Sequence[Sequence[int]]
) -> None:
    """Raise a RunError if two prompts are the same to the model, or one is nothing to it.

    Parameters
    ----------
    path
        The file, for the message.
    lines
        Its prompts.
    rows
        Their tokens.
    """
    first: dict[tuple[int, ...], PromptLine] = {}
    for line, row in zip(lines, rows, strict=True):
        if len(row) == 0:
            raise RunError(f"prompts.file {path}, line {line.number} has no token: {line.text!r}")
        other = first.setdefault(tuple(row), line)
        if other is not line:
            raise RunError(
                f"prompts.file {path}: the lines {other.number} and {line.number} have the same "
                f"tokens ({other.text!r:.60} and {line.text!r:.60}), so that they are one prompt "
                "to the model: leave one of them out"
            )


def _text_of(path: str) -> str:
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")  # a mark of the byte order is dropped
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RunError(f"prompts.file {path} cannot be read ({reason}): {ADVICE}") from error
    if "\0" in text:
        raise RunError(f"prompts.file {path} holds zero bytes, so it is no UTF-8 text: {ADVICE}")
    return text


def _lines_of(text: str) -> Iterator[tuple[int, str]]:
    # Not splitlines: a prompt may hold U+2028 and its like.
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if line.strip():
            yield number, line


def _from_text(path: str, text: str) -> Iterator[tuple[int, str]]:
    for number, line in _lines_of(text):
        if "\r" in line:
            raise RunError(
                f"prompts.file {path}, line {number} holds a carriage return: end lines with a "
                "line feed, or use a .jsonl file, where a prompt may hold it"
            )
        if number == 1 and _looks_like_json(line):
            raise RunError(
                f"prompts.file {path} holds JSON, which would become part of the prompts: give "
                "it a name that ends in .jsonl, with one object per line"
            )
        yield number, line


def _from_json_lines(path: str, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in _lines_of(text):
        where = f"prompts.file {path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RunError(f"{where} is not valid JSON: {error}") from error
        yield number, record


def _from_rows(
    path: str, rows: Iterator[tuple[int, Any]], column: str, chat: Chat | None
) -> Iterator[PromptLine]:
    for number, row in rows:
        where = f"prompts.file {path}, line {number}"
        named = row if isinstance(row, dict) else {}
        key = column if column in named or MESSAGES not in named else MESSAGES
        prompt = named.get(key)
        if isinstance(prompt, list):
            prompt = _chat_text(where, prompt, chat)
        if not isinstance(prompt, str) or not prompt.strip():
            listed = f" (it has {', '.join(map(str, named))})" if named else ""
            raise RunError(
                f'{where} has no text under the key "{column}"{listed}: {row!s:.80}; '
                "prompts.column names another key"
            )
        columns = {str(k): v for k, v in named.items() if k != key}
        yield PromptLine(number, prompt, columns, named)


def _chat_text(where: str, messages: list[Any], chat: Chat | None) -> str:
    """Return what the model is given for the messages of a chat."""
    for message in messages:
        parts = message if isinstance(message, dict) else {}
        if not all(isinstance(parts.get(key), str) for key in ("role", "content")):
            raise RunError(
                f"{where} holds the message {message!r:.80}: it must be an object with the texts "
                '"role" and "content"'
            )
    if not messages:
        raise RunError(f"{where} holds no message: leave the line out")

    try:
        text = None if chat is None else chat(messages)
    # A template is a program of the model's folder, and refuses what it was not written for.
    except Exception as error:
        raise RunError(f"{where}: the model's chat template refuses it: {error}") from error
    if text is None:
        raise RunError(
            f"{where} holds messages of a chat, but the model has no chat template: give the "
            "prompt as a text, or take a model that was trained on chats"
        )
    return text


def _looks_like_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict | list)
    except (ValueError, RecursionError):
        return line.strip() in {"{", "["}


def _is_unicode(text: str) -> bool:
    try:
        _ = text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
