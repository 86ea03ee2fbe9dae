"""The second pilot: rates of each batch size inside their grids, and one beta2 for everybody."""

from __future__ import annotations

import pytest
import yaml
from support.study_tables import PROVENANCE, TASKS, Run, lm_rows, write_lm

from study.__main__ import main
from study.names import FIVE
from study.rules.pilot_second import better_beta2, write_second_rates
from study.rules.rates import failed_rates
from study.tables.cubes import runs_of
from study.tables.stored import StudyError, Table

RATES = (1e-4, 3e-4, 1e-3)
VARIANTS = ("default", "beta2_0.999", "batch_64", "batch_1024")


def pilot_runs(rates=RATES, bases=((0, 201), (1, 202)), variants=VARIANTS) -> list[Run]:
    return [
        Run(task, method, seed, f"2x64b{base}", f"lr={rate:g}", variant, rate)
        for task in ("ends_in_i", "female")
        for method in FIVE
        for variant in variants
        for rate in rates
        for base, seed in bases
    ]


def pilot_of(runs, **metadata) -> Table:
    return Table("lm_pilot2", lm_rows(runs), {**PROVENANCE, "tasks": {}, **metadata})


def test_each_batch_size_has_a_file_with_a_rate_for_every_base(tmp_path):
    number, beta2, _ = write_second_rates(pilot_of(pilot_runs()), tmp_path, tmp_path / "rates2.md")
    assert number == 3 * 2 * 5
    assert beta2 == 0.95
    for name in ("rates2.yaml", "rates2_64.yaml", "rates2_1024.yaml"):
        found = yaml.safe_load((tmp_path / name).read_text(encoding="utf-8"))
        assert found["rare_soft"]["jensen_shannon"] == dict.fromkeys(
            ("2x64b0", "2x64b1", "2x64b2"), 3e-4
        )


def test_a_part_of_the_pilot_chooses_for_itself_alone(tmp_path):
    pilot = pilot_of(pilot_runs(variants=("default", "beta2_0.999")))
    number, _, files = write_second_rates(pilot, tmp_path, tmp_path / "rates2.md")
    assert (number, files) == (2 * 5, [tmp_path / "rates2.yaml"])
    assert list(tmp_path.glob("*.yaml")) == files


def test_a_rate_at_an_edge_is_refused_and_shown(tmp_path):
    """The made-up measures are least at 3e-4: at the edge of a grid that ends there."""
    pilot = pilot_of(pilot_runs((1e-4, 3e-4)))
    with pytest.raises(StudyError, match="30 chosen rates lie at an edge"):
        _ = write_second_rates(pilot, tmp_path, tmp_path / "rates2.md")
    assert not list(tmp_path.glob("*.yaml"))
    assert "at the edge" in (tmp_path / "rates2.md").read_text(encoding="utf-8")


def test_one_seed_is_not_enough(tmp_path):
    with pytest.raises(StudyError, match="fewer than 2 seeds"):
        _ = write_second_rates(
            pilot_of(pilot_runs(bases=((0, 201),))), tmp_path, tmp_path / "rates2.md"
        )


@pytest.mark.parametrize(("factor", "beta2"), [(0.8, 0.999), (1.2, 0.95)])
def test_the_beta2_with_lower_own_measures_is_taken(factor, beta2):
    pilot = pilot_of(pilot_runs())
    frame = pilot.frame
    usual = frame["value"].where(frame["variant"] != "beta2_0.999", frame["value"] * factor)
    pilot = Table(pilot.name, frame.assign(value=usual), pilot.metadata)
    found, words = better_beta2(runs_of(pilot))
    assert found == beta2
    assert f"Taken for everybody: {beta2}" in words


def test_a_rate_that_failed_at_one_batch_size_is_lost_to_that_one_only():
    cell = "ends_in_i forward_kl 2x64b1 lr=0.0003 batch_64 202"
    tasks = {"ends_in_i": {"group": TASKS["ends_in_i"][0]}}
    pilot = pilot_of(pilot_runs(), tasks=tasks, failed={cell: "a reason"})
    ends = runs_of(pilot).ends
    assert failed_rates(pilot, ends, "batch_64") == {("rare_soft", "forward_kl", "2x64", 3e-4)}
    assert failed_rates(pilot, ends) == set()


def test_the_command_takes_the_second_pilot_where_it_is(tmp_path, capsys):
    write_lm(tmp_path / "lm_pilot2.parquet", lm_rows(pilot_runs()))
    given = ["--results", str(tmp_path), "--yaml", str(tmp_path / "rates.yaml")]
    assert main(["rates", *given]) == 0
    assert "beta2 = 0.95" in capsys.readouterr().out
    assert (tmp_path / "rates2_1024.yaml").is_file()
