"""From stored tables to verdicts, numbers, pictures and the report, and the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.study_tables import (
    DROPS,
    STEPS,
    Run,
    lm_rows,
    main_runs,
    toy_rows,
    write_all,
    write_lm,
)

from fdpg_ref import display
from study.__main__ import main
from study.names import FIVE, MEASURES, REINFORCEMENT
from study.report.agreement import agreement_failures, agreement_table
from study.report.blocks import markdown
from study.report.document import GRIDS, TITLE, collect, first_content, introduction, write_report
from study.report.figures.drawing import COLORS, MARKERS
from study.report.summaries import (
    ablation_table,
    base_table,
    main_table,
    per_run,
    samples_to_half,
    stability_table,
    toy_wins,
)
from study.rules.judge import judge
from study.rules.verdicts import DOES_NOT, HOLDS, NOT_JUDGED
from study.tables.cubes import best_values, chosen, completed, cube_of, runs_of, toy_cube
from study.tables.selections import main_cube, study_tables
from study.tables.stored import StudyError, Table, Tables, load_tables
from study.text import interval, markdown_table

ROOT = Path(__file__).resolve().parents[2]
TASKS = {
    "ends_in_i": {
        "title": "Soft: ends in i",
        "target_moments": {"ends_in_i feature": 0.95},
    }
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A full set of made-up tables."""
    path = tmp_path_factory.mktemp("results")
    write_all(path, tasks=("ends_in_i", "teacher"))
    return path


@pytest.fixture(scope="module")
def tables(folder) -> Tables:
    return load_tables(folder)


@pytest.fixture(scope="module")
def verdicts(tables):
    return judge(tables)


def small_table(runs) -> Table:
    return Table("lm_main", lm_rows(runs), {"tasks": TASKS})


def verdict_of(verdicts, name: str, study: str) -> str:
    return next(one.verdict for one in verdicts if (one.name, one.study) == (name, study))


def test_the_best_estimator_is_kept():
    table = best_values(lm_rows([Run("only_i", "forward_kl", 1)]))
    kept = dict(zip(table["quantity"], table["estimator"], strict=True))
    assert kept["forward_kl"] == "exact"
    assert kept["entropy"] == "rao_blackwell"
    assert kept["self_bleu"] == "sampled"
    assert kept["gradient_norm"] == "record"
    assert not table.duplicated(["step", "quantity"]).any()


def test_a_cube_has_every_run_in_its_place():
    runs = runs_of(small_table(main_runs(("ends_in_i", "only_i"), FIVE)))
    cube = cube_of(chosen(runs.ends))
    assert cube.units == ("ends_in_i", "only_i")
    assert cube.missing == ()
    row = runs.ends[
        (runs.ends["task"] == "only_i")
        & (runs.ends["method"] == "jensen_shannon")
        & (runs.ends["seed"] == 2)
    ]
    place = cube.objectives.index("jensen_shannon")
    np.testing.assert_array_equal(cube.values[1, 1, place], row[list(MEASURES)].to_numpy()[0])
    # Reverse KL is refused on a hard target, and infinite there for everybody else.
    assert np.isnan(cube.of("reverse_kl")[1]).all()
    assert np.isinf(cube.of("forward_kl")[1, :, 1]).all()


def test_two_runs_in_one_place_are_an_error():
    runs = [Run("ends_in_i", name, 1, size=size) for name in FIVE for size in ("1x32", "2x64")]
    with pytest.raises(ValueError, match="unique"):
        _ = cube_of(runs_of(small_table(runs)).ends)


def test_the_main_cube_keeps_the_rates_apart():
    tuned = main_runs(("ends_in_i",), FIVE)
    common = main_runs(("ends_in_i",), FIVE, rate="common", learning_rate=1e-4)
    runs = runs_of(small_table(tuned + common))
    ratio = main_cube(runs).values / main_cube(runs, "common").values
    np.testing.assert_allclose(np.log(ratio), 0.1 * np.log(1e-4 / 3e-4), rtol=1e-9)


def test_a_sweep_is_completed_by_what_it_departs_from():
    sweep = runs_of(small_table([Run("ends_in_i", "forward_kl", 1, variant="batch_1024")]))
    usual = runs_of(small_table(main_runs(("ends_in_i", "female"), FIVE)))
    found = completed(sweep, usual)
    assert set(found.ends["task"]) == {"ends_in_i"}
    assert len(found.ends) == 1 + 3 * len(FIVE)
    again = completed(found, usual)
    assert len(again.steps) == len(found.steps)


