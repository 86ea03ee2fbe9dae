"""Which table each rule of the second edition looks at, on made-up tables of three bases."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.study_tables import (
    POLICY_SIDE_BIAS,
    Run,
    lm_rows,
    main_runs,
    write_all,
    write_second,
)

from study.report.agreement import target_side_failures, target_side_share
from study.report.document import write_report
from study.report.findings import QUESTIONS, findings, times
from study.report.second_edition import (
    ALL,
    BEST,
    BIAS,
    POLICY,
    SHARED,
    matched_grid,
    sides_grid,
    sides_table,
    slopes_grid,
)
from study.rules.judge_second import judge_second
from study.rules.verdicts import (
    DOES_NOT,
    HOLDS,
    NOT_JUDGED,
    SECOND_STATEMENTS,
    Verdict,
    not_judged,
)
from study.tables.cubes import at_alignment, best_values, policy_side, pooled, runs_of
from study.tables.pairs import parameters_of
from study.tables.stored import NotJudgedError, Table, Tables, load_tables


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Tables:
    folder: Path = tmp_path_factory.mktemp("second")
    write_all(folder, tasks=("ends_in_i",), seeds=(1, 2))
    write_second(folder)
    return load_tables(folder)


@pytest.fixture(scope="module")
def verdicts(tables):
    return {(one.name, one.study): one for one in judge_second(tables)}


def table_of(runs, **changes) -> Table:
    frame = lm_rows(runs)
    return Table("lm_main2", frame.assign(**changes), {"tasks": {}})


def of_tasks(tables: Tables, *tasks: str) -> Tables:
    """Return the second edition's tables with these tasks alone, so that less has to be drawn."""
    names = ("main2", "scale2", "ablations2")
    stored = {name: getattr(tables, name) for name in names}
    fewer = {
        name: replace(table, frame=table.frame[table.frame["task"].isin(tasks)])
        for name, table in stored.items()
    }
    return replace(tables, **fewer)


@pytest.mark.slow
def test_every_hypothesis_is_judged_on_full_tables(verdicts):
    assert list(dict.fromkeys(name for name, _ in verdicts)) == list(SECOND_STATEMENTS)
    assert not [key for key, one in verdicts.items() if one.verdict == NOT_JUDGED]
    words = {key: one.verdict for key, one in verdicts.items()}
    # JS ends lowest on every measure, by e^0.5 against forward KL, and by e^0.1 against alpha 1/2.
    assert words["H2", "lm"] == DOES_NOT
    assert words["H4", "lm"] == HOLDS
    for batch in (64, 256, 1024):
        assert words["H5", f"lm, batch {batch}"] == HOLDS
        assert words["H5", f"lm, batch {batch}, policy side"] == HOLDS
        assert words["H13", f"lm, batch {batch}"] == HOLDS
    # It is so at every size, without noise that could hide it.
    assert words["H6", "scale"] == HOLDS
    # Every objective's entropy has the same valley: reverse KL's is not deeper than forward KL's.
    assert words["H7", "lm"] == DOES_NOT
    assert words["H9", "lm"] == HOLDS
    assert words["H10", "ablations"] == HOLDS
    assert words["H11", "ablations"] == HOLDS
    assert words["H12", "lm"] == HOLDS


@pytest.mark.slow
def test_the_effects_are_those_put_in(verdicts):
    known = {key: one.effect for key, one in verdicts.items()}
    assert known["H5", "lm, batch 256"] == pytest.approx(-0.5, abs=0.05)
    assert known["H5", "lm, batch 256, policy side"] == pytest.approx(
        -0.5 + POLICY_SIDE_BIAS, abs=0.05
    )
    assert known["H13", "lm, batch 1024"] == pytest.approx(POLICY_SIDE_BIAS, abs=1e-6)
    # Forward KL with 1024 samples gains 0.1 in the made-up tables, of the 0.5 that it lacks.
    assert known["H9", "lm"] == pytest.approx(0.4, abs=0.05)
    assert known["H7", "lm"] == pytest.approx(0.0, abs=1e-9)
    # Without a baseline reverse KL loses 0.6, the others 0.3.
    assert known["H10", "ablations"] == pytest.approx(-0.3, abs=0.05)


@pytest.mark.slow
def test_what_was_not_run_is_not_judged(tables):
    some = replace(tables, scale2=None, toy=None)
    found = {(one.name, one.study): one.verdict for one in judge_second(some)}
    assert found["H6", "scale"] == found["H8", "toy"] == NOT_JUDGED
    assert found["H5", "lm, batch 64"] == HOLDS


