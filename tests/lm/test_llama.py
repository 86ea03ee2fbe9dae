"""A folder as practitioners bring it: Llama, pad == eos, two end tokens, a tokenizer, prompts."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from support.lm_models import make_llama_folder
from support.lm_runs import lines, scratch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm.cli.main import main
from lm.config import (
    CheckpointConfig,
    EvaluationConfig,
    OptimizerConfig,
    PartitionConfig,
    PromptsConfig,
    RunConfig,
    TargetConfig,
)
from lm.features import registry as features
from lm.features.registry import feature
from lm.policy import load_policy
from lm.run.records import PROMPT_MARK, best
from lm.train import train

PROMPTS = ("the cat", "in", "an\nend")


def _letters(completions):
    return [float(sum(c.isascii() and c.isalpha() for c in text)) for text in completions]


@cache
def _folder() -> Path:
    return make_llama_folder(scratch() / "llama")


@cache
def _config() -> RunConfig:
    prompts = scratch() / "prompts.jsonl"
    _ = prompts.write_text("".join(f'{{"prompt": {p!r}}}\n'.replace("'", '"') for p in PROMPTS))
    if "ascii_letters" not in features.FEATURES:
        _ = feature("ascii_letters")(_letters)
    return RunConfig(
        name="llama",
        output=str(scratch() / "llama-run"),
        model=str(_folder()),
        max_new_tokens=6,
        prompts=PromptsConfig(file=str(prompts), per_step=3),
        target=TargetConfig(kind="reward_tilted", reward={"ascii_letters": 1.0}, beta=1.0),
        partition=PartitionConfig(samples=1500),
        batch_size=96,
        steps=12,
        optimizer=OptimizerConfig(lr=5e-3),
        evaluation=EvaluationConfig(every=6, samples=384, group=32, texts=6),
        checkpoint=CheckpointConfig(every=4),
        device="cpu",
    )


@cache
def _run() -> Path:
    return train(_config())


def test_the_folder_is_what_it_says():
    policy = load_policy(_folder(), max_new_tokens=6)
    assert len(policy.ids.eos_ids) == 2
    assert policy.ids.pad_id in policy.ids.eos_ids


def test_it_trains_on_text_rewards_toward_its_target():
    evaluations = lines(_run(), "evaluation")
    assert [record["step"] for record in evaluations] == [0, 6, 12]
    assert {record["contexts"] for record in evaluations} == {3}
    first, last = evaluations[0], evaluations[-1]
    before, after = best(first, "feature/ascii_letters"), best(last, "feature/ascii_letters")
    # Twelve steps raise the reward by more than both errors together.
    assert after[0] - before[0] > 3 * (before[1] ** 2 + after[1] ** 2) ** 0.5
    assert best(last, "jensen_shannon")[0] < best(first, "jensen_shannon")[0]
    assert best(first, "kl_policy_base")[0] == pytest.approx(0.0, abs=1e-6)


def test_its_report_shows_prompts_with_samples_and_no_list():
    page = (_run() / "report.html").read_text(encoding="utf-8")
    assert "<span class=prompt>the cat ▸ </span>" in page
    # A line break inside a prompt does not break the file of samples.
    texts = (_run() / "samples_after.txt").read_text(encoding="utf-8").splitlines()
    assert len(texts) == 6
    starts = [text.split(PROMPT_MARK)[0] for text in texts]
    assert starts == ["the cat", "in", "an⏎end"] * 2
    assert "list + remainder" not in page
    assert "census" not in page
    assert "Standard errors are over prompts" in page


def test_the_trained_policy_is_a_folder_with_its_tokenizer():
    policy = load_policy(_run() / "policy")
    samples = policy.sample(20, generator=torch.Generator().manual_seed(0))
    assert len(policy.ids.eos_ids) == 2
    assert all(isinstance(text, str) for text in policy.decode(samples))
    scored = policy.score(samples).detach()
    # Float32 sums of six terms, with a cache and without.
    torch.testing.assert_close(samples.log_prob, scored, rtol=0, atol=1e-4)


def test_sample_prints_texts(capsys):
    assert main(["sample", str(_run()), "--n", "3"]) == 0
    assert len(capsys.readouterr().out.strip()) > 0


@pytest.mark.slow
def test_it_resumes_to_the_same_records():
    config = replace(_config(), output=str(scratch() / "llama-resumed"))

    def power_cut(record) -> None:
        if record.step == 6:
            raise OSError("power cut")

    with pytest.raises(OSError, match="power cut"):
        _ = train(config, on_step=power_cut)
    folder = train(replace(config, resume=True))
    whole, resumed = ((run / "metrics.jsonl").read_bytes() for run in (_run(), folder))
    assert resumed == whole


def test_it_exports_to_a_folder_that_transformers_loads_as_the_same_law(tmp_path):
    assert main(["export", str(_run()), str(tmp_path / "plain")]) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    assert len(model.generation_config.eos_token_id) == 2
    policy = load_policy(_run() / "policy")
    samples = policy.sample(5, generator=torch.Generator().manual_seed(1))
    inputs = torch.cat([torch.full((5, 1), policy.ids.bos_id), samples.tokens], 1)
    with torch.no_grad():
        laws = torch.log_softmax(model(input_ids=inputs).logits[:, :-1].float(), -1)
    chosen = laws.gather(-1, samples.tokens[..., None])[..., 0].where(samples.mask, 0.0)
    # Float32 sums of six terms.
    torch.testing.assert_close(chosen.sum(-1), samples.log_prob, rtol=0, atol=1e-4)
    assert tokenizer.decode(tokenizer.encode("the cat", add_special_tokens=False)) == "the cat"


def test_a_run_of_registered_features_is_read_where_they_do_not_exist(
    monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(
        features, "FEATURES", {k: v for k, v in features.FEATURES.items() if k != "ascii_letters"}
    )
    copy = shutil.copytree(_run(), tmp_path / "copy")
    assert main(["report", str(copy)]) == 0
    assert main(["sample", str(copy), "--n", "2"]) == 0
    assert main(["evaluate", str(copy), "--samples", "512"]) == 2
    assert "'ascii_letters' is not defined here: the program" in capsys.readouterr().err
