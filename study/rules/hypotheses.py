"""The rules of docs/hypotheses-first.md as code: arrays of one study in, one verdict out.

Axes are those of `study.tables.cubes`: units (tasks, or problems of the toy), seeds, objectives,
measures. `study.rules.judge` says which table each rule looks at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fdpg_ref.display import number
from study.names import FIVE, label_of
from study.rules.verdicts import Effect, Verdict, decide
from study.statistics import (
    Interval,
    bootstrap,
    interval,
    mean,
    mean_interval,
    mean_over_cells,
    paired_difference,
    percentiles,
    spearman,
)
from study.tables.cubes import Cube, log_measures, mean_regrets
from study.tables.stored import NotJudgedError
from study.text import share

# The bounds of docs/hypotheses-first.md.
FLOAT64_BOUND, FLOAT32_BOUND = 1e-12, 1e-6
BEST_SHARE = 0.9
WIDE_MARGIN = float(np.log(0.8))
OFTEN = 1.0 / 3.0
STABLE = 0.5
DIP = 0.1
NOISE_CORRELATION = -0.3
FRONTIER = 0.5
# Correlations of five ranks take few values: one that equals a bound must not pass by rounding.
ROUNDING = 1e-9


def unification(errors: Mapping[str, Mapping[str, float]], study: str) -> Verdict:
    """H1: the updates agree to rounding in both precisions (holds), or in float64 (partly)."""
    single, double = (_largest(errors, name) for name in ("float32", "float64"))
    precise = double <= FLOAT64_BOUND
    effects = [
        Effect("largest relative difference in float64", double),
        Effect("in float32", single),
    ]
    return decide("H1", study, effects, holds=precise and single <= FLOAT32_BOUND, partly=precise)


def no_best(cube: Cube, study: str) -> Verdict:
    """H2: the share of pairs won by the most frequent winner stays below the bound."""
    _need_objectives(cube)
    logs = log_measures(cube.values)
    _need_cells(logs)
    shares = win_shares(logs[None])[0]
    found = _share_of_most(logs)
    winner = label_of(cube.objectives[int(np.argmax(shares))])
    effect = Effect(f"share of pairs won by {winner}", *found)
    won = ", ".join(
        f"{label_of(name)} {share(part, 1.0)}"
        for name, part in zip(cube.objectives, shares, strict=True)
    )
    holds, partly = _below(found.high, BEST_SHARE), _below(found.value, BEST_SHARE)
    return decide("H2", study, [effect], holds=holds, partly=partly, more=f"Won: {won}.")


def trade_off(alignment: np.ndarray, entropy: np.ndarray, gap: np.ndarray, study: str) -> Verdict:
    """H3: alignment and entropy are opposed over the objectives; reverse KL has less entropy.

    Parameters
    ----------
    alignment, entropy
        (units, seeds, objectives) on rare tasks.
    gap
        (units, seeds) entropy of reverse KL less that of forward KL, on the soft ones.
    study
        Which study.
    """
    correlations = spearman(alignment, entropy)
    _need_cells(correlations, gap)
    first, second = mean_interval(correlations), mean_interval(gap)
    effects = [
        Effect("mean Spearman correlation of alignment and entropy", *first),
        Effect("entropy of reverse KL less forward KL's (nats)", *second),
    ]
    below = [_below(first.high, 0.0), _below(second.high, 0.0)]
    return decide("H3", study, effects, holds=all(below), partly=any(below))


def balance(cube: Cube, study: str) -> Verdict:
    """H4: Jensen-Shannon's mean regret lies below all others' (holds), or is one of two."""
    _need_objectives(cube)
    values = mean_regrets(cube)
    _need_cells(values)
    place = cube.objectives.index("jensen_shannon")
    found = _gap_to_the_least(values, cube.objectives, place)
    means = mean_over_cells(values[None])[0]
    rank = 1 + int(np.sum(means < means[place]))
    listed = ", ".join(
        f"{label_of(cube.objectives[k])} {number(means[k])}" for k in np.argsort(means)
    )
    effect = Effect("mean regret of JS less the least of the others (nats)", *found)
    more = f"Mean regrets: {listed}."
    return decide("H4", study, [effect], holds=_below(found.high, 0.0), partly=rank <= 2, more=more)


def beats_forward(cube: Cube, study: str) -> Verdict:
    """H5: descending JS leaves less forward KL than descending forward KL does.

    Parameters
    ----------
    cube
        Has both objectives and the measure forward KL.
    study
        Which study.
    """
    place = cube.measures.index("forward_kl")
    after_js, after_forward = (
        log_measures(cube.of(name)[..., place]) for name in ("jensen_shannon", "forward_kl")
    )
    difference = after_js - after_forward
    _need_cells(difference)
    found = paired_difference(after_js, after_forward)
    won, of = units_below_zero(difference)

    below = _below(found.high, 0.0)
    effect = Effect("log[forward KL after JS / after forward KL]", *found)
    what = "by the interval over their seeds" if difference.shape[1] > 1 else "each by its value"
    more = f"A ratio of {number(np.exp(found.value))}; below zero on {won} of {of} ({what})."
    holds = below and found.value <= WIDE_MARGIN
    return decide("H5", study, [effect], holds=holds, partly=below or won >= OFTEN * of, more=more)


def persists(small: Cube, large: Cube, study: str) -> Verdict:
    """H6: the objectives' order at the smallest size is that at the largest."""
    for cube in (small, large):
        _need_objectives(cube)
    both = np.stack([small.values, large.values], axis=2)
    _need_cells(both)
    found = interval(_order_between, both)
    effect = Effect("mean Spearman correlation between the sizes", *found)
    return decide(
        "H6", study, [effect], holds=_above(found.low, STABLE), partly=_above(found.low, 0.0)
    )


