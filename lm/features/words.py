"""What a text says: whole words, lists of words, regular expressions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lm.features.made_feature import Made


def contains(*words: str, list: str | None = None) -> Made:
    """Return 1 for a text with at least one of these words, and 0 for others.

    A word is a whole word, in capitals or not: contains(art) sees "Art", and not "start". Several
    words in quotes are a phrase. `list` names a file with one word or phrase a line.
    """
    pattern = _any_of("contains", words, list)
    names = _shown(words, list)
    return Made(
        f"the text contains {names}",
        lambda texts: np.array([float(pattern.search(text) is not None) for text in texts]),
        bounds=(0.0, 1.0),
        reads=() if list is None else (list,),
    )


def count(*words: str, list: str | None = None) -> Made:
    """Return how often one of these words stands in a text; words are read as by contains."""
    pattern = _any_of("count", words, list)
    names = _shown(words, list)
    return Made(
        f"number of times that the text contains {names}",
        lambda texts: np.array([float(len(pattern.findall(text))) for text in texts]),
        reads=() if list is None else (list,),
    )


def matches(pattern: str) -> Made:
    r"""Return 1 for a text in which a regular expression of Python finds something, else 0.

    Capitals count, unless it begins with (?i). Written as r"...", since "\b" is a backspace.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"matches({pattern!r}) is no regular expression: {error}") from error
    return Made(
        f"the text matches {pattern}",
        lambda texts: np.array([float(compiled.search(text) is not None) for text in texts]),
        bounds=(0.0, 1.0),
    )


def _any_of(name: str, words: Sequence[str], file: str | None) -> re.Pattern[str]:
    """Return a pattern that finds each of some words where no letter stands beside it."""
    wanted = [*words, *([] if file is None else _read_list(name, file))]
    if not wanted:
        raise ValueError(f'{name} needs a word: {name}(joy), or {name}(list="words.txt")')
    if bad := [word for word in wanted if not isinstance(word, str) or not word.strip()]:
        raise ValueError(f"{name} has {bad[0]!r} for a word: put it in quotes")
    # The longest first, so that a phrase is not taken for its first word.
    ordered = sorted(set(wanted), key=lambda word: (-len(word), word))
    parts = (r"\s+".join(map(re.escape, word.split())) for word in ordered)
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)", re.IGNORECASE)


def _read_list(name: str, file: str) -> list[str]:
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ValueError(
            f"{name}(list={file!r}) cannot be read ({reason}): name a text file with one word a "
            "line"
        ) from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise ValueError(f"{name}(list={file!r}) holds no word: give it one a line")
    return found


def _shown(words: Sequence[str], file: str | None) -> str:
    names = [*words, *([] if file is None else [f"a word of {file}"])]
    return " or ".join(map(str, names[:4])) + (" or others" if len(names) > 4 else "")
