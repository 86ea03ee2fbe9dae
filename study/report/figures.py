"""Every picture that the stored tables allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from study.report.drawing import Picture
from study.report.figures_main import alignment_figure, measures_figure, teacher_figure
from study.report.figures_sweeps import (
    ablation_figure,
    frontier_figure,
    rates_figure,
    regret_figure,
    scale_figure,
)
from study.report.figures_toy import noise_figure, wins_figure
from study.rules.verdicts import NotJudgedError
from study.tables.cubes import Runs, runs_of
from study.tables.stored import Frame, Tables


def draw_all(tables: Tables, sweeps: Mapping[str, Runs], regret: Frame) -> list[Picture]:
    """Draw what can be drawn.

    Parameters
    ----------
    tables, sweeps
        What is stored, and its sweeps of transformers.
    regret
        As `study.tables.summaries.regret_table` gives it.

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
    drawn = [_drawn(source, draw) for source, draw in wanted if source is not None]
    return [picture for picture in drawn if picture is not None]


def _drawn(source: Any, draw: Callable[[Any], Picture | None]) -> Picture | None:
    # The verdicts say what is missing: a picture of it is left out without a word.
    try:
        return draw(source)
    except NotJudgedError:
        return None
