"""The engine against its floor and against TRL's trainers, paired: each in turn makes one step.

Every contender (the plain-torch floor, the engine, TRL's GRPO and RLOO) is a process of its own
that sleeps until it is its turn; ratios are taken within a round and their median is reported, so
that a busy machine slows all of them. Writes
lm_speed_SIZE.json and .md to benchmarks/results. Run ``python -m benchmarks lm_speed``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.markdown import Markdown

from benchmarks._laps import PREFIX, Lap, summary
from benchmarks._results import RESULTS, machine, write_results
from benchmarks.lm_floor import SIZES

# Our step over the floor's; the floor over its matrix products; the faster TRL trainer over ours.
MOST_OF_FLOOR = 1.15
MOST_OF_PRODUCTS = {"S": 2.8, "M": 1.8, "L": 1.9}
LEAST_OF_TRL = {"S": 1.37, "M": 1.26, "L": 1.3}
# Below this share of a core a thread, somebody else was using the machine.
IDLE_OTHERS = 0.1
ROUNDS = {"S": 12, "M": 5, "L": 5}
WARM_UP = 2


TRAINERS = ("TRL GRPO", "TRL RLOO")
CONTENDERS = ("floor", "engine", *TRAINERS, "TRL GRPO, fused gelu")


class Contender:
    """A program in a process of its own, which makes a step when it is told to.

    It brings its own threads, memory and libraries, and sleeps until it is its turn.

    Parameters
    ----------
    name
        Its name in the results.
    arguments
        Of python: ``-m benchmarks.lm_step --size S ...``; ``--turns`` is added.
    """

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.name = name
        self.laps: list[Lap] = []
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as this
        self._process = subprocess.Popen(
            [sys.executable, *arguments, "--turns"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def turn(self) -> Lap:
        """Let it make one step and wait for it.

        Raises
        ------
        RuntimeError
            The process has died; the message holds the end of its errors.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # it has died, which the end of its output shows
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(PREFIX):
                self.laps.append(Lap(**json.loads(line.removeprefix(PREFIX))))
                return self.laps[-1]
        self._process.wait()
        self._errors.seek(0)
        raise RuntimeError(f"{self.name} has died:\n{self._errors.read()[-3000:]}")

    def close(self) -> None:
        """Tell it that there is no further turn, and wait for its end."""
        with suppress(BrokenPipeError):
            self._process.communicate()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def measure(
    size: str, threads: int, rounds: int, names: Sequence[str] = CONTENDERS
) -> dict[str, Any]:
    """Let every contender make one step a round.

    Parameters
    ----------
    size
        A key of `benchmarks.lm_floor.SIZES`.
    threads
        Of each contender.
    rounds
        After the warm-up.
    names
        Of the contenders; "floor" and "engine" among them.

    Returns
    -------
    dict
        By contender what `benchmarks._laps.summary` measures, and the ratios; the share of a core
        that other programs used meanwhile (None where the system does not tell).
    """
    with ExitStack() as stack:
        common = ["--size", size, "--threads", str(threads), "--steps", "1000"]
        module = ["-m", "benchmarks.lm_step", *common, "--contender"]
        runners = [stack.enter_context(Contender(name, [*module, name])) for name in names]
        for _ in range(WARM_UP):
            _ = [runner.turn() for runner in runners]

        # The measured rounds.
        start, busy = time.perf_counter(), busy_seconds()
        for lap in range(rounds):
            # Rotate: no contender always follows the same one, whose caches it would find.
            first = lap % len(runners)
            _ = [runner.turn() for runner in [*runners[first:], *runners[:first]]]
        wall, busy_since = time.perf_counter() - start, busy_seconds()

    # Their ratios, and the load of other programs meanwhile.
    laps = {runner.name: runner.laps[WARM_UP:] for runner in runners}
    own = sum(lap.turn_cpu_seconds for row in laps.values() for lap in row)
    others = None if busy is None or busy_since is None else (busy_since - busy - own) / wall
    return {
        "size": size,
        "threads": threads,
        "rounds": rounds,
        "others_cpu_over_wall": others,
        "contenders": {runner.name: summary(runner.laps, warm_up=WARM_UP) for runner in runners},
        "ratios": _ratios(laps),
    }


