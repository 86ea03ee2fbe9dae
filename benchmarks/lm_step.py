"""Seconds of one training step of the lm engine, logging included, at the sizes S, M and L.

The engine is `lm.train.train` itself, on a folder of GPT-2 with random weights: an on-policy step
of one update a batch after a one-token prompt, toward the target that rewards token 5 with a nat.
``--paired`` lets the plain-torch floor (`benchmarks.lm_floor`) take every other step and reports
the ratio. Run ``python -m benchmarks.lm_step --size S --threads 2 --json step.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Two threads collapse beside another busy process unless idle OpenMP threads sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks._turns import Contender, Finished, Laps, summary
from benchmarks.lm_floor import SIZES

WARM_UP, STEPS = 2, 7


class Stopwatch:
    """Sums the time that is spent in some functions, by phase, until it is read."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._watched: list[tuple[Any, str, Any]] = []

    def watch(self, owner: Any, name: str, phase: str) -> None:
        """Time all calls of a function or method from now on; one inside another counts twice."""
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[phase] += time.perf_counter() - start

        self._watched.append((owner, name, function))
        setattr(owner, name, timed)

    def close(self) -> None:
        """Leave the functions as they were."""
        for owner, name, function in self._watched:
            setattr(owner, name, function)

    def read(self) -> dict[str, float]:
        """Return the sums since the last time."""
        seconds, self.seconds = self.seconds, defaultdict(float)
        return dict(seconds)


def run_engine(size: str, threads: int, laps: Laps) -> None:
    """Train with the engine, calling ``laps`` after each step until it has enough.

    Parameters
    ----------
    size
        A key of `benchmarks.lm_floor.SIZES`.
    threads
        Of torch.
    laps
        Times the steps.
    """
    import torch  # noqa: PLC0415 - the driver of a paired run needs no torch

    from lm.train import StepRecord, train  # noqa: PLC0415

    torch.set_num_threads(threads)
    watch = _watch_engine()

    def on_step(report: StepRecord) -> None:
        if report.step == 0:
            laps.start()
        else:
            laps.lap(_phases(watch.read()))
        watch.read()

    with (
        contextlib.closing(watch),
        tempfile.TemporaryDirectory() as folder,
        contextlib.suppress(Finished),
    ):
        train(_config(size, Path(folder), laps.count), on_step=on_step)


def run_floor(size: str, threads: int, laps: Laps) -> None:
    """Train with the plain-torch floor; the phase ``products`` is the matrix products' time."""
    import torch  # noqa: PLC0415

    from benchmarks import lm_floor  # noqa: PLC0415

    torch.set_num_threads(threads)
    steps = lm_floor.training(SIZES[size])
    with contextlib.suppress(Finished):
        laps.start()
        for _ in steps:
            laps.stop()
            laps.lap({"products": lm_floor.matmul_seconds(SIZES[size])})


def _watch_engine() -> Stopwatch:
    from lm.device.amp import Amp  # noqa: PLC0415
    from lm.policy.causal import CausalPolicy  # noqa: PLC0415
    from lm.target.problem import Problem  # noqa: PLC0415
    from lm.training.accumulate import MicroBatches  # noqa: PLC0415
    from lm.training.proposal import Proposal  # noqa: PLC0415

    watch = Stopwatch()
    watch.watch(Proposal, "sample", "sample")
    watch.watch(Problem, "read", "read")
    watch.watch(CausalPolicy, "score", "score")
    watch.watch(MicroBatches, "score", "policy")
    watch.watch(Amp, "backward", "backward")
    watch.watch(Amp, "clip", "optimise")
    watch.watch(Amp, "step", "optimise")
    return watch


def _phases(seconds: dict[str, float]) -> dict[str, float]:
    """Split the scorings: the policy's is the micro-batches', the rest is the base's."""
    score = seconds.pop("score")
    return {**seconds, "base": score - seconds["policy"]}


def _config(size: str, folder: Path, steps: int) -> Any:
    from benchmarks._lm_model import REWARDED, write_model  # noqa: PLC0415
    from lm import config  # noqa: PLC0415
    from lm.features.registry import feature  # noqa: PLC0415

    @feature("rewarded")
    def rewarded(texts: list[str], tokens: list[list[int]]) -> list[float]:
        """Whether the sample contains token 5."""
        return [float(REWARDED in row) for row in tokens]

    write_model(SIZES[size], folder)
    return config.RunConfig(
        output=str(folder / "run"),
        model=str(folder),
        max_new_tokens=SIZES[size].length,
        target=config.TargetConfig(kind="reward_tilted", reward={"rewarded": 1.0}, beta=1.0),
        # Training needs no samples of the base beforehand; few are drawn for the evaluation's Z.
        partition=config.PartitionConfig(policy="leave_one_out", samples=64),
        optimizer=config.OptimizerConfig(lr=1e-5),
        # One evaluation before the first step, on few samples; the last is never reached.
        evaluation=config.EvaluationConfig(every=10**6, samples=64, group=2, texts=1),
        steps=steps + 1,
        batch_size=SIZES[size].samples,
        device="cpu",
    )


def _alone(options: argparse.Namespace) -> dict[str, Any]:
    laps = Laps(options.steps + WARM_UP, turns=options.turns)
    if options.floor:
        run_floor(options.size, options.threads, laps)
    else:
        run_engine(options.size, options.threads, laps)
    return summary(laps.made, warm_up=WARM_UP)


def _paired(options: argparse.Namespace) -> dict[str, Any]:
    arguments = ["--size", options.size, "--threads", str(options.threads)]
    arguments += ["--steps", str(options.steps)]
    module = ["-m", "benchmarks.lm_step", *arguments]
    with (
        Contender("floor", [*module, "--floor"]) as floor,
        Contender("engine", module) as engine,
    ):
        ratios = []
        for lap in range(WARM_UP + options.steps):
            pair = floor.turn().seconds, engine.turn().seconds
            ratios += [pair[1] / pair[0]] if lap >= WARM_UP else []
    result = summary(engine.laps, warm_up=WARM_UP)
    result["floor"] = summary(floor.laps, warm_up=WARM_UP)
    result["ratio_to_floor"] = sorted(ratios)[len(ratios) // 2]
    return result


def main(arguments: list[str] | None = None) -> int:
    """Print the measurement and write it, where asked for, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lm_step", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="S")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--steps", type=int, default=STEPS, help="after the warm-up; at least 5")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--floor", action="store_true", help="time the floor, not the engine")
    parser.add_argument("--paired", action="store_true", help="both in turns")
    parser.add_argument("--turns", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    measured = _paired(options) if options.paired else _alone(options)
    result = {"size": options.size, "threads": options.threads, **measured}
    if not options.turns:
        print(json.dumps(result, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
