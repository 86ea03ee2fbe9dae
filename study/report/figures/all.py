"""Every picture that the stored tables allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from study.report.blocks import Picture
from study.report.figures.main import alignment_figure, measures_figure, teacher_figure
from study.report.figures.sweeps import (
    ablation_figure,
    frontier_figure,
    rates_figure,
    regret_figure,
    scale_figure,
)
from study.report.figures.toy import noise_figure, wins_figure
from study.tables.cubes import Runs, runs_of
from study.tables.stored import Frame, NotJudgedError, Tables


def draw_all(tables: Tables, sweeps: Mapping[str, Runs], regret: Frame) -> list[Picture]:
    """Draw what can be drawn.

    Parameters
    ----------
    tables, sweeps
        What is stored, and its sweeps of transformers.
    regret
        As `study.report.summaries.regret_table` gives it.

    Returns
    -------
    list of Picture
        In the order of the report.
    """
    toy = tables.toy.frame if tables.toy is not None else None
    pilot = runs_of(tables.pilot) if tables.pilot is not None else None
    main, scale, ablations = (sweeps.get(name) for name in ("main", "scale", "ablations"))
    wanted: list[tuple[Any, Callable[[Any], Picture | None]]] = [
        (main, alignment_figure),
        (main, measures_figure),
        (regret, regret_figure),
        (scale, scale_figure),
        (ablations, frontier_figure),
        (main, teacher_figure),
        (toy, wins_figure),
        (toy, noise_figure),
        (ablations, ablation_figure),
        (pilot, rates_figure),
    ]

    drawn = []
    for source, draw in wanted:
        # The verdicts say what is missing, so a picture of it is left out without a word.
        with suppress(NotJudgedError):
            drawn.append(None if source is None else draw(source))
    return [picture for picture in drawn if picture is not None]
