"""The demonstration: what it promises and finds, from hand-made records, and a miniature."""

from __future__ import annotations

import json
import math
import re
from copy import deepcopy
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import norm, t

from fdpg_ref import InfiniteDivergence
from fdpg_ref.display import title_of
from lm.cli import main as cli
from lm.config import RunConfig
from lm.demo import command
from lm.demo.command import DemoConfig, demo_sweep
from lm.errors import RunBusy, RunError, UsageError
from lm.run.files import FOLDER_LOCK, held
from lm.run.records import FOUR
from lm.sweep import page, promises, summary
from lm.sweep.cells import expand
from lm.sweep.command import _tell
from lm.sweep.results import CLEAR, Line, Measured, Outcome, clear_from, mean_of, mean_record

FULL = demo_sweep(DemoConfig(full=True))
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
    estimates["list_mass"] = {"exact": {"value": 0.8}}
    estimates["ess_share"] = {"sampled": sampled(0.5, 0.02)}
    estimates["largest_share"] = {"sampled": {"value": 0.01}}
    estimates["log_z"] = {"exact": {"value": math.log(19.0)}, "sampled": sampled(2.9, 0.02)}
    return {"kind": "evaluation", "step": step, "samples": 100 * step, "estimates": estimates}


def make_run(
    divergence: str,
    *,
    features: tuple[str, ...] = ("ends_in_i",),
    share: float = 0.2,
    entropy: float = 4.0,
    moved: float = 1.0,
) -> dict[str, Any]:
    """Make a run whose divergences fall to `share` and whose moments move by `moved` of the way."""
    shares, entropies = (1.0, 0.6, share), (7.0, 5.0, entropy)
    evaluations = []
    for step, part, nats, way in zip(STEPS, shares, entropies, (0.0, 0.5, moved), strict=True):
        moments = {name: a + way * (p - a) for name, (a, p) in MOMENTS.items() if name in features}
        evaluations.append(evaluation(step, share=part, entropy=nats, moments=moments))
    rows = [
        {"feature": name, "base": a, "wanted": p, "target": p, "weight": 1.0}
        for name, (a, p) in MOMENTS.items()
        if name in features
    ]
    fit = {"gradient_norm": 1e-12, "dual_values": [0.0, -2.0, -2.9]}
    names = ["james", "heidi", "zzyzxq", ""]
    return {
        "config": {"batch_size": 100},
        "commit": "abc",
        "evaluations": evaluations,
        "seconds": [0.05] * STEPS[-1],
        "texts": [names, names[::-1]],
        "description": {"features": rows, "log_z": math.log(19.0), "fit": fit},
    }


def make_line(divergence: str, runs: list[dict[str, Any]]) -> Line:
    steps = zip(*(run["evaluations"] for run in runs), strict=True)
    means = [mean_record(records) for records in steps]
    return Line(title_of(divergence), divergence, "common", runs, means)


def make_outcome(name: str, **changes: dict[str, Any]) -> Outcome:
    """Make an outcome with two seeds; `changes` are arguments of `make_run` by divergence."""
    task = FULL.tasks[name]
    assert task.target is not None
    features = task.target.features
    lines = [
        make_line(
            divergence,
            [make_run(divergence, features=features, **changes.get(divergence, {}))] * 2,
        )
        for divergence in FOUR
    ]
    return Outcome(name, task.title, task, lines[0].runs[0]["description"], lines)


@pytest.fixture
def outcomes() -> list[Outcome]:
    return [make_outcome("rare"), make_outcome("balance")]


def make_story(outcomes: list[Outcome]) -> page.Story:
    return page.Story(
        title="A story",
        about=("one <b>paragraph</b>",),
        outcomes=outcomes,
        checks=promises.checks(outcomes),
        findings=list(promises.findings(outcomes)),
        settings={"runs": "two & two"},
    )


def failed(outcomes: list[Outcome]) -> list[promises.Check]:
    return [check for check in promises.checks(outcomes) if not check.passed]


def finding(outcome: Outcome, words: str) -> str:
    (answer,) = [f.answer for f in promises.findings([outcome]) if words in f.question]
    return answer


def test_every_check_passes_on_runs_that_keep_the_promise(outcomes):
    assert len(promises.checks(outcomes)) == 2 * len(FOUR) + len(FOUR)
    assert failed(outcomes) == []


@pytest.mark.parametrize("share", [0.51, 0.5 - 1e-4])
def test_a_divergence_that_is_not_clearly_halved_fails(share):
    # 0.9 * 0.4999 lies 9e-5 below half, a tenth of the standard error of 0.001.
    outcome = make_outcome("rare", total_variation={"share": share})
    assert ["total variation" in check.statement for check in failed([outcome])] == [True]