def broken_bounds(result: dict[str, Any]) -> list[str]:
    """Return a sentence for every bound that the measurement breaks."""
    size, ratios = result["size"], result["ratios"]
    bounds = [
        ("engine / floor", ratios["engine / floor"] <= MOST_OF_FLOOR, f"<= {MOST_OF_FLOOR}"),
        (
            "floor / products",
            ratios["floor / products"] <= MOST_OF_PRODUCTS[size],
            f"<= {MOST_OF_PRODUCTS[size]}",
        ),
    ]
    if (name := "faster TRL / engine") in ratios:
        bounds.append((name, ratios[name] >= LEAST_OF_TRL[size], f">= {LEAST_OF_TRL[size]}"))
    return [
        f"size {size}: {name} is {ratios[name]:.3f}, wanted {wanted}"
        for name, holds, wanted in bounds
        if not holds
    ]


def _ratios(laps: dict[str, list[Lap]]) -> dict[str, float]:
    """Return medians, over the rounds, of ratios of two contenders' seconds in one round."""

    def ratio(above: str, below: str) -> float:
        pairs = zip(laps[above], laps[below], strict=True)
        return statistics.median(one.seconds / other.seconds for one, other in pairs)

    ratios = {"engine / floor": ratio("engine", "floor")}
    ratios["floor / products"] = statistics.median(
        lap.seconds / lap.phases["products"] for lap in laps["floor"]
    )
    ratios |= {f"{name} / engine": ratio(name, "engine") for name in laps if "TRL" in name}
    trainers = [ratios[f"{name} / engine"] for name in TRAINERS if name in laps]
    if trainers:
        ratios["faster TRL / engine"] = min(trainers)
    return ratios


def busy_seconds() -> float | None:
    """Return the processor time that all programs have used since the start of the system."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    user, nice, system, _, _, irq, soft = map(
        int, path.read_text(encoding="utf-8").split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + irq + soft) / 100


def markdown(result: dict[str, Any]) -> str:
    """Return the page that accompanies the JSON."""
    size, shape = result["size"], SIZES[result["size"]]
    others = result["others_cpu_over_wall"]
    lines = [
        f"# A training step at size {size}: the engine, its floor and TRL",
        "",
        f"GPT-2 with random weights, {shape.layers} layers of width {shape.width}, {shape.heads} "
        f"heads, {shape.vocabulary} tokens; {shape.samples} samples of {shape.length} new tokens a "
        f"step, float32, {result['threads']} threads. {result['machine']}. Medians of "
        f"{result['rounds']} rounds in which each contender made one step. Written by "
        f"`{result['command']}`.",
        "",
        "| contender | s/step | cpu/wall | peak RSS, MB |",
        "|---|---|---|---|",
        *(
            f"| {name} | {one['seconds_per_step']:.3f} | {one['cpu_over_wall']:.2f} | "
            f"{one['peak_rss_mb']:.0f} |"
            for name, one in result["contenders"].items()
        ),
        "",
        "| ratio of seconds, within a round | median |",
        "|---|---|",
        *(f"| {name} | {value:.3f} |" for name, value in result["ratios"].items()),
        "",
        "Other programs used "
        + ("an unknown share" if others is None else f"{others:.2f}")
        + " of one core meanwhile"
        + (
            "."
            if others is None or others <= IDLE_OTHERS
            else ": **the machine was not idle, do not quote these figures**."
        ),
        "",
        "TRL's objective differs from ours, but the work is alike: as many samples of the same "
        "length from the same model, scored under policy and reference, one optimiser step. The "
        "model folder has GPT-2's own activation (gelu_new), which the engine computes in one "
        'kernel; "fused gelu" is TRL on a folder whose configuration names that kernel. '
        '"products" is the time of the step\'s matrix products at the rate of large ones.',
    ]

    return "\n".join([*lines, ""])


def main(arguments: list[str] | None = None) -> int:
    """Print and write the measurements; 1 if one of them breaks its bound."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lm_speed", description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["S", "M"])
    parser.add_argument("--threads", type=int, default=2, help="of each contender")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--rounds", type=int, help="after the warm-up; at least 5")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the files")
    options = parser.parse_args(arguments)
    given = [*sys.argv[1:]] if arguments is None else arguments

    # Each size by itself: print it, write it, and hold it against its bounds.
    broken = []
    # TRL is an extra that the engine and its floor do without.
    with_trl = any("TRL" in name for name in options.contenders)
    libraries = ("torch", "transformers", *(["trl"] if with_trl else []))
    for size in options.sizes:
        result = measure(size, options.threads, options.rounds or ROUNDS[size], options.contenders)
        result["machine"] = machine(*libraries)
        result["command"] = " ".join(["python -m benchmarks.lm_speed", *given])
        page = markdown(result)
        Console(width=100).print(Markdown(page))
        write_results(options.output, f"lm_speed_{size}", result, page)
        broken += broken_bounds(result)

    for sentence in broken:
        print(sentence)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
