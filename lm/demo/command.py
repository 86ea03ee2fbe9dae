"""``python -m lm demo``: run everything, print the tables, draw the page, check what must hold."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from fdpg_ref import InfiniteDivergence
from lm.config.run import RunConfig
from lm.demo.bars import Bars, progress_bars
from lm.demo.page import Story, demo_page
from lm.demo.pictures import draw, feature_test, is_listed
from lm.demo.results import Outcome, read_run
from lm.demo.study import RARE, TARGETS, DemoConfig, hard_config, run_configs, run_folder
from lm.demo.tables import NOTE, check_table, groups, hard_table, row_labels, target_tables
from lm.demo.verdicts import acceptance, failed, findings
from lm.errors import RunError
from lm.report.figures import LABELS
from lm.run.files import require_new_folder, write_atomic
from lm.run.records import FOUR
from lm.sweep.workers import Job, Workers, measure_job, train_base_job, train_job

PAGE, SUMMARY, MARKER = "index.html", "summary.json", "UNFINISHED.txt"
MARKER_TEXT = (
    "This demonstration has not come to its end: it is running, or it was stopped. Its runs may be "
    "of different times. Run the same command again; it starts over.\n"
)


def run_demo(config: DemoConfig, *, console: Console | None = None) -> int:
    """Make the demonstration.

    Parameters
    ----------
    config
        Its size and place.
    console
        Where tables and progress go; the standard output by default.

    Returns
    -------
    int
        0, or 1 if a statement that must hold does not; the path of the page is printed last.

    Raises
    ------
    RunError
        The folder cannot be used, or a run failed.
    """
    console = Console() if console is None else console
    started = time.perf_counter()
    _open_folder(config.folder)
    with progress_bars(console) as bars:
        hard = _run_everything(config, bars)
    outcomes = read_outcomes(config)
    pictures = draw(config.folder / "figures", outcomes)
    seconds = time.perf_counter() - started
    story = Story(
        outcomes=outcomes,
        checks=acceptance(outcomes),
        findings=findings(outcomes),
        pictures=pictures,
        hard=hard,
        refusal=refused(config),
        settings=describe(config, seconds),
        is_listed=is_listed,
        satisfies={target.key: feature_test(target.feature) for target in TARGETS},
    )
    print_results(console, story)
    page = config.folder / PAGE
    write_atomic(page, demo_page(story).encode("utf-8"))
    write_atomic(config.folder / SUMMARY, summary(story).encode("utf-8"))
    (config.folder / MARKER).unlink()
    for check in failed(story.checks):
        console.print(Text(f"does not hold: {check.statement}: {check.detail}", style="bold red"))
    console.print(f"{seconds:.0f} seconds; figures, runs and this page:", style="dim")
    console.print(Text(str(page)), soft_wrap=True)
    return 1 if failed(story.checks) else 0


def read_outcomes(config: DemoConfig) -> list[Outcome]:
    """Read the finished runs of a demonstration back, by target."""
    return [
        Outcome(
            target,
            [
                read_run(run_folder(config, target.key, divergence, seed))
                for divergence in FOUR
                for seed in config.seeds
            ],
        )
        for target in TARGETS
    ]


def refused(config: DemoConfig) -> str:
    """Return what reverse KL is told about the hard target.

    Raises
    ------
    AssertionError
        It was accepted, although it is infinite there.
    """
    try:
        hard_config(config, "reverse_kl")
    except InfiniteDivergence as error:
        return str(error)
    raise AssertionError("reverse KL to a hard constraint was not refused")


def print_results(console: Console, story: Story) -> None:
    """Print tables, findings, the hard target and the checks."""
    for outcome in story.outcomes:
        console.print(Rule(Text(outcome.target.title, style="bold"), align="left"))
        for table in target_tables(outcome, console.width):
            console.print(table)
    console.print(NOTE, style="dim")
    console.print()
    for finding in story.findings:
        console.print(Text(finding.question, style="bold"))
        console.print(Padding(Text(finding.answer), (0, 0, 0, 2)))
    console.print()
    console.print(hard_table(story.hard))
    console.print(Text(f"Reverse KL there is refused: {story.refusal}", style="dim"))
    console.print()
    console.print(check_table(story.checks))


def describe(config: DemoConfig, seconds: float) -> dict[str, str]:
    """Return the settings as lines for people."""
    rates = " and ".join(dict.fromkeys(f"{target.learning_rate:g}" for target in TARGETS))
    return {
        "runs": f"{len(FOUR)} divergences × {len(TARGETS)} targets × seeds "
        f"{', '.join(map(str, config.seeds))}",
        "a run": f"{config.steps} steps of {config.batch_size} samples, on-policy, exact Z, "
        "leave-one-out baseline, no clipping, no stopping on a metric",
        "learning rate": f"Adam, {rates}, betas {config.betas}, the same for all divergences; "
        f"{config.warmup_steps} steps of warm-up, then a cosine to zero",
        "chosen by": "the sweep in benchmarks/results/demo_learning_rates.md, on another seed; "
        "at 1e-3 forward KL ends badly on target (ii), at 1e-4 short of its moment",
        "measured": f"every {config.evaluation.every} steps, more often at first, on "
        f"{config.evaluation.samples} samples of the policy and as many of the base",
        "wall time": f"{seconds:.0f} seconds with {config.workers} processes of one thread",
        "again": "python -m lm demo gives the same numbers, clock values apart",
    }


def summary(story: Story) -> str:
    """Return the tables, checks and findings as JSON."""
    labels = row_labels().cells
    tables = {
        outcome.target.key: {
            label: {key: cells[number] for key, cells in _columns(outcome).items()}
            for number, label in enumerate(labels)
        }
        for outcome in story.outcomes
    }
    content = {
        "settings": story.settings,
        "tables": tables,
        "checks": [check._asdict() for check in story.checks],
        "findings": [finding._asdict() for finding in story.findings],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _columns(outcome: Outcome) -> dict[str, tuple[str, ...]]:
    """Return the table's columns under names of their own: each feature has a sampled and a z."""
    columns, feature = {}, ""
    for column in (column for group in groups(outcome) for column in group.columns):
        key = " ".join(column.heading.split())
        if key.startswith("E["):
            feature = key.removesuffix(" exact")
        elif key in {"sampled", "z"}:
            key = f"{feature} {key}"
        columns[key] = column.cells
    return columns


