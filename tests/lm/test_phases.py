"""No phase is silent for long: who is told what, when, and how much time is left."""

from __future__ import annotations

import io
import threading
import time
from contextlib import suppress

import pytest
from support.lm_models import make_llama_folder
from support.lm_runs import tiny_model

import lm.phases
from lm.cli.main import main
from lm.phases import Phase, duration, each, phase, speaking

SHORT = 0.04


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class _Broken(io.StringIO):
    def write(self, _: str, /) -> int:
        raise BrokenPipeError


def _lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_a_phase_speaks_while_its_work_is_under_way():
    stream, said_during = io.StringIO(), ""
    with speaking(stream, silence=0.2), phase("loading the model"):
        time.sleep(0.4)
        said_during = stream.getvalue()
    assert said_during.startswith("loading the model ... (")


def test_a_short_phase_says_nothing():
    stream = io.StringIO()
    with speaking(stream, silence=60.0), phase("loading the model"):
        pass
    assert _lines(stream) == []


def test_many_short_phases_are_not_silent_together():
    stream = io.StringIO()
    with speaking(stream, silence=0.2):
        for number in range(10):
            with phase(f"part {number}"):
                time.sleep(0.05)
    assert any(line.startswith("part ") for line in _lines(stream))


def test_the_innermost_long_phase_speaks():
    stream = io.StringIO()
    with speaking(stream, silence=SHORT), phase("training", 10), phase("measuring the policy"):
        time.sleep(5 * SHORT)
    assert any(line.startswith("measuring the policy ... (") for line in _lines(stream))


def test_a_phase_of_one_part_counts_nothing():
    assert Phase("scoring samples", 1).describe(lm.phases.time.monotonic()) == "0 s"


def test_a_log_of_a_long_phase_stays_short(monkeypatch):
    now = 0.0
    monkeypatch.setattr("lm.phases.time.monotonic", lambda: now)
    stream = io.StringIO()
    speaker = lm.phases._Speaker(stream, 2.0)  # its thread is not started
    speaker.begin(Phase("training", 3600))
    for look in range(3600 * 4):
        now = look / 4
        speaker._tell()
    said = [line for line in _lines(stream) if line.startswith("training ... (")]
    # One every two seconds for 20 s, then after every tenth of the time, then every minute.
    assert said[0] == "training ... (2 s; 0 of 3600)"
    assert 80 < len(said) < 120


def test_without_somebody_who_listens_nothing_is_said(capsys):
    threads = threading.active_count()
    with phase("loading the model") as progress:
        progress.update(1)
    assert list(each("reading", [1, 2])) == [1, 2]
    assert threading.active_count() == threads
    assert capsys.readouterr() == ("", "")


def test_time_left_is_that_of_the_parts_still_to_do(monkeypatch):
    now = 100.0
    monkeypatch.setattr("lm.phases.time.monotonic", lambda: now)
    training = Phase("training", 50)
    assert training.describe(now) == "0 s; 0 of 50"
    # A run that continues: ten steps were done before.
    now = 130.0
    training.update(10)
    assert training.seconds_left(now) is None
    now = 150.0
    training.update(20, words="D 0.1")
    now = 155.0
    assert training.seconds_left(now) == pytest.approx(30 * 2.0 - 5.0)
    assert training.describe(now) == "55 s; 20 of 50; about 55 s left; D 0.1"
    training.update(21)
    assert training.words == "D 0.1"


@pytest.mark.parametrize(("seconds", "words"), [(99.4, "99 s"), (720, "12 min"), (11520, "3.2 h")])
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_an_error_inside_ends_the_phases_that_it_leaves():
    stream = io.StringIO()
    with speaking(stream, silence=SHORT):
        with suppress(ValueError), phase("outer"):
            for _ in each("inner", [1]):
                raise ValueError
        with phase("the next one"):
            time.sleep(4 * SHORT)
    assert _lines(stream)[-1].startswith("the next one")


def test_a_stream_that_nobody_reads_stops_no_work():
    done = False
    with speaking(_Broken(), silence=SHORT), phase("training"):
        time.sleep(3 * SHORT)
        done = True
    assert done


def test_on_a_terminal_there_is_a_bar_and_results_go_past_it(capsys):
    stream = _Terminal()
    with speaking(stream, silence=0.2):
        with phase("training", 4) as progress:
            time.sleep(0.2)
            progress.update(1, words="E[female] 0.5")
            time.sleep(0.3)
            print("a result")
        before = stream.getvalue()
        time.sleep(0.2)
    assert "training" in before
    assert "1 of 4; E[female] 0.5" in before
    # The bar is gone before what follows is printed.
    assert "training" not in stream.getvalue()[len(before) :]
    assert capsys.readouterr().out == "a result\n"


def _phases_of(words: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run a command and return the names of its phases."""
    names: list[str] = []

    class Listener(lm.phases._Speaker):
        def begin(self, one: Phase) -> None:
            names.append(one.what)
            super().begin(one)

    monkeypatch.setattr("lm.phases._Speaker", Listener)
    assert main(words) == 0
    return names


# What can be long: each has a name, and would say it.
OF_A_RUN = (
    "loading torch and transformers",
    "loading the model {model}",
    "checking that sampler and scorer of the model have one law",
    "building the target from the base",
    "drawing base samples for Z",
    "drawing base samples for the evaluations",
    "training",
    "measuring the policy",
    "saving the checkpoint of step 1",
    "saving the policy",
    "loading the policy again, to check what was saved",
    "drawing the report",
    "bringing the run to the disk",
)


def test_every_long_part_of_a_run_has_a_name(tmp_path, monkeypatch):
    model = str(tiny_model())
    words = [
        *("train", "--model", model, "--output", str(tmp_path / "run"), "--steps", "1"),
        *(
            "--target.kind",
            "reward_tilted",
            "--target.reward",
            "{letters: 1.0}",
            "--target.beta",
            "1.0",
        ),
        *("--partition.policy", "frozen", "--partition.samples", "64", "--batch_size", "16"),
        *("--evaluation.samples", "128", "--evaluation.group", "32"),
    ]
    found = _phases_of(words, monkeypatch)
    assert [name for name in OF_A_RUN if name.format(model=model) not in found] == []


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("sample", ["loading the model", "drawing samples"]),
        ("precision", ["loading the model", "measuring the precisions"]),
        ("export", ["loading the model", "saving the policy", "loading the policy again"]),
    ],
)
def test_every_long_part_of_a_command_has_a_name(command, names, tmp_path, monkeypatch):
    words = {
        "sample": ["--n", "2", "--max_new_tokens", "3"],
        "precision": ["--n", "2", "--max_new_tokens", "3", "--output", str(tmp_path / "ladder")],
        "export": [str(tmp_path / "exported")],
    }[command]
    model = str(make_llama_folder(tmp_path / "llama"))
    found = _phases_of([command, model, *words], monkeypatch)
    assert [name for name in names if not any(one.startswith(name) for one in found)] == []
