"""A section of the report: a heading over paragraphs, tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from study.report.drawing import Picture
from study.text import Grid


class Section(NamedTuple):
    """A heading and what stands under it: paragraphs, tables and pictures."""

    title: str
    blocks: Sequence[str | Grid | Picture]
