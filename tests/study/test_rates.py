"""The pilot: which rates it chooses, what it says of the edge, and what it says of power."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from support.study_tables import PROVENANCE, Run, lm_rows, main_runs, write_lm

from study.rules.power import detectable, power_markdown, spreads
from study.rules.rates import (
    choose,
    failed_rates,
    nested_rates,
    rates_markdown,
    tried_rates,
    write_rates,
)
from study.tables.cubes import OWN, Cube, runs_of
from study.tables.stored import LM_COLUMNS, StudyError, Table, read_table

RATES = (1e-4, 3e-4, 1e-3)


def pilot_of(runs) -> Table:
    return Table("lm_pilot", lm_rows(runs), {**PROVENANCE, "tasks": {}})


def pilot_runs(rates=RATES, **options) -> list[Run]:
    options = {"methods": ("forward_kl", "reverse_kl"), "seeds": (101, 102), **options}
    return [
        run
        for rate in rates
        for run in main_runs(rate=f"lr={rate:g}", learning_rate=rate, **options)
    ]


@pytest.fixture
def pilot():
    return pilot_of(pilot_runs(tasks=("ends_in_i", "contains_x", "female")))


def test_the_rate_of_the_least_own_measure_is_chosen(pilot):
    """The made-up measures are least at 3e-4, which lies inside the grid."""
    choices = choose(tried_rates(runs_of(pilot).ends))
    assert {choice.best.rate for choice in choices} == {3e-4}
    assert not any(choice.at_edge for choice in choices)
    assert {choice.best.runs for choice in choices} == {2, 4}


def test_the_score_is_a_geometric_mean_over_tasks_and_seeds(pilot):
    ends = runs_of(pilot).ends
    rows = ends[
        (ends["group"] == "rare_soft")
        & (ends["method"] == "reverse_kl")
        & (ends["learning_rate"] == 1e-3)
    ]
    score = next(
        one.score
        for one in tried_rates(ends)
        if one[:4] == ("rare_soft", "reverse_kl", "2x64", 1e-3)
    )
    assert len(rows) == 4
    assert score == pytest.approx(stats.gmean(rows["reverse_kl"]))


def test_the_own_measure_decides_and_no_other(pilot):
    """A rate at which only another measure is low is not chosen."""
    frame = pilot.frame
    other = (frame["method"] == "forward_kl") & (frame["quantity"] == "reverse_kl")
    frame.loc[other & (frame["learning_rate"] == 1e-3), "value"] = 1e-9
    choices = choose(tried_rates(runs_of(pilot).ends))
    assert {choice.best.rate for choice in choices} == {3e-4}


def test_a_best_rate_at_the_edge_is_flagged():
    choices = choose(tried_rates(runs_of(pilot_of(pilot_runs((3e-4, 1e-3)))).ends))
    assert all(choice.at_edge for choice in choices)


def test_a_diverged_rate_is_not_chosen(pilot):
    frame = pilot.frame
    best = (frame["learning_rate"] == 3e-4) & (frame["group"] == "rare_soft")
    own = best & (frame["method"] == "reverse_kl") & (frame["quantity"] == "reverse_kl")
    frame.loc[own & (frame["step"] == 100), "value"] = np.inf
    rates = nested_rates(choose(tried_rates(runs_of(pilot).ends)))
    assert rates["rare_soft"]["reverse_kl"]["2x64"] != 3e-4
    assert rates["distributional"]["reverse_kl"]["2x64"] == 3e-4


def test_rates_are_compared_on_the_runs_that_all_of_them_have(pilot):
    """A seed that only one rate has, and on which all is easy, does not decide."""
    easy = [Run("ends_in_i", "forward_kl", 104, learning_rate=1e-3)]
    frame = pd.concat([pilot.frame, lm_rows(easy, {"forward_kl": -20.0})])
    tried = tried_rates(runs_of(Table(pilot.name, frame, {})).ends)
    choices = {choice.best[:3]: choice.best for choice in choose(tried)}
    assert choices["rare_soft", "forward_kl", "2x64"].rate == 3e-4
    assert choices["rare_soft", "forward_kl", "2x64"].runs == 4


def test_a_rate_at_which_a_run_failed_is_not_chosen(pilot):
    """The runs that are left at that rate would win."""
    cell = "contains_x forward_kl 2x64 lr=0.0003 default 102"
    tasks = {"contains_x": {"group": "rare_soft"}, "ends_in_i": {"group": "rare_soft"}}
    table = Table(pilot.name, pilot.frame, {"tasks": tasks, "failed": {cell: "a reason"}})
    ends = runs_of(table).ends
    failed = failed_rates(table, ends)
    assert failed == {("rare_soft", "forward_kl", "2x64", 3e-4)}
    rates = nested_rates(choose(tried_rates(ends, failed)))
    assert rates["rare_soft"]["forward_kl"]["2x64"] != 3e-4
    assert rates["rare_soft"]["reverse_kl"]["2x64"] == 3e-4


def test_nothing_finite_is_named(pilot):
    pilot.frame.loc[pilot.frame["quantity"] == "forward_kl", "value"] = np.inf
    with pytest.raises(StudyError, match="distributional, forward_kl, 2x64"):
        _ = choose(tried_rates(runs_of(pilot).ends))


def test_rl_takes_the_rate_of_reverse_kl():
    """And has none where reverse KL has none: a hard target."""
    runs = pilot_runs(tasks=("ends_in_i", "only_i"))
    rates = nested_rates(choose(tried_rates(runs_of(pilot_of(runs)).ends)))
    soft = rates["rare_soft"]
    assert soft["rl_kl"] == soft["reward"] == soft["reverse_kl"] == {"2x64": 3e-4}
    assert set(rates["rare_hard"]) == {"forward_kl"}


def test_the_files_say_where_they_come_from(pilot, tmp_path):
    target, table = tmp_path / "rates.yaml", tmp_path / "rates.md"
    _ = write_rates(pilot, target, table)
    text = target.read_text(encoding="utf-8")
    assert text.startswith("# Written by `python -m study rates`")
    assert PROVENANCE["commits"][0] in text
    assert yaml.safe_load(text)["distributional"]["forward_kl"] == {"2x64": 3e-4}
    shown = table.read_text(encoding="utf-8")
    assert shown.count("**") == 2 * len(choose(tried_rates(runs_of(pilot).ends)))


def test_the_table_shows_every_rate(pilot):
    tried = tried_rates(runs_of(pilot).ends)
    text = rates_markdown(pilot, tried, choose(tried))
    assert "| 0.0001 | 0.0003 | 0.001 |" in text


def test_alpha_is_judged_by_its_own_divergence():
    runs = pilot_runs(methods=("alpha_0.5",), tasks=("ends_in_i",))
    ends = runs_of(pilot_of(runs)).ends
    np.testing.assert_array_equal(ends[OWN], ends["alpha_0.5"])


def test_the_spread_is_pooled_over_pairs_by_hand():
    values = np.exp([[[0.0], [1.0]], [[0.5], [0.5]], [[1.0], [0.6]]])[None]
    cube = Cube(values, ("t",), (1, 2, 3), ("forward_kl", "reverse_kl"), ("forward_kl",))
    (found,) = spreads(cube)
    assert found.deviation == pytest.approx(np.std([-1.0, 0.0, 0.4], ddof=1))
    assert (found.pairs, found.freedom) == (1, 2)


def test_the_report_on_power_is_the_spread_times_the_detectable_effect(pilot):
    text = power_markdown(pilot)
    row = next(line for line in text.splitlines() if line.startswith("| all"))
    cells = [cell.strip() for cell in row.split("|")]
    deviation = float(cells[5])
    assert float(cells[6].split()[0]) == pytest.approx(detectable(3) * deviation, rel=0.01)
    assert float(cells[8].split()[0]) == pytest.approx(detectable(8) * deviation, rel=0.01)


def test_a_pilot_of_one_seed_has_no_power_to_report():
    with pytest.raises(StudyError, match="two seeds"):
        _ = power_markdown(pilot_of(pilot_runs(seeds=(101,))))


def test_a_stored_table_is_read_back(tmp_path):
    frame = lm_rows([Run("ends_in_i", "forward_kl", 1)])
    path = tmp_path / "lm_pilot.parquet"
    write_lm(path, frame.assign(task=frame["task"].astype("category")))
    table = read_table(path, LM_COLUMNS)
    assert table.said("command") == PROVENANCE["command"]
    assert table.tasks["ends_in_i"]["group"] == "rare_soft"
    assert set(table.frame["task"]) == {"ends_in_i"}
    assert set(table.frame["learning_rate"]) == {3e-4}
    assert table.frame["value"].dtype == np.float64
    write_lm(path, frame.drop(columns=["z"]))
    with pytest.raises(StudyError, match="lacks the columns z"):
        _ = read_table(path, LM_COLUMNS)
