"""What a report is made of: sections of paragraphs, tables and pictures, and their Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from study.text import markdown_table


class Grid(NamedTuple):
    """A table ready to print: its caption, headings, and rows of text."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Picture(NamedTuple):
    """A drawn figure: the name of its file, what it shows, and the figure."""

    name: str
    caption: str
    figure: Figure


Block = str | Grid | Picture


class Section(NamedTuple):
    """A heading and what follows it: paragraphs, tables and pictures."""

    title: str
    blocks: Sequence[Block]


def markdown(title: str, intro: str, content: Sequence[Section], figures: str = "figures") -> str:
    """Return a report as Markdown, with its pictures in a folder beside it."""
    lines = [f"# {title}", "", intro, ""]
    for section in content:
        lines += [f"## {section.title}", ""]
        for block in section.blocks:
            lines += [_block(block, figures), ""]
    return "\n".join(lines).rstrip() + "\n"


def _block(block: Block, figures: str) -> str:
    if isinstance(block, Picture):
        return f"![{block.caption}]({figures}/{block.name}.png)\n\n*{block.caption}*"
    if isinstance(block, Grid):
        caption = f"{block.caption}\n\n" if block.caption else ""
        return caption + markdown_table(block.heads, block.rows).rstrip()
    return block
