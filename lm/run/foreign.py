"""A run folder may come from another person: code that came with it is not executed unasked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lm.config import RunConfig
from lm.errors import RunError
from lm.features.files import path_of


def require_own_code(config: RunConfig, run: Path) -> None:
    """Refuse a run whose configuration names a Python file that came with the folder.

    The configuration was read from the folder, so that whoever sent the folder chose the file. One
    that lies elsewhere was here before, as the reward files of a run that was trained here are.

    Parameters
    ----------
    config
        As it was read from the run folder.
    run
        The run folder.

    Raises
    ------
    RunError
        Names the file and the option that trusts it.
    """
    for path in _code(config):
        if _lies_in(path, run):
            raise RunError(
                f"the run {run} names the Python file {path}, which lies inside the run folder and "
                "came with it: it is not executed. Read it, and if you trust it, add "
                "--trust_code true"
            )


def _code(config: RunConfig) -> Iterator[Path]:
    for target in (config.target, config.measure):
        if target is not None:
            for name in (*target.features, target.score or "", config.evaluation.coverage or ""):
                path = path_of(name)
                if path is not None:
                    yield path


def _lies_in(path: Path, folder: Path) -> bool:
    # As it is spelled and as links lead: a link in the folder was made by whoever sent it.
    spelled = Path.cwd() / path
    places = {path.resolve(), spelled.parent.resolve() / spelled.name}
    return any(place.is_relative_to(folder.resolve()) for place in places)
