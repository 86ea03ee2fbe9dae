"""The command line: exit codes, messages, nothing half-written, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lm_runs import finished_run, tiny_model

from lm.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "lm" / "recipes"


def _refused(capsys, *words: str) -> str:
    """Run a command that must fail as a user's mistake, and return its message."""
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("lm: ")
    assert "Traceback" not in captured.err
    return captured.err


def test_without_a_command_all_are_listed(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    for name in COMMANDS:
        assert name in out


@pytest.mark.parametrize("name", ["evaluate", "sample", "report", "env", "train", "base"])
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as stop:
        _ = main([name, "--help"])
    assert stop.value.code == 0
    assert "usage: python -m lm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["train", "missing.yaml"], "recipe missing.yaml is not a file"),
        (["train"], "target"),
        (["base", "--layer", "3"], "did you mean 'layers'?"),
        (["base", "--width", "30"], "heads must divide width"),
        (["sample"], "the following arguments are required: run"),
        (["sample", "nowhere"], "there is no model folder nowhere"),
        (["sample", "nowhere", "--n", "0"], "0 is not a number of 1 or more"),
        (["evaluate", "nowhere"], "nowhere is not a run folder"),
        (["report", "nowhere"], "nowhere is not a run folder"),
        (["env", "more"], "unrecognized arguments: more"),
    ],
)
def test_a_usage_error_exits_2_with_its_reason(words, message, capsys):
    assert message in _refused(capsys, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optimizer.lrr", "1"], "did you mean 'optimizer.lr'?"),
        (["--steps", "none"], "steps"),
        (["--divergence", "kl"], "divergence is 'kl'; there are: "),
        (["--model", "no/such/model"], "there is no model folder no/such/model"),
        (["--target.moments.ends_in_i", "1.5"], "feature 0 is ends_in_i"),
        (["--device", "cuda"], "torch sees no GPU"),
    ],
)
def test_a_run_that_cannot_start_leaves_nothing(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    model = [] if "--model" in words else ["--model", str(tiny_model())]
    output = ["--output", str(tmp_path / "runs" / "r")]
    recipe = str(RECIPES / "rare_pointwise.yaml")
    error = _refused(capsys, "train", recipe, *model, *output, *words)
    assert message in error
    assert [path for path in tmp_path.rglob("*") if path.name != "runs"] == []


def test_reverse_kl_to_a_hard_constraint_is_refused_with_the_advice(capsys):
    recipe = str(RECIPES / "hard_constraint.yaml")
    error = _refused(capsys, "train", recipe, "--divergence", "reverse_kl")
    assert "Soften the constraint" in error


@pytest.mark.parametrize("output", ["/proc/fdpg-ref/run", "/dev/null/run"])
def test_an_unwritable_run_folder_is_refused_before_anything_else(output, capsys):
    recipe = str(RECIPES / "rare_pointwise.yaml")
    # The model does not exist either: the folder is looked at first.
    error = _refused(capsys, "train", recipe, "--output", output, "--model", "no/such/model")
    assert f"the run folder {output} cannot be created" in error


def test_an_existing_run_is_not_replaced(capsys):
    before = sorted(finished_run().rglob("*"))
    recipe = str(RECIPES / "rare_pointwise.yaml")
    error = _refused(capsys, "train", recipe, "--output", str(finished_run()))
    assert "pass --overwrite to replace it" in error
    assert sorted(finished_run().rglob("*")) == before


def test_a_mistake_in_the_program_keeps_its_traceback(monkeypatch):
    def broken():
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("lm.commands.environment", broken)
    with pytest.raises(ZeroDivisionError):
        _ = main(["env"])


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch, capsys):
    def missing():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("lm.cli._commands", missing)
    assert "python -m pip install -e '.[lm]'" in _refused(capsys, "env")


def test_train_from_a_shell_is_silent_on_stderr_and_ends_with_the_report(tmp_path):
    recipe = tmp_path / "small.yaml"
    _ = recipe.write_text(
        "divergence: total_variation\ntarget: {moments: {listed: 0.3}}\nsteps: 2\nbatch_size: 16\n"
        "evaluation: {every: 2, samples: 128, group: 32}\n"
    )
    words = ["train", str(recipe), "--model", str(tiny_model()), "--output", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "lm", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"report: {tmp_path / 'run' / 'report.html'}"
    assert "divergence: total_variation" in done.stdout
    assert "E[listed]" in done.stdout
    assert (tmp_path / "run" / "policy" / "model.safetensors").is_file()


def test_sample_prints_texts_with_their_log_probabilities(capsys):
    assert main(["sample", str(finished_run()), "--n", "5"]) == 0
    first = capsys.readouterr().out
    assert main(["sample", str(finished_run() / "policy"), "--n", "5"]) == 0
    assert capsys.readouterr().out == first
    rows = [line.split() for line in first.splitlines()]
    assert len(rows) == 5
    assert all(float(row[-1]) < 0 for row in rows)


def test_evaluate_measures_on_new_samples_and_writes_its_record(capsys, tmp_path):
    path = tmp_path / "record.json"
    words = ["evaluate", str(finished_run()), "--samples", "300", "--json", str(path)]
    assert main(words) == 0
    assert "E[female]" in capsys.readouterr().out
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["step"] == 4
    error = _refused(capsys, "evaluate", str(finished_run()), "--samples", "100")
    assert "evaluation.samples is 100" in error


def test_env_names_the_versions(capsys):
    assert main(["env"]) == 0
    out = capsys.readouterr().out
    assert "torch" in out
    assert "transformers" in out