def dips(
    dip: np.ndarray, recovery: np.ndarray, study: str, *, below_start: np.ndarray | None = None
) -> Verdict:
    """H7: reverse KL's entropy falls below the target's by the bound, and comes back by it.

    Parameters
    ----------
    dip, recovery
        (units, seeds): target's entropy less the least of the run; end's less the least.
    study
        Which study.
    below_start
        The start's entropy less the least, where it is known: reported and not judged, since a
        start below the target looks like a dip.
    """
    _need_cells(dip, recovery)
    first, second = mean_interval(dip), mean_interval(recovery)
    effects = [Effect("dip (nats)", *first), Effect("recovery (nats)", *second)]
    above = [_above(first.low, DIP), _above(second.low, DIP)]
    more = ""
    if below_start is not None:
        more = f"{Effect('Least below the start by (nats)', *mean_interval(below_start))}."
    return decide("H7", study, effects, holds=all(above), partly=any(above), more=more)


def noise_explains(ratio: np.ndarray, regret: np.ndarray, study: str) -> Verdict:
    """H8: within a problem, objectives with more signal to noise have less regret.

    Parameters
    ----------
    ratio, regret
        (problems, objectives).
    study
        Which study.
    """
    correlations = spearman(ratio, regret)[:, None]
    _need_cells(correlations)
    found = mean_interval(correlations)
    effect = Effect("mean Spearman correlation of signal to noise and regret", *found)
    return decide(
        "H8",
        study,
        [effect],
        holds=_below(found.high, NOISE_CORRELATION),
        partly=_below(found.high, 0.0),
    )


def batch_does_not_save(difference: np.ndarray, study: str) -> Verdict:
    """H9: forward KL stays higher after forward KL with a large batch than after JS with one.

    Parameters
    ----------
    difference
        (units, seeds) log of the ratio.
    study
        Which study.
    """
    _need_cells(difference)
    found = mean_interval(difference)
    effect = Effect("log[forward KL after forward KL, large batch / after JS]", *found)
    return decide(
        "H9", study, [effect], holds=_above(found.low, 0.0), partly=_above(found.value, 0.0)
    )


def baseline_helps(gains: np.ndarray, objectives: Sequence[str], study: str) -> Verdict:
    """H10: a baseline lowers reverse KL's own measure, and by more than the others'.

    Parameters
    ----------
    gains
        (units, seeds, objectives) log of the own measure with the baseline less without.
    objectives
        Their names; reverse KL is one.
    study
        Which study.
    """
    _need_cells(gains)
    place = objectives.index("reverse_kl")
    found = _gap_to_the_least(gains, objectives, place)
    means = mean_over_cells(gains[None])[0]
    own = mean_interval(gains[..., place])
    listed = ", ".join(
        f"{label_of(name)} {number(one)}" for name, one in zip(objectives, means, strict=True)
    )

    effects = [
        Effect("reverse KL's gain less the largest of the others (nats of log)", *found),
        Effect("reverse KL's own", *own),
    ]
    holds = _below(found.high, 0.0) and _below(own.value, 0.0)
    more = f"Gains, below zero where the baseline helps: {listed}."
    return decide("H10", study, effects, holds=holds, partly=_below(found.value, 0.0), more=more)


def frontier(precision: np.ndarray, coverage: np.ndarray, study: str) -> Verdict:
    """H11: pass@1 rises with alpha, the covered share of the names falls.

    Parameters
    ----------
    precision, coverage
        (units, seeds) Spearman's correlation of alpha with each.
    study
        Which study.
    """
    _need_cells(precision, coverage)
    first, second = mean_interval(precision), mean_interval(coverage)
    effects = [
        Effect("Spearman correlation of alpha with pass@1", *first),
        Effect("with the coverage of 256 samples", *second),
    ]
    clear = [_above(first.low, FRONTIER), _below(second.high, -FRONTIER)]
    return decide("H11", study, effects, holds=all(clear), partly=any(clear))


def common_rate_agrees(tuned: Cube, common: Cube, study: str) -> Verdict:
    """H12: the objectives' mean regrets are ordered alike at the two rates."""
    for cube in (tuned, common):
        _need_objectives(cube)
    both = np.stack([mean_regrets(tuned), mean_regrets(common)], axis=2)
    _need_cells(both)
    found = interval(_order_of_regrets, both)
    effect = Effect("mean Spearman correlation of the mean regrets", *found)
    holds, partly = _above(found.low, STABLE), _above(found.low, 0.0)
    return decide("H12", study, [effect], holds=holds, partly=partly, more=_without_same(both))


