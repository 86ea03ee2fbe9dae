"""A reward of your own, for `lm/recipes/your_model.yaml`: one finite number a text.

The argument's name says what comes: `completions` is what the model wrote, `texts` is prompt and
completion; there are `prompts` and `tokens`, too. Any other name is refused (docs/library.md).
"""

from __future__ import annotations

from collections.abc import Sequence


def vowels(completions: Sequence[str]) -> list[int]:
    """Return the number of vowels that the model wrote."""
    return [sum(letter in "aeiou" for letter in text) for text in completions]
