"""The verification as a table for people and as one JSON list for programs."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fdpg_ref import DIVERGENCES
from toy.files import write_text
from toy.printing import titled_table
from toy.verify.records import BIASED, EXACT, PROPORTIONAL, ROUNDING, Record

# Of the page; it also proves a file to be such a page.
TITLE = "f-DPG: what is verified, and how"
_COLOURS = {EXACT: "green", PROPORTIONAL: "yellow", BIASED: "magenta"}
# Letters of a word in a heading that fit in a narrow column, with the full stop of what is cut.
_LETTERS = 5


def print_report(records: Sequence[Record], console: Console) -> None:
    """Print the estimators against the divergences, the other claims, and the verdict of all.

    Parameters
    ----------
    records : sequence of Record
        From `toy.verify.run_claims`.
    console : rich.console.Console
        Where to; 80 columns are enough.
    """
    across, single = _split(records)
    console.print(_estimator_table(across))
    console.print(_legend())
    console.print()
    console.print(_statement_table(single))
    failed = [r for r in records if not r.holds]
    for r in failed:
        console.print(
            f"FAILED {r.claim} [{r.divergence}, {r.estimator}]: claimed {r.claimed}, measured "
            f"{r.verdict}, error {r.max_relative_error:.1e}; see {r.test_id}",
            style="bold red",
            markup=False,
        )
    console.print(_summary(records, len(failed)))


def write_json(
    records: Sequence[Record], path: Path, guards: Mapping[str, str] | None = None
) -> None:
    """Write the records as one JSON list, whole or not at all.

    Parameters
    ----------
    records : sequence of Record
        From `toy.verify.run_claims`.
    path : pathlib.Path
        Where to; missing folders are made.
    guards : mapping of str, optional
        Outcome of each guarding test, from `run_guards` in `guards`; null where not run.

    Raises
    ------
    OSError
        If the file cannot be written; nothing is left behind then.
    """
    rows = [
        {
            "fact": r.fact,
            "claim": r.claim,
            "composition": r.composition,
            "divergence": r.divergence,
            "estimator": r.estimator,
            "claimed_verdict": r.claimed,
            "verdict": r.verdict,
            "holds": r.holds,
            "factor": r.factor,
            "max_relative_error": r.max_relative_error,
            "problems": r.problems,
            "evidence": r.evidence,
            "test_id": r.test_id,
            "guard": (guards or {}).get(r.test_id),
        }
        for r in records
    ]

    write_text(path, json.dumps(rows, indent=1, ensure_ascii=False))


def _split(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Tell the estimators of many divergences, which make a table, from single statements."""
    lines = Counter(r.estimator for r in records if r.estimator is not None)
    across = [r for r in records if r.estimator is not None and lines[r.estimator] > 2]
    return across, [r for r in records if r not in across]


def _estimator_table(records: Sequence[Record]) -> Table:
    table = titled_table("Estimator × divergence: is the mean the truth?", padding=0)
    table.add_column("estimator", ratio=1)
    for divergence in DIVERGENCES.values():
        table.add_column(_heading(divergence.title), justify="right", width=6, no_wrap=True)

    # One row per estimator.
    rows: dict[str, dict[str, Record]] = {}
    for r in records:
        rows.setdefault(str(r.estimator), {})[str(r.divergence)] = r

    # A rule between the sections of the theory.
    fact = ""
    for estimator, cells in rows.items():
        opening = next(iter(cells.values())).fact
        # F1 to F3 are one story: a sample, a baseline, a better baseline.
        opening = "F1" if opening in ("F2", "F3") else opening
        if opening != fact:
            table.add_section()
        fact = opening
        shown = [_cell(cells[name]) if name in cells else Text("·") for name in DIVERGENCES]
        table.add_row(estimator, *shown)
    return table


def _heading(title: str) -> str:
    words = title.replace("–", " ").split()
    cut = (word if len(word) <= _LETTERS else word[: _LETTERS - 1] + "." for word in words)
    return "\n".join(cut)


def _cell(r: Record) -> Text:
    """Return the verdict over the largest error; a failed claim stands out in red."""
    factor = r.factor if r.verdict == PROPORTIONAL else None
    word = r.verdict if factor is None else factor_text(factor)
    style = _COLOURS[r.verdict] if r.holds else "bold white on red"
    return Text.assemble((f"{word}\n", style), (short_number(r.max_relative_error), "dim"))


def short_number(number: float) -> str:
    """Return a nonnegative number in at most five characters.

    Parameters
    ----------
    number : float
        An error or a factor.

    Returns
    -------
    str
        Three digits, or a power of ten with one.
    """
    if number == 0 or not math.isfinite(number):
        return f"{number:g}"
    if 0.01 <= number < 10:
        return f"{number:.3f}"[:5] if number >= 0.1 else f"{number:.3f}"
    if 10 <= number < 1000:
        return f"{number:.0f}"
    mantissa, exponent = f"{number:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def factor_text(factor: float) -> str:
    """Return a factor of proportionality in at most six characters, the sign of times included.

    Parameters
    ----------
    factor : float
        Of any sign; what is rounding beside one is zero.

    Returns
    -------
    str
        For example "×0.667".
    """
    if abs(factor) <= ROUNDING:
        return "×0"
    return f"×{short_number(factor)}" if factor > 0 else f"×-{short_number(-factor)[:4]}"


def _legend() -> Text:
    return Text.assemble(
        ("exact", _COLOURS[EXACT]),
        " mean = truth   ",
        ("×0.667", _COLOURS[PROPORTIONAL]),
        " mean = enumerated factor × truth   ",
        ("biased", _COLOURS[BIASED]),
        " neither.\n"
        "Below each: the largest relative error over all problems (after the factor, if\n"
        "any). A factor that depends on the problem is that of the first one.\n"
        "LOO = leave-one-out; · = the divergence is infinite there.",
    )


def _statement_table(records: Sequence[Record]) -> Table:
    table = titled_table("Single statements", padding=0)
    table.add_column("statement", ratio=1)
    table.add_column("verdict", width=8, justify="right")
    table.add_column("error", justify="right", width=6)

    # One row per statement, with the worst of its records.
    groups: dict[str, list[Record]] = {}
    for r in records:
        groups.setdefault(r.claim, []).append(r)
    for claim, members in groups.items():
        worst = max(members, key=lambda r: (not r.holds, r.max_relative_error))
        style = _COLOURS[worst.verdict] if worst.holds else "bold white on red"
        factor = worst.factor if worst.verdict == PROPORTIONAL else None
        word = worst.verdict if factor is None else factor_text(factor)
        count = f" ({len(members)} divergences)" if len(members) > 1 else ""
        error = Text(short_number(worst.max_relative_error), style="dim")
        table.add_row(Text(claim + count), Text(word, style=style), error)
    return table


def _summary(records: Sequence[Record], failed: int) -> Text:
    problems = sorted({r.problems for r in records})
    span = f"{problems[0]} to {problems[-1]}" if len(problems) > 1 else str(problems[0])
    text = (
        f"{len(records)} claims verified by exact enumeration over {span} problems each: "
        f"{len(records) - failed} hold, {failed} fail."
    )
    return Text(text, style="bold red" if failed else "bold green")