def win_shares(logs: np.ndarray) -> np.ndarray:
    """Return the share of pairs of unit and measure that each objective wins.

    Parameters
    ----------
    logs
        (draws, units, seeds, objectives, measures), the mean over seeds decides.

    Returns
    -------
    (draws, objectives) array
        Ties share a win; pairs that are infinite for everybody are left out.
    """
    means = mean(logs, axis=2)
    finite = np.where(np.isfinite(means), means, np.inf)
    least = finite.min(axis=2, keepdims=True)
    wins = (finite == least) & np.isfinite(least)
    parts = wins / np.maximum(wins.sum(axis=2, keepdims=True), 1)
    pairs = np.isfinite(least).sum(axis=(1, 2, 3))
    return parts.sum(axis=(1, 3)) / np.maximum(pairs, 1)[:, None]


def units_below_zero(difference: np.ndarray) -> tuple[int, int]:
    """Count the units whose mean is below zero by its own interval over seeds, and all units.

    Parameters
    ----------
    difference
        (units, seeds); with one seed the value itself decides.
    """
    if difference.shape[1] == 1:
        known = difference[~np.isnan(difference)]
        return int(np.sum(known < 0)), known.size
    rows = [row[None] for row in difference if not np.isnan(row).all()]
    limits = [percentiles(bootstrap(mean_over_cells, row))[1] for row in rows]
    return sum(limit < 0 for limit in limits), len(rows)


def _share_of_most(logs: np.ndarray) -> Interval:
    if logs.shape[1] > 1:
        return interval(lambda cubes: win_shares(cubes).max(axis=-1), logs)
    # With one seed nothing is averaged before a pair is won: each unit's wins are drawn as a whole.
    pairs = np.any(np.isfinite(logs[:, 0]), axis=1).sum(axis=-1)
    won = np.stack([win_shares(unit[None, None])[0] for unit in logs]) * pairs[:, None]
    table = np.concatenate([won, pairs[:, None]], axis=1)[:, None]

    def most(cubes: np.ndarray) -> np.ndarray:
        totals = cubes[:, :, 0].sum(axis=1)
        return totals[:, :-1].max(axis=1) / totals[:, -1]

    return interval(most, table)


def _order_between(cubes: np.ndarray) -> np.ndarray:
    means = mean(cubes, axis=2)
    order = spearman(np.moveaxis(means[:, :, 0], 2, -1), np.moveaxis(means[:, :, 1], 2, -1))
    return mean(order, axis=(1, 2))


def _order_of_regrets(cubes: np.ndarray) -> np.ndarray:
    means = mean(cubes, axis=2)
    return mean(spearman(means[:, :, 0], means[:, :, 1]), axis=1)


def _without_same(both: np.ndarray) -> str:
    """Say on how many units the two rates are the same runs, and what the others show."""
    pairs = zip(both[:, :, 0], both[:, :, 1], strict=True)
    same = np.array([np.array_equal(one, other, equal_nan=True) for one, other in pairs])
    if not same.any() or (~same).sum() < 2:
        return ""
    rest = Effect("it is", *interval(_order_of_regrets, both[~same]))
    return (
        f"On {same.sum()} of {same.size} tasks both rates are the same runs, and the correlation "
        f"is 1 by construction; on the others {rest}."
    )


def _above(value: float, bound: float) -> bool:
    return value > bound + ROUNDING


def _below(value: float, bound: float) -> bool:
    return value < bound - ROUNDING


def _largest(errors: Mapping[str, Mapping[str, float]], precision: str) -> float:
    if precision not in errors:
        raise NotJudgedError(f"no update was compared in {precision}")
    return max(float(error) for error in errors[precision].values())


def _need_objectives(cube: Cube) -> None:
    missing = [name for name in cube.missing if name in FIVE]
    if missing:
        raise NotJudgedError(f"no run of {', '.join(map(label_of, missing))}")


def _gap_to_the_least(values: np.ndarray, objectives: Sequence[str], place: int) -> Interval:
    """Return by how much one objective's mean exceeds the least of all others'.

    The least of some of them is another effect: an objective that was never measured is an error,
    and a draw in which one has no run is undefined.
    """
    means = mean_over_cells(values[None])[0]
    if np.isnan(means).any():
        missing = [label_of(objectives[k]) for k, one in enumerate(means) if np.isnan(one)]
        raise NotJudgedError(f"no run of {', '.join(missing)}")

    others = [k for k in range(len(objectives)) if k != place]

    def gap(cubes: np.ndarray) -> np.ndarray:
        means = mean_over_cells(cubes)
        return means[:, place] - means[:, others].min(axis=1)

    return interval(gap, values)


def _need_cells(*arrays: np.ndarray) -> None:
    for values in arrays:
        known = ~np.isnan(values.reshape(*values.shape[:2], -1)).all(axis=-1)
        if known.sum() < 2:
            raise NotJudgedError("fewer than two runs in which the effect is defined: no interval")
