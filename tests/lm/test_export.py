"""Export: whatever was trained becomes a folder that other programs load, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from support.lm_models import make_gpt2_folder, make_llama_folder
from support.lm_runs import finished_run, tiny_config, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import lm.train
from lm.cli.export import export, load_trained, run_export
from lm.config import CheckpointConfig
from lm.config.lora import LoraConfig
from lm.config.sampling import SamplingConfig
from lm.config.target import TargetConfig
from lm.errors import RunError
from lm.models.hub import MissingModelFolder
from lm.policy import CausalPolicy, load_policy
from lm.policy.lora import add_lora


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _adapted(folder: Path) -> CausalPolicy:
    """Return a policy with an adapter that is not zero."""
    policy = add_lora(load_policy(folder, max_new_tokens=6), LoraConfig(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                _ = parameter.copy_(torch.randn(parameter.shape, generator=_seeded()))
    return policy


def _log_probs(model: torch.nn.Module, policy: CausalPolicy, tokens: torch.Tensor) -> torch.Tensor:
    """Score by hand, with the start token and all positions."""
    start = torch.full((len(tokens), 1), policy.ids.bos_id)
    logits = model(input_ids=torch.cat([start, tokens[:, :-1]], dim=-1)).logits
    return torch.log_softmax(logits, -1).gather(-1, tokens[..., None]).squeeze(-1)


@pytest.mark.parametrize("make", [make_llama_folder, make_gpt2_folder])
def test_the_exported_model_is_the_policy_in_plain_transformers(make, tmp_path):
    policy = _adapted(make(tmp_path / "foreign"))
    (tmp_path / "run" / "policy").mkdir(parents=True)
    policy.save(tmp_path / "run" / "policy")
    # A run folder and the policy folder in it are the same source.
    for source in (tmp_path / "run", tmp_path / "run" / "policy"):
        folder = export(source, tmp_path / "out" / source.name)
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        model, info = loaded
        assert not any(info.values()), info
        samples = policy.sample(20, generator=_seeded())
        scored = _log_probs(model, policy, samples.tokens).where(samples.mask, 0.0).sum(-1)
        # 1e-4 of some thirty nats: float32, the adapter merged into the weights.
        torch.testing.assert_close(scored.detach(), samples.log_prob, rtol=1e-5, atol=1e-4)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        inputs = tokenizer([" the"] * 8, return_tensors="pt")
        drawn = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
        assert drawn.shape[1] <= 6
        ended = torch.isin(drawn, torch.tensor(policy.ids.eos_ids)).cumsum(-1) > 0
        after = ended[:, :-1]
        assert bool((drawn[:, 1:][after] == policy.ids.pad_id).all())


def test_generate_samples_the_exported_law(tmp_path):
    # Twelve tokens and one step: enough draws for a z-score against the exact probabilities.
    policy = load_policy(make_llama_folder(tmp_path / "a", tokenizer=False), max_new_tokens=1)
    (tmp_path / "b").mkdir()
    policy.save(tmp_path / "b")
    model: Any = AutoModelForCausalLM.from_pretrained(export(tmp_path / "b", tmp_path / "c"))
    start = torch.full((4000, 1), policy.ids.bos_id)
    with torch.random.fork_rng(devices=[]):
        _ = torch.manual_seed(0)
        drawn = model.generate(input_ids=start, attention_mask=torch.ones_like(start))[:, 1]
    tokens = torch.arange(12)[:, None]
    exact = policy.log_prob(tokens, torch.ones_like(tokens, dtype=torch.bool)).exp()
    counts = torch.bincount(drawn, minlength=12).double()
    z = (counts - 4000 * exact) / (4000 * exact * (1 - exact)).sqrt()
    assert float(z.abs().max()) < 5.0


def test_a_finished_run_is_exported(tmp_path):
    folder = export(finished_run(), tmp_path / "model")
    trained, again = load_policy(finished_run() / "policy"), load_policy(folder)
    first, second = (p.sample(20, generator=_seeded()) for p in (trained, again))
    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.log_prob, second.log_prob)
    assert again.decode(second) == trained.decode(first)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> Path:
    """Return the name of a LoRA run that died after its third step, with two checkpoints."""
    final = tmp_path_factory.mktemp("runs") / "died"
    config = tiny_config(
        final, lora=LoraConfig(rank=2), checkpoint=CheckpointConfig(every=1, keep=2)
    )

    class Died(Exception):
        pass

    def die(record):
        if record.step == 3:
            raise Died

    with pytest.raises(Died):
        _ = lm.train.train(config, on_step=die)
    return final


def test_an_interrupted_run_is_exported_from_its_newest_checkpoint(interrupted, tmp_path):
    partial = interrupted.with_name(".died.partial")
    checkpoints = sorted((partial / "checkpoints").glob("step-*"))
    assert len(checkpoints) == 2
    by_name, by_folder, by_checkpoint, older = (
        load_policy(export(source, tmp_path / str(index)))
        for index, source in enumerate([interrupted, partial, checkpoints[1], checkpoints[0]])
    )
    samples = by_name.sample(20, generator=_seeded())
    for same in (by_folder, by_checkpoint):
        assert torch.equal(same.sample(20, generator=_seeded()).log_prob, samples.log_prob)
    # Neither the step before nor the base: the adapter of that very step is in the weights.
    for other in (older, load_policy(tiny_model())):
        scored = other.log_prob(samples.tokens, samples.mask)
        assert float((scored - samples.log_prob).abs().max()) > 1e-5


def test_a_damaged_checkpoint_is_not_exported(interrupted, tmp_path, capsys):
    partial = tmp_path / ".died.partial"
    _ = shutil.copytree(interrupted.with_name(".died.partial"), partial)
    older, newest = sorted((partial / "checkpoints").glob("step-*"))
    weights = newest / "state.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    _ = weights.write_bytes(content)
    with pytest.raises(RunError, match=r"bytes of state\.safetensors have changed"):
        _ = export(newest, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    # Asked for the run, the one before it counts.
    samples = load_trained(older).sample(5, generator=_seeded())
    _ = capsys.readouterr()
    again = load_trained(tmp_path / "died").sample(5, generator=_seeded())
    assert torch.equal(samples.log_prob, again.log_prob)
    said = capsys.readouterr().err
    assert "lm: the checkpoint of step 2 is skipped: the bytes of state.safetensors" in said
    assert f"lm: {partial} is not complete: this is its policy after step 1" in said
    shutil.rmtree(older)
    with pytest.raises(RunError, match="no trained policy and no whole checkpoint"):
        _ = export(tmp_path / "died", tmp_path / "model")


@pytest.mark.slow
def test_the_law_of_a_run_goes_with_its_model(tmp_path):
    law = SamplingConfig(temperature=0.7, top_k=4)
    config = tiny_config(tmp_path / "run", sampling=law, steps=1, divergence="jensen_shannon")
    run = lm.train.train(config)
    for source in (run, run / "policy", run / "checkpoints" / "step-00000001"):
        assert load_trained(source).transform == law
    folder = export(run, tmp_path / "model")
    written = json.loads((folder / "generation_config.json").read_text())
    assert (written["temperature"], written["top_k"], written["do_sample"]) == (0.7, 4, True)


def test_a_model_without_a_length_limit_is_exported_without_one(tmp_path):
    foreign = make_llama_folder(tmp_path / "foreign")
    folder = export(foreign, tmp_path / "model")
    assert json.loads((folder / "fdpg_ref.json").read_text())["max_new_tokens"] is None
    assert "max_new_tokens" not in json.loads((folder / "generation_config.json").read_text())
    samples = (policy := load_policy(folder, max_new_tokens=6)).sample(8, generator=_seeded())
    scored = load_policy(foreign, max_new_tokens=6).score(samples)
    torch.testing.assert_close(scored, policy.score(samples), rtol=0.0, atol=0.0)


def test_a_destination_never_swallows_its_source(tmp_path):
    run = tmp_path / "runs" / "mine"
    _ = shutil.copytree(finished_run(), run)
    for destination in (run, tmp_path / "runs", run / "policy" / ".."):
        with pytest.raises(RunError, match="holds the source"):
            _ = export(run, destination, overwrite=True)
    assert (run / "metrics.jsonl").exists()


def test_a_source_may_be_named_from_within_its_run(interrupted, tmp_path, monkeypatch):
    partial = interrupted.with_name(".died.partial")
    newest = max((partial / "checkpoints").glob("step-*"))
    expected = load_trained(newest).sample(5, generator=_seeded())
    for place, source in ((newest.parent, newest.name), (newest, "."), (partial, ".")):
        monkeypatch.chdir(place)
        again = load_trained(Path(source)).sample(5, generator=_seeded())
        assert torch.equal(again.log_prob, expected.log_prob)


@pytest.mark.slow
def test_the_law_of_a_run_goes_with_its_policy_from_within_it(tmp_path, monkeypatch):
    law = SamplingConfig(temperature=0.7)
    run = lm.train.train(tiny_config(tmp_path / "run", sampling=law, steps=1))
    monkeypatch.chdir(run / "policy")
    assert load_trained(Path()).transform == law


@pytest.mark.slow
@pytest.mark.parametrize("key", ["model", "target.teacher"])
def test_an_export_never_replaces_what_its_run_reads(tmp_path, key):
    mine = export(finished_run(), tmp_path / "mine")
    changes: dict[str, Any] = {
        "model": {"model": str(mine)},
        "target.teacher": {"target": TargetConfig(kind="teacher", teacher=str(mine))},
    }
    run = lm.train.train(tiny_config(tmp_path / "run", steps=1, **changes[key]))
    before = {path: path.lstat().st_mtime_ns for path in mine.rglob("*")}
    for source in (run, run / "policy", run / "checkpoints" / "step-00000001"):
        with pytest.raises(RunError, match=rf"holds .*mine, the {key} of the run"):
            _ = export(source, mine, overwrite=True)
    assert {path: path.lstat().st_mtime_ns for path in mine.rglob("*")} == before


def test_what_a_killed_process_left_blocks_no_export(tmp_path):
    left = tmp_path / f".model.{os.getpid()}.partial"
    left.mkdir()
    _ = (left / "config.json").write_text("{}")
    # What a name that is not a new one would come to.
    with suppress(FileExistsError):
        _ = export(finished_run(), tmp_path / "model")
    assert (tmp_path / "model" / "config.json").is_file()


@pytest.mark.parametrize("name", [".", ".."])
def test_a_destination_needs_a_name_of_its_own(tmp_path, monkeypatch, name):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(RunError, match="has no name of its own"):
        _ = export(finished_run(), Path(name))


def test_a_destination_is_kept_unless_it_may_be_replaced(tmp_path, capsys):
    destination = tmp_path / "model"
    destination.mkdir()
    source = finished_run()
    _ = export(source, destination)  # empty: nothing is lost
    with pytest.raises(RunError, match=r"exists and is not empty: .*--overwrite"):
        _ = export(source, destination)
    run_export(source, destination, overwrite=True)
    assert f"model: {destination}" in capsys.readouterr().out
    (destination / "mine.txt").write_text("precious")
    with pytest.raises(RunError, match=r"also holds mine\.txt, which this program did not write"):
        _ = export(source, destination, overwrite=True)
    assert (destination / "mine.txt").exists()
    (destination / "mine.txt").unlink()
    with pytest.raises(RunError, match="is a file: choose another destination"):
        _ = export(source, destination / "config.json", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_only_a_model_of_ours_is_replaced(tmp_path):
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    _ = (thesis / "chapter.tex").write_text("years of work")
    foreign = make_llama_folder(tmp_path / "foreign")
    # Whoever brings a model may write the ids by hand, as the manual says.
    ids = {"bos_id": 10, "eos_ids": [11], "pad_id": 11, "max_new_tokens": None}
    _ = (foreign / "fdpg_ref.json").write_text(json.dumps(ids))
    run = shutil.copytree(finished_run(), tmp_path / "run")
    link = tmp_path / "link"
    link.symlink_to(thesis)
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    for folder in (thesis, foreign, run, run / "policy", link, run / "checkpoints"):
        with pytest.raises(RunError, match=r"so it is not replaced|the policy of a run|is a link"):
            _ = export(finished_run(), folder, overwrite=True)
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_failed_export_leaves_nothing_and_keeps_what_was_there(tmp_path, monkeypatch):
    destination = export(finished_run(), tmp_path / "model")
    kept = sorted(path.name for path in tmp_path.rglob("*"))

    def fail(_policy, folder):
        (folder / "half").write_text("x")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CausalPolicy, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        _ = export(finished_run(), destination, overwrite=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == kept


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingModelFolder, match=r"no model folder .*nowhere"):
        _ = export(tmp_path / "nowhere", tmp_path / "model")
