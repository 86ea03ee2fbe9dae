"""The rules of docs/hypotheses.md, the second edition, as code: arrays in, one verdict out.

Axes are units (tasks, or problems of the toy), seeds, objectives and measures. Everything is a
logarithm of a ratio between two objectives, paired by task and seed, unless said otherwise;
`study.rules.judge_second` says which table each rule looks at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from study.names import FIVE, label_of
from study.rules.bands import (
    BAND,
    BETTER,
    EQUIVALENT,
    LEAST_SEEDS,
    OPEN,
    TAIL,
    WORSE,
    below,
    chances,
    claim,
    corrected_claims,
    every_row,
    holm,
    known_rows,
    slope,
    t_interval,
    unit_means,
)
from study.rules.verdicts import Effect, Verdict, decide_three
from study.statistics import mean, spearman
from study.tables.stored import NotJudgedError

# The bounds of docs/hypotheses.md.
FLOAT64_BOUND, FLOAT32_BOUND = 1e-12, 1e-6
ENTROPY_GAP = -0.1
STEADY = 0.25
DIP = 0.1
NOISE_CORRELATION = -0.3
FRONTIER = 0.5


def unification(errors: Mapping[str, Mapping[str, float]], study: str) -> Verdict:
    """H1: the updates agree to rounding in both precisions; in float64 they must."""
    largest = {}
    for precision in ("float64", "float32"):
        if not errors.get(precision):
            raise NotJudgedError(f"no update was compared in {precision}")
        largest[precision] = float(np.max(list(errors[precision].values())))
    double, single = largest["float64"], largest["float32"]
    effects = [Effect("largest relative difference in float64", double), Effect("float32", single)]
    holds = double <= FLOAT64_BOUND and single <= FLOAT32_BOUND
    return decide_three("H1", study, effects, holds=holds, fails=double > FLOAT64_BOUND)


def no_best(logs: np.ndarray, study: str, objectives: Sequence[str] = FIVE) -> Verdict:
    """H2: each objective is worse than another somewhere; a best one is worse than none anywhere.

    Parameters
    ----------
    logs
        (units, seeds, objectives, measures) logarithms of measures.
    study
        Which study.
    objectives
        Their names.
    """
    beaten, never = [], []
    for place, name in enumerate(objectives):
        ratios = [
            row
            for other in range(len(objectives))
            if other != place
            for measure in range(logs.shape[3])
            for row in known_rows(_ratio(logs[:, :, place, measure], logs[:, :, other, measure]))
        ]
        if not ratios:
            raise NotJudgedError(f"no comparison of {label_of(name)} with {LEAST_SEEDS} pairs")
        # Each objective must be beaten, so that only its own comparisons are a family.
        if any(holm([chances(row)[WORSE] for row in ratios])):
            beaten.append(name)
        if all(t_interval(row).high < BAND for row in ratios):
            never.append(name)

    effects = [Effect("objectives that are worse than another somewhere", len(beaten))]
    more = f"{_listed('Worse somewhere', beaten)} {_listed('Worse nowhere', never)}"
    holds = len(beaten) == len(objectives)
    return decide_three("H2", study, effects, holds=holds, fails=bool(never), more=more)


def less_diverse(
    gap: np.ndarray, study: str, *, least: int = LEAST_SEEDS, name: str = "reverse KL"
) -> Verdict:
    """H3: at the same alignment reverse KL has less entropy than forward KL, on every task.

    Parameters
    ----------
    gap
        (units, seeds) nats; NaN where one of the two never got there.
    study
        Which study.
    least
        Seeds that a unit must have.
    name
        Whose entropy it is, less forward KL's.
    """
    found = [t_interval(row) for row in every_row(gap, least)]
    # All tasks must say so, which needs no correction.
    holds = all(one.high < ENTROPY_GAP for one in found)
    fails = all(one.low > ENTROPY_GAP for one in found)
    highest = max(found, key=lambda one: one.high)
    effect = Effect(f"entropy of {name} less forward KL's, on the task where it is most", *highest)
    more = f"Tasks: {'; '.join(str(Effect('', *one)).strip() for one in found)}."
    return decide_three("H3", study, [effect], holds=holds, fails=fails, more=more)


def balance(
    logs: np.ndarray, study: str, objectives: Sequence[str] = FIVE, *, least: int = LEAST_SEEDS
) -> Verdict:
    """H4: averaged over the measures, JS is not worse than any other, and better than one.

    Parameters
    ----------
    logs
        (units, seeds, objectives, measures) logarithms of measures.
    study
        Which study.
    objectives
        Their names.
    least
        Seeds that a unit must have.
    """
    place = objectives.index("jensen_shannon")
    others = [k for k in range(len(objectives)) if k != place]
    rows = []
    for other in others:
        ratios = mean(_ratio(logs[:, :, place], logs[:, :, other]), axis=-1)
        rows.append(unit_means(ratios, least))
    found = [t_interval(row) for row in rows]
    claims = corrected_claims(rows)

    effects = [
        Effect(f"JS to {label_of(objectives[k])}", *one)
        for k, one in zip(others, found, strict=True)
    ]
    holds = all(one.high < BAND for one in found) and BETTER in claims
    fails = WORSE in claims or all(claim(one) == EQUIVALENT for one in found)
    return decide_three("H4", study, effects, holds=holds, fails=fails)


def beats_forward(ratio: np.ndarray, study: str, *, least: int = LEAST_SEEDS) -> Verdict:
    """H5: KL(p||pi) after descending JS is lower by the band than after forward KL, over tasks.

    Parameters
    ----------
    ratio
        (units, seeds).
    study
        Which study.
    least
        Seeds that a unit must have; 1 in the toy, whose units are problems.
    """
    found = t_interval(unit_means(ratio, least))
    word = claim(found)
    effect = Effect("log[KL(p‖π) after JS / after forward KL]", *found)
    more = f"A ratio of {np.exp(found.value):.3g}: {word}."
    if least > 1:
        more += f" {_counted(corrected_claims(known_rows(ratio, least)))}"
    return decide_three(
        "H5", study, [effect], holds=word == BETTER, fails=word in (WORSE, EQUIVALENT), more=more
    )


def persists(logs: np.ndarray, decades: np.ndarray, names: Sequence[str], study: str) -> Verdict:
    """H6: log ratios that lie outside the band have no slope in the number of parameters.

    Parameters
    ----------
    logs
        (comparisons, cells): the mean log ratio of every size and base.
    decades
        (cells,) log10 of the number of parameters.
    names
        Of the comparisons: task and objective.
    study
        Which study.
    """
    kept = [(name, row) for name, row in zip(names, logs, strict=True) if np.isfinite(row).all()]
    if not kept:
        raise NotJudgedError("no comparison has all sizes and bases")
    slopes = [slope(decades, row) for _, row in kept]

    # What differs at all, and which slopes are no accident.
    differs = [word in (BETTER, WORSE) for word in corrected_claims([row for _, row in kept])]
    leaves = holm([chance for _, chance in slopes], 2.0 * TAIL)
    inside = [found.low > -STEADY and found.high < STEADY for found, _ in slopes]
    changes = [moved and not flat for moved, flat in zip(leaves, inside, strict=True)]
    judged = [flat for flat, different in zip(inside, differs, strict=True) if different]

    steepest = max(range(len(kept)), key=lambda k: abs(slopes[k][0].value))
    effect = Effect(f"slope per decade, {kept[steepest][0]}", *slopes[steepest][0])
    more = (
        f"{sum(differs)} of {len(kept)} log ratios lie outside the band; {sum(changes)} change "
        f"with size, {sum(inside)} slopes lie inside ± {STEADY:g}."
    )
    holds = bool(judged) and all(judged) and not any(changes)
    return decide_three("H6", study, [effect], holds=holds, fails=any(changes), more=more)


def dips(dip: np.ndarray, recovery: np.ndarray, study: str) -> Verdict:
    """H7: reverse KL's entropy dips below the target's and recovers, by more than forward KL's.

    Parameters
    ----------
    dip, recovery
        (runs,) nats: reverse KL's less forward KL's, paired.
    study
        Which study.
    """
    both = np.isfinite(dip) & np.isfinite(recovery)
    if both.sum() < LEAST_SEEDS:
        raise NotJudgedError(f"fewer than {LEAST_SEEDS} pairs of runs")
    first, second = t_interval(dip[both]), t_interval(recovery[both])
    effects = [
        Effect("dip, reverse KL's less forward KL's (nats)", *first),
        Effect("recovery", *second),
    ]
    holds = first.low > DIP and second.low > DIP
    return decide_three(
        "H7", study, effects, holds=holds, fails=first.high < DIP or second.high < DIP
    )


def noise_explains(ratio: np.ndarray, regret: np.ndarray, study: str) -> Verdict:
    """H8: within a problem, objectives with more signal to noise have less regret.

    Parameters
    ----------
    ratio, regret
        (problems, objectives).
    study
        Which study.
    """
    found = t_interval(unit_means(spearman(ratio, regret)[:, None], 1))
    effect = Effect("mean Spearman correlation of signal to noise and regret", *found)
    holds, fails = found.high < NOISE_CORRELATION, found.low > NOISE_CORRELATION
    return decide_three("H8", study, [effect], holds=holds, fails=fails)


def batch_does_not_save(ratio: np.ndarray, study: str) -> Verdict:
    """H9: forward KL with a large batch stays worse than JS with the usual one, over tasks.

    Parameters
    ----------
    ratio
        (units, seeds) log[KL(p||pi) after forward KL, large / after JS, usual].
    study
        Which study.
    """
    found = t_interval(unit_means(ratio))
    word = claim(found)
    effect = Effect("log[KL(p‖π) after forward KL, large batch / after JS]", *found)
    more = _counted(corrected_claims(known_rows(ratio)))
    return decide_three(
        "H9", study, [effect], holds=word == WORSE, fails=word in (BETTER, EQUIVALENT), more=more
    )


def baseline_helps(gains: np.ndarray, study: str, objectives: Sequence[str] = FIVE) -> Verdict:
    """H10: on every task a baseline lowers reverse KL's own measure, and the others' less.

    Parameters
    ----------
    gains
        (units, seeds, objectives) log of the own measure with the baseline less without.
    study
        Which study.
    objectives
        Their names.
    """
    place = objectives.index("reverse_kl")
    own = every_row(gains[..., place])
    gaps = [
        row
        for other in range(len(objectives))
        if other != place
        for row in every_row(gains[..., place] - gains[..., other])
    ]
    owns, differences = [t_interval(row) for row in own], [t_interval(row) for row in gaps]
    least = max(differences, key=lambda one: one.high)

    effects = [
        Effect("reverse KL's gain less another's, where it is least", *least),
        Effect("reverse KL's own, where it is least", *max(owns, key=lambda one: one.high)),
    ]
    holds = all(claim(one) == BETTER for one in owns) and all(one.high < 0.0 for one in differences)
    greater = any(holm([below(-row, 0.0) for row in gaps]))
    words = corrected_claims(own)
    fails = greater or WORSE in words or EQUIVALENT in words
    return decide_three("H10", study, effects, holds=holds, fails=fails)


def frontier(precision: np.ndarray, coverage: np.ndarray, study: str) -> Verdict:
    """H11: on every task pass@1 rises with alpha, and the covered share of the names falls.

    Parameters
    ----------
    precision, coverage
        (units, seeds) Spearman's correlation of alpha with each.
    study
        Which study.
    """
    rises = [t_interval(row) for row in every_row(precision)]
    falls = [t_interval(row) for row in every_row(coverage)]
    effects = [
        Effect("Spearman correlation of alpha with pass@1", *min(rises, key=lambda one: one.low)),
        Effect("with the coverage of 256 samples", *max(falls, key=lambda one: one.high)),
    ]
    holds = all(one.low > FRONTIER for one in rises) and all(one.high < -FRONTIER for one in falls)
    fails = any(one.high < FRONTIER for one in rises) or any(one.low > -FRONTIER for one in falls)
    return decide_three("H11", study, effects, holds=holds, fails=fails)


def common_rate_agrees(
    tuned: np.ndarray, common: np.ndarray, study: str, objectives: Sequence[str] = FIVE
) -> Verdict:
    """H12: where the two rates differ, no objective is better or worse at one of them.

    Parameters
    ----------
    tuned, common
        (units, seeds, objectives, measures) logarithms of measures.
    study
        Which study.
    objectives
        Their names; forward KL's tuned rate is the common one.
    """
    names, rows = [], []
    for place, name in enumerate(objectives):
        ratio = _ratio(tuned[:, :, place], common[:, :, place])
        # Where both are the same runs, nothing is compared; nor where a measure is infinite.
        differs = (np.abs(ratio) > 0).any(axis=(1, 2))
        if name != "forward_kl" and differs.any():
            names.append(name)
            rows.append(unit_means(mean(ratio[differs], axis=-1)))
    if not rows:
        raise NotJudgedError("the common rate is the tuned rate of everybody: the same runs")
    found, claims = [t_interval(row) for row in rows], corrected_claims(rows)
    effects = [
        Effect(f"log[tuned / common], {label_of(name)}, {len(row)} tasks", *one)
        for name, row, one in zip(names, rows, found, strict=True)
    ]
    holds = all(claim(one) == EQUIVALENT for one in found)
    fails = BETTER in claims or WORSE in claims
    return decide_three("H12", study, effects, holds=holds, fails=fails)


def measure_decides(
    best: np.ndarray, policy_side: np.ndarray, study: str, *, least: int = LEAST_SEEDS
) -> Verdict:
    """H13: the policy-side estimate moves the log ratio of JS to forward KL in favour of JS.

    Parameters
    ----------
    best, policy_side
        (units, seeds) log ratios by the best value, and by samples of the policy alone.
    study
        Which study.
    least
        Seeds that a unit must have.
    """
    bias = _difference(policy_side, best)
    found = t_interval(unit_means(bias, least))
    effect = Effect("policy-side less best log ratio", *found)
    more = _counted(corrected_claims(known_rows(bias, least)))
    holds, fails = found.high < -BAND, found.low > -BAND
    return decide_three("H13", study, [effect], holds=holds, fails=fails, more=more)


def _ratio(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return a difference of logarithms; NaN where a measure is infinite for either."""
    return _difference(
        np.where(np.isfinite(first), first, np.nan), np.where(np.isfinite(second), second, np.nan)
    )


def _difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.asarray(first, dtype=float) - np.asarray(second, dtype=float)


def _counted(claims: Sequence[str]) -> str:
    """Say of how many tasks each claim stands, by intervals corrected by Holm."""
    counts = ", ".join(
        f"{word} on {claims.count(word)}" for word in (BETTER, WORSE, EQUIVALENT, OPEN)
    )
    return f"Of {len(claims)} tasks, corrected: {counts}."


def _listed(what: str, names: Sequence[str]) -> str:
    return f"{what}: {', '.join(map(label_of, names)) or 'none'}."