def test_one_bad_seed_is_enough_to_fail():
    outcome = make_outcome("rare")
    runs = [make_run("reverse_kl"), make_run("reverse_kl", share=1.4)]
    bad = make_line("reverse_kl", runs)
    lines = [bad if line.divergence == "reverse_kl" else line for line in outcome.lines]
    (check,) = failed([replace(outcome, lines=lines)])
    assert "140%" in check.detail


@pytest.mark.parametrize(("moved", "passes"), [(0.84, True), (0.83, False), (1.17, False)])
def test_the_moment_of_the_balance_is_held_to_a_twentieth(moved, passes):
    # E[female] = 0.2 + 0.3 moved: 0.452, 0.449 and 0.551 against 1/2.
    outcome = make_outcome("balance", forward_kl={"moved": moved})
    bad = failed([outcome])
    assert ["forward KL" in check.statement for check in bad] == [True] * (not passes)


@pytest.mark.parametrize(
    ("entropy", "words"), [(3.0, "ends with less"), (4.0, "does NOT end"), (4.5, "does NOT end")]
)
def test_the_entropy_finding_reports_what_was_measured(entropy, words):
    outcome = make_outcome("rare", reverse_kl={"entropy": entropy})
    assert words in finding(outcome, "diversity")


@pytest.mark.parametrize(("share", "word"), [(0.1, "Yes"), (0.2, "Neither"), (0.3, "No")])
def test_the_jensen_shannon_finding_may_contradict_the_paper(share, word):
    outcome = make_outcome("rare", jensen_shannon={"share": share})
    assert finding(outcome, "beat forward KL").startswith(word)


def test_the_lowest_divergence_is_named_for_each_measure():
    outcome = make_outcome("rare", jensen_shannon={"share": 0.1})
    answer = finding(outcome, "lowest")
    assert answer.count("by descending Jensen–Shannon") == len(FOUR) - 1
    assert "Jensen–Shannon by itself" in answer
    assert "not clearly" not in answer


def _without(outcome: Outcome, quantity: str, key: str) -> Outcome:
    """Replace what the last run that descends reverse KL says of a quantity at its end by NaN."""
    (line,) = [line for line in outcome.lines if line.divergence == "reverse_kl"]
    runs = [deepcopy(dict(run)) for run in line.runs]
    for entry in runs[-1]["evaluations"][-1]["estimates"][quantity].values():
        entry[key] = math.nan
    bad = make_line("reverse_kl", runs)
    return replace(outcome, lines=[bad if one is line else one for one in outcome.lines])


@pytest.mark.parametrize("key", ["value", "standard_error"])
def test_what_is_not_known_keeps_no_promise(key):
    bad = failed([_without(make_outcome("rare"), "reverse_kl", key)])
    assert ["reverse KL halved" in check.statement for check in bad] == [True]
    assert "by how many s.e. is not known" in bad[0].detail


def test_a_moment_that_is_not_known_keeps_no_promise():
    bad = failed([_without(make_outcome("balance"), "feature/female", "value")])
    assert ["reverse KL, E[" in check.statement for check in bad] == [True]
    assert "nan" in bad[0].detail


@pytest.mark.parametrize("key", ["value", "standard_error"])
def test_what_is_not_known_is_compared_with_nothing(key):
    outcome = make_outcome("rare", reverse_kl={"entropy": 3.0})
    answer = finding(_without(outcome, "entropy", key), "diversity")
    assert answer.startswith("Reverse KL cannot be told to end with less")
    lowest = finding(_without(outcome, "reverse_kl", key), "lowest").split("; ")[1]
    told = {"value": "reverse KL cannot be told, as reverse KL's value is NaN"}
    assert told[key] in lowest if key in told else "not clearly" in lowest


@pytest.mark.parametrize("pair", [(math.nan, 1.0), (1.0, math.nan), (math.nan, 0.0)])
def test_what_is_not_known_is_of_no_number_of_errors(pair):
    assert math.isnan(Measured(*pair).in_errors)
    assert math.isnan(mean_of([Measured(*pair), Measured(1.0, 0.1)]).in_errors)


