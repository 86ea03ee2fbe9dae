"""``python -m lm demo``: run everything, print the tables, draw the page, check what must hold."""

from __future__ import annotations

import functools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fdpg_ref import InfiniteDivergence
from lm.census import census_names
from lm.config import RunConfig
from lm.demo import figures
from lm.demo.page import Picture, Story, demo_page
from lm.demo.results import Outcome, read_run
from lm.demo.study import RARE, TARGETS, DemoConfig, hard_config, run_configs, run_folder
from lm.demo.tables import NOTE, check_table, groups, hard_table, row_labels, target_tables
from lm.demo.verdicts import acceptance, failed, findings
from lm.demo.workers import Job, Workers, measure_job, train_base_job, train_job
from lm.demo.workers import Progress as Message
from lm.errors import RunError
from lm.features import feature_values
from lm.figures import LABELS, save_figure
from lm.files import require_new_folder, write_atomic
from lm.records import FOUR

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
    with _progress(console) as progress:
        hard = _run_everything(config, progress)
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
        is_listed=_is_listed,
        satisfies={target.key: _feature_test(target.feature) for target in TARGETS},
    )
    print_results(console, story)
    page = config.folder / PAGE
    write_atomic(page, demo_page(story).encode("utf-8"))
    write_atomic(config.folder / SUMMARY, summary(story).encode("utf-8"))
    (config.folder / MARKER).unlink()
    for check in failed(story.checks):
        console.print(f"[bold red]does not hold:[/] {check.statement}: {check.detail}")
    console.print(f"{seconds:.0f} seconds; figures, runs and this page:", style="dim")
    console.print(str(page), soft_wrap=True, highlight=False)
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
        for table in target_tables(outcome, console.width):
            console.print(table)
    console.print(NOTE, style="dim")
    console.print()
    for finding in story.findings:
        console.print(finding.question, style="bold", highlight=False)
        console.print(f"  {finding.answer}", highlight=False)
    console.print()
    console.print(hard_table(story.hard))
    console.print(f"Reverse KL there is refused: {story.refusal}", style="dim", highlight=False)
    console.print()
    console.print(check_table(story.checks))


