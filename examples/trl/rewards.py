"""Two reward functions in the form that TRL asks for: replace them by yours."""

from __future__ import annotations

from typing import Any


def digits(completions: list[Any], **columns: Any) -> list[float]:
    """Return the number of digits that a completion holds, for target reward."""
    return [float(sum(letter.isdigit() for letter in text_of(one))) for one in completions]


def solved(completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """Return 1 where a completion ends in the column `answer`, else 0: for target verifier."""
    pairs = zip(completions, answer, strict=True)
    return [float(text_of(one).strip().endswith(known)) for one, known in pairs]


def text_of(completion: Any) -> str:
    """Return the text of a completion, which is a list of messages where the prompt is one."""
    return completion if isinstance(completion, str) else completion[-1]["content"]
