"""Errors that a user can put right. Each message says what was found and what to do."""

from __future__ import annotations


class UsageError(ValueError):
    """What was typed, or written in a recipe, cannot be done."""


class RunError(ValueError):
    """A run cannot start or go on."""
