"""A LoRA step on SmolLM2 against a loop written by hand, in turns, with the memory of both.

Each is a process of its own that sleeps until it is its turn. Before it, once:
`python -m lm fetch smollm2`. Writes llm_speed.json and .md to benchmarks/results.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# Two threads collapse beside another busy process unless idle OpenMP threads sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks._laps import Finished, Laps, summary
from benchmarks._results import RESULTS, machine, write_results
from benchmarks.lm_speed import Contender, busy_seconds

SAMPLES, LENGTH, RANK = 32, 24, 8
PROMPT, WANTED = "I watched the film last night and I thought it was", "great"
# Our step over the loop's, and a whole process of ours.
MOST_OF_LOOP, MOST_GIB = 1.05, 3.0
WARM_UP, ROUNDS = 1, 7


def run_loop(folder: str, laps: Laps) -> None:
    """Train by hand."""
    from benchmarks import llm_floor  # noqa: PLC0415 - imports transformers

    steps = llm_floor.training(folder, PROMPT, WANTED, samples=SAMPLES, length=LENGTH, rank=RANK)
    with contextlib.suppress(Finished):
        laps.start()
        for _ in steps:
            laps.lap()


def run_engine(folder: str, laps: Laps) -> None:
    """Train with `lm.train.train`, logging included; before it, Z and an evaluation."""
    from lm import config  # noqa: PLC0415 - the other contender does without lm
    from lm.train import StepRecord, train  # noqa: PLC0415

    def on_step(report: StepRecord) -> None:
        _ = laps.start() if report.step == 0 else laps.lap()

    reward = {f"contains({WANTED})": 1.0}
    with tempfile.TemporaryDirectory() as output, contextlib.suppress(Finished):
        run = config.RunConfig(
            output=str(Path(output) / "run"),
            model=folder,
            max_new_tokens=LENGTH,
            prompts=config.PromptsConfig(text=PROMPT),
            target=config.TargetConfig(kind="reward_tilted", reward=reward, beta=1.0),
            lora=config.LoraConfig(rank=RANK),
            partition=config.PartitionConfig(samples=32),
            optimizer=config.OptimizerConfig(lr=1e-5),
            # One evaluation before the first step; the last is never reached.
            evaluation=config.EvaluationConfig(every=10**6, samples=32, target_samples=0),
            steps=laps.count + 1,
            batch_size=SAMPLES,
            device="cpu",
        )
        train(run, on_step=on_step)


CONTENDERS: Mapping[str, Callable[[str, Laps], None]] = {"loop": run_loop, "engine": run_engine}


def measure(folder: str, rounds: int, threads: int) -> dict[str, Any]:
    """Let both make one step a round, each before the other in every second one.

    Parameters
    ----------
    folder
        Of the model.
    rounds
        After the warm-up.
    threads
        Of each.

    Returns
    -------
    dict
        By contender what `benchmarks._laps.summary` measures; medians of the ratios within a round
        of seconds and of processor seconds; the share of a core that other programs used.
    """
    with ExitStack() as stack:
        module = ["-m", "benchmarks.llm_speed", "--threads", str(threads), "--model", folder]
        runners = [
            stack.enter_context(Contender(name, [*module, "--contender", name]))
            for name in CONTENDERS
        ]
        for _ in range(WARM_UP):
            _ = [runner.turn() for runner in runners]
        start, busy = time.perf_counter(), busy_seconds()
        for round_ in range(rounds):
            _ = [runner.turn() for runner in runners[:: 1 if round_ % 2 else -1]]
        wall, busy_since = time.perf_counter() - start, busy_seconds()

    laps = {runner.name: runner.laps[WARM_UP:] for runner in runners}
    own = sum(lap.turn_cpu_seconds for row in laps.values() for lap in row)
    pairs = [*zip(laps["engine"], laps["loop"], strict=True)]
    return {
        "threads": threads,
        "rounds": rounds,
        "others_cpu_over_wall": (
            None if busy is None or busy_since is None else (busy_since - busy - own) / wall
        ),
        "contenders": {
            runner.name: summary(runner.laps, warm_up=WARM_UP)
            | {"cpu_seconds": statistics.median(lap.cpu_seconds for lap in laps[runner.name])}
            for runner in runners
        },
        "ratios": {
            "seconds": statistics.median(our.seconds / loop.seconds for our, loop in pairs),
            "processor": statistics.median(
                our.cpu_seconds / loop.cpu_seconds for our, loop in pairs
            ),
        },
    }


def broken_bounds(result: dict[str, Any]) -> list[str]:
    """Return a sentence for every bound that the measurement breaks."""
    # Processor seconds: beside other programs a clock measures these.
    ratio, peak = result["ratios"]["processor"], _peak(result)
    sentences = {
        f"engine over loop is {ratio:.3f}, wanted <= {MOST_OF_LOOP}": ratio <= MOST_OF_LOOP,
        f"the engine's peak is {peak:.2f} GiB, wanted <= {MOST_GIB}": peak <= MOST_GIB,
    }
    return [sentence for sentence, holds in sentences.items() if not holds]


def _peak(result: dict[str, Any]) -> float:
    return result["contenders"]["engine"]["peak_rss_mb"] / 1024


def markdown(result: dict[str, Any]) -> str:
    """Return the page that accompanies the JSON."""
    others = result["others_cpu_over_wall"]
    busy = "an unknown share" if others is None else f"{others:.2f}"
    rows = [
        f"| {name} | {one['seconds_per_step']:.2f} | {one['cpu_seconds']:.2f} | "
        f"{one['peak_rss_mb'] / 1024:.2f} |"
        for name, one in result["contenders"].items()
    ]

    lines = [
        "# A LoRA step on SmolLM2: the engine and a loop written by hand",
        "",
        f"{SAMPLES} samples of {LENGTH} tokens after one prompt of twelve, an adapter of rank "
        f"{RANK}, float32, {result['threads']} threads. {result['machine']}. Medians of "
        f"{result['rounds']} rounds in which each made one step. Written by "
        f"`{result['command']}`. The loop is [llm_floor.py](../llm_floor.py).",
        "",
        "| | s/step | processor s/step | peak memory of the process, GiB |",
        "|---|---|---|---|",
        *rows,
        "",
        f"Engine over loop, within a round: {result['ratios']['seconds']:.3f} by the clock, "
        f"{result['ratios']['processor']:.3f} in processor seconds. The engine's memory includes "
        f"Z and an evaluation. Other programs used {busy} of one core meanwhile.",
    ]
    return "\n".join([*lines, ""])


def main(arguments: list[str] | None = None) -> int:
    """Print and write the measurement; 1 if it breaks a bound."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.llm_speed", description=__doc__)
    parser.add_argument("--model", help="folder; by default SmolLM2 in the cache")
    parser.add_argument("--threads", type=int, default=2, help="of each")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="after the warm-up")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the files")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--turns", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    given = [*sys.argv[1:]] if arguments is None else arguments

    # One of the two, in a process of its own.
    if options.contender is not None:
        import torch  # noqa: PLC0415 - not imported to print the help

        torch.set_num_threads(options.threads)
        CONTENDERS[options.contender](options.model, Laps(1000, turns=options.turns))
        return 0

    if options.model is None:
        from lm.config.base import PRETRAINED  # noqa: PLC0415

        options.model = str(PRETRAINED["smollm2"].folder())
        if not Path(options.model).is_dir():
            parser.error("SmolLM2 is not in the cache: python -m lm fetch smollm2")
    result = measure(options.model, options.rounds, options.threads)
    result["machine"] = machine("torch", "transformers", "peft")
    result["command"] = " ".join(["python -m benchmarks.llm_speed", *given])
    page = markdown(result)
    print(page)
    write_results(options.output, "llm_speed", result, page)
    for sentence in (broken := broken_bounds(result)):
        print(sentence)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
