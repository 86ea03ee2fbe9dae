"""How a run starts: new, resumed, in the place of another, or refused with what to do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.lm_runs import leave_run, plain_config

from lm.config import (
    CheckpointConfig,
    OptimizerConfig,
    PromptsConfig,
    TargetConfig,
)
from lm.config.options import to_plain
from lm.errors import RunError
from lm.run.folder import read_config
from lm.run.inputs import input_digests
from lm.run.start import differences, how_to_start, partial_folder, resume_command
from lm.train import train


def test_a_run_starts_where_nothing_is(tmp_path):
    assert how_to_start(plain_config(tmp_path / "run")) == "new"
    # A script that always passes --resume works from the first time on.
    assert how_to_start(plain_config(tmp_path / "run", resume=True)) == "new"
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_is_neither_deleted_nor_continued_unasked(tmp_path):
    config = plain_config(tmp_path / "run")
    leave_run(tmp_path / ".run.partial", config)
    with pytest.raises(RunError, match="add --resume to continue it, or --overwrite to delete"):
        _ = how_to_start(config)
    assert how_to_start(replace(config, overwrite=True)) == "new"
    assert how_to_start(replace(config, resume=True)) == "resumed"


def test_a_run_that_recorded_nothing_is_begun_again(tmp_path):
    config = plain_config(tmp_path / "run")
    leave_run(tmp_path / ".run.partial", config, records=False)
    assert how_to_start(config) == how_to_start(replace(config, resume=True)) == "new"


def test_a_finished_run_is_complete_and_stays(tmp_path):
    config = plain_config(tmp_path / "run")
    leave_run(tmp_path / "run", config)
    assert how_to_start(replace(config, resume=True)) == "complete"
    assert how_to_start(replace(config, overwrite=True)) == "new"
    with pytest.raises(RunError, match="pass --overwrite to replace it"):
        _ = how_to_start(config)
    with pytest.raises(RunError, match=r"is complete with another configuration.*seed is 1 now"):
        _ = how_to_start(replace(config, resume=True, seed=1))


def test_an_interrupted_replacement_goes_on_and_replaces_in_the_end(tmp_path):
    config = plain_config(tmp_path / "run")
    leave_run(tmp_path / "run", replace(config, seed=7))
    leave_run(tmp_path / ".run.partial", replace(config, overwrite=True))
    assert how_to_start(replace(config, resume=True)) == "resumed"


def test_resuming_with_another_configuration_is_refused_and_names_each_key(tmp_path):
    config = plain_config(tmp_path / "run")
    leave_run(tmp_path / ".run.partial", config)
    other = replace(config, resume=True, steps=300, optimizer=OptimizerConfig(lr=1e-4))
    with pytest.raises(RunError) as caught:
        _ = how_to_start(other)
    message = str(caught.value)
    assert "steps is 300 now, but was 200; optimizer.lr is 0.0001 now, but was 0.0003." in message
    assert "drop --resume and pass --overwrite to start again" in message


def test_what_changes_no_number_may_differ(tmp_path):
    config = plain_config(tmp_path / "run")
    moved = replace(
        config,
        output=str(tmp_path / "moved"),
        resume=True,
        checkpoint=CheckpointConfig(every=7, keep=3),
        tracker="tensorboard",
    )
    assert differences(to_plain(moved), to_plain(config)) == []
    changed = replace(config, batch_size=128, target=TargetConfig(moments={"listed": 0.4}))
    assert differences(to_plain(changed), to_plain(config)) == [
        "target.moments.listed is 0.4 now, but was 0.3",
        "batch_size is 128 now, but was 256",
    ]


def test_a_key_of_another_version_counts_as_a_difference(tmp_path):
    recorded = to_plain(plain_config(tmp_path / "run"))
    del recorded["batch_size"]
    recorded["batch"] = 256
    assert sorted(differences(to_plain(plain_config(tmp_path / "run")), recorded)) == [
        "batch is absent now, but was 256",
        "batch_size is 256 now, but was absent",
    ]


def test_a_run_of_the_version_that_could_reuse_the_sampling_forward_goes_on(tmp_path):
    config = plain_config(tmp_path / "run", resume=True)
    partial = partial_folder(tmp_path / "run")
    leave_run(partial, config)
    for used in (False, True):
        recorded = {**to_plain(config), "reuse_sampling_forward": used}
        _ = (partial / "config.json").write_text(json.dumps(recorded))
        # What was measured can be read in any case; the numbers to come would not be the same.
        assert read_config(partial, complete=False) == config
        if not used:
            assert how_to_start(config) == "resumed"
            continue
        with pytest.raises(RunError, match="reuse_sampling_forward was true, and is gone"):
            _ = how_to_start(config)


def test_a_run_continues_with_what_it_read_when_it_began_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rewards = Path("rewards.py")
    text = "def short(texts):\n    return [-len(text) for text in texts]\n"
    _ = rewards.write_text(text)
    target = TargetConfig(kind="reward_tilted", reward={"rewards.py:short": 1.0})

    for start in ("resumed", "complete"):
        final = tmp_path / start
        config = replace(plain_config(final, resume=True), target=target)
        folder = partial_folder(final) if start == "resumed" else final
        leave_run(folder, config)
        inputs: Path = folder / "inputs.json"
        _ = inputs.write_text(json.dumps(input_digests(config)))
        assert how_to_start(config) == start
        _ = rewards.write_text(f"import helper\n{text}")
        with pytest.raises(RunError, match=r"is not what it was.*: rewards\.py has changed\."):
            _ = how_to_start(config)
        rewards.unlink()
        with pytest.raises(RunError, match=r"rewards\.py is not there any more"):
            _ = how_to_start(config)
        _ = inputs.write_text("{}")
        _ = rewards.write_text(text)
        with pytest.raises(RunError, match=r"rewards\.py is new"):
            _ = how_to_start(config)
        for damaged in ("{", "[]", "[" * 100_000):
            _ = inputs.write_text(damaged)
            with pytest.raises(RunError, match=r"inputs\.json cannot be read"):
                _ = how_to_start(config)

        # One of the version before does not know what it read.
        _ = inputs.rename(tmp_path / f"{start}.json")
        assert how_to_start(config) == start


def test_an_unreadable_record_of_an_interrupted_run_is_refused(tmp_path):
    config = plain_config(tmp_path / "run", resume=True)
    partial = partial_folder(tmp_path / "run")
    leave_run(partial, config)
    _ = (partial / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json cannot be read"):
        _ = how_to_start(config)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("r.yaml --seed 1", "r.yaml --seed 1 --resume"),
        ("r.yaml --overwrite", "r.yaml --resume"),
        ("r.yaml --overwrite true --seed 1", "r.yaml --seed 1 --resume"),
        ("--overwrite --config r.yaml", "--config r.yaml --resume"),
        ("r.yaml --resume=true --steps 3", "r.yaml --steps 3 --resume"),
    ],
)
def test_the_command_that_goes_on_is_the_one_that_began(words, command):
    assert resume_command(words.split()) == f"python -m lm train {command}"


PLACES = {
    "a file of somebody else": lambda final: (final.mkdir(), (final / "thesis.tex").touch()),
    "a config.json of somebody else": lambda final: (
        final.mkdir(),
        (final / "config.json").write_text('{"model_type": "gpt2"}'),
    ),
    "a note in a run": lambda final: (
        leave_run(final, plain_config(final)),
        (final / "note").touch(),
    ),
    "a dangling link": lambda final: final.symlink_to("nowhere"),
    "a link to a folder": lambda final: final.symlink_to(final.parent),
    "no run in progress": lambda final: (
        partial_folder(final).mkdir(),
        (partial_folder(final) / "thesis.tex").touch(),
    ),
    "no run that was replaced": lambda final: (
        final.with_name(".run.old").mkdir(),
        (final.with_name(".run.old") / "thesis.tex").touch(),
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_overwrite_replaces_a_run_and_nothing_else(tmp_path, place):
    final = tmp_path / "run"
    PLACES[place](final)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunError, match=r"not a run|did not write|is a link"):
        _ = train(plain_config(final, overwrite=True))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_is_no_run_to_resume(tmp_path):
    PLACES["a config.json of somebody else"](tmp_path / "run")
    with pytest.raises(RunError, match="nothing to resume: choose another --output"):
        _ = how_to_start(plain_config(tmp_path / "run", resume=True))


@pytest.mark.parametrize("output", [".", "..", "/", "runs/.."])
def test_an_output_without_a_name_of_its_own_is_refused(output):
    with pytest.raises(RunError, match="no name of its own"):
        _ = how_to_start(replace(plain_config(Path("run"), overwrite=True), output=output))


def test_a_mount_point_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda self: self.name == "run")
    with pytest.raises(RunError, match="where a disk is mounted, which cannot be renamed"):
        _ = how_to_start(plain_config(tmp_path / "run", overwrite=True))


@pytest.mark.parametrize("key", ["model", "prompts.file", "target.teacher"])
def test_a_run_does_not_replace_what_it_reads(tmp_path, key):
    final = tmp_path / "run"
    leave_run(final, plain_config(final))
    (final / "policy").mkdir()
    inside = str(final / "policy")
    changes = {
        "model": {"model": inside},
        "prompts.file": {
            "prompts": PromptsConfig(file=inside),
            "target": TargetConfig(kind="reward_tilted", reward={"letters": 1.0}),
        },
        "target.teacher": {"target": TargetConfig(kind="teacher", teacher=inside)},
    }
    config = replace(plain_config(final, overwrite=True), **changes[key])
    with pytest.raises(RunError, match=f"{key} .* lies in the run folder"):
        _ = how_to_start(config)
