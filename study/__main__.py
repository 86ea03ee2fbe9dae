"""``python -m study``: from stored tables to rates, power, verdicts and a report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

try:
    from rich.console import Console

    from study.report.document import write_report
    from study.report.language import INTRODUCTION, write_language
    from study.rules.pilot_second import FILES, write_second_rates
    from study.rules.power import power_markdown
    from study.rules.rates import write_rates
    from study.speaking import speaking
    from study.tables.stored import LM_COLUMNS, StudyError, Table, load_tables, read_table
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] == "study":
        raise
    print(
        f"python -m study: {error.name} is not installed: "
        "python -m pip install '.[study]' in a clone",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

RESULTS = Path("study/results")
RATES = Path(__file__).parent / "sweeps" / "rates.yaml"
COMMANDS = {
    "rates": "choose learning rates from the pilot, and write study/sweeps/rates.yaml and rates.md",
    "power": "say what differences 3, 5 and 8 seeds detect, and write power.md",
    "report": "judge every hypothesis, and write REPORT.md and figures/",
    "language": "judge the hypotheses on language, and write LANGUAGE.md and figures/",
}

# The first lines of all that is written hold one of these.
MARKS = ("`python -m study ", f"# Language\n\n{INTRODUCTION.partition('[')[0]}")
# The pages of each command.
PAGES = {
    "rates": ("rates.md", "rates2.md"),
    "power": ("power.md",),
    "report": ("REPORT.md", "REPORT-first.md"),
    "language": ("LANGUAGE.md",),
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors take one line."""

    def error(self, message: str) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Leave with status 2 and the message."""
        raise SystemExit(_fail(message))


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments
        Those of the command line if None.

    Returns
    -------
    int
        0, 1 if a bound of the study is exceeded, 2 if the user can mend what went wrong.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        for name, line in COMMANDS.items():
            print(f"python -m study {name:8} {line}")
        return 0

    # Read the command line.
    parser = Parser(prog="python -m study", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, line in COMMANDS.items():
        command = commands.add_parser(name, help=line, description=line)
        command.add_argument("--results", type=Path, default=RESULTS, help="the tables")
        command.add_argument("--output", type=Path, help="folder to write to (default: --results)")
        if name == "rates":
            command.add_argument("--yaml", type=Path, default=RATES, help="the chosen rates")
    chosen = parser.parse_args(arguments)

    # Run the command.
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "rates": _rates,
        "power": _power,
        "report": _report,
        "language": _language,
    }
    try:
        chosen.output = chosen.output or chosen.results
        _require_ours(chosen)
        return actions[chosen.command](chosen)
    except StudyError as error:
        return _fail(str(error))
    except OSError as error:
        # A full disk has no name.
        said = f"{error.filename or 'a table or page'} cannot be used ({error.strerror or error})"
        return _fail(f"{said}: name another --results or --output")


def _require_ours(options: argparse.Namespace) -> None:
    """Raise a StudyError if a page or file of rates would replace one that we did not write."""
    files = [options.output / name for name in PAGES[options.command]]
    if options.command == "rates":
        files += [options.yaml, *(options.yaml.parent / name for name in FILES.values())]
    for path in files:
        head = path.read_text("utf-8", errors="replace")[:1000] if path.is_file() else ""
        if head and not any(mark in head for mark in MARKS):
            raise StudyError(
                f"{path} exists and is no file that this command wrote, so it is not replaced: "
                "name another --output or --yaml, or move it away yourself"
            )


def _rates(options: argparse.Namespace) -> int:
    second = options.results / "lm_pilot2.parquet"
    if second.is_file():
        table = read_table(second, LM_COLUMNS)
        target, folder = _folder(options) / "rates2.md", options.yaml.parent
        number, beta2, files = write_second_rates(table, folder, target)
        print(f"{number} rates chosen, none at the edge of what was tried; beta2 = {beta2:g}:")
        print("put it into betas of main2.yaml, scale2.yaml and ablations2.yaml")
        print(f"wrote {', '.join(map(str, files))} and {target}")
        if not (options.results / "lm_pilot.parquet").is_file():
            return 0

    # The first edition's, which stay what its tables were made with.
    pilot, target = _pilot(options), _folder(options) / "rates.md"
    choices = write_rates(pilot, options.yaml, target)
    edges = sum(choice.at_edge for choice in choices)
    print(f"{len(choices)} rates chosen, {edges} at the edge of what was tried")
    print(f"wrote {options.yaml} and {target}")
    return 0


def _power(options: argparse.Namespace) -> int:
    with speaking("computing the power"):
        text = power_markdown(_pilot(options))
    target = _folder(options) / "power.md"
    target.write_text(text, encoding="utf-8")
    print(f"wrote {target}")
    return 0


def _report(options: argparse.Namespace) -> int:
    with speaking("judging the hypotheses and drawing the report"):
        report = write_report(load_tables(options.results), _folder(options))
    console = Console()
    for verdict in report.verdicts:
        console.print(f"{verdict.name:4}{verdict.study:18} {verdict.verdict}", highlight=False)
    for line in report.failures:
        print(f"FAILED: {line}", file=sys.stderr)
    print(f"wrote {', '.join(str(options.output / name) for name in report.files)} and figures/")
    return 1 if report.failures else 0


def _language(options: argparse.Namespace) -> int:
    with speaking("judging the hypotheses on language and drawing the report"):
        verdicts = write_language(options.results, options.output)
    for verdict in verdicts:
        print(f"{verdict.name:4}{verdict.study:28} {verdict.verdict}")
    print(f"wrote {options.output / 'LANGUAGE.md'} and figures/")
    return 0


def _pilot(options: argparse.Namespace) -> Table:
    return read_table(options.results / "lm_pilot.parquet", LM_COLUMNS)


def _folder(options: argparse.Namespace) -> Path:
    options.output.mkdir(parents=True, exist_ok=True)
    return options.output


def _fail(message: str) -> int:
    print(f"python -m study: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
