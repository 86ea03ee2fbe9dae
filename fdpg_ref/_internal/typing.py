"""The type of an array of any library: there is no common base class to name."""

from __future__ import annotations

from typing import Any

Array = Any