def test_samples_to_half_are_interpolated():
    run = runs_of(small_table([Run("ends_in_i", "forward_kl", 1)])).steps
    run = run.assign(own_measure=[8.0, 6.0, 5.0, 3.0, 2.0, 1.0])
    samples = run["samples"].to_numpy()
    assert samples_to_half(run) == samples[2] + 0.5 * (samples[3] - samples[2])
    assert samples_to_half(run.assign(own_measure=8.0)) == np.inf
    assert np.isnan(samples_to_half(run.assign(own_measure=np.nan)))


def test_a_run_is_summed_up_by_its_end_and_its_records():
    table = small_table([Run("ends_in_i", "reverse_kl", 1)])
    noise = table.frame["quantity"] == "gradient_signal_to_noise"
    table.frame.loc[noise, "value"] = [1.0, 7.0, 1.0, 7.0, 5.0]
    (row,) = per_run(runs_of(table)).to_dict("records")
    assert row["step"] == STEPS[-1]
    assert row["gradient_norm"] == pytest.approx(1.4)
    # Root mean square: (1 + 49 + 1 + 49 + 25) / 5 = 25.
    assert row["gradient_signal_to_noise"] == pytest.approx(5.0)
    assert row["alignment"] == row["feature/ends_in_i feature"]


def test_the_main_table_is_the_mean_over_seeds():
    runs = runs_of(small_table(main_runs(("ends_in_i",))))
    table = main_table(runs).set_index(["rate", "method", "quantity"])
    ends = runs.ends[runs.ends["method"] == "reward"]
    row = table.loc[("tuned", "reward", "forward_kl")]
    assert row["mean"] == pytest.approx(ends["forward_kl"].mean())
    assert row["deviation"] == pytest.approx(ends["forward_kl"].std())
    assert row["low"] <= row["mean"] <= row["high"]
    base = base_table(runs).set_index("quantity")
    assert base.loc["forward_kl", "seeds"] == 3
    assert base.loc["forward_kl", "mean"] == pytest.approx(np.e)


def test_an_ablation_is_paired_by_seed(tables):
    table = ablation_table(study_tables(tables)["ablations"])
    rows = table[table["variant"] == "no_baseline"].set_index("method")
    assert rows.loc["reverse_kl", "log_ratio"] == pytest.approx(0.6)
    # The noise of a seed is the same with and without: nothing is left of it.
    assert rows.loc["reverse_kl", "high"] - rows.loc["reverse_kl", "low"] < 1e-9


def test_concordance_needs_raters_of_all_five(tables):
    """The hard one of three tasks has no reverse KL."""
    main = runs_of(small_table(main_runs(("ends_in_i", "only_i", "female"), FIVE)))
    table = stability_table(main, study_tables(tables)["scale"]).set_index("over")
    assert dict(table["raters"]) == {"tasks": 2, "seeds": 3, "sizes": 3}


def test_wins_of_the_toy_add_up():
    table = toy_wins(toy_rows())
    sums = table.groupby(["phase", "measure"])["share"].sum()
    np.testing.assert_allclose(sums, 1.0)
    problems = table.set_index(["phase", "measure"])["problems"]
    assert set(problems.loc[("sampled", "forward_kl")]) == {40}
    # A quarter of the problems is hard: reverse KL is infinite there for everybody.
    assert set(problems.loc[("sampled", "reverse_kl")]) == {30}


def test_the_toy_cube_takes_one_phase_and_rate():
    frame = toy_rows(8)
    cube = toy_cube(frame, phase="exact")
    rows = frame[(frame["phase"] == "exact") & (frame["objective"] == "total_variation")]
    np.testing.assert_array_equal(cube.of("total_variation")[:, 0, 0], rows["forward_kl"])


def test_every_hypothesis_is_judged_on_full_tables(verdicts):
    assert NOT_JUDGED not in {one.verdict for one in verdicts}
    assert len({one.name for one in verdicts}) == 12
    expected = {
        ("H1", "transformer"): HOLDS,
        ("H2", "lm"): DOES_NOT,
        ("H3", "lm"): HOLDS,
        ("H4", "lm"): HOLDS,
        ("H5", "lm, common rate"): HOLDS,
        ("H7", "lm"): HOLDS,
        ("H8", "toy"): HOLDS,
        ("H9", "ablations"): HOLDS,
        ("H10", "ablations"): HOLDS,
        ("H11", "ablations"): HOLDS,
        ("H12", "lm"): HOLDS,
    }
    for (name, study), verdict in expected.items():
        assert verdict_of(verdicts, name, study) == verdict


def test_an_effect_put_into_the_tables_comes_out(verdicts):
    found = next(one for one in verdicts if (one.name, one.study) == ("H5", "lm, tuned rate"))
    assert found.effect == pytest.approx(DROPS["jensen_shannon"] - DROPS["forward_kl"], abs=0.1)
    assert found.low <= found.effect <= found.high


