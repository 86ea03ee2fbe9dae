"""Which table each rule of `second_edition` looks at, and what is said where one is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from study.names import COMMON, DEFAULT, FIVE, RARE, TUNED, label_of
from study.rules import second_edition as rules
from study.rules.verdicts import Verdict, not_judged
from study.tables.cubes import (
    OWN,
    Runs,
    chosen,
    cube_of,
    log_measures,
    policy_side,
    runs_of,
    toy_cube,
    usual_size,
)
from study.tables.pairs import (
    BATCHES,
    PAIR,
    ends_at,
    matched_entropies,
    pair_ratio,
    scale_ratios,
    seeds_of,
    units_of,
)
from study.tables.selections import (
    alpha_correlations,
    need_columns,
    noise_and_regret,
    own_measures,
    some,
    toy_entropies,
)
from study.tables.stored import Frame, NotJudgedError, Table, Tables


def judge_second(tables: Tables) -> list[Verdict]:
    """Judge every hypothesis of the second edition in every study that it is about.

    Parameters
    ----------
    tables
        What is stored; the second edition's tables have a 2 in their names.

    Returns
    -------
    list of Verdict
        In the order of docs/hypotheses.md; where a table is missing the verdict says so.
    """
    main, scale, ablations = (_runs(t) for t in (tables.main2, tables.scale2, tables.ablations2))
    toy = tables.toy.frame if tables.toy else None

    # Hypothesis, study, what is looked at, and the rule.
    cases: list[tuple[str, str, Any, Callable[[Any, str], Verdict]]] = [
        ("H1", "transformer", tables.unification, rules.unification),
        ("H2", "toy", toy, _no_best_toy),
        ("H2", "lm", main, lambda runs, study: rules.no_best(_logs(runs), study)),
        ("H3", "lm", main, _less_diverse),
        ("H4", "toy", toy, _balance_toy),
        ("H4", "lm", main, lambda runs, study: rules.balance(_logs(runs), study)),
        *(("H5", f"toy, {rate} rate", toy, _beats_toy(rate)) for rate in (TUNED, COMMON)),
        ("H5", "lm, common rate", main, _beats(COMMON, DEFAULT)),
    ]
    for batch, place in BATCHES.items():
        where = f"lm, batch {batch}"
        cases += [
            ("H5", where, main, _beats(*place)),
            ("H5", f"{where}, policy side", tables.main2, _beats_by_policy(*place)),
            ("H13", where, tables.main2, _measure_decides(*place)),
        ]
    cases += [
        ("H6", "scale", scale, _persists),
        ("H7", "toy", toy, _dips_toy),
        ("H7", "lm", main, _dips),
        ("H8", "toy", toy, _noise),
        ("H9", "lm", main, _large_batch),
        ("H10", "ablations", ablations, _baseline),
        ("H11", "ablations", ablations, _frontier),
        ("H12", "lm", main, _common_rate),
    ]
    found = [_judged(*case) for case in cases]
    return sorted(found, key=lambda verdict: int(verdict.name[1:]))


def _judged(name: str, study: str, source: Any, rule: Callable[[Any, str], Verdict]) -> Verdict:
    if source is None:
        return not_judged(name, study, "Not run", second=True)
    try:
        return rule(source, study)
    except NotJudgedError as error:
        reason = str(error)
        return not_judged(name, study, reason[0].upper() + reason[1:], second=True)


def _runs(table: Table | None) -> Runs | None:
    return None if table is None else runs_of(table)


def _logs(runs: Runs, rate: str = TUNED) -> np.ndarray:
    """Return the (units, seeds, five, measures) logarithms at the usual batch size."""
    places = ends_at(runs)
    cube = cube_of(ends_at(runs, rate), units=units_of(places), seeds=seeds_of(places))
    if cube.missing:
        raise NotJudgedError(f"no run of {', '.join(map(label_of, cube.missing))}")
    return log_measures(cube.values)


def _beats(rate: str, variant: str) -> Callable[[Runs, str], Verdict]:
    return lambda runs, study: rules.beats_forward(pair_ratio(ends_at(runs, rate, variant)), study)


def _beats_by_policy(rate: str, variant: str) -> Callable[[Table, str], Verdict]:
    def rule(table: Table, study: str) -> Verdict:
        return rules.beats_forward(pair_ratio(ends_at(policy_side(table), rate, variant)), study)

    return rule


def _measure_decides(rate: str, variant: str) -> Callable[[Table, str], Verdict]:
    def rule(table: Table, study: str) -> Verdict:
        best, side = (ends_at(make(table), rate, variant) for make in (runs_of, policy_side))
        return rules.measure_decides(pair_ratio(best), pair_ratio(side, best), study)

    return rule


def _less_diverse(runs: Runs, study: str) -> Verdict:
    values = matched_entropies(runs, ("reverse_kl", "forward_kl")).values[..., 0]
    return rules.less_diverse(values[..., 0] - values[..., 1], study)


def _persists(runs: Runs, study: str) -> Verdict:
    found = scale_ratios(runs)
    names = [f"{task}, {label_of(other)}" for task, other in found.places]
    return rules.persists(found.logs, found.decades, names, study)


def _dips(runs: Runs, study: str) -> Verdict:
    rows = chosen(runs.steps, size=usual_size(runs.ends))
    rows = some(rows[rows["group"] == "teacher"], "a teacher task")
    need_columns(rows, "entropy", "entropy_target")
    groups = rows.groupby(["task", "seed", "method"], sort=True)
    found = groups.agg(
        least=("entropy", "min"), end=("entropy", "last"), target=("entropy_target", "last")
    ).reset_index()
    measures = ("target", "end", "least")
    return _dips_of(cube_of(found, ("reverse_kl", "forward_kl"), measures).values, study)


def _dips_toy(frame: Frame, study: str) -> Verdict:
    return _dips_of(toy_entropies(frame, ("reverse_kl", "forward_kl")), study)


def _dips_of(values: np.ndarray, study: str) -> Verdict:
    """Judge (units, seeds, reverse and forward KL, entropies of target, end and least)."""
    target, end, least = (values[..., place] for place in range(3))
    dip, recovery = target - least, end - least
    gaps = [(one[..., 0] - one[..., 1]).ravel() for one in (dip, recovery)]
    return rules.dips(gaps[0], gaps[1], study)


def _large_batch(runs: Runs, study: str) -> Verdict:
    large, usual = ends_at(runs, *BATCHES[1024]), ends_at(runs)
    large = some(large[large["group"].isin(RARE)], "a rare task with a large batch")
    cube = cube_of(large, ("forward_kl",), ("forward_kl",))
    other = cube_of(usual, ("jensen_shannon",), ("forward_kl",), units=cube.units, seeds=cube.seeds)
    ratio = log_measures(cube.values) - log_measures(other.values)
    return rules.batch_does_not_save(ratio[:, :, 0, 0], study)


def _baseline(runs: Runs, study: str) -> Verdict:
    without = some(chosen(runs.ends, variant="no_baseline"), "a run without a baseline")
    cube = cube_of(without, FIVE, (OWN,))
    own = own_measures(chosen(runs.ends), list(FIVE), cube)
    gains = log_measures(own) - log_measures(cube.values[..., 0])
    return rules.baseline_helps(gains, study)


def _frontier(runs: Runs, study: str) -> Verdict:
    return rules.frontier(*alpha_correlations(runs), study)


def _common_rate(runs: Runs, study: str) -> Verdict:
    return rules.common_rate_agrees(_logs(runs), _logs(runs, COMMON), study)


def _no_best_toy(frame: Frame, study: str) -> Verdict:
    """Judge kinds of problem in the place of tasks, and problems in that of seeds."""
    kinds = [
        toy_cube(frame[frame["kind"] == kind]).values[:, 0] for kind in sorted(set(frame["kind"]))
    ]
    logs = np.full((len(kinds), max(map(len, kinds)), *kinds[0].shape[1:]), np.nan)
    for place, values in enumerate(kinds):
        logs[place, : len(values)] = log_measures(values)
    return rules.no_best(logs, study)


def _balance_toy(frame: Frame, study: str) -> Verdict:
    return rules.balance(log_measures(toy_cube(frame).values), study, least=1)


def _beats_toy(rate: str) -> Callable[[Frame, str], Verdict]:
    def rule(frame: Frame, study: str) -> Verdict:
        some(frame[(frame["rate"] == rate) & (frame["phase"] == "sampled")], f"the {rate} rate")
        logs = log_measures(toy_cube(frame, PAIR, ("forward_kl",), rate=rate).values[..., 0])
        return rules.beats_forward(logs[..., 0] - logs[..., 1], study, least=1)

    return rule


def _noise(frame: Frame, study: str) -> Verdict:
    need_columns(frame, "snr_path")
    ratio, regret = noise_and_regret(frame)
    return rules.noise_explains(ratio.values[:, 0, :, 0], regret, study)
