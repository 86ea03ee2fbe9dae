"""What several commands ask for, and what is accepted. Needs no torch: help comes at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from lm.errors import UsageError
from lm.run.owned import holds_keys, require_replaceable_file


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours, so that they look like all others."""

    def error(self, message: str) -> NoReturn:
        """Raise a UsageError that names the command's help."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def spellings(key: str) -> list[str]:
    """Return an option as recipes spell it and as other programs do."""
    return list(dict.fromkeys([f"--{key.replace('_', '-')}", f"--{key}"]))


def add_device(parser: Parser) -> None:
    """Add the device."""
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda is a GPU (%(default)s)"
    )


def add_seed(parser: Parser, default: int, words: str) -> None:
    """Add the seed of what these words say."""
    parser.add_argument(
        "--seed", metavar="S", type=at_least(0), default=default, help=f"{words} (%(default)s)"
    )


def add_json(parser: Parser, words: str, *keys: str) -> None:
    """Add the file that a record goes to; one that is there is replaced if it holds `keys`."""

    def new_file(word: str) -> Path:
        path = Path(word)
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise argparse.ArgumentTypeError(f"{word} cannot be written: name a file in a folder")
        try:
            require_replaceable_file(path, "a record of this command", holds_keys(*keys))
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return path

    _ = parser.add_argument("--json", metavar="FILE", type=new_file, help=words)


def add_length(parser: Parser) -> None:
    """Add the length limit."""
    parser.add_argument(
        *spellings("max_new_tokens"),
        dest="max_new_tokens",
        metavar="N",
        type=at_least(1),
        help="length limit; a model that fixes none itself needs it",
    )


def boolean(word: str) -> bool:
    """Return what true or false means, and refuse other words."""
    if word.lower() not in {"true", "false"}:
        raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")
    return word.lower() == "true"


def folder(word: str) -> Path:
    """Return a path that is no file."""
    path = Path(word)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{word} is a file: name a folder")
    return path


def at_least(least: int) -> Callable[[str], int]:
    """Return what reads a whole number that is not below the least, and fits into 64 bits."""

    def integer(word: str) -> int:
        value = int(word)
        if not least <= value < 2**63:
            what = f"a number of {least} or more" if value < least else "a number of 64 bits"
            raise argparse.ArgumentTypeError(f"{word:.40} is not {what}")
        return value

    return integer