def test_missing_tables_are_not_judged(folder):
    tables = Tables(toy=load_tables(folder).toy)
    verdicts = judge(tables)
    assert verdict_of(verdicts, "H2", "toy") == HOLDS
    assert verdict_of(verdicts, "H2", "lm") == NOT_JUDGED
    sentences = {one.sentence for one in verdicts if one.verdict == NOT_JUDGED}
    assert sentences == {"Not run."}


def test_a_small_main_study_says_what_it_lacks():
    runs = main_runs(("ends_in_i", "female"), ("forward_kl", "jensen_shannon"), (1, 2))
    tables = Tables(main=small_table(runs))
    verdicts = judge(tables)
    assert verdict_of(verdicts, "H5", "lm, tuned rate") == HOLDS
    reasons = {(one.name, one.study): one.sentence for one in verdicts}
    assert "reverse KL" in reasons["H2", "lm"]
    assert reasons["H5", "lm, common rate"] == "No run at the common rate."
    assert "teacher" in reasons["H7", "lm"]
    assert reasons["H9", "ablations"] == "Not run."
    sweeps = study_tables(tables)
    numbers = collect(tables, sweeps)
    assert "## Limitations" in markdown(
        "", "", first_content(tables, sweeps, verdicts, numbers, ())
    )


def test_two_names_of_one_rate_are_not_compared():
    runs = main_runs(("ends_in_i", "female"), FIVE)
    again = [run._replace(rate="common") for run in runs]
    verdicts = judge(Tables(main=small_table(runs + again)))
    found = next(one for one in verdicts if one.name == "H12")
    assert (found.verdict, "the same runs" in found.sentence) == (NOT_JUDGED, True)


def test_sampled_values_that_disagree_fail_the_study(folder, tmp_path, capsys):
    tables = load_tables(folder)
    assert agreement_failures(agreement_table(tables)) == []
    runs = main_runs(("female",), ("forward_kl", "jensen_shannon"), (1, 2))
    frame = lm_rows(runs)
    compared = frame["z"].notna()
    exact = frame["quantity"].str.startswith("feature/") & compared
    entropy = (frame["quantity"] == "entropy") & compared
    # A better estimate of entropy is a sample too: that is reported, and no failure.
    frame.loc[entropy.idxmax(), "z"] = 3000.0
    write_lm(tmp_path / "lm_main.parquet", frame)
    assert main(["report", "--results", str(tmp_path)]) == 0
    frame.loc[exact.idxmax(), "z"] = -5.5
    write_lm(tmp_path / "lm_main.parquet", frame)
    assert main(["report", "--results", str(tmp_path)]) == 1
    said = "lm_main has |z| = 5.50 (feature/female feature: female, forward KL), which must be"
    assert said in capsys.readouterr().err
    assert "lm_main has |z| = 5.50" in (tmp_path / "REPORT.md").read_text(encoding="utf-8")


def test_a_run_at_both_rates_is_compared_once():
    frame = lm_rows([Run("female", "forward_kl", 1)])
    once = Table("lm_main", frame, {})
    count = agreement_table(Tables(main=once))["comparisons"].sum()
    doubled = Table("lm_main", _twice(frame), {})
    assert agreement_table(Tables(main=doubled))["comparisons"].sum() == count


def _twice(frame):
    return type(frame)(
        frame.to_dict("records") + frame.assign(rate="common", cell="other").to_dict("records")
    )


@pytest.mark.slow
def test_the_report_is_whole_and_deterministic(folder, tables, verdicts, tmp_path, monkeypatch):
    """Twice from the same tables: the same bytes; every picture is named and in the folder."""
    monkeypatch.setattr("study.report.figures.drawing.DPI", 30)  # these are not looked at
    report = write_report(tables, tmp_path)
    assert report.failures == []
    text = (tmp_path / "REPORT.md").read_text(encoding="utf-8")
    pictures = sorted((tmp_path / "figures").glob("*.png"))
    assert len(pictures) == 10
    for path in pictures:
        assert f"figures/{path.name}" in text
    assert re.search(r"\bnan\b", text, flags=re.IGNORECASE) is None
    again = load_tables(folder)
    numbers = collect(again, study_tables(again))
    assert set(GRIDS) <= set(numbers)
    for name, grid in GRIDS.items():
        assert grid(numbers[name]).caption in text
    content = first_content(again, study_tables(again), verdicts, numbers, report.pictures)
    assert markdown(TITLE, introduction(tables), content) == text
    for one in verdicts:
        assert f"{one.study}: **{one.verdict}**. {one.sentence}" in text


