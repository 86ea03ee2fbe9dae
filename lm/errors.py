"""Errors that a user can put right. Each message says what was found and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Longest part of a library's message that is repeated; some list all architectures there are.
MOST_CHARACTERS = 400
# In torch's own words, where the machine's memory is full.
OUT_OF_MEMORY = ("DefaultCPUAllocator", "not enough memory", "can't allocate memory")


class UsageError(ValueError):
    """What was typed, or written in a recipe, cannot be done."""


class RunError(ValueError):
    """A run cannot start or continue."""


class RunBusy(RunError):
    """Another process is at work in the same folder; later it can be tried again."""


class NotFinite(RunError):
    """A model's probabilities or gradients are NaN or infinite, as in too narrow a precision."""


class RunInterrupted(Exception):
    """A run was asked to stop by a signal; everything is saved.

    Not an error of the user, and not one to catch in passing: it ends `lm.train.train`.

    Parameters
    ----------
    signal_name
        SIGTERM or SIGINT.
    step, steps
        Steps done, and steps in all.
    folder
        Where the interrupted run is.
    """

    def __init__(self, signal_name: str, step: int, steps: int, folder: str) -> None:
        # The base class keeps them, so that a worker process can hand the exception on.
        super().__init__(signal_name, step, steps, folder)

    def __str__(self) -> str:
        signal_name, step, steps, folder = self.args
        return (
            f"stopped by {signal_name} after step {step} of {steps}; everything is saved in "
            f"{folder}"
        )


class RunPlanned(Exception):
    """A run was to be planned and not to be made; not an error.

    Attributes
    ----------
    plan
        A `lm.training.plan.Plan`.
    """

    def __init__(self, plan: Any) -> None:
        super().__init__("the run was planned and not made")
        self.plan = plan


@contextmanager
def border(doing: str, advice: str) -> Iterator[None]:
    """Turn whatever is raised inside into a RunError that says what was being done.

    It stands where things meet that we did not write: a model folder, the code of a library on an
    architecture that was not tried, the files of a run. Errors that the project names itself pass,
    as do those of the operating system and of a full memory, which say enough.

    Parameters
    ----------
    doing
        What was being done: the words after "while".
    advice
        What to try, as a sentence without its point.

    Raises
    ------
    RunError
        In place of the exception, which is its cause.
    """
    try:
        yield
    except Exception as error:
        named = type(error).__module__.partition(".")[0] in {"lm", "fdpg_ref"}
        if named or isinstance(error, OSError) or is_out_of_memory(error):
            raise
        words = f"while {doing}: {reason_of(error)}"
        # A check of ours says what to do by itself.
        raise RunError(words if _is_our_check(error) else f"{words}. {advice}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the memory was full, of a GPU or of the machine; imports no torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # torch has no class of its own for the machine's.
    words = str(error)
    return isinstance(error, RuntimeError) and any(name in words for name in OUT_OF_MEMORY)


def _is_our_check(error: BaseException) -> bool:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    module = "" if last is None else last.tb_frame.f_globals.get("__name__", "")
    return isinstance(error, (ValueError, TypeError)) and module.partition(".")[0] == "lm"


def reason_of(error: BaseException) -> str:
    """Return an exception's message in one line of bounded length, with its type if that helps."""
    words = " ".join(str(error).split()).rstrip(".")
    if len(words) > MOST_CHARACTERS:
        words = f"{words[:MOST_CHARACTERS]} ..."
    # Of a ValueError the message says it all; that of a KeyError is a bare key.
    own_words = (type(error) in {ValueError, RuntimeError} or _is_our_check(error)) and words
    return words if own_words else f"{type(error).__name__}: {words}".rstrip(": ")