def test_few_seeds_need_a_larger_gap_to_be_clear():
    """Student's t, as likely to be exceeded as 3 errors of a normal law; rounded up."""
    quantiles = t.ppf(norm.cdf(3.0), np.arange(1, len(CLEAR)))
    assert CLEAR[0] == 3.0
    assert all(
        0 <= ours - theirs < 0.011 for ours, theirs in zip(CLEAR[1:], quantiles, strict=True)
    )

    # Two seeds for each of two lines: 2 degrees of freedom. One of each: none.
    two = [make_line(name, [make_run(name)] * 2) for name in FOUR[:2]]
    assert clear_from(*two) == 19.21
    assert clear_from(*(make_line(name, [make_run(name)]) for name in FOUR[:2])) == 3.0
    assert clear_from(*(make_line(name, [make_run(name)] * 9) for name in FOUR[:2])) == 3.96


def test_the_errors_of_runs_that_share_samples_add():
    assert Measured(3.0, 0.3).minus(Measured(1.0, 0.4)) == pytest.approx((2.0, 0.7))


def test_findings_of_one_seed_say_so():
    outcome = make_outcome("rare")
    assert "One seed" not in finding(outcome, "diversity")
    single = [make_line(name, [make_run(name)]) for name in FOUR]
    assert "One seed each" in finding(replace(outcome, lines=single), "diversity")


def test_findings_carry_the_number_of_their_target(outcomes):
    questions = [finding.question for finding in promises.findings(outcomes)]
    assert len(questions) == len(set(questions))


def test_the_error_of_a_mean_is_never_less_than_the_seeds_disagree():
    agreeing = mean_of([Measured(1.0, 0.3), Measured(1.0, 0.4)])
    assert agreeing == pytest.approx((1.0, 0.25))  # hypot(0.3, 0.4) / 2
    # Two values 2 apart have standard deviation sqrt(2), over sqrt(2) seeds.
    assert mean_of([Measured(0.0, 0.3), Measured(2.0, 0.4)]) == pytest.approx((1.0, 1.0))


def test_a_z_of_two_seeds_combines_theirs():
    records = [evaluation(0, share=1.0, entropy=4.0, moments={"listed": 0.5}) for _ in range(2)]
    for record, z in zip(records, (1.0, 2.0), strict=True):
        record["estimates"]["feature/listed"]["sampled"]["z"] = z
    averaged = mean_record(records)["estimates"]["feature/listed"]["sampled"]
    assert averaged["z"] == pytest.approx(3.0 / math.sqrt(2))


@pytest.mark.parametrize("without", [0, 1])
def test_what_a_seed_could_not_give_has_no_mean(without):
    records = [evaluation(0, share=1.0, entropy=4.0, moments={"listed": 0.5}) for _ in range(2)]
    del records[without]["estimates"]["feature/listed"]["sampled"]
    averaged = mean_record(records)["estimates"]
    assert "sampled" not in averaged.get("feature/listed", {})
    assert averaged["entropy"]["list_and_remainder"]["value"] == 4.0


@pytest.mark.parametrize(("width", "parts"), [(80, 5), (120, 3), (300, 1)])
def test_the_table_fits_the_terminal(outcomes, width, parts):
    for outcome in outcomes:
        laid_out = list(summary.terminal_tables(outcome, width))
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
        assert f"E[{outcome.features[0]}]" in text


def test_the_table_shows_exact_beside_sampled(outcomes):
    columns = summary.groups(outcomes[0])["alignment"]
    assert columns["E[ends_in_i]\nexact"][:2] == ["0.00600", "0.9500"]
    # Two seeds of error 0.01 each.
    assert columns["E[ends_in_i]\nsampled"][2] == "0.9600 ± 0.0071"
    assert "E[ends_in_i]\nz" not in columns


def test_the_table_says_where_the_divergence_was_halved(outcomes):
    descent = summary.groups(outcomes[0])["descent"]
    # From 0.6 at 500 samples to 0.2 at 1000: half at 500 + 500/4, after 6.25 steps of 0.05 s.
    assert descent["samples\nto half"] == ["–", "–", *["625"] * len(FOUR)]
    assert descent["seconds\nto half"][2] == "0.312"
    assert descent["left of\nits own"][2] == "20%"
    never = make_outcome("rare", forward_kl={"share": 0.55})
    assert summary.groups(never)["descent"]["samples\nto half"][2] == "never"


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> tuple[page.Story, Path]:
    story = make_story([make_outcome("rare"), make_outcome("balance")])
    path = tmp_path_factory.mktemp("demo") / "index.html"
    page.write_page(story, path)
    return story, path


def test_the_page_needs_nothing_but_itself(told):
    text = told[1].read_text(encoding="utf-8")
    links = re.findall(r"(?:src|srcset|href)=[\"']([^\"']*)", text)
    assert len(links) >= 5
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert not re.search(r"https?://|@import|<script|url\(", text)
    assert "one &lt;b&gt;paragraph" in text
    assert "two &amp; two" in text
    assert "<span class='invented'>zzyzxq" in text
    assert "<span class='hit'>heidi" in text
    assert "12 of 12 promises hold" in text


