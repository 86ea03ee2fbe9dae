"""The demonstration: verdicts and tables from hand-made records, workers, and a miniature."""

from __future__ import annotations

import json
import math
import operator
import os
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fdpg_ref import InfiniteDivergence
from lm.cli import main as cli
from lm.config.base import BaseConfig
from lm.config.run import EvaluationConfig
from lm.demo import command, figures, page, pictures, study, tables, verdicts
from lm.demo.results import Measured, Outcome, Run, mean_of
from lm.errors import RunError
from lm.report.figures import COLORS, LABELS
from lm.run.records import FOUR
from lm.sweep.workers import Job, Workers

STEPS = (0, 5, 10)
# Divergences of the base, and the share of them that each run of the good story keeps.
START = {
    "forward_kl": 5.0,
    "reverse_kl": 3.0,
    "total_variation": 0.9,
    "jensen_shannon": 0.6,
    "kl_policy_base": 0.0,
}
MOMENTS = {"ends_in_i": (0.006, 0.95), "female": (0.2, 0.5), "listed": (0.87, 0.87)}


def evaluation(step: int, *, share: float, entropy: float, moments: dict[str, float]) -> Any:
    """Make an evaluation in which every divergence is a share of its start."""

    def sampled(value: float, error: float) -> dict[str, float]:
        return {"value": value, "standard_error": error}

    estimates: dict[str, Any] = {
        name: {"list_and_remainder": sampled(share * value, 0.001)} for name, value in START.items()
    }
    for name, value in moments.items():
        estimates[f"feature/{name}"] = {
            "exact": {"value": value},
            "sampled": sampled(value + 0.01, 0.01),
        }
    estimates["entropy"] = {"list_and_remainder": sampled(entropy, 0.01)}
    estimates["entropy_target"] = {"list_and_remainder": sampled(5.0, 0.02)}
    estimates["kl_target_base"] = {"exact": {"value": 2.9}}
    estimates["distinct_share"] = {"list_and_remainder": sampled(0.3, 0.01)}
    estimates["ess_share"] = {"sampled": sampled(0.5, 0.02)}
    estimates["largest_share"] = {"sampled": {"value": 0.01}}
    estimates["log_z"] = {"exact": {"value": math.log(19.0)}, "sampled": sampled(2.9, 0.02)}
    return {"kind": "evaluation", "step": step, "samples": 100 * step, "estimates": estimates}


def make_run(
    divergence: str,
    seed: int,
    *,
    features: tuple[str, ...] = ("ends_in_i",),
    share: float = 0.2,
    entropy: float = 4.0,
    moved: float = 1.0,
) -> Run:
    """Make a run whose divergences fall to `share` and whose moments move by `moved` of the way."""
    shares, entropies = (1.0, 0.6, share), (7.0, 5.0, entropy)
    evaluations = []
    for step, part, nats, way in zip(STEPS, shares, entropies, (0.0, 0.5, moved), strict=True):
        moments = {name: a + way * (p - a) for name, (a, p) in MOMENTS.items() if name in features}
        evaluations.append(evaluation(step, share=part, entropy=nats, moments=moments))
    rows = [
        {
            "feature": name,
            "base": MOMENTS[name][0],
            "wanted": MOMENTS[name][1],
            "target": MOMENTS[name][1],
            "weight": 1.0,
        }
        for name in features
    ]
    fit = {
        "multipliers": [8.0] * len(features),
        "gradient_norm": 1e-12,
        "iterations": 2,
        "dual_values": [0.0, -2.0, -2.9],
        "moment_errors": [5.0, 0.1, 0.0],
    }
    description = {"features": rows, "log_z": math.log(19.0), "fit": fit}
    names = ["james", "heidi", "zzyzxq", ""]
    return Run(divergence, seed, evaluations, description, 20.0, names, names[::-1], Path())


def make_outcome(target: study.DemoTarget, **changes: dict[str, Any]) -> Outcome:
    """Make an outcome with two seeds; `changes` are arguments of `make_run` by divergence."""
    features = target.target.features
    runs = [
        make_run(name, seed, features=features, **changes.get(name, {}))
        for name in FOUR
        for seed in (0, 1)
    ]
    return Outcome(target, runs)