def _open_folder(folder: Path) -> None:
    """Take the folder: empty, or an earlier demonstration's, whose conclusions are removed."""
    known = [name for name in (SUMMARY, MARKER) if (folder / name).exists()]
    require_new_folder(folder, overwrite=bool(known))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).write_text(MARKER_TEXT, encoding="utf-8")
        for name in (PAGE, SUMMARY):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "figures", ignore_errors=True)
    except OSError as error:
        raise RunError(f"the folder {folder} cannot be written to ({error.strerror})") from error


def _run_everything(config: DemoConfig, bars: Bars) -> Mapping[str, Mapping[str, Any]]:
    """Train the base if need be, make all runs, measure against the hard target."""
    runs = list(run_configs(config))
    policies = {name: run_folder(config, RARE.key, name, config.seeds[0]) for name in FOUR}
    hard = hard_config(config, FOUR[0])
    with Workers(config.workers, bars.on_message) as workers:
        workers.run([Job("base model (once, then cached)", train_base_job, (config.base,))])
        bars.expect(len(runs) * config.steps + 1 + len(policies))
        workers.run([Job(_label(run), train_job, (run,)) for run in runs])
        job = Job("the hard target", measure_job, (hard, [None, *policies.values()]))
        (records,) = workers.run([job])
    return dict(zip(["base a", *policies], records, strict=True))


def _label(run: RunConfig) -> str:
    return f"{run.name} · {LABELS[run.divergence]} · seed {run.seed}"
