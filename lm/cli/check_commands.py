"""What the commands `precision`, `selfcheck` and `unification` do: measure, print, write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from lm.cli.commands import model_folder
from lm.config.base import BaseConfig
from lm.policy import load_policy
from lm.policy.checks import check_device
from lm.report.terminal import new_table, print_table
from lm.run.environment import environment
from lm.run.files import write_output
from lm.selfcheck.ladder import measure_ladder
from lm.selfcheck.ladder_report import ladder_notes, ladder_rows, write_ladder
from lm.selfcheck.run import Check, run_checks, selfcheck_record
from lm.selfcheck.trials import Device
from lm.selfcheck.unification import agreements
from lm.sweep.records import code_commit


@dataclass(frozen=True)
class PrecisionOptions:
    """Options of `python -m lm precision`."""

    model: str | None
    n: int
    seed: int
    device: str
    max_new_tokens: int | None
    output: Path | None


@dataclass(frozen=True)
class SelfcheckOptions:
    """Options of `python -m lm selfcheck`."""

    device: Device
    json: Path | None


def run_precision(options: PrecisionOptions) -> None:
    """Measure the precision ladder of a model, print it as a table and write figure and JSON."""
    check_device(options.device)
    folder = model_folder(options.model)
    policy = load_policy(folder, max_new_tokens=options.max_new_tokens, device=options.device)
    name = options.model or "the default base"
    ladder = measure_ladder(policy, n=options.n, seed=options.seed)

    # Print it.
    sizes = f"{ladder.sequences} sequences of {ladder.tokens} tokens from the model itself"
    table = new_table(f"{name} on {options.device}, against float64: {sizes}")
    table.add_column("quantity")
    for rung in ladder.rungs:
        table.add_column(rung.precision, justify="right")
    for row in ladder_rows(ladder):
        table.add_row(*map(escape, row))
    print_table(table)
    for note in ladder_notes(ladder):
        print(note)

    # Write it.
    about = {
        "model": name,
        "device": options.device,
        "seed": options.seed,
        "environment": environment(),
    }
    output = options.output or Path("runs") / f"precision-{Path(name).name}-{options.device}"
    for path in write_ladder(ladder, output, about=about):
        print(f"{path.suffix[1:]}: {path}")


def run_selfcheck(options: SelfcheckOptions) -> int:
    """Run all checks, print figures with their bounds, and return 0 if every bound holds."""
    checks = run_checks(options.device)
    record = selfcheck_record(options.device, checks)
    print_table(_check_table(checks))
    for check in checks:
        if check.error is not None:
            print(f"{check.name}: {check.error.splitlines()[-1]}")
    if options.json is not None:
        text = json.dumps(record, indent=2, allow_nan=False) + "\n"
        write_output(options.json, text.encode("utf-8"))
    versions = record["environment"]
    machine = versions["gpu"] if options.device == "cuda" else f"{versions['cpu_count']} CPUs"
    print(f"torch {versions['torch']} on {options.device} ({machine}), {record['seconds']:.0f} s")
    where = options.json or "run again with --json FILE, which keeps everything for a report"
    failed = [check.name for check in checks if not check.passed]
    verdict = f"FAILED: {'; '.join(failed)}" if failed else f"all {len(checks)} checks passed"
    print(f"{verdict} ({where})")
    return int(bool(failed))


def run_unification(seed: int, path: Path | None, command: str) -> int:
    """Compare every pair of updates, print the table, and return 0 if all bounds hold."""
    found = agreements(BaseConfig(), seed=seed)
    table = new_table("norm of the difference of two gradients on the same samples, over the norm")
    for heading in ("known as", "f-DPG", "precision", "difference", "at most", ""):
        table.add_column(heading, justify="right" if heading == "difference" else "left")
    for row in found:
        figures = (f"{row.difference:.1e}", f"{row.bound:.0e}", "ok" if row.holds else "FAILED")
        table.add_row(row.known, row.ours, row.precision, *figures)
    print_table(table)
    if path is not None:
        record: dict[str, object] = {"command": command, "commit": code_commit()}
        for precision in dict.fromkeys(row.precision for row in found):
            own = [row for row in found if row.precision == precision]
            record[precision] = {row.key: row.difference for row in own}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_output(path, (json.dumps(record, indent=2) + "\n").encode("utf-8"))
    return int(not all(row.holds for row in found))


def _check_table(checks: Sequence[Check]) -> Table:
    table = new_table("measured figures and their bounds")
    for heading in ("figure", "measured", "at most", ""):
        numeric = heading in {"measured", "at most"}
        table.add_column(heading, justify="right" if numeric else "left")
    for check in checks:
        verdict, style = ("ok", "bold") if check.passed else ("FAILED", "bold red")
        table.add_row(f"{check.name} ({check.seconds:.0f} s)", "", "", verdict, style=style)
        for bound in check.bounds:
            figures = (f"{bound.value:.2g}", f"{bound.largest:.2g}")
            style = None if bound.holds else "red"
            table.add_row(f"  {escape(bound.name)}", *figures, "", style=style)
        table.add_section()
    return table