@pytest.fixture
def outcomes() -> list[Outcome]:
    return [make_outcome(study.RARE), make_outcome(study.BALANCE)]


def make_story(outcomes: list[Outcome], folder: Path) -> page.Story:
    """Draw the pictures and tell the story of hand-made outcomes."""
    hard = {
        name: {
            "estimates": {
                key: {"exact": {"value": "inf" if key == "reverse_kl" else 0.25}} for key in FOUR
            }
        }
        for name in ("base a", *FOUR)
    }
    return page.Story(
        outcomes=outcomes,
        checks=verdicts.acceptance(outcomes),
        findings=verdicts.findings(outcomes),
        pictures=pictures.draw(folder, outcomes),
        hard=hard,
        refusal="it is <infinite>",
        settings={"runs": "two & two"},
        is_listed=lambda text: text in {"james", "heidi"},
        satisfies={target.key: lambda text: text.endswith("i") for target in study.TARGETS},
    )


def test_every_check_passes_on_runs_that_keep_the_promise(outcomes):
    checks = verdicts.acceptance(outcomes)
    assert len(checks) == 2 * len(FOUR) + len(FOUR)
    assert verdicts.failed(checks) == []


@pytest.mark.parametrize("share", [0.51, 0.5 - 1e-4])
def test_a_divergence_that_is_not_clearly_halved_fails(share):
    # 0.9 * 0.4999 lies 9e-5 below half, a tenth of the standard error of 0.001.
    outcome = make_outcome(study.RARE, total_variation={"share": share})
    (check,) = verdicts.failed(verdicts.acceptance([outcome]))
    assert LABELS["total_variation"] in check.statement


def test_one_bad_seed_is_enough_to_fail():
    outcome = make_outcome(study.RARE)
    bad = make_run("reverse_kl", 1, share=1.4)
    runs = [bad if (r.divergence, r.seed) == ("reverse_kl", 1) else r for r in outcome.runs]
    (check,) = verdicts.failed(verdicts.acceptance([replace(outcome, runs=runs)]))
    assert "140%" in check.detail


@pytest.mark.parametrize(("moved", "passes"), [(0.84, True), (0.83, False), (1.17, False)])
def test_the_moment_of_the_balance_is_held_to_a_twentieth(moved, passes):
    # E[female] = 0.2 + 0.3 moved: 0.452, 0.449 and 0.551 against 1/2.
    outcome = make_outcome(study.BALANCE, forward_kl={"moved": moved})
    bad = verdicts.failed(verdicts.acceptance([outcome]))
    assert [LABELS["forward_kl"] in check.statement for check in bad] == [True] * (not passes)


@pytest.mark.parametrize(
    ("entropy", "words"), [(3.0, "ends with less"), (4.0, "did NOT end"), (4.5, "did NOT end")]
)
def test_the_entropy_finding_reports_what_was_measured(entropy, words):
    outcome = make_outcome(study.RARE, reverse_kl={"entropy": entropy})
    assert words in verdicts.entropy_finding(outcome).answer


@pytest.mark.parametrize(("share", "word"), [(0.1, "Yes"), (0.2, "Neither"), (0.3, "No")])
def test_the_jensen_shannon_finding_may_contradict_the_paper(share, word):
    outcome = make_outcome(study.RARE, jensen_shannon={"share": share})
    assert verdicts.jensen_shannon_finding(outcome).answer.startswith(word)


def test_the_lowest_divergence_is_named_for_each_measure():
    outcome = make_outcome(study.RARE, jensen_shannon={"share": 0.1})
    answer = verdicts.lowest_finding(outcome).answer
    assert answer.count(f"by descending {LABELS['jensen_shannon']}") == len(FOUR) - 1
    assert f"{LABELS['jensen_shannon']} by itself" in answer
    assert "not clearly" not in answer


def test_findings_carry_the_number_of_their_target(outcomes):
    questions = [finding.question for finding in verdicts.findings(outcomes)]
    assert len(questions) == len(set(questions))


