"""The command line: ``python -m toy`` verify, train, audit, museum, measurement, study.

Exit codes: 0 done, 1 a claim or an exhibit failed, 2 bad input, 3 a fault of ours, 130 interrupted.
Bad input is one message on stderr that says what to change; nothing is written then. ``--debug``
shows where an error comes from.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from fdpg_ref import DIVERGENCES
from toy.cli.audit import add_audit_arguments, run_audit
from toy.config import TrainConfig
from toy.files import holds_keys, holds_text, is_picture, require_writable
from toy.measurement import command as measurement
from toy.museum import command as museum
from toy.problems import PROBLEMS
from toy.sweep import command as study
from toy.verify import run_claims
from toy.verify.report.guards import PASSED, run_guards
from toy.verify.report.table import TITLE, print_report, write_json

CLAIM_FAILED, USAGE_ERROR, OUR_FAULT, INTERRUPTED = 1, 2, 3, 130
DEBUG = "--debug"


class Parser(ArgumentParser):
    """An ArgumentParser whose errors are one message, with the nearest valid key."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # An abbreviation that works today is ambiguous as soon as another option appears.
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message to stderr and exit with code 2."""
        # jsonargparse names a command's parser "python -m toy [options] train".
        command = self.prog.replace(" [options]", "")
        print(f"{command}: error: {_one_message(message, self._known())}", file=sys.stderr)
        print("See python -m toy --help.", file=sys.stderr)
        raise SystemExit(USAGE_ERROR)

    def _known(self) -> list[str]:
        return [
            option
            for action in self._actions
            for option in (*action.option_strings, *(action.choices or ()))
        ]


def main(arguments: Sequence[str]) -> int:
    """Run a command of the toy.

    Parameters
    ----------
    arguments : sequence of str
        What follows ``python -m toy``.

    Returns
    -------
    int
        The exit code; a usage error raises SystemExit(2) instead.
    """
    words = [word for word in arguments if word != DEBUG]
    options = build_parser().parse_args(words)
    runners = {
        "verify": verify,
        "train": run_train,
        "museum": museum.run,
        "audit": run_audit,
        "measurement": measurement.run,
        "study": study.run,
    }
    try:
        return runners[options.subcommand](options[options.subcommand])
    except (KeyboardInterrupt, Exception) as error:
        if DEBUG in arguments:
            traceback.print_exception(error)
        return _explain(error, f"python -m toy {options.subcommand}")


def _explain(error: BaseException, command: str) -> int:
    """Print what went wrong in one line, and return the exit code."""
    if isinstance(error, ValueError | OSError):
        words, code = f"error: {error}", USAGE_ERROR
    elif isinstance(error, ModuleNotFoundError):
        raise error  # the entry point knows which extra brings it
    elif isinstance(error, KeyboardInterrupt):
        words, code = "interrupted", INTERRUPTED
    else:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        words = (
            f"failed: {reason}. This is a fault of the program or of a library: {DEBUG} shows "
            "where, which is what a report of it should hold"
        )
        code = OUR_FAULT
    print(f"{command}: {words}", file=sys.stderr)
    return code


def build_parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="python -m toy",
        description="f-DPG on problems small enough to enumerate. After any command, --debug shows "
        "where an error comes from.",
    )
    commands = parser.add_subcommands(dest="subcommand")

    verify_parser = Parser(description="Check every claim about the estimators by enumeration.")
    verify_parser.add_argument(
        "--json", type=str | None, default=None, help="also write the records to this file"
    )
    verify_parser.add_argument(
        "--html",
        type=str | None,
        default=None,
        help="also run the guarding tests and write the verification report, one page",
    )
    commands.add_subcommand("verify", verify_parser, help="check every claim by enumeration")

    train_parser = Parser(
        description="Descend a divergence and plot the trajectory. Divergences: "
        f"{', '.join(DIVERGENCES)}. Problems: {', '.join(PROBLEMS)}."
    )
    train_parser.add_class_arguments(TrainConfig, as_group=False, fail_untyped=True)
    train_parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="PNG file to write; default runs/toy/PROBLEM-DIVERGENCE.png",
    )
    commands.add_subcommand("train", train_parser, help="descend a divergence and plot it")

    museum_parser = Parser(description="Run the oracles on real mistakes and their corrections.")
    museum.add_arguments(museum_parser)
    commands.add_subcommand("museum", museum_parser, help="see real mistakes flagged")

    audit_parser = Parser(description="Say what a loss really minimises, by enumeration.")
    add_audit_arguments(audit_parser)
    commands.add_subcommand("audit", audit_parser, help="say what a loss really minimises")

    measurement_parser = Parser(
        description="Say exactly what the ways to measure a divergence report of a policy that "
        "dropped a part of its target."
    )
    measurement.add_measurement_arguments(measurement_parser)
    commands.add_subcommand(
        "measurement", measurement_parser, help="see which samples show what a policy dropped"
    )

    study_parser = Parser(description="Compare all objectives on thousands of random problems.")
    study.add_study_arguments(study_parser)
    commands.add_subcommand("study", study_parser, help="compare all objectives on many problems")
    return parser


def verify(options: Namespace) -> int:
    """Measure every claim, print the table, and say by the exit code whether all of them hold.

    With a report the tests that guard the claims are run as well, and one that is missing or fails
    is a failure of its claim.
    """
    if options.json is not None:
        ours = holds_keys("fact", "claimed_verdict", "guard")
        require_writable(Path(options.json), suffix=".json", ours=ours)
    if options.html is not None:
        ours = holds_text(f"<title>{TITLE}</title>")
        require_writable(Path(options.html), suffix=".html", ours=ours)
    with Console(stderr=True).status("summing over all outcomes, which takes some seconds"):
        records = run_claims()
    guards = None
    if options.html is not None:
        # matplotlib takes half a second to import, which the bare table need not pay.
        from toy.verify.report.page import write_page  # noqa: PLC0415

        guards = run_guards(sorted({record.test_id for record in records}))
        write_page(records, guards, Path(options.html))
    if options.json is not None:
        write_json(records, Path(options.json), guards)
    print_report(records, Console())
    unguarded = sorted(test for test, outcome in (guards or {}).items() if outcome != PASSED)
    for test in unguarded:
        print(f"UNGUARDED {test}: {(guards or {})[test]}", file=sys.stderr)
    return CLAIM_FAILED if unguarded or not all(r.holds for r in records) else 0


def run_train(options: Namespace) -> int:
    """Descend as configured, print the trajectory, write the picture and print its path."""
    # matplotlib takes half a second to import, which verify need not pay.
    from toy.cli.plots import plot_trajectory, save_figure  # noqa: PLC0415
    from toy.cli.report import print_trajectory  # noqa: PLC0415
    from toy.train import train  # noqa: PLC0415

    config = _train_config(options)
    default = Path("runs", "toy", f"{config.problem}-{config.divergence}.png")
    path = default if options.output is None else Path(options.output)
    require_writable(path, suffix=".png", ours=is_picture)
    problem, trajectory = PROBLEMS[config.problem](), train(config)
    save_figure(plot_trajectory(problem, trajectory, config), path)
    console = Console()
    print_trajectory(problem, trajectory, config, console)
    # The path must stay whole to be copied, so it is not wrapped.
    console.print(f"picture: {path}", soft_wrap=True, highlight=False)
    return 0


def _train_config(options: Namespace) -> TrainConfig:
    values: dict[str, Any] = {field.name: options[field.name] for field in fields(TrainConfig)}
    return TrainConfig(**values)


def _one_message(message: str, known: list[str]) -> str:
    """Flatten jsonargparse's message to one line and add the nearest valid key, if there is one."""
    flat = " ".join(message.split())
    flat = re.sub(r"<class '(\w+)'>", r"\1", flat)
    wrong = re.search(r"unrecognized arguments: (\S+)|invalid choice: '(\S+?)'", flat)
    if wrong is None:
        return flat
    word = (wrong.group(1) or wrong.group(2)).split("=")[0]
    near = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"{flat}. Did you mean {near[0]}?" if near else flat
