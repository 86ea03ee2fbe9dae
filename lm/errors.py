"""Errors that a user can put right. Each message says what was found and what to do."""

from __future__ import annotations


class UsageError(ValueError):
    """What was typed, or written in a recipe, cannot be done."""


class RunError(ValueError):
    """A run cannot start or go on."""


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
