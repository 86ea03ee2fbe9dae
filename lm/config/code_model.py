"""Models of short Python functions that the project trains itself; read without importing torch."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from lm.config.base import DEFAULT_CACHE
from lm.config.typed import check_types
from lm.config.validation import at_least, positive, require

# Raise it when extraction, tokenizer or training change: no stale model is taken from a cache.
CODE_VERSION = 1
WIDTH_OF_A_HEAD = 16
# The bytes and the end token.
LEAST_VOCABULARY = 257

_SIZE = re.compile(r"([1-9]\d{0,2})x([1-9]\d{0,4})")
_NAME = re.compile(r"code-([1-9]\d*x[1-9]\d*)(?:-seed(0|[1-9]\d{0,8}))?")


@dataclass(frozen=True)
class CodeConfig:
    """A GPT-2 on the short functions of the running Python's standard library."""

    size: str = "2x64"
    """transformer blocks x size of the hidden states, a multiple of 16: each head has 16"""
    seed: int = 0
    """of the weights and of the batches"""
    characters: int = 200
    """longest function that is learnt from"""
    max_new_tokens: int = 80
    """length limit of a sample, the end token included; longer functions are left out"""
    vocabulary: int = 768
    """tokens: the bytes, an end token, and the pairs that are merged"""
    steps: int = 600
    """optimiser steps"""
    batch_size: int = 64
    """functions of each step"""
    learning_rate: float = 4e-3
    """peak of Adam's learning rate: a short linear warm-up, then a cosine to zero"""

    def __post_init__(self) -> None:
        check_types(self, "base code")
        found = _SIZE.fullmatch(self.size)
        if found is None or int(found[2]) % WIDTH_OF_A_HEAD:
            raise ValueError(
                f"size is {self.size!r}: it is LAYERSxWIDTH with a width that "
                f"{WIDTH_OF_A_HEAD} divides, as 2x64 or 4x128"
            )
        require(0 <= self.seed < 10**9, f"seed is {self.seed}: it must be from 0 to 999999999")
        at_least("characters", self.characters, 40)
        at_least("max_new_tokens", self.max_new_tokens, 8)
        at_least("vocabulary", self.vocabulary, LEAST_VOCABULARY)
        at_least("steps", self.steps, 1)
        at_least("batch_size", self.batch_size, 1)
        positive("learning_rate", self.learning_rate)

    @property
    def layers(self) -> int:
        """Transformer blocks."""
        return int(self.size.partition("x")[0])

    @property
    def width(self) -> int:
        """Size of the hidden states."""
        return int(self.size.partition("x")[2])

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change with options, recipe and version of Python."""
        recipe = json.dumps([CODE_VERSION, platform.python_version(), asdict(self)], sort_keys=True)
        return hashlib.sha256(recipe.encode()).hexdigest()[:16]

    def folder(self, cache: Path = DEFAULT_CACHE) -> Path:
        """Return where the trained model of this configuration is kept."""
        return cache / "code" / f"{self.size}-seed{self.seed}-{self.fingerprint()}"


def code_model(name: str) -> CodeConfig | None:
    """Return what a recipe calls code-2x64 or code-2x64-seed1; None if the name is no such one."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return CodeConfig(size=found[1], seed=int(found[2] or 0))