def test_the_error_of_a_mean_is_never_less_than_the_seeds_disagree():
    agreeing = mean_of([Measured(1.0, 0.3), Measured(1.0, 0.4)])
    assert agreeing == pytest.approx((1.0, 0.25))  # hypot(0.3, 0.4) / 2
    # Two values 2 apart have standard deviation sqrt(2), over sqrt(2) seeds.
    assert mean_of([Measured(0.0, 0.3), Measured(2.0, 0.4)]) == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.0595, 0.0009, "0.0595(9)"),
        (0.0595, 0.0012, "0.0595(12)"),
        (7.4391, 0.0999, "7.44(10)"),
        (0.95, 0.0, "0.95"),
        (12.3, 3.2, "12(3)"),
        (math.inf, 0.0, "∞"),
        (math.nan, 0.1, "–"),
        (0.5, math.nan, "0.5"),
        (0.868162, 0.000013, "0.8682"),
        (0.468012, 0.000092, "0.4680(1)"),
    ],
)
def test_concise_numbers(value, error, text):
    assert tables.concise(Measured(value, error)) == text


@pytest.mark.parametrize(("width", "parts"), [(80, 4), (120, 3), (250, 1)])
def test_the_table_fits_the_terminal(outcomes, width, parts):
    for outcome in outcomes:
        laid_out = tables.target_tables(outcome, width)
        assert len(laid_out) <= parts
        console = Console(width=width, file=StringIO())
        for table in laid_out:
            console.print(table)
        text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
        assert "…" not in text
        rows = [
            line for line in text.splitlines() if line.strip().startswith(("base a", "target p"))
        ]
        assert len(rows) == 2 * len(laid_out)
        assert f"E[{outcome.target.feature}]" in text


def test_the_table_shows_exact_beside_sampled_with_its_z(outcomes):
    columns = tables.groups(outcomes[0])[0].columns
    exact, sampled, z = (column.cells for column in columns[:3])
    assert exact[:2] == ("0.006", "0.95")
    assert sampled[2] == "0.960(7)"  # two seeds of error 0.01 each
    assert z[2] == f"{0.01 / (0.01 / math.sqrt(2)):+.1f}"


def test_the_summary_keeps_every_column_of_the_table(outcomes, tmp_path):
    # Two features have a sampled value and a z each: under one name, one would replace the other.
    kept = json.loads(command.summary(make_story(outcomes, tmp_path)))["tables"]["balance"]
    columns = [column for group in tables.groups(outcomes[1]) for column in group.columns]
    assert all(len(row) == len(columns) for row in kept.values())
    assert {"E[female] sampled", "E[listed] sampled"} <= set(kept["base a"])


def test_the_table_says_where_the_divergence_was_halved(outcomes):
    group = tables.groups(outcomes[0])[-1]
    speed = {c.heading.replace("\n", " "): c.cells for c in group.columns}
    # From 0.6 at 500 samples to 0.2 at 1000: half at 500 + 500/4.
    assert speed["samples to half"] == ("–", "–", *["0.6k"] * len(FOUR))


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> page.Story:
    both = [make_outcome(study.RARE), make_outcome(study.BALANCE)]
    return make_story(both, tmp_path_factory.mktemp("figures"))


def test_the_page_needs_nothing_but_itself(story):
    text = page.demo_page(story)
    links = re.findall(r"(?:src|srcset|href)=[\"']([^\"']*)", text)
    assert len(links) >= 5
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert not re.search(r"https?://|@import|<script|url\(", text)
    assert "it is &lt;infinite&gt;" in text
    assert "two &amp; two" in text
    assert "zzyzxq" in text


def test_the_terminal_shows_every_finding_and_check_in_full(story):
    console = Console(width=80, file=StringIO())
    command.print_results(console, story)
    text = " ".join(console.file.getvalue().split())  # pyright: ignore[reportAttributeAccessIssue]
    # Square brackets are markup to rich: an E[feature] printed as such would be swallowed.
    assert "Exact E[ends_in_i] at the end" in text
    assert "(ii) E[female], total" in text
    assert text.count("pass ") == len(story.checks)


def test_the_summary_is_json_and_holds_the_table(story):
    content = json.loads(command.summary(story))
    assert content["tables"]["rare"]["target p"]["E[ends_in_i] exact"] == "0.95"
    assert all(check["passed"] for check in content["checks"])


def test_a_divergence_keeps_its_colour_and_marker():
    assert len({COLORS[name] for name in FOUR}) == len({*figures.MARKERS.values()}) == len(FOUR)