def test_a_task_without_exact_values_is_judged_by_samples_of_the_target():
    frame = best_values(lm_rows([Run("ends_in_i", "forward_kl", 1, size="2x64b1")]))
    kept = dict(zip(frame["quantity"], frame["estimator"], strict=True))
    assert kept["forward_kl"] == "list_and_remainder"
    rows = lm_rows([Run("ends_in_i", "forward_kl", 1, size="2x64b1")])
    rows = rows[~rows["estimator"].isin(["exact", "list_and_remainder"])]
    kept = dict(zip(*(best_values(rows)[key] for key in ("quantity", "estimator")), strict=True))
    assert kept["forward_kl"] == "target_samples"


def test_samples_of_the_policy_alone_are_never_the_best():
    rows = lm_rows([Run("ends_in_i", "forward_kl", 1, size="2x64b1")])
    rows = rows[rows["estimator"] == "policy_samples"]
    assert best_values(rows).empty
    assert set(policy_side(Table("t", rows, {})).ends.columns) >= {"forward_kl", "jensen_shannon"}
    with pytest.raises(NotJudgedError, match="no policy_samples"):
        _ = policy_side(table_of([Run("ends_in_i", "forward_kl", 1)]))


def test_bases_of_a_size_are_one_size():
    frame = pooled(lm_rows([Run("ends_in_i", "forward_kl", 4, size="2x64b1")]))
    assert set(frame["size"]) == {"2x64"}
    assert set(frame["base"]) == {1}
    plain = pooled(lm_rows([Run("ends_in_i", "forward_kl", 4)]))
    assert set(plain["size"]) == {"2x64"}
    assert set(plain["base"]) == {0}


def test_entropy_is_compared_where_the_alignment_is_the_same():
    table = table_of(main_runs(("ends_in_i",), ("forward_kl", "reverse_kl"), (1,)))
    steps = runs_of(table).steps
    entropy = np.tile([9.0, 7.0, 6.0, 5.0, 4.0, 3.0], 2)
    slow, fast = [0.0, 0.1, 0.3, 0.6, 0.8, 0.9], [0.0, 0.6, 0.8, 0.9, 0.9, 0.9]
    steps = steps.assign(entropy=entropy, alignment=[*slow, *fast])
    found = at_alignment(steps, 0.7).set_index("method")["entropy"]
    # Half of the way from 0.6 to 0.8; at the end both have the same entropy.
    assert found["forward_kl"] == pytest.approx(4.5)
    assert found["reverse_kl"] == pytest.approx(6.5)
    # One that never gets there, and one that starts there.
    assert np.isnan(at_alignment(steps, 0.95)["entropy"]).all()
    assert (at_alignment(steps, 0.0)["entropy"] == 9.0).all()


@pytest.mark.slow
def test_h3_and_h7_look_at_the_pair(tables, verdicts):
    frame = tables.main2.frame.copy()
    sunk = (frame["method"] == "reverse_kl") & (frame["quantity"] == "entropy")
    frame.loc[sunk, "value"] -= 2.0
    lower = replace(tables, main2=replace(tables.main2, frame=frame))
    found = {(one.name, one.study): one for one in judge_second(lower)}
    assert found["H3", "lm"].verdict == HOLDS
    shift = found["H3", "lm"].effect - verdicts["H3", "lm"].effect
    assert shift == pytest.approx(-2.0, abs=1e-6)


def test_parameters_are_those_of_the_blocks():
    assert parameters_of("2x64") == 2 * (12 * 64**2 + 13 * 64)


@pytest.mark.slow
def test_the_report_is_about_the_second_edition_and_keeps_the_first(tables, tmp_path, monkeypatch):
    monkeypatch.setattr("study.report.figures.drawing.DPI", 30)  # these are not looked at
    report = write_report(of_tasks(tables, "ends_in_i", "only_i"), tmp_path)
    text = (tmp_path / "REPORT.md").read_text(encoding="utf-8")
    first = (tmp_path / "REPORT-first.md").read_text(encoding="utf-8")
    assert not report.failures
    kept, compared, without = target_side_share(tables)
    assert kept == compared > 1000
    assert without == 0

    # Findings, then pictures, then tables; the first edition's verdicts by its own rules.
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert heads[:3] == ["## Findings", "## Pictures", "## Verdicts"]
    assert "](REPORT-first.md)" in text
    assert "## Verdicts of the first edition" in first
    assert "holds partly" not in text
    assert "lm_main2.parquet" in text
    assert "lm_main2.parquet" not in first

    # Every picture that either names is there.
    for document in (text, first):
        named = set(re.findall(r"\]\((figures[^)]*\.png)\)", document))
        assert named
        assert all((tmp_path / name).is_file() for name in named)
    assert (tmp_path / "figures" / "sides.png").is_file()


