"""The words of `python -m lm partition`. Needs no torch, so that help and errors come at once."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from lm.config.target import TargetConfig
from lm.errors import UsageError


@dataclass(frozen=True)
class PartitionOptions:
    """Options of `python -m lm partition`."""

    model: str
    prompts: str
    output: Path
    target: TargetConfig
    samples: int
    seed: int
    device: str
    max_new_tokens: int | None
    column: str = "prompt"
    split: str = "train"


def add_words(parser: argparse.ArgumentParser) -> None:
    """Add what names the prompts, the target and the number of samples."""
    parser.add_argument("model", help="the base: a model folder or hub name")
    parser.add_argument(
        "prompts",
        help="a text file, .jsonl with the key prompt (a text, or messages of a chat), the folder "
        "of a data set, or hf:NAME",
    )
    parser.add_argument(
        "output", type=Path, help="a .jsonl file: each prompt's line with log_z and log_z_error"
    )

    parser.add_argument(
        "--column", default="prompt", help="the key or column that holds the prompt (%(default)s)"
    )
    parser.add_argument(
        "--split", default="train", help="of a data set that has several (%(default)s)"
    )

    # The target.
    parser.add_argument(
        "--reward",
        metavar="NAME[=WEIGHT]",
        action="append",
        default=[],
        help="target base exp(reward / beta): a feature and its weight; may be given several times",
    )
    parser.add_argument("--beta", type=float, metavar="B", help="price of a nat, with --reward")
    parser.add_argument(
        "--constraints",
        metavar="NAME",
        action="append",
        default=[],
        help="target base where this feature is not zero, a verifier: log Z is the log pass rate",
    )
    parser.add_argument("--score", metavar="NAME", help="target of a function's log P")
    parser.add_argument(
        "--samples", type=int, metavar="N", default=64, help="for each prompt (%(default)s)"
    )


def options_of(words: argparse.Namespace) -> PartitionOptions:
    """Return the options, once they are known to go together.

    Raises
    ------
    UsageError
        They do not; what and why is said.
    """
    given = vars(words)
    rewards, constraints = given.pop("reward"), tuple(given.pop("constraints"))
    beta, score = given.pop("beta"), given.pop("score")
    if sum(map(bool, (rewards, constraints, score))) != 1:
        raise UsageError("name the target: --reward with --beta, --constraints, or --score")
    if bool(rewards) != (beta is not None):
        raise UsageError("--beta belongs to --reward, and --reward needs it")
    if given["samples"] < 2:
        raise UsageError(f"--samples is {given['samples']}: an error needs two samples or more")
    if given["output"].suffix != ".jsonl":
        raise UsageError(f"{given['output']} is written as JSON lines: name a .jsonl file")
    if given["output"].resolve() == Path(given["prompts"]).resolve():
        raise UsageError(f"{given['output']} is the file of the prompts: name another one")

    try:
        if rewards:
            weights = dict(map(_weight, rewards))
            target = TargetConfig(kind="reward_tilted", reward=weights, beta=beta)
        elif constraints:
            target = TargetConfig(kind="constrained", constraints=constraints)
        else:
            target = TargetConfig(kind="custom", score=score)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return PartitionOptions(target=target, **given)


def _weight(word: str) -> tuple[str, float]:
    name, separator, weight = word.rpartition("=")
    try:
        return (name, float(weight)) if separator else (weight, 1.0)
    except ValueError:
        return word, 1.0  # an = of the name itself