def draw(folder: Path, outcomes: Sequence[Outcome]) -> dict[str, Picture]:
    """Draw and save all figures of the page.

    Parameters
    ----------
    folder
        Where the PNG files go.
    outcomes
        Both targets.

    Returns
    -------
    dict
        Pictures by the name that the page knows them by.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for outcome in outcomes:
        key = outcome.target.key
        pictures[f"trajectory-{key}"] = Picture(
            save_figure(figures.trajectory_figure(outcome), folder / f"trajectory-{key}.png"),
            "Every run from the base (square) to its end (large marker; bars of two standard "
            "errors), and the target (star). Two seeds a divergence.",
        )
        wide, tall = (
            save_figure(
                figures.divergence_figure(outcome, columns=columns),
                folder / f"divergences-{key}{suffix}.png",
            )
            for columns, suffix in ((2, ""), (1, "-tall"))
        )
        pictures[f"divergences-{key}"] = Picture(
            wide,
            "Each divergence to the target against the training samples drawn: mean over the seeds "
            "with a band of two standard errors. The thick line descends the panel's own measure.",
            tall,
        )
        test = _feature_test(outcome.target.feature)
        names = figures.samples_figure(outcome, _is_listed, test)
        save_figure(names, folder / f"samples-{key}.png")
    wide, tall = (
        save_figure(
            figures.multiplier_figure(outcomes, columns=columns),
            folder / f"multipliers{suffix}.png",
        )
        for columns, suffix in ((2, ""), (1, "-tall"))
    )
    pictures["multipliers"] = Picture(
        wide, "How both targets were fitted: damped Newton on the convex dual, exact sums.", tall
    )
    return pictures


def describe(config: DemoConfig, seconds: float) -> dict[str, str]:
    """Return the settings as lines for people."""
    rates = ", ".join(f"{target.learning_rate:g} on {target.key}" for target in TARGETS)
    return {
        "runs": f"{len(FOUR)} divergences × {len(TARGETS)} targets × seeds "
        f"{', '.join(map(str, config.seeds))}",
        "a run": f"{config.steps} steps of {config.batch_size} samples, on-policy, exact Z, "
        "leave-one-out baseline, no clipping, no stopping on a metric",
        "learning rate": f"Adam, {rates}, the same for all divergences; {config.warmup_steps} "
        "steps of warm-up, then a cosine to zero",
        "chosen by": "the sweep in benchmarks/results/demo_learning_rates.md, on another seed. At "
        "1e-3 some divergences end farther from target (ii) than the base: the sweep shows it",
        "measured": f"every {config.evaluation.every} steps on {config.evaluation.samples} samples "
        "of the policy and as many of the base",
        "wall time": f"{seconds:.0f} seconds with {config.workers} processes of one thread",
        "again": "python -m lm demo gives the same numbers, clock values apart",
    }


def summary(story: Story) -> str:
    """Return the tables, checks and findings as JSON."""
    labels = row_labels().cells
    tables = {
        outcome.target.key: {
            label: {
                " ".join(column.heading.split()): column.cells[number]
                for group in groups(outcome)
                for column in group.columns
            }
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


def _run_everything(config: DemoConfig, bars: _Bars) -> Mapping[str, Mapping[str, Any]]:
    """Train the base if need be, make all runs, measure against the hard target."""
    runs = list(run_configs(config))
    policies = {name: run_folder(config, RARE.key, name, config.seeds[0]) for name in FOUR}
    hard = hard_config(config, FOUR[0])
    with Workers(config.workers, bars.on_message) as workers:
        workers.run([Job("base model (once, then cached)", train_base_job, (config.base,))])
        bars.expect(len(runs) * config.steps)
        workers.run([Job(_label(run), train_job, (run,)) for run in runs])
        job = Job("the hard target", measure_job, (hard, [None, *policies.values()]))
        (records,) = workers.run([job])
    return dict(zip(["base a", *policies], records, strict=True))


def _label(run: RunConfig) -> str:
    return f"{run.name} · {LABELS[run.divergence]} · seed {run.seed}"


class _Bars:
    """One bar for everything, with the time that is left, and a line for each run in progress."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress, self._console = progress, console
        self._total: TaskID | None = None
        self._lines: dict[str, TaskID] = {}
        self._steps: dict[str, int] = {}

    def expect(self, steps: int) -> None:
        """Announce how many steps all runs have together."""
        self._total = self._progress.add_task("[bold]all runs", total=steps)

    def on_message(self, message: Message) -> None:
        """Move the bars; where there is no terminal, print a line when a run is complete."""
        label, step, steps = message
        if label not in self._lines:
            self._lines[label] = self._progress.add_task(label, total=steps)
        line = self._lines[label]
        self._progress.update(line, completed=step, visible=step < steps)
        if self._total is not None:
            self._progress.advance(self._total, step - self._steps.get(label, 0))
        self._steps[label] = step
        if step == steps and not self._console.is_terminal:
            self._console.print(f"{label}: {steps} steps", highlight=False)


@contextmanager
def _progress(console: Console) -> Iterator[_Bars]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(
        *columns, console=console, transient=True, expand=True, disable=not console.is_terminal,
        speed_estimate_period=120,
    ) as progress:  # fmt: skip
        yield _Bars(progress, console)


@functools.cache
def _listed_names() -> frozenset[str]:
    return frozenset(census_names().names)


def _is_listed(text: str) -> bool:
    return text in _listed_names()


def _feature_test(name: str) -> Callable[[str], bool]:
    def satisfies(text: str) -> bool:
        # A share of one half or more: the census lists some names for both sexes.
        return bool(feature_values((name,), [text])[0, 0] >= 0.5)

    return satisfies