def test_the_runs_differ_in_target_divergence_and_seed_only():
    runs = list(study.run_configs(study.DemoConfig()))
    assert len({run.output for run in runs}) == len(runs) == 16
    rare = [run for run in runs if run.name == "rare"]
    same = {"output": None, "seed": 0, "divergence": "forward_kl"}
    assert all(replace(run, **same) == replace(rare[0], **same) for run in rare)
    assert {run.steps * run.batch_size for run in runs} == {runs[0].steps * runs[0].batch_size}
    assert all(run.optimizer.clip_norm is None and run.overwrite for run in runs)


def test_reverse_kl_is_refused_on_the_hard_target():
    with pytest.raises(InfiniteDivergence, match="hard constraint"):
        _ = study.hard_config(study.DemoConfig(), "reverse_kl")
    assert "infinite" in command.refused(study.DemoConfig())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--step", "3"], "did you mean 'steps'"),
        (["--seeds", "[0,0]"], "none twice"),
        (["--workers", "0"], "at least 1"),
        (["--steps", "0"], "at least 1"),
        (["--output", f"{__file__}/demo"], "cannot be created"),
    ],
)
def test_bad_words_exit_with_two_and_a_reason(words, message, capsys):
    assert cli.main(["demo", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert cli.main(["demo", "--output", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_workers_return_in_the_order_of_the_jobs_and_pass_errors_on():
    with Workers(2, lambda _: None) as workers:
        jobs = [Job(str(n), math.sqrt, (n * n,)) for n in range(5)]
        assert workers.run(jobs) == [0, 1, 2, 3, 4]
        with pytest.raises(ZeroDivisionError):
            _ = workers.run([Job("ratio", operator.truediv, (1, 0))])


def test_a_killed_worker_is_an_error_for_people():
    with (
        Workers(1, lambda _: None) as workers,
        pytest.raises(RunError, match="a worker process was killed"),
    ):
        _ = workers.run([Job("gone", os._exit, (9,))])


def test_workers_have_one_thread_and_this_process_keeps_its_settings(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with Workers(1, lambda _: None) as workers:
        assert workers.run([Job("threads", os.getenv, ("OMP_NUM_THREADS",))]) == ["1"]
    assert os.environ["OMP_NUM_THREADS"] == "7"


MINIATURE = study.DemoConfig(
    steps=4,
    batch_size=64,
    base=BaseConfig(layers=1, width=32, heads=4, steps=900, batch_size=256, female_share=0.5),
    evaluation=EvaluationConfig(every=2, samples=256, group=64, texts=8),
)


@pytest.mark.slow
def test_a_miniature_runs_from_end_to_end_and_repeats_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    console = Console(width=120, file=StringIO())
    # Four steps halve nothing: the code says so, and everything is written all the same.
    assert command.run_demo(MINIATURE, console=console) == 1
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "FAIL" in text
    folder = tmp_path / "runs" / "demo"
    assert text.strip().splitlines()[-1] == "runs/demo/index.html"
    assert not (folder / command.MARKER).exists()
    assert {p.name for p in (folder / "figures").glob("*.png")} >= {
        "trajectory-rare.png",
        "divergences-balance.png",
        "multipliers.png",
        "samples-rare.png",
    }
    runs = sorted(p for p in folder.iterdir() if (p / "metrics.jsonl").exists())
    assert len(runs) == 16
    before = [(run / "metrics.jsonl").read_bytes() for run in runs]
    again = Console(width=80, file=StringIO())
    assert command.run_demo(replace(MINIATURE, workers=1), console=again) == 1
    assert [(run / "metrics.jsonl").read_bytes() for run in runs] == before


@pytest.mark.slow
def test_a_demo_that_fails_says_that_it_is_unfinished(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The rare target cannot be reached by a base that hardly ever spells a listed name.
    worse = replace(MINIATURE, base=replace(MINIATURE.base, steps=1))
    with pytest.raises(ValueError, match="moments"):
        _ = command.run_demo(worse, console=Console(file=StringIO()))
    folder = tmp_path / "runs" / "demo"
    assert "starts over" in (folder / command.MARKER).read_text()
    assert not (folder / command.PAGE).exists()