def test_the_terminal_shows_every_finding_and_check_in_full(told):
    story, _ = told
    console = Console(width=80, file=StringIO())
    _tell(replace(FULL, page=None), story, console)
    text = " ".join(console.file.getvalue().split())  # pyright: ignore[reportAttributeAccessIssue]
    # Square brackets are markup to rich: an E[feature] printed as such would be swallowed.
    assert "E[female] near 0.5" in text
    assert text.count("pass ") == len(story.checks)


def test_the_stored_tables_are_markdown(told):
    text = page.markdown(told[0])
    assert "- runs: two & two" in text
    assert "| base a | 0.00600 |" in text
    assert text.count("- pass: ") == len(told[0].checks)


def test_the_summary_is_json_and_holds_every_column(told):
    _, path = told
    content = json.loads(path.with_name("summary.json").read_text())
    table = content["tables"]["balance"]
    place = table["rows"].index("target p")
    assert table["alignment"]["E[female]\nexact"][place] == "0.5000"
    assert {"E[female]\nsampled", "E[listed]\nsampled"} <= set(table["alignment"])
    assert all(check["passed"] for check in content["checks"])


def test_the_runs_differ_in_target_divergence_and_seed_only():
    cells = expand(FULL)
    assert len({cell.run for cell in cells}) == len(cells) == 19
    rare = [cell.config for cell in cells if cell.labels.task == "rare"]
    same = {"name": "run", "output": None, "seed": 0, "divergence": "forward_kl"}
    assert all(replace(run, **same) == replace(rare[0], **same) for run in rare)
    assert len({cell.config.steps * cell.config.batch_size for cell in cells}) == 1
    assert all(cell.config.optimizer.clip_norm is None for cell in cells)


def test_options_change_what_the_file_says_and_nothing_else():
    options = DemoConfig(
        steps=4, batch_size=64, seeds=(5,), workers=1, output="elsewhere", base={"steps": 7},
        evaluation={"samples": 256, "group": 64},
    )  # fmt: skip
    sweep, usual = demo_sweep(options), demo_sweep(DemoConfig())
    cell, other = expand(sweep)[0], expand(usual)[0]
    assert (cell.config.steps, cell.config.batch_size, cell.labels.seed) == (4, 64, 5)
    assert (sweep.workers, sweep.page) == (1, "elsewhere/index.html")
    assert cell.config.optimizer.warmup_steps == 4
    assert cell.config.base == replace(other.config.base, steps=7)
    assert cell.config.evaluation == replace(other.config.evaluation, samples=256, group=64)
    assert usual.page == "runs/demo/index.html"


def test_reverse_kl_is_refused_on_the_hard_target():
    hard = FULL.tasks["hard"].target
    assert hard is not None
    assert "reverse_kl" not in {
        c.config.divergence for c in expand(FULL) if c.labels.task == "hard"
    }
    with pytest.raises(InfiniteDivergence, match="hard constraint"):
        _ = RunConfig(target=hard, divergence="reverse_kl")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--step", "3"], "did you mean 'steps'"),
        (["--seeds", "[0,0]"], "none twice"),
        (["--workers", "0"], "at least 1"),
        (["--steps", "0"], "at least 1"),
        (["--base.step", "3"], "did you mean 'steps'"),
        (["--evaluation.every", "often"], "every"),
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


