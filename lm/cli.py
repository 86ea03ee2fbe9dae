"""The commands and their words. What is wrong with the words is said before torch is imported."""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from fdpg_ref import InfiniteDivergence, MultipliersNotConverged, UnattainableMoments
from lm.base_config import BaseConfig
from lm.config import RunConfig, resolve
from lm.demo.study import DemoConfig
from lm.errors import RunError, UsageError
from lm.files import require_new_folder
from lm.options import parse_config, to_plain

USAGE_ERROR = 2
INTERRUPTED = 130
USER_ERRORS = (
    UsageError,
    RunError,
    InfiniteDivergence,
    UnattainableMoments,
    MultipliersNotConverged,
    OSError,
)
HEAVY_LIBRARIES = ("torch", "transformers", "accelerate", "safetensors")


class Command(NamedTuple):
    """A command: one line on what it does, and the function from its words to the exit code."""

    summary: str
    run: Callable[[Sequence[str]], int | None]


def main(arguments: Sequence[str]) -> int:
    """Run a command.

    Parameters
    ----------
    arguments
        The words after ``python -m lm``.

    Returns
    -------
    int
        0; 1 if what the demonstration promises does not hold; 2 for what a user can put right, with
        the message on the standard error stream.
    """
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(_overview())
        return 0
    name, *rest = arguments
    try:
        return _command(name).run(rest) or 0
    except KeyboardInterrupt as error:
        return _fail("interrupted", error, code=INTERRUPTED)
    except ModuleNotFoundError as error:
        if error.name not in HEAVY_LIBRARIES:
            raise
        message = f"{error.name} is not installed: python -m pip install -e '.[lm]'"
        return _fail(message, error)
    except Exception as error:
        if not isinstance(error, _user_errors()):
            raise
        return _fail(str(error), error)


def train_command(words: Sequence[str]) -> None:
    """Train a policy: ``[recipe.yaml] [--key value ...]``."""
    config = resolve(parse_config(RunConfig, words, program="python -m lm train"))
    require_new_folder(Path(config.output or ""), overwrite=config.overwrite)
    print(yaml.safe_dump(to_plain(config), sort_keys=False))
    _commands().run_train(config)


def base_command(words: Sequence[str]) -> None:
    """Train a base model: ``[config.yaml] [--key value ...]``."""
    _commands().run_base(parse_config(BaseConfig, words, program="python -m lm base"))


def demo_command(words: Sequence[str]) -> int:
    """Run the demonstration: ``[--key value ...]``."""
    config = parse_config(DemoConfig, words, program="python -m lm demo")
    return importlib.import_module("lm.demo.command").run_demo(config)


def evaluate_command(words: Sequence[str]) -> None:
    """Measure a run again: ``RUN [--samples N] [--seed S] [--json FILE]``."""
    parser = _parser("evaluate")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--samples", type=_positive, default=4096, help="of policy and of base")
    parser.add_argument("--seed", type=_natural, default=1, help="of the new samples")
    parser.add_argument("--json", type=Path, help="also write the record to this file")
    options = parser.parse_args(words)
    commands = _commands()
    commands.run_evaluate(commands.EvaluateOptions(**vars(options)))


def sample_command(words: Sequence[str]) -> None:
    """Print samples: ``RUN [--n N] [--seed S]``."""
    parser = _parser("sample")
    parser.add_argument("run", type=Path, help="run folder or model folder")
    parser.add_argument("--n", type=_positive, default=20, help="how many")
    parser.add_argument("--seed", type=_natural, default=0)
    options = parser.parse_args(words)
    _commands().run_sample(options.run, n=options.n, seed=options.seed)


def report_command(words: Sequence[str]) -> None:
    """Draw a report again: ``RUN``."""
    parser = _parser("report")
    parser.add_argument("run", type=Path, help="run folder")
    _commands().run_report(parser.parse_args(words).run)


def env_command(words: Sequence[str]) -> None:
    """Print versions and machine."""
    _parser("env").parse_args(words)
    _commands().run_env()


COMMANDS = {
    "train": Command("train a policy from a recipe and write its run folder", train_command),
    "base": Command("train a base model on first names, or find it in the cache", base_command),
    "demo": Command("align a small model by four divergences, with pictures", demo_command),
    "evaluate": Command("measure a finished run's policy again, on new samples", evaluate_command),
    "sample": Command("print samples of a run or of a model folder", sample_command),
    "report": Command("draw a run's figures and report again from its records", report_command),
    "env": Command("print versions and machine, for a bug report", env_command),
}


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours, so that they look like all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def _parser(name: str) -> _Parser:
    return _Parser(prog=f"python -m lm {name}", description=COMMANDS[name].summary)


def _command(name: str) -> Command:
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        advice = f"did you mean {nearest[0]!r}?" if nearest else f"there are: {', '.join(COMMANDS)}"
        raise UsageError(f"unknown command {name!r}; {advice}")
    return COMMANDS[name]


def _commands() -> Any:
    """Import what needs torch, only now: usage errors and help need no model library."""
    return importlib.import_module("lm.commands")


def _user_errors() -> tuple[type[Exception], ...]:
    loaded = sys.modules.get("lm.commands")
    return USER_ERRORS if loaded is None else (*USER_ERRORS, *loaded.USER_ERRORS)


def _overview() -> str:
    lines = [f"  {name:<10}{command.summary}" for name, command in COMMANDS.items()]
    example = "python -m lm train lm/recipes/rare_pointwise.yaml --divergence reverse_kl"
    head = ["usage: python -m lm COMMAND ...", ""]
    return "\n".join([*head, *lines, "", f"for example: {example}", "each explains itself: --help"])


def _fail(message: str, error: BaseException, *, code: int = USAGE_ERROR) -> int:
    for line in (message, *getattr(error, "__notes__", ())):
        print(f"lm: {line}", file=sys.stderr)
    return code


def _positive(word: str) -> int:
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a number of 1 or more")
    return value


def _natural(word: str) -> int:
    value = int(word)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value
