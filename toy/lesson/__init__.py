"""What the notebooks share: drawing, grading, and finding the clone they lie in.

The mathematics stays in `fdpg_ref` and `toy`. ``python -m toy.lesson FILE.png`` draws the gradient
fields of the README.
"""

from toy.lesson.drawing import (
    COLOURS,
    descents,
    draw_arrows,
    draw_cloud,
    draw_triangle,
    fields_figure,
    house_style,
    inner_points,
    title,
    to_plane,
    velocity,
)
from toy.lesson.exercises import NotSolved, compare, repository

__all__ = [
    "COLOURS",
    "NotSolved",
    "compare",
    "descents",
    "draw_arrows",
    "draw_cloud",
    "draw_triangle",
    "fields_figure",
    "house_style",
    "inner_points",
    "repository",
    "title",
    "to_plane",
    "velocity",
]