MINIATURE = DemoConfig(
    full=True,
    output="runs/demo",
    store="demo.md",
    steps=4,
    batch_size=64,
    seeds=(0,),
    base={"layers": 1, "width": 32, "batch_size": 256, "female_share": 0.5},
    evaluation={"every": 4, "samples": 256, "group": 64, "texts": 8},
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
    assert "FAIL: (i) Rare: forward KL halved" in (tmp_path / "demo.md").read_text()
    assert (folder / command.MARKER).read_text() == command.FINISHED
    assert {p.name for p in (folder / "figures").glob("*.png")} == {
        f"{kind}-{task}{suffix}.png"
        for task in ("rare", "balance", "hard")
        for kind, suffix in (
            ("trajectory", ""), ("divergences", ""), ("divergences", "-tall"), ("multipliers", ""),
        )
        if (task, kind) != ("hard", "multipliers")
    }  # fmt: skip
    runs = sorted(p for p in folder.iterdir() if (p / "metrics.jsonl").exists())
    assert len(runs) == 11
    before = [(run / "metrics.jsonl").read_bytes() for run in runs]
    again = Console(width=80, file=StringIO())
    assert command.run_demo(replace(MINIATURE, workers=1), console=again) == 1
    assert [(run / "metrics.jsonl").read_bytes() for run in runs] == before


@pytest.mark.slow
def test_a_demo_that_fails_says_that_it_is_unfinished(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = demo_sweep(replace(MINIATURE, full=False, workers=1))
    # Who is listed and ends in i is listed: no distribution has these two moments.
    rare = sweep.tasks["rare"]
    assert rare.target is not None
    assert rare.target is not None
    target = replace(rare.target, moments={"ends_in_i": 0.95, "listed": 0.5})
    tasks = {"rare": replace(rare, target=target)}
    monkeypatch.setattr(command, "demo_sweep", lambda _: replace(sweep, tasks=tasks))
    with pytest.raises(RunError, match=r"every run failed, the first one: .*moments"):
        _ = command.run_demo(MINIATURE, console=Console(file=StringIO()))
    folder = tmp_path / "runs" / "demo"
    assert "starts over" in (folder / command.MARKER).read_text()
    assert not (folder / "index.html").exists()


def _leave_results(folder: Path) -> list[Path]:
    """Leave what any sweep leaves whose page is in its folder, and return its files."""
    _ = (folder / "index.html").write_text(page.MARK)
    _ = (folder / "summary.json").write_text(page.summary(make_story([make_outcome("rare")])))
    for place in (f"cells/{'a0' * 8}.json", "figures/trajectory-rare.png"):
        (folder / place).parent.mkdir()
        _ = (folder / place).write_text("hours of work")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_sweep_is_no_demonstration_and_is_not_started_over(tmp_path):
    files = _leave_results(tmp_path)
    with pytest.raises(RunError, match="not empty, and no demonstration made it"):
        _ = command.run_demo(DemoConfig(output=str(tmp_path)))
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == files


def _without_runs(monkeypatch) -> None:
    def run(*_: object, **_words: object) -> int:
        return 0

    monkeypatch.setattr("lm.sweep.command.run_held_sweep", run)


@pytest.mark.parametrize("text", [command.UNFINISHED, command.FINISHED])
def test_a_demonstration_is_started_over(tmp_path, monkeypatch, text):
    _without_runs(monkeypatch)
    _ = _leave_results(tmp_path)
    _ = (tmp_path / command.MARKER).write_text(text)
    assert command.run_demo(DemoConfig(output=str(tmp_path))) == 0
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {command.MARKER, FOLDER_LOCK}
    assert (tmp_path / command.MARKER).read_text() == command.FINISHED


@pytest.mark.parametrize("place", ["cells/mine.json", "figures/mine.png", "figures/more/own.png"])
def test_a_file_of_the_users_in_a_demonstration_is_never_deleted(tmp_path, monkeypatch, place):
    _without_runs(monkeypatch)
    _ = _leave_results(tmp_path)
    _ = (tmp_path / command.MARKER).write_text(command.FINISHED)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    _ = (tmp_path / place).write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunError, match="which this program did not write, so it is not replaced"):
        _ = command.run_demo(DemoConfig(output=str(tmp_path)))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_demonstration_whose_markdown_file_is_somebody_elses_deletes_nothing(tmp_path):
    folder, notes = tmp_path / "demo", tmp_path / "notes.md"
    folder.mkdir()
    files = _leave_results(folder)
    _ = (folder / command.MARKER).write_text(command.FINISHED)
    _ = notes.write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.md exists and is not a sweep's Markdown file"):
        _ = command.run_demo(DemoConfig(output=str(folder), store=str(notes)))
    assert notes.read_text() == "mine"
    assert all(path.exists() for path in files)


def test_two_demonstrations_do_not_share_a_folder(tmp_path):
    with held(tmp_path), pytest.raises(RunBusy, match="another process is at work in"):
        _ = command.run_demo(DemoConfig(output=str(tmp_path)))
    assert not (tmp_path / command.MARKER).exists()


@pytest.mark.parametrize("content", ['{"my": "own"}', '{"steps": 4, "first": {}}', "[]"])
def test_only_a_demonstration_is_started_over(tmp_path, content):
    _ = (tmp_path / "summary.json").write_text(content)
    (tmp_path / "figures").mkdir()
    _ = (tmp_path / "figures" / "mine.png").write_text("precious")
    with pytest.raises(RunError, match="exists and is not empty"):
        _ = command.run_demo(DemoConfig(output=str(tmp_path)))
    assert (tmp_path / "figures" / "mine.png").exists()
    assert len(list(tmp_path.iterdir())) == 2
