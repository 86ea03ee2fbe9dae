"""The whole study: problems from a seed, a pilot, and the batches, in processes of their own.

Which problems and which random numbers a batch sees is fixed before any work is given out, so the
number of workers changes nothing but the time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np

from toy.sweep.config import StudyConfig
from toy.sweep.random.draws import SHAPES
from toy.sweep.random.problems import KINDS, Problems, draw_problems
from toy.sweep.rates import Setting, choose, pilot
from toy.sweep.tasks import study_batch

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# Streams of the seed, so that the pilot shares no problem with the study.
_STUDY, _PILOT = 0, 1


class Batch(NamedTuple):
    """The description of a batch of problems, from which a worker draws it.

    Attributes
    ----------
    shape : int
        Place in `SHAPES`.
    numbers, kinds : tuple of int
        Number of each problem, and place of its target in `KINDS`.
    stream : int
        Which stream of the seed the problems come from.
    """

    shape: int
    numbers: tuple[int, ...]
    kinds: tuple[int, ...]
    stream: int


class Results(NamedTuple):
    """The columns of the table, and the learning rates that the pilot chose."""

    columns: dict[str, np.ndarray]
    rates: dict[Setting, float]


def run_study(
    config: StudyConfig, *, workers: int = 1, advance: Callable[[float], None] = lambda _: None
) -> Results:
    """Run the pilot and the study.

    Parameters
    ----------
    config : StudyConfig
        All settings.
    workers : int
        Processes that share the work. One core each; the results do not depend on it.
    advance : callable
        Told the share of the work of each batch that is done.

    Returns
    -------
    Results
        Columns in the order of the batches, and the rates.

    Raises
    ------
    ValueError
        If ``workers`` is not positive.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}: it must be at least 1")

    pilots, batches = pilot_batches(config), study_batches(config)
    # A pilot problem is descended at every rate, a problem of the study at two.
    efforts = [len(batch.numbers) * len(config.learning_rates) for batch in pilots]
    efforts += [len(batch.numbers) * 4 for batch in batches]
    share = (effort / sum(efforts) for effort in efforts)

    # The pilot chooses a learning rate for each setting.
    with _pool(workers) as pool:
        left: dict[Setting, list[np.ndarray]] = {}
        for found in pool.map(_pilot, pilots, [config] * len(pilots)):
            for setting, shares in found.items():
                left.setdefault(setting, []).append(shares)
            advance(next(share))
        joined = {setting: np.concatenate(shares, axis=-1) for setting, shares in left.items()}
        rates = choose(joined, config.learning_rates)

        # The study, at the chosen rates and at the common one.
        blocks = []
        for block in pool.map(_study, batches, [config] * len(batches), [rates] * len(batches)):
            blocks.append(block)
            advance(next(share))

    columns = {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}
    return Results(columns, rates)


def study_batches(config: StudyConfig) -> list[Batch]:
    """Return the batches of the study: shapes and kinds of target in turn."""
    numbers = range(config.problems)
    return [
        Batch(shape, tuple(chunk), tuple(n // len(SHAPES) % len(KINDS) for n in chunk), _STUDY)
        for shape in range(len(SHAPES))
        for chunk in _chunks(numbers[shape :: len(SHAPES)], config.chunk)
    ]


def pilot_batches(config: StudyConfig) -> list[Batch]:
    """Return the batches of the pilot: every shape and kind of target equally often."""
    kinds = tuple(range(len(KINDS))) * config.pilots
    return [
        Batch(shape, tuple(shape * len(kinds) + i for i in range(len(kinds))), kinds, _PILOT)
        for shape in range(len(SHAPES))
    ]


def make(batch: Batch, config: StudyConfig) -> tuple[Problems, np.ndarray]:
    """Draw the problems of a batch, and the uniforms (steps, B, n) of their sampled descents."""
    # A problem has two streams of its own: one to be drawn from, one to be descended with.
    drawn, descended = (
        [_sequence(config, batch.stream, number, part) for number in batch.numbers]
        for part in range(2)
    )
    problems = draw_problems(SHAPES[batch.shape], batch.numbers, batch.kinds, drawn)
    size = config.steps, config.batch_size
    uniforms = np.stack([np.random.default_rng(seed).random(size) for seed in descended], axis=1)
    return problems, uniforms


def _sequence(config: StudyConfig, *key: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(config.seed, spawn_key=key)


def _pilot(batch: Batch, config: StudyConfig) -> dict[Setting, np.ndarray]:
    return pilot(*make(batch, config), config)


def _study(batch: Batch, config: StudyConfig, rates: dict[Setting, float]) -> dict[str, np.ndarray]:
    problems, uniforms = make(batch, config)
    return study_batch(problems, uniforms, rates, config)


def _chunks(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Start workers of one thread each: sums over more threads may be rounded in another order."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield pool
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
