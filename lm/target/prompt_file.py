"""Reading prompts from a file: one per line, or JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lm.errors import RunError

JSON_LINES = (".jsonl", ".ndjson")
# Files that hold prompts in a form of their own: as text, each would become nonsense.
OTHER_FORMS = (
    *(".json", ".csv", ".tsv", ".yaml", ".yml", ".xml", ".html", ".parquet", ".arrow", ".feather"),
    *(".pkl", ".pickle", ".npy", ".npz", ".pt", ".safetensors", ".xls", ".xlsx", ".ods", ".sqlite"),
    *(".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".pdf", ".doc", ".docx", ".rtf"),
)
ADVICE = 'name a text file with one prompt per line, or a .jsonl file with the key "prompt"'


class PromptLine(NamedTuple):
    """A prompt, and the line of its file, from 1."""

    number: int
    text: str


def read_prompts(path: str) -> list[str]:
    """Read the prompts of a run.

    Parameters
    ----------
    path
        A text file with one prompt per line (empty lines are left out), or a ``.jsonl`` or
        ``.ndjson`` file whose lines are objects with the key "prompt", which may hold line breaks.

    Returns
    -------
    list of str
        At least one prompt, none of them empty, none twice.

    Raises
    ------
    RunError
        The file cannot be read, a line is not what it should be, or nothing is left.
    """
    return [line.text for line in read_prompt_lines(path)]


def read_prompt_lines(path: str) -> list[PromptLine]:
    """Read the prompts of a run as `read_prompts` does, each with the number of its line."""
    suffix = Path(path).suffix.lower()
    if suffix in OTHER_FORMS:
        raise RunError(f"prompts.file {path} is a {suffix} file, which is not read: {ADVICE}")
    text = _text_of(path)
    parse = _from_json_lines if suffix in JSON_LINES else _from_text
    prompts = [PromptLine(number, prompt) for number, prompt in parse(path, text)]

    if not prompts:
        raise RunError(f"prompts.file {path} holds no prompt: give it one per line")
    first: dict[str, int] = {}
    for number, prompt in prompts:
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


def _from_json_lines(path: str, text: str) -> Iterator[tuple[int, str]]:
    for number, line in _lines_of(text):
        where = f"prompts.file {path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RunError(f"{where} is not valid JSON: {error}") from error
        prompt = record.get("prompt") if isinstance(record, dict) else None
        if not isinstance(prompt, str) or not prompt.strip():
            raise RunError(f'{where} has no text under the key "prompt": {line[:80]}')
        yield number, prompt


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
