"""Which table each rule of `hypotheses` looks at, and what is said where one is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from study.names import COMMON, FIVE, RARE, SOFT, TUNED, size_order
from study.rules import hypotheses as rules
from study.rules.verdicts import Verdict, not_judged
from study.tables.cubes import (
    OWN,
    Runs,
    chosen,
    cube_of,
    log_measures,
    toy_cube,
    usual_size,
)
from study.tables.selections import (
    TOY_RARE,
    alpha_correlations,
    main_cube,
    need_columns,
    noise_and_regret,
    own_measures,
    some,
    study_tables,
    toy_entropies,
    with_alignment,
)
from study.tables.stored import Frame, NotJudgedError, Tables

LARGE_BATCH, NO_BASELINE = "batch_1024", "no_baseline"


def judge(tables: Tables, sweeps: Mapping[str, Runs] | None = None) -> list[Verdict]:
    """Judge every hypothesis in every study that it is about.

    Parameters
    ----------
    tables
        What is stored.
    sweeps
        Its sweeps of transformers, if `study.tables.selections.study_tables` has read them already.

    Returns
    -------
    list of Verdict
        In the order of docs/hypotheses-first.md; where a table is missing the verdict says so.
    """
    sweeps = study_tables(tables) if sweeps is None else sweeps
    main, scale, ablations = (sweeps.get(name) for name in ("main", "scale", "ablations"))
    toy = tables.toy.frame if tables.toy else None

    # Hypothesis, study, what is looked at, and the rule.
    cases: list[tuple[str, str, Any, Callable[[Any, str], Verdict]]] = [
        ("H1", "transformer", tables.unification, rules.unification),
        ("H2", "toy", toy, lambda frame, study: rules.no_best(toy_cube(frame), study)),
        ("H2", "lm", main, lambda runs, study: rules.no_best(main_cube(runs), study)),
        ("H3", "toy", toy, _trade_off_toy),
        ("H3", "lm", main, _trade_off),
        ("H4", "toy", toy, lambda frame, study: rules.balance(toy_cube(frame), study)),
        ("H4", "lm", main, lambda runs, study: rules.balance(main_cube(runs), study)),
        *(("H5", f"toy, {rate} rate", toy, _beats_toy(rate)) for rate in (TUNED, COMMON)),
        *(("H5", f"lm, {rate} rate", main, _beats(rate)) for rate in (TUNED, COMMON)),
        ("H6", "scale", scale, _persists),
        ("H7", "toy", toy, _dips_toy),
        ("H7", "lm", main, _dips),
        ("H8", "toy", toy, _noise),
        ("H9", "ablations", ablations, _large_batch),
        ("H10", "ablations", ablations, _baseline),
        ("H11", "ablations", ablations, _frontier),
        ("H12", "lm", main, _common_rate),
    ]
    return [_judged(*case) for case in cases]


def _judged(name: str, study: str, source: Any, rule: Callable[[Any, str], Verdict]) -> Verdict:
    if source is None:
        return not_judged(name, study, "Not run")
    try:
        return rule(source, study)
    except NotJudgedError as error:
        reason = str(error)
        return not_judged(name, study, reason[0].upper() + reason[1:])


def _trade_off(runs: Runs, study: str) -> Verdict:
    rows = chosen(runs.ends, size=usual_size(runs.ends))
    rows = some(rows[rows["group"].isin(RARE)], "a rare task")
    rows = with_alignment(rows, runs)
    cube = cube_of(rows, FIVE, ("alignment", "entropy"))
    if cube.missing:
        raise NotJudgedError(f"no run of {', '.join(cube.missing)}")
    soft = [place for place, task in enumerate(cube.units) if _group(rows, task) == SOFT]
    entropy = cube.values[..., 1]
    gap = (
        entropy[soft][..., FIVE.index("reverse_kl")] - entropy[soft][..., FIVE.index("forward_kl")]
    )
    return rules.trade_off(cube.values[..., 0], entropy, gap, study)


def _trade_off_toy(frame: Frame, study: str) -> Verdict:
    rows = some(frame[frame["kind"] == TOY_RARE], "a soft rare problem")
    need_columns(rows, "alignment", "entropy")
    cube = toy_cube(rows, FIVE, ("alignment", "entropy"))
    entropy = cube.values[..., 1]
    gap = entropy[..., FIVE.index("reverse_kl")] - entropy[..., FIVE.index("forward_kl")]
    return rules.trade_off(cube.values[..., 0], entropy, gap, study)


def _beats(rate: str) -> Callable[[Runs, str], Verdict]:
    return lambda runs, study: rules.beats_forward(main_cube(runs, rate), study)


def _beats_toy(rate: str) -> Callable[[Frame, str], Verdict]:
    def rule(frame: Frame, study: str) -> Verdict:
        some(frame[(frame["rate"] == rate) & (frame["phase"] == "sampled")], f"the {rate} rate")
        return rules.beats_forward(toy_cube(frame, rate=rate), study)

    return rule


def _persists(runs: Runs, study: str) -> Verdict:
    rows = chosen(runs.ends)
    sizes = sorted(rows["size"].unique(), key=size_order)
    if len(sizes) < 2:
        raise NotJudgedError("fewer than two sizes")
    small, large = (rows[rows["size"] == size] for size in (sizes[0], sizes[-1]))
    units = sorted(set(small["task"]) & set(large["task"]))
    seeds = sorted(set(small["seed"]) & set(large["seed"]))
    if not units or not seeds:
        raise NotJudgedError("no task and seed that both the smallest and the largest size have")
    first, last = (cube_of(part, units=units, seeds=seeds) for part in (small, large))
    return rules.persists(first, last, study)


def _dips(runs: Runs, study: str) -> Verdict:
    rows = chosen(runs.steps, size=usual_size(runs.ends))
    rows = rows[(rows["group"] == "teacher") & (rows["method"] == "reverse_kl")]
    rows = some(rows, "reverse KL on a teacher task")
    need_columns(rows, "entropy", "entropy_target")

    groups = rows.groupby(["task", "seed", "method"], sort=True)
    found = groups.agg(
        start=("entropy", "first"),
        least=("entropy", "min"),
        end=("entropy", "last"),
        target=("entropy_target", "last"),
    )
    found = found.assign(
        dip=found["target"] - found["least"],
        recovery=found["end"] - found["least"],
        below_start=found["start"] - found["least"],
    )

    measures = ("dip", "recovery", "below_start")
    values = cube_of(found.reset_index(), ("reverse_kl",), measures).values[:, :, 0]
    dip, recovery, below_start = (values[..., place] for place in range(3))
    return rules.dips(dip, recovery, study, below_start=below_start)


def _dips_toy(frame: Frame, study: str) -> Verdict:
    target, end, least = np.moveaxis(toy_entropies(frame, ("reverse_kl",))[:, :, 0], -1, 0)
    return rules.dips(target - least, end - least, study)


def _noise(frame: Frame, study: str) -> Verdict:
    need_columns(frame, "snr_path")
    ratio, regret = noise_and_regret(frame)
    return rules.noise_explains(ratio.values[:, 0, :, 0], regret, study)


def _large_batch(runs: Runs, study: str) -> Verdict:
    large = chosen(runs.ends, variant=LARGE_BATCH)
    large = some(large[large["method"] == "forward_kl"], "forward KL with a large batch")
    usual = chosen(runs.ends)
    cube = cube_of(large, ("forward_kl",), ("forward_kl",))
    other = cube_of(
        usual[usual["size"].isin(large["size"])],
        ("jensen_shannon",),
        ("forward_kl",),
        units=cube.units,
        seeds=cube.seeds,
    )
    logs = log_measures(cube.values) - log_measures(other.values)
    return rules.batch_does_not_save(logs[:, :, 0, 0], study)


def _baseline(runs: Runs, study: str) -> Verdict:
    without = some(chosen(runs.ends, variant=NO_BASELINE), "a run without a baseline")
    objectives = [name for name in FIVE if (without["method"] == name).any()]
    if "reverse_kl" not in objectives or len(objectives) < 2:
        raise NotJudgedError("reverse KL and another objective have no run without a baseline")
    cube = cube_of(without, objectives, (OWN,))
    usual = chosen(runs.ends)
    own = own_measures(usual[usual["size"].isin(without["size"])], objectives, cube)
    gains = log_measures(own) - log_measures(cube.values[..., 0])
    return rules.baseline_helps(gains, objectives, study)


def _frontier(runs: Runs, study: str) -> Verdict:
    return rules.frontier(*alpha_correlations(runs), study)


def _common_rate(runs: Runs, study: str) -> Verdict:
    tuned, common = main_cube(runs), main_cube(runs, COMMON)
    if np.array_equal(tuned.values, common.values, equal_nan=True):
        raise NotJudgedError("the common rate is the tuned rate of everybody: the same runs")
    return rules.common_rate_agrees(tuned, common, study)


def _group(rows: Frame, task: str) -> str:
    return str(rows.loc[rows["task"] == task, "group"].iloc[0])
