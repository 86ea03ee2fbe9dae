"""The words of `python -m lm base`. Needs no torch, so that help and errors come at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lm.config.base import BaseConfig
from lm.config.code_model import CodeConfig
from lm.config.options import parse_config


def base_config(words: Sequence[str]) -> BaseConfig | CodeConfig:
    """Return what is to be trained: the word code asks for a model of functions, else of names.

    Parameters
    ----------
    words
        ``[code] [config.yaml] [--key value ...]``. A file called code comes first.
    """
    if words and words[0] == "code" and not Path("code").is_file():
        return parse_config(CodeConfig, words[1:], program="python -m lm base code")
    return parse_config(BaseConfig, words, program="python -m lm base")
