"""The rules of docs/hypotheses-language.md as code, and which table each looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from study.names import label_of
from study.rules import second_edition as rules
from study.rules.bands import below, every_row, holm, t_interval
from study.rules.verdicts import (
    LANGUAGE_STATEMENTS,
    Effect,
    Verdict,
    decide_three,
    not_judged,
)
from study.tables.cubes import Cube, Runs, policy_side, runs_of
from study.tables.language import (
    BODY,
    IN_MINUTES,
    OBJECTIVES,
    PLACES,
    SEEDS,
    SMALL,
    TASKS,
    ends_of_size,
    gains,
    gains_in_errors,
    matched_entropy_gap,
    tuned_by_others,
)
from study.tables.pairs import pair_ratio, scale_ratios
from study.tables.stored import Frame, NotJudgedError, Table

# The bounds of the text.
GAIN, HELD_OUT_GAIN = 0.1, 0.05
ERRORS = 5.0


def judge_language(code: Table | None, smollm2: Table | None) -> list[Verdict]:
    """Judge every hypothesis on language.

    Parameters
    ----------
    code, smollm2
        The stored tables; None is "not run".

    Returns
    -------
    list of Verdict
        In the order of docs/hypotheses-language.md.
    """
    tuned = None if code is None else tuned_by_others(code).table
    where = f"code, {SMALL}"
    cases: list[tuple[str, str, Any, Callable[[Any, str], Verdict]]] = [
        ("L1", where, tuned, lambda table, study: _beats(runs_of(table), study)),
        ("L1", f"{where}, policy side", tuned, lambda t, study: _beats(policy_side(t), study)),
        ("L2", where, tuned, _measure_decides),
        ("L3", where, tuned, _less_diverse),
        ("L4", where, tuned, lambda t, study: every_gain(gains(runs_of(t)), study)),
        ("L5", where, tuned, _held_out),
        ("L6", "SmolLM2", smollm2, lambda t, study: in_minutes(gains_in_errors(t), study)),
        ("L7", "code", tuned, _persists),
    ]
    return [_judged(*case) for case in cases]


def every_gain(
    found: Cube,
    study: str,
    *,
    name: str = "L4",
    bound: float = GAIN,
    tasks: Sequence[str] = TASKS,
) -> Verdict:
    """L4 and L5: E[phi] rises by more than a bound, whatever the task and the objective.

    Parameters
    ----------
    found
        Gains, by task, seed and objective.
    study
        Which study.
    name, bound, tasks
        Of the hypothesis.
    """
    rows, places = [], []
    for task, objective in PLACES:
        if task not in tasks:
            continue
        if task not in found.units:
            raise NotJudgedError(f"no run of {task}")
        unit, place = found.units.index(task), found.objectives.index(objective)
        rows += every_row(found.values[unit : unit + 1, :, place, 0], SEEDS)
        places.append(f"{task}, {label_of(objective)}")

    intervals = [t_interval(row) for row in rows]
    least_of_all = min(range(len(rows)), key=lambda k: intervals[k].low)
    short = holm([below(row, bound) for row in rows])
    effect = Effect(f"gain of E[φ], {places[least_of_all]}", *intervals[least_of_all])
    more = f"{sum(one.low > bound for one in intervals)} of {len(rows)} lie above {bound:g}."
    holds = all(one.low > bound for one in intervals)
    return decide_three(name, study, [effect], holds=holds, fails=any(short), more=more)


def in_minutes(found: Frame, study: str) -> Verdict:
    """L6: in both seeds of two tasks and each objective E[phi] rises by more than five errors.

    Parameters
    ----------
    found
        As `gains_in_errors` returns it.
    study
        Which study.
    """
    table = found.pivot(index=["task", "method"], columns="seed", values="errors")
    objectives = [name for name in OBJECTIVES if name != "rl_kl"]
    table = table.reindex(
        pd.MultiIndex.from_product([IN_MINUTES, objectives], names=table.index.names)
    )
    if table.shape[1] < 2 or table.isna().to_numpy().any():
        raise NotJudgedError("a task and objective has fewer than two seeds with a known error")
    above = table.to_numpy() > ERRORS
    least = table.min(axis=1)
    task, method = least.idxmin()
    effect = Effect(f"standard errors, {task}, {label_of(method)}", float(least.min()))
    more = f"{int(above.all(axis=1).sum())} of {len(table)} rise in both seeds."
    holds, fails = bool(above.all()), bool((~above.any(axis=1)).any())
    return decide_three("L6", study, [effect], holds=holds, fails=fails, more=more)


def _judged(name: str, study: str, source: Any, rule: Callable[[Any, str], Verdict]) -> Verdict:
    """Return a rule's verdict under its name here, or why there is none."""
    if source is None:
        return not_judged(name, study, "Not run", second=True)
    try:
        verdict = rule(source, study)
    except NotJudgedError as error:
        reason = str(error)
        return not_judged(name, study, reason[0].upper() + reason[1:], second=True)
    return replace(verdict, name=name, statement=LANGUAGE_STATEMENTS[name])


def _beats(runs: Runs, study: str) -> Verdict:
    ends = ends_of_size(runs)
    return rules.beats_forward(_on_every_task(pair_ratio(ends), ends), study, least=SEEDS)


def _measure_decides(table: Table, study: str) -> Verdict:
    best, side = (ends_of_size(make(table)) for make in (runs_of, policy_side))
    first, second = (_on_every_task(pair_ratio(rows, best), best) for rows in (best, side))
    return rules.measure_decides(first, second, study, least=SEEDS)


def _on_every_task(ratio: np.ndarray, rows: Frame) -> np.ndarray:
    """Return log ratios, or say which of the tasks that the text names lacks runs."""
    missing = [task for task in TASKS if task not in set(rows["task"])]
    if missing:
        raise NotJudgedError(f"no run of {', '.join(missing)}")
    _ = every_row(ratio, SEEDS)
    return ratio


def _less_diverse(table: Table, study: str) -> Verdict:
    gap = matched_entropy_gap(runs_of(table))
    return rules.less_diverse(gap, study, least=SEEDS, name="RL with a KL penalty")


def _held_out(table: Table, study: str) -> Verdict:
    found = gains(runs_of(table))
    return every_gain(found, study, name="L5", bound=HELD_OUT_GAIN, tasks=(BODY,))


def _persists(table: Table, study: str) -> Verdict:
    ratios = scale_ratios(runs_of(table))
    if len({size for size, _ in ratios.cells}) < 2:
        raise NotJudgedError("fewer than two sizes")
    names = [f"{task}, {label_of(other)}" for task, other in ratios.places]
    return rules.persists(ratios.logs, ratios.decades, names, study)
