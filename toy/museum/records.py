"""An exhibit: a reported mistake, its corrected twin, and the oracle that tells them apart.

An exhibit is two functions and no verdict. The verdict is what the oracle measures on each of them
when the museum is run.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from types import MappingProxyType
from typing import Any, NamedTuple


class Measurement(NamedTuple):
    """The measurement of an oracle on one function.

    Attributes
    ----------
    error : float
        The deviation from what is right; NaN counts as infinitely wrong.
    bound : float
        The most that rounding explains; a larger error is a mistake.
    text : str
        The same in words, with the figures.
    """

    error: float
    bound: float
    text: str

    @property
    def flagged(self) -> bool:
        """Whether the error is beyond rounding."""
        return not self.error <= self.bound


@dataclass(frozen=True)
class Oracle:
    """A shared judge.

    Attributes
    ----------
    name : str
        The comparison that it makes, in a few words.
    measure : callable
        From a function of an exhibit to a `Measurement`; it cannot know which of the two it has.
    """

    name: str
    measure: Callable[[Callable[..., Any]], Measurement]


@dataclass(frozen=True)
class Exhibit:
    """One reported mistake beside its correction.

    Attributes
    ----------
    number : int
        Its place in the museum.
    name, report, mistake : str
        A title, where it was reported, and one sentence on what is wrong.
    oracle : Oracle
        The judge that sees it.
    exhibit, twin : callable
        A re-implementation of the mistake from its description, and the corrected function.
    """

    number: int
    name: str
    report: str
    mistake: str
    oracle: Oracle
    exhibit: Callable[..., Any]
    twin: Callable[..., Any]

    @property
    def origin(self) -> str:
        """Where the mistake was reported, as a sentence."""
        return _UNTHREADED.get(self.report, f"Reported in {self.report}.")

    @property
    def sources(self) -> tuple[list[str], list[str]]:
        """Lines of the exhibit and of the twin, without their decorators."""
        return _lines(self.exhibit), _lines(self.twin)

    @property
    def changed_lines(self) -> int:
        """Number of lines in which the twin differs: of each change, the longer side."""
        matcher = SequenceMatcher(None, *self.sources, autojunk=False)
        return sum(
            max(old_end - old, new_end - new)
            for tag, old, old_end, new, new_end in matcher.get_opcodes()
            if tag != "equal"
        )


class Record(NamedTuple):
    """An exhibit with what was measured on it and on its twin."""

    exhibit: Exhibit
    wrong: Measurement
    right: Measurement

    @property
    def passes(self) -> bool:
        """Whether the exhibit is flagged and the twin is not."""
        return self.wrong.flagged and not self.right.flagged

    @property
    def sentence(self) -> str:
        """What is wrong and how large the error came out."""
        return f"{self.exhibit.mistake}. Measured: {self.wrong.text}."


_UNTHREADED = {
    "common": "Common, and not of one project.",
    "own finding": "Found while the claims of this project were verified.",
}
_REGISTRY: dict[int, Exhibit] = {}


def exhibit(number: int, *, report: str, oracle: Oracle) -> Callable[[type], Exhibit]:
    """Register a class that has two static methods, ``exhibit`` and ``twin``.

    The first line of its docstring is the name of the exhibit, the rest says what is wrong.

    Parameters
    ----------
    number, report, oracle
        As in `Exhibit`.

    Returns
    -------
    callable
        A class decorator that returns the exhibit.

    Raises
    ------
    ValueError
        If the number is taken.
    """

    def register(cls: Any) -> Exhibit:
        if number in _REGISTRY:
            raise ValueError(f"number {number} is taken by {_REGISTRY[number].name!r}")
        name, _, mistake = inspect.cleandoc(cls.__doc__).partition("\n")
        _REGISTRY[number] = Exhibit(
            number=number,
            name=name.rstrip("."),
            report=report,
            mistake=" ".join(mistake.split()).rstrip("."),
            oracle=oracle,
            exhibit=cls.exhibit,
            twin=cls.twin,
        )
        return _REGISTRY[number]

    return register


def registered() -> Mapping[int, Exhibit]:
    """Return the exhibits registered so far by number, in order."""
    return MappingProxyType(dict(sorted(_REGISTRY.items())))


def look_at(shown: Exhibit) -> Record:
    """Run the oracle of an exhibit on it and on its twin.

    Parameters
    ----------
    shown : Exhibit
        Any of the registry.

    Returns
    -------
    Record
        Both measurements, made now.
    """
    measure = shown.oracle.measure
    return Record(shown, wrong=measure(shown.exhibit), right=measure(shown.twin))


def _lines(function: Callable[..., Any]) -> list[str]:
    source = textwrap.dedent(inspect.getsource(function)).splitlines()
    return [line for line in source if line.strip() != "@staticmethod"]