def test_the_commands_are_listed_and_errors_take_one_line(capsys, tmp_path):
    assert main([]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in listed] == ["rates", "power", "report", "language"]
    nowhere = str(tmp_path / "none")
    for words in (["report"], ["power"], ["rates", "--yaml", nowhere]):
        assert main([*words, "--results", nowhere]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert (
        "run `python -m lm sweep study/sweeps/main.yaml` or `python -m toy study --out" in lines[0]
    )
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit) as caught:
        _ = main(["guess"])
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_rates_and_power_are_written(folder, tmp_path):
    target = tmp_path / "rates.yaml"
    options = ["--results", str(folder), "--output", str(tmp_path)]
    assert main(["rates", *options, "--yaml", str(target)]) == 0
    assert main(["power", *options]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"rates.yaml", "rates.md", "power.md"}
    # What it wrote it writes again.
    assert main(["power", *options]) == 0
    assert main(["rates", *options, "--yaml", str(target)]) == 0


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *[("rates", "rates.md"), ("rates", "mine.yaml"), ("rates", "rates2.yaml")],
        *[("power", "power.md"), ("report", "REPORT.md"), ("language", "LANGUAGE.md")],
    ],
)
def test_a_page_of_somebody_else_is_not_replaced(folder, tmp_path, capsys, command, name):
    mine = tmp_path / name
    _ = mine.write_text("# Mine\n", encoding="utf-8")
    more = ["--yaml", str(tmp_path / "mine.yaml")] if command == "rates" else []
    assert main([command, "--results", str(folder), "--output", str(tmp_path), *more]) == 2
    assert f"{mine} exists and is no file that this command wrote" in capsys.readouterr().err
    assert [path.read_text("utf-8") for path in tmp_path.iterdir()] == ["# Mine\n"]


def test_a_long_command_says_that_it_goes_on(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("study.speaking.SECONDS", 0.01)

    def judge(*_):
        time.sleep(0.1)
        raise StudyError("enough")

    monkeypatch.setattr("study.__main__.load_tables", judge)
    assert main(["report", "--results", str(tmp_path)]) == 2
    *said, last = capsys.readouterr().err.splitlines()
    assert "judging the hypotheses and drawing the report ... (0 s)" in said
    assert last == "python -m study: enough"


def test_a_broken_table_is_named(tmp_path):
    (tmp_path / "lm_main.parquet").write_bytes(b"no table")
    with pytest.raises(StudyError, match=r"lm_main\.parquet cannot be read"):
        _ = load_tables(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        3000 * "[",
        '{"float32": {}}',
        '{"float64": 1}',
        '{"float32": {"dpg": "1e-7"}}',
        '{"float64": {"dpg": NaN}}',
        '{"float64": {"dpg": true}}',
    ],
)
def test_a_broken_unification_is_named(tmp_path, content):
    (tmp_path / "unification.json").write_text(content, encoding="utf-8")
    with pytest.raises(StudyError, match=r"unification\.json (cannot be read|must be|has no diff)"):
        _ = load_tables(tmp_path)


def test_unification_alone_is_enough_to_report(tmp_path):
    errors = {"float32": {"dpg": 1e-5}, "float64": {"dpg": 1e-15}}
    (tmp_path / "unification.json").write_text(json.dumps(errors), encoding="utf-8")
    tables = load_tables(tmp_path)
    assert verdict_of(judge(tables), "H1", "transformer") == "holds partly"


def test_what_is_no_divergence_has_a_colour_and_a_marker_of_its_own():
    for all_of, shared in ((COLORS, display.COLORS), (MARKERS, display.MARKERS)):
        assert shared.items() <= all_of.items()
        added = {name: all_of[name] for name in all_of.keys() - shared.keys()}
        assert set(added) == set(REINFORCEMENT)
        assert len(set(added.values()) - set(shared.values())) == len(added)


def test_the_study_imports_neither_toy_nor_lm_nor_torch():
    code = "import sys, study.__main__\nprint(sorted(sys.modules.keys() & {'toy', 'lm', 'torch'}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_of_the_core_the_study_takes_names_and_colours_only():
    lines = [
        line
        for path in sorted((ROOT / "study").rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if "import" in line and "fdpg_ref" in line
    ]
    assert lines
    for line in lines:
        assert line.startswith(("from fdpg_ref.display import ", "from fdpg_ref import display"))


def test_intervals_as_printed():
    assert interval(0.5261, 0.5192, 0.5323) == "0.526 [0.519, 0.532]"
    assert interval(-0.44, -0.594, -0.29) == "-0.44 [-0.59, -0.29]"
    assert interval(0.3, np.nan, np.nan) == "0.300"
    assert interval(0.3, 0.3, 0.3) == "0.300 [0.300, 0.300]"
    assert markdown_table(("a", "b"), [("x|y", "1")]).splitlines()[-1] == "| x\\|y | 1 |"
