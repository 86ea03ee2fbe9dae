"""Draw and save the pictures of the demonstration, and tell names and features of texts apart."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lm.demo import figures
from lm.demo.results import Outcome
from lm.features.census import census_names
from lm.features.registry import feature_values
from lm.report.figures import save_figure


class Picture(NamedTuple):
    """PNG files of one figure: wide, and tall for a phone where it has several panels."""

    wide: Path
    caption: str
    tall: Path | None = None


def draw(folder: Path, outcomes: Sequence[Outcome]) -> dict[str, Picture]:
    """Draw and save all figures of the page.

    Parameters
    ----------
    folder
        Where the PNG files go.
    outcomes
        Both targets.

    Returns
    -------
    dict
        Pictures by the name that the page knows them by.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for outcome in outcomes:
        key = outcome.target.key
        pictures[f"trajectory-{key}"] = Picture(
            save_figure(figures.trajectory_figure(outcome), folder / f"trajectory-{key}.png"),
            "Every run from the base (square) to its end (large marker; bars of two standard "
            "errors), and the target (star). Two seeds a divergence.",
        )
        wide, tall = (
            save_figure(
                figures.divergence_figure(outcome, columns=columns),
                folder / f"divergences-{key}{suffix}.png",
            )
            for columns, suffix in ((2, ""), (1, "-tall"))
        )
        pictures[f"divergences-{key}"] = Picture(
            wide,
            "Each divergence to the target against the training samples drawn: mean over the seeds "
            "with a band of two standard errors. The thick line descends the panel's own measure.",
            tall,
        )
        test = feature_test(outcome.target.feature)
        names = figures.samples_figure(outcome, is_listed, test)
        save_figure(names, folder / f"samples-{key}.png")
    wide, tall = (
        save_figure(
            figures.multiplier_figure(outcomes, columns=columns),
            folder / f"multipliers{suffix}.png",
        )
        for columns, suffix in ((2, ""), (1, "-tall"))
    )
    pictures["multipliers"] = Picture(
        wide, "How both targets were fitted: damped Newton on the convex dual, exact sums.", tall
    )
    return pictures


def is_listed(text: str) -> bool:
    """Say whether a text is a listed name."""
    return text in _listed_names()


def feature_test(name: str) -> Callable[[str], bool]:
    """Return whether a text has a feature, as a function of the text."""

    def satisfies(text: str) -> bool:
        # A share of one half or more: the census lists some names for both sexes.
        return bool(feature_values((name,), [text])[0, 0] >= 0.5)

    return satisfies


@functools.cache
def _listed_names() -> frozenset[str]:
    return frozenset(census_names().names)
