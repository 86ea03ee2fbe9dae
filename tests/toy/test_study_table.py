"""The study as a whole: the same table for any number of workers, its schema, and its summary."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from toy.__main__ import run
from toy.cli.main import main
from toy.sweep import command
from toy.sweep.config import StudyConfig
from toy.sweep.descents.objectives import OBJECTIVES
from toy.sweep.random.draws import SHAPES
from toy.sweep.random.problems import KINDS
from toy.sweep.report import caveats, lost_to_sampling, noise_correlation, shares_won
from toy.sweep.run import Results, make, pilot_batches, run_study, study_batches
from toy.sweep.table import CATEGORIES, COLUMNS, MEASURES, metadata, rounded, to_frame, write_table

pd = pytest.importorskip("pandas", reason="needs the extra 'study': pandas")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra 'study': pyarrow")

# Two problems of every shape, the first two kinds; a short descent and a coarse grid.
SMALL = StudyConfig(
    problems=24,
    seed=3,
    steps=3,
    learning_rates=(0.1, 0.5),
    pilots=1,
    checkpoints=(0, 2),
    iterations=5,
    chunk=2,
)
INFINITE = {"reverse_kl", "pearson_chi2", "jeffreys", "alpha_1.5"}


@pytest.fixture(scope="module")
def results() -> Results:
    return run_study(SMALL, workers=1)


@pytest.fixture(scope="module")
def frame(results: Results):
    return to_frame(results.columns)


def exit_code(arguments: list[str]) -> int:
    """Return the exit code, whether returned or raised."""
    try:
        return main(arguments)
    except SystemExit as stop:
        return int(str(stop.code))


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(results: Results):
    done = []
    again = run_study(SMALL, workers=2, advance=done.append)
    assert again.rates == results.rates
    assert again.columns.keys() == results.columns.keys()
    for name, column in results.columns.items():
        np.testing.assert_array_equal(again.columns[name], column, err_msg=name)
    assert sum(done) == pytest.approx(1.0)


def test_a_problem_does_not_depend_on_its_batch_and_the_pilot_shares_none():
    whole = StudyConfig(problems=240, seed=3, steps=2)
    (together, drawn), (pilots, _) = (
        make(batches(whole)[3], whole) for batches in (study_batches, pilot_batches)
    )
    alone = StudyConfig(problems=240, seed=3, steps=2, chunk=1)
    for batch in study_batches(alone):
        if batch.numbers[0] in together.number:
            place = int(np.flatnonzero(together.number == batch.numbers[0])[0])
            problems, uniforms = make(batch, alone)
            np.testing.assert_allclose(problems.log_target[0], together.log_target[place])
            np.testing.assert_array_equal(uniforms[:, 0], drawn[:, place])
    # Number and kind agree for problem 111, so that only the stream tells the two apart.
    assert 111 in together.number
    assert 111 in pilots.number
    same = np.isclose(pilots.log_base[:, None], together.log_base[None]).all(axis=-1)
    assert not same.any()


def test_problems_are_spread_over_shapes_and_kinds():
    batches = study_batches(StudyConfig(problems=144))
    numbers = sorted(number for batch in batches for number in batch.numbers)
    assert numbers == list(range(144))
    pairs = [(batch.shape, kind) for batch in batches for kind in batch.kinds]
    assert sorted(set(pairs)) == [(s, k) for s in range(len(SHAPES)) for k in range(len(KINDS))]
    assert len(pairs) == 2 * len(set(pairs))


@pytest.mark.slow
def test_the_table_has_a_row_for_everything_that_is_finite(frame):
    assert tuple(frame.columns) == COLUMNS
    for name in MEASURES:
        assert frame[name].dtype == np.float32, name
    for name in CATEGORIES:
        assert frame[name].dtype == "category", name
    keys = ["problem", "objective", "phase", "rate"]
    assert not frame.duplicated(keys).any()
    assert frame[keys].equals(frame[keys].sort_values(keys, ignore_index=True))
    hard = frame["kind"] == "hard_rare"
    assert set(frame.loc[hard, "objective"]) == set(OBJECTIVES) - INFINITE
    assert np.isinf(frame.loc[hard, "reverse_kl"]).all()
    finite = ["own", "own_start", "forward_kl", "entropy", "snr_start", "gradient_norm_start"]
    assert np.isfinite(frame[finite]).all(axis=None)
    for problem, rows in frame.groupby("problem"):
        objectives = len(OBJECTIVES) - len(INFINITE) * int((rows["kind"] == "hard_rare").all())
        phases = 4 if rows["inside"].all() else 5
        assert len(rows) == objectives * phases, problem
        assert set(rows["phase"]) >= {"exact", "sampled"}
    for name in ("forward_kl", "reverse_kl", "total_variation", "jensen_shannon"):
        own = frame[frame["objective"] == name]
        np.testing.assert_array_equal(own["own"], own[name])


@pytest.mark.slow
def test_the_common_rate_is_that_of_forward_kl(frame, results: Results):
    common = frame[frame["rate"] == "common"]
    tuned = frame[(frame["rate"] == "tuned") & (frame["objective"] == "forward_kl")]
    chosen = tuned.set_index(["problem", "phase"])["learning_rate"]
    expected = chosen.loc[list(zip(common["problem"], common["phase"], strict=True))]
    np.testing.assert_array_equal(common["learning_rate"], expected)
    row = frame[(frame["rate"] == "tuned") & (frame["objective"] == "le_cam")].iloc[0]
    setting = row["world"], bool(row["inside"]), row["kind"], "le_cam", row["phase"]
    assert row["learning_rate"] == pytest.approx(results.rates[setting], rel=2**-15)


@pytest.mark.slow
def test_the_file_holds_the_table_and_how_to_repeat_it(frame, results: Results, tmp_path: Path):
    path = tmp_path / "new" / "study.parquet"
    about = metadata(results, asdict(SMALL), "python -m toy study")
    write_table(frame, about, path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    pd.testing.assert_frame_equal(pd.read_parquet(path), frame)
    stored = json.loads(parquet.read_schema(path).metadata[b"toy_study"])
    assert stored["settings"]["seed"] == 3
    rate = stored["learning_rates"]["categorical/outside/reward/le_cam/sampled"]
    assert rate in SMALL.learning_rates
    assert set(stored) == {"command", "settings", "versions", "learning_rates"}


def test_rounding_keeps_four_and_a_half_digits():
    values = np.random.default_rng(1).lognormal(sigma=20, size=1000)
    found = rounded(values)
    np.testing.assert_allclose(found, values, rtol=2.0**-15 + 2.0**-24)
    assert np.all(found.view(np.uint32) % 512 == 0)
    edges = np.array([np.inf, -np.inf, np.nan, 0.0])
    np.testing.assert_array_equal(rounded(edges), edges.astype(np.float32))


def hand_made():
    rows = [
        (0, "forward_kl", "exact", 1.0, 0.5, 3.0),
        (0, "reverse_kl", "exact", 2.0, 0.7, 2.0),
        (0, "le_cam", "exact", 3.0, 0.6, 1.0),
        (1, "forward_kl", "exact", 2.0, np.nan, 1.0),
        (1, "reverse_kl", "exact", 2.00001, np.nan, 3.0),
        (1, "le_cam", "exact", 3.0, np.nan, 2.0),
        (2, "forward_kl", "exact", np.inf, 0.2, 1.0),
        (2, "le_cam", "exact", np.inf, 0.1, 2.0),
        (0, "forward_kl", "sampled", 1.5, 0.5, 3.0),
        (0, "le_cam", "sampled", 3.25, 0.5, 1.0),
    ]
    names = ["problem", "objective", "phase", "forward_kl", "alignment", "snr_start"]
    frame = pd.DataFrame(rows, columns=names).assign(rate="tuned")
    return frame.assign(objective=pd.Categorical(frame["objective"], categories=list(OBJECTIVES)))


def test_shares_won_by_hand():
    won = shares_won(hand_made(), "forward_kl").loc[("exact", "tuned")]
    # Problem 0 goes to forward KL, problem 1 is a tie, problem 2 is infinite for all.
    assert won["forward_kl"] == 0.75
    assert won["reverse_kl"] == 0.25
    assert won["le_cam"] == 0
    most = shares_won(hand_made(), "alignment").loc[("exact", "tuned")]
    assert most["reverse_kl"] == 0.5
    assert most["forward_kl"] == 0.5


def test_noise_correlations_by_hand():
    frame = hand_made()
    found = noise_correlation(frame, "snr_start", frame["forward_kl"])
    # -1 in problem 0; in problem 1 the ranks 1, 3, 2 of the noise meet 1, 2, 3: +0.5.
    assert found["exact", "tuned"] == pytest.approx(-0.25)
    assert found["sampled", "tuned"] == pytest.approx(-1.0)
    assert lost_to_sampling(frame, "forward_kl").tolist() == [0.5, 0.25]


@pytest.mark.slow
def test_what_was_left_out_is_said(frame):
    lines = caveats(frame)
    assert all(name in lines[0] for name in INFINITE)
    assert "12 hard targets" in lines[0]
    # A hard target divides the base into two parts, on each of which pi/p is constant.
    hard = frame[frame["kind"] == "hard_rare"]
    assert "on 12 of 12 problems" in caveats(hard)[2]


def test_the_command_prints_and_writes(
    results: Results, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(command, "run_study", lambda *_, **__: results)
    path = tmp_path / "study.parquet"
    assert main(["study", "--problems", "24", "--output", str(path)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f"table: {path}"
    assert err == ""  # no progress bar where nobody watches
    for word in ("optimum", "sampled", "tuned", "jensen_shannon", "snr_path", "left out there"):
        assert word in out
    assert path.read_bytes().startswith(b"PAR1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--problems", "0"], "problems is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--workers", "0"], "workers is 0"),
        (["--output", "study.csv"], "does not end in .parquet"),
        (["--problem", "3"], "Did you mean --problems?"),
    ],
)
def test_bad_input_is_one_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert exit_code(["study", *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in err
    assert out == ""


def test_without_pandas_it_says_how_to_install_it(monkeypatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert run(["study"]) == 2
    assert "pandas is not installed: python -m pip install '.[" in capsys.readouterr().err
