"""The work on one batch of problems: every objective, phase and rate, as columns of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fdpg_ref import exact_divergence
from toy.sweep.config import StudyConfig
from toy.sweep.descents.adam import Descent, descend, mean_ratio
from toy.sweep.descents.gradients import signal_to_noise
from toy.sweep.descents.minimise import Minimum
from toy.sweep.descents.objectives import COMMON, OBJECTIVES, finite_on
from toy.sweep.descents.optimum import minima_of
from toy.sweep.measures import describe, measure
from toy.sweep.random.problems import KINDS, Problems
from toy.sweep.rates import PHASES, Setting

if TYPE_CHECKING:
    from jaxtyping import Float

    Columns = dict[str, np.ndarray]


def study_batch(
    problems: Problems,
    uniforms: Float[np.ndarray, "steps B n"],
    rates: dict[Setting, float],
    config: StudyConfig,
) -> Columns:
    """Descend and, outside the family, minimise every objective on a batch of problems.

    Parameters
    ----------
    problems : Problems
        The batch.
    uniforms : (steps, B, n) array
        Randomness of the sampled descents: common random numbers for all objectives and rates.
    rates : dict of float
        Learning rates from the pilot.
    config : StudyConfig
        The descents.

    Returns
    -------
    dict of arrays
        Columns of equal length, one entry per problem, objective, phase and rate.
    """
    blocks = []
    shared = _shared_path(problems, rates, config)
    minima = {} if problems.shape.inside else minima_of(problems, config.iterations)
    for name in OBJECTIVES:
        index = finite_on(name, problems.hard)
        if len(index) == 0:
            continue
        part = problems.take(index)
        known = describe(part) | _at_start(part, shared[:, index], name, config)
        known["objective"] = np.full(len(index), name)
        if minima:
            blocks.append(known | _optimum_columns(part, minima[name], name))
        for phase in PHASES:
            drawn = uniforms[:, index] if phase == "sampled" else None
            blocks += [
                known | columns
                for columns in _descents(part, drawn, rates, config, name=name, phase=phase)
            ]
    return {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}


def _rates_of(problems: Problems, rates: dict[Setting, float], name: str, phase: str) -> np.ndarray:
    shape = problems.shape
    by_kind = [rates.get((shape.world, shape.inside, kind, name, phase), np.nan) for kind in KINDS]
    return np.array(by_kind)[problems.kind]


def _shared_path(
    problems: Problems, rates: dict[Setting, float], config: StudyConfig
) -> np.ndarray:
    """Return the points, the same for every objective, at which their noise is compared."""
    learning_rates = _rates_of(problems, rates, COMMON, "exact")
    return descend(problems, learning_rates, divergence=OBJECTIVES[COMMON], config=config).visited


def _at_start(part: Problems, shared: np.ndarray, name: str, config: StudyConfig) -> Columns:
    divergence, n = OBJECTIVES[name], config.batch_size
    families = part.families
    start = signal_to_noise(
        families, families.policy(families.start), part.log_target, divergence=divergence, n=n
    )
    own = exact_divergence(part.log_base, part.log_target, divergence=divergence)
    return {
        "own_start": own,
        "gradient_norm_start": start.gradient_norm,
        "snr_start": start.ratio,
        "snr_shared": mean_ratio(part, shared, divergence=divergence, n=n),
    }


def _descents(
    part: Problems,
    uniforms: np.ndarray | None,
    rates: dict[Setting, float],
    config: StudyConfig,
    *,
    name: str,
    phase: str,
) -> list[Columns]:
    """Descend at the tuned and at the common rate; once where the two are equal."""
    tuned, common = (_rates_of(part, rates, key, phase) for key in (name, COMMON))
    other = np.flatnonzero(common != tuned)
    stacked = np.concatenate([np.arange(len(tuned)), other])
    chosen = np.concatenate([tuned, common[other]])
    whole, divergence = part.take(stacked), OBJECTIVES[name]
    drawn = None if uniforms is None else uniforms[:, stacked]
    descent = descend(whole, chosen, divergence=divergence, config=config, uniforms=drawn)
    columns = measure(whole, descent.theta, divergence=divergence) | _way(descent)
    columns |= {"learning_rate": chosen, "phase": np.full(len(chosen), phase)}
    at_common = np.arange(len(tuned))
    at_common[other] = len(tuned) + np.arange(len(other))
    return [
        {key: column[rows] for key, column in columns.items()} | {"rate": np.full(len(rows), rate)}
        for rate, rows in (("tuned", np.arange(len(tuned))), ("common", at_common))
    ]


def _way(descent: Descent) -> Columns:
    return {
        "converged": descent.finite,
        "snr_path": descent.snr_path,
        "min_entropy": descent.min_entropy,
    }


def _optimum_columns(part: Problems, minimum: Minimum, name: str) -> Columns:
    nothing = np.full(len(minimum.value), np.nan)
    columns = measure(part, minimum.theta, divergence=OBJECTIVES[name])
    return columns | {
        "converged": minimum.converged,
        "snr_path": nothing,
        "min_entropy": nothing,
        "learning_rate": nothing,
        "phase": np.full(len(nothing), "optimum"),
        "rate": np.full(len(nothing), "none"),
    }
