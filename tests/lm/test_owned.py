"""What may be deleted or replaced: only what this program can prove to be its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from support.lm_runs import finished_run

from lm.cli.main import main
from lm.errors import RunBusy, RunError
from lm.run.files import FOLDER_LOCK, held, write_output
from lm.run.owned import RUN, remove_owned, require_owned

INSIDE = (
    *("policy/notes.txt", "checkpoints/step-00000004/mine.pt", "checkpoints/best.pt"),
    *("figures/mine.pdf", "figures/more/mine.png", "tensorboard/mine.txt", "code/train.py"),
)
OWN = {"policy", "checkpoints", "step-00000004", "figures", "tensorboard"}


@pytest.mark.parametrize("place", INSIDE)
def test_a_file_of_the_users_is_found_at_any_depth_of_a_run(tmp_path, place):
    run = shutil.copytree(finished_run(), tmp_path / "run")
    require_owned(run, RUN)
    (run / place).parent.mkdir(parents=True, exist_ok=True)
    _ = (run / place).write_text("precious")
    named = place if (run / place).parent.name in OWN else place.rpartition("/")[0]
    with pytest.raises(RunError, match=f"also holds {named}.*, which this program did not write"):
        remove_owned(run, RUN)
    assert (run / place).read_text() == "precious"


def test_a_link_in_a_run_is_not_followed(tmp_path):
    run = shutil.copytree(finished_run(), tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").symlink_to(tmp_path)
    with pytest.raises(RunError, match="also holds checkpoints, which"):
        remove_owned(run, RUN)


def test_what_a_run_leaves_half_written_is_its_own(tmp_path):
    run = shutil.copytree(finished_run(), tmp_path / "run")
    for place in (".report.html.partial", "checkpoints/.step-00000009.partial/state.json"):
        (run / place).parent.mkdir(exist_ok=True)
        (run / place).touch()
    (run / "figures").mkdir(exist_ok=True)
    (run / "figures" / ".coverage.png.partial").touch()
    remove_owned(run, RUN)
    assert not run.exists()


@pytest.mark.parametrize("content", ["# years of work", '{"kind": "mine"}', "[]"])
@pytest.mark.parametrize(
    "words",
    [["selfcheck"], ["unification"], ["evaluate", "RUN"]],
    ids=["selfcheck", "unification", "evaluate"],
)
def test_a_record_replaces_no_file_of_somebody_else(tmp_path, capsys, words, content):
    mine = tmp_path / "mine.json"
    _ = mine.write_text(content)
    words = [str(finished_run()) if word == "RUN" else word for word in words]
    assert main([*words, "--json", str(mine)]) == 2
    error = capsys.readouterr().err
    assert "exists and is not a record of this command that this program wrote" in error
    assert mine.read_text() == content


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.json", "policy/config.json"])
def test_a_record_is_never_a_file_of_a_run(tmp_path, capsys, name):
    run = shutil.copytree(finished_run(), tmp_path / "run")
    (tmp_path / "link").symlink_to(run / name)
    before = (run / name).read_bytes()
    for path in (run / name, tmp_path / "link"):
        assert main(["unification", "--json", str(path)]) == 2
        assert f"is a file of the run {run}: choose another name" in capsys.readouterr().err
    assert (run / name).read_bytes() == before
    # One that is not there yet is that of a later report or continuation.
    assert main(["unification", "--json", str(run / "resumed.jsonl")]) == 2


@pytest.mark.slow
def test_a_record_is_replaced_by_a_later_one(tmp_path):
    path = tmp_path / "empty.json"
    path.touch()
    for seed in ("1", "2"):
        words = ["evaluate", str(finished_run()), "--seed", seed, "--json", str(path)]
        assert main(words) == 0
    assert json.loads(path.read_text())["kind"] == "evaluation"
    assert [one.name for one in tmp_path.iterdir()] == ["empty.json"]


def test_an_output_goes_where_a_link_leads_and_into_a_device(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_output(tmp_path / "link", b"one")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"one"
    # A pipe stands for a device: a fault here must not cost this machine its /dev/null.
    pipe, device = tmp_path / "pipe", tmp_path / "device"
    os.mkfifo(pipe)
    device.symlink_to(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    write_output(device, b"one")
    assert device.is_fifo()
    assert device.is_symlink()
    assert os.read(reader, 10) == b"one"
    os.close(reader)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link", "pipe", "device"}


HOLD = """
import sys
from pathlib import Path
from lm.run.files import held

with held(Path(sys.argv[1])):
    print("held", flush=True)
    _ = sys.stdin.read()
"""


def test_a_folder_is_held_by_one_process_and_free_when_that_is_killed(tmp_path):
    words = [sys.executable, "-c", HOLD, str(tmp_path / "sweep")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunBusy, match="another process is at work"), held(tmp_path / "sweep"):
            raise AssertionError("it was not held")
        other.kill()
    with held(tmp_path / "sweep"):
        assert [path.name for path in (tmp_path / "sweep").iterdir()] == [FOLDER_LOCK]


def test_a_folder_that_cannot_be_held_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunError, match="file/sweep cannot be written to"),
        held(tmp_path / "file" / "sweep"),
    ):
        pass
