"""The catalogue: importing the rooms of the museum registers their exhibits."""

from __future__ import annotations

# Imported for what they register.
from toy.museum import (  # noqa: F401
    batches,
    gradients,
    measuring,
    plumbing,
    precision,
    sequences,
    targets,
    values,
)
from toy.museum.records import Record, look_at, registered

EXHIBITS = registered()


def run_museum() -> list[Record]:
    """Run every oracle on its exhibit and on the twin.

    Returns
    -------
    list of Record
        One per exhibit, by number. ``record.passes`` says whether the exhibit alone is flagged.
    """
    return [look_at(exhibit) for exhibit in EXHIBITS.values()]