@pytest.mark.slow
def test_both_sides_of_every_task_stand_next_to_each_other(tables):
    table = sides_table(tables.main2)
    known = table.set_index(["setting", "side", "task"])["value"]
    for setting in ("batch 64", "batch 256", "batch 1024", "common rate"):
        assert known[setting, BEST, ALL] == pytest.approx(-0.5, abs=0.05)
        assert known[setting, POLICY, ALL] == pytest.approx(-0.5 + POLICY_SIDE_BIAS, abs=0.05)
        assert known[setting, BIAS, ALL] == pytest.approx(POLICY_SIDE_BIAS, abs=1e-6)
    # The rare tasks alone have other batch sizes.
    assert set(table[table["setting"] == "batch 64"]["task"]) == {
        "contains_x",
        "ends_in_i",
        "only_i",
        ALL,
        SHARED,
    }
    for setting in ("batch 64", "batch 256"):
        assert known[setting, BEST, SHARED] == pytest.approx(-0.5, abs=0.05)

    # A task that has one batch size moves the mean over all, and not that over the shared ones.
    frame = tables.main2.frame.copy()
    moved = (frame["task"] == "teacher") & (frame["method"] == "jensen_shannon")
    frame.loc[moved, "value"] *= 8.0
    other = sides_table(replace(tables.main2, frame=frame))
    other = other.set_index(["setting", "side", "task"])["value"]
    gap = other["batch 256", BEST, ALL] - known["batch 256", BEST, ALL]
    assert gap == pytest.approx(np.log(8.0) / 6)
    for setting in ("batch 64", "batch 256"):
        assert other[setting, BEST, SHARED] == known[setting, BEST, SHARED]
    assert set(table["claim"]) == {"better"}
    grid = sides_grid(table)
    assert len(grid.rows) == (3 + 2) * 2 + (6 + 2) * 2
    assert all(len(row) == len(grid.heads) for row in grid.rows)


@pytest.mark.slow
def test_a_task_with_too_few_seeds_has_no_row(tables):
    frame = tables.main2.frame
    few = frame[(frame["task"] != "reward") | (frame["seed"] < 4)]
    table = sides_table(replace(tables.main2, frame=few))
    assert "reward" not in set(table["task"])
    assert "teacher" in set(table["task"])
    assert set(table.loc[table["task"] == "teacher", "n"]) == {8}


@pytest.mark.slow
def test_slopes_and_matched_entropies_are_tables(tables):
    slopes = slopes_grid(runs_of(tables.scale2))
    assert slopes.heads[2:5] == ("1x32", "2x64", "4x128")
    # Reverse KL is infinite on the hard task, and has no row there.
    assert ("only_i", "reverse KL") not in {row[:2] for row in slopes.rows}
    assert ("only_i", "Jensen–Shannon") in {row[:2] for row in slopes.rows}
    matched = matched_grid(runs_of(tables.main2))
    assert [row[0] for row in matched.rows] == ["contains_x", "ends_in_i"]


def test_a_finding_says_times_where_the_effect_is_a_logarithm():
    found = Verdict(
        "H5", "lm", "s", "m", np.log(2.0), np.log(1.5), np.log(3.0), DOES_NOT, "L. Of 3 tasks: x."
    )
    assert times(found) == "2.0 times (95 %: 1.5 to 3.0)"
    text = "\n".join(findings([found]))
    assert "- lm: **no**. KL(p‖π) after Jensen-Shannon is 2.0 times" in text
    assert "what it is after forward KL. Of 3 tasks: x." in text
    # What nobody judged is said, too.
    missing = not_judged("H9", "lm", "Not run", second=True)
    assert "- not judged: lm: Not run." in "\n".join(findings([missing]))
    assert set(QUESTIONS) == set(SECOND_STATEMENTS)


@pytest.mark.slow
@pytest.mark.parametrize(("share", "fails"), [(0.05, False), (0.2, True)])
def test_samples_of_the_target_must_agree_in_nine_of_ten(tables, share, fails):
    frame = tables.main2.frame.copy()
    rows = frame.index[frame["estimator"] == "target_samples"]
    wrong = np.random.default_rng(0).random(len(rows)) < share
    frame.loc[rows[wrong], "z"] = 9.0
    found = target_side_failures(Tables(main2=replace(tables.main2, frame=frame)))
    assert bool(found) == fails
    assert not fails or "must in 90 %" in found[0]
