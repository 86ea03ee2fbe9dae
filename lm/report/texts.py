"""Sample texts along a run: the same prompts and random numbers each time, read and shown."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm.errors import RunError
from lm.report.page import section, table_part
from lm.run.folder import TEXTS
from lm.run.records import one_line, printable

# Steps of a page: more are thinned out evenly, the first and the last stay.
MOST_STEPS = 9
NOTE = "The same prompts and random numbers each time, none picked: what changes is the policy."


class Shown(NamedTuple):
    """Samples after a step; a prompt is empty where there are none."""

    step: int
    prompts: list[str]
    completions: list[str]


def read_texts(folder: Path) -> list[Shown]:
    """Read the samples that a run showed along its way; none if it showed none.

    Parameters
    ----------
    folder
        Of the run.

    Raises
    ------
    RunError
        A line is not what this program writes.
    """
    path = folder / TEXTS
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            found.append(_shown(json.loads(line)))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise RunError(f"{path}, line {number} holds no sample texts: {error}") from error
    same = {(tuple(one.prompts), len(one.completions)) for one in found}
    if len(same) > 1:
        raise RunError(f"{path} holds samples of other prompts than at the start: it was changed")
    return found


def texts_section(shown: Sequence[Shown]) -> list[str]:
    """Return the section of a page that shows each sample step after step; none without any."""
    if not shown:
        return []
    last = len(shown) - 1
    kept = {round(place * last / (MOST_STEPS - 1)) for place in range(MOST_STEPS)}
    chosen = [shown[place] for place in sorted(kept)]

    parts = [f"<p class=muted>{html.escape(NOTE)}</p>"]
    for number, prompt in enumerate(shown[0].prompts):
        head = as_html(prompt) if prompt else f"sample {number + 1}"
        rows = [[f"{one.step:d}", as_html(one.completions[number])] for one in chosen]
        parts.append(table_part(rows, heads=("step", head), css="along"))
    return [section("The same samples along the run", "".join(parts))]


def as_html(text: str) -> str:
    """Return a text that a model or a file gave as words of a page: one line, nothing hidden."""
    # Whatever is no plain character is shown as one types it, and backslashes stay single.
    plain = printable(one_line(text)).replace("\\\\", "\\")
    return html.escape(plain)


def _shown(record: Any) -> Shown:
    step, prompts, completions = (record[name] for name in Shown._fields)
    texts = [*prompts, *completions]
    if isinstance(step, bool) or not isinstance(step, int):
        raise TypeError(f"its step is {step!r:.40}")
    if len(prompts) != len(completions) or not all(isinstance(text, str) for text in texts):
        raise TypeError("it has not one text for each prompt")
    return Shown(step, list(prompts), list(completions))
