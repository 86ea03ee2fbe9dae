"""The model card of an exported folder: what the hub and people read, and what is not told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.lm_models import make_llama_folder
from support.lm_runs import finished_run, lines, tiny_model

from lm.cli.main import main
from lm.config.base import PRETRAINED
from lm.report import card
from lm.report.build import headline_rows
from lm.report.card import Source, card_of, is_unchanged

HOSTILE = "a: b\n---\n<script>alert(1)</script> [x](javascript:1)"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return shutil.copytree(finished_run(), tmp_path / "run")


def change(run: Path, file: str, **changes: Any) -> None:
    content = json.loads((run / file).read_text())
    _ = (run / file).write_text(json.dumps(content | changes))


def parts(text: str) -> tuple[dict[str, Any], str]:
    """Split a card as the hub does."""
    start, front, body = text.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(front), body


def test_an_exported_run_has_a_card_with_its_measures(run, tmp_path, capsys):
    assert main(["export", str(run), str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    front, body = parts(text)
    assert front == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["f-dpg", "forward_kl"],
    }
    for row in headline_rows(lines(run, "evaluation")):
        assert f"| {row['base']} | {row['policy']} |" in body
    for heading in ("Target", "Measures", "How to load it", "Licence", "Machine", "Limitations"):
        assert f"## {heading}\n" in body
    assert "which is not known here" in body
    assert "torch_threads" in body
    # Where things lie on this machine is nobody's business.
    assert str(tmp_path) not in text
    assert str(tiny_model().parent) not in text


def test_the_hubs_own_reader_takes_the_front_matter(run):
    from huggingface_hub import ModelCard

    change(run, "config.json", model="smollm2")
    data: Any = ModelCard(card_of(Source("run", run))).data
    assert data.base_model == PRETRAINED["smollm2"].hub
    assert data.library_name == "transformers"


@pytest.mark.parametrize("name", ["folder", "hub"])
def test_a_base_is_named_and_its_licence_where_it_is_known(run, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    if name == "folder":
        base = tmp_path / "secret" / "base"
        base.mkdir(parents=True)
        _ = (base / "LICENSE").write_text("Apache License\n  Version 2.0, January 2004")
        change(run, "config.json", model=str(base))
        front, body = parts(card_of(Source("run", run)))
        assert front["license"] == "apache-2.0"
        assert "base_model" not in front
        assert "secret" not in body
        return
    change(run, "config.json", model="someone/model-7B")
    front, body = parts(card_of(Source("run", run)))
    assert front["base_model"] == "someone/model-7B"
    assert "license" not in front
    assert "\n\nmodel-7B, trained by f-DPG" in body


def test_of_a_reward_file_no_more_than_the_name_is_told(run, tmp_path):
    trap = tmp_path / "secret" / "rewards.py"
    trap.parent.mkdir()
    _ = trap.write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nKEY = 'hunter2'\n")
    target = json.loads((run / "target.json").read_text())
    target["features"][0]["feature"] = f"{trap}:polite"
    change(run, "target.json", **target)
    change(run, "config.json", target={"kind": "reward_tilted", "reward": {f"{trap}:polite": 1}})
    text = card_of(Source("run", run))
    assert "| polite |" in text
    assert "secret" not in text
    assert "hunter2" not in text
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("form", ["probability('{}', good) > 0.5", "reward_model(model='{}')"])
def test_of_a_classifiers_folder_the_last_part_is_told(run, form):
    name = form.format("/home/someone/secret/judge")
    target = json.loads((run / "target.json").read_text())
    was, target["features"][0]["feature"] = target["features"][0]["feature"], name
    change(run, "target.json", **target)
    records = (run / "metrics.jsonl").read_text()
    records = records.replace(f'"feature/{was}"', json.dumps(f"feature/{name}"))
    _ = (run / "metrics.jsonl").write_text(records)

    text = card_of(Source("run", run))
    shown = form.format("judge").replace(">", "&gt;")
    assert f"| {shown} |" in text
    assert f"| E[{shown}] |" in text
    assert "secret" not in text


def test_a_feature_cannot_break_its_row_of_a_table(run):
    target = json.loads((run / "target.json").read_text())
    target["features"][0]["feature"] = r'matches(r"a\|b`")'
    change(run, "target.json", **target)
    # To a reader of Markdown: a, a backslash, a bar, b, a backtick, and then the end of the cell.
    assert r'| matches(r"a\\\|b\`") | ' in card_of(Source("run", run))


def test_a_code_model_is_not_called_a_base_of_unknown_licence(run):
    change(run, "config.json", model="code-2x64")
    text = card_of(Source("run", run))
    assert "trained by this project, whose code is under Apache-2.0, on functions of" in text
    assert "which is not known here" not in text


def test_hostile_words_stay_words(run):
    change(run, "config.json", name=HOSTILE)
    front, body = parts(card_of(Source(HOSTILE, run)))
    assert set(front) == {"library_name", "pipeline_tag", "tags"}
    assert "<script>" not in body
    assert "](javascript" not in body
    assert "a: b --- &lt;script&gt;" in body


def test_records_that_cannot_be_read_do_not_hold_the_weights_back(run, tmp_path):
    _ = (run / "target.json").write_text("{}")
    assert main(["export", str(run), str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "The records of its run cannot be read (KeyError)." in text
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_card_that_somebody_changed_is_not_replaced(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", str(run), str(out)]) == 0
    assert is_unchanged(out / card.NAME)
    assert main(["export", str(run), str(out), "--overwrite"]) == 0
    changed = (out / card.NAME).read_text() + "my own words\n"
    _ = (out / card.NAME).write_text(changed)
    assert main(["export", str(run), str(out), "--overwrite"]) == 2
    assert "README.md has been changed since it was exported" in capsys.readouterr().err
    assert (out / card.NAME).read_text() == changed


def test_weights_of_an_unfinished_run_are_called_that(run, tmp_path):
    change(run, "config.json", steps=9)
    (checkpoint,) = (run / "checkpoints").iterdir()
    text = card_of(Source("run", run, 3))
    assert "weights after step 3 of 9. The measures are those after step 2" in text
    assert "not complete" not in card_of(Source("run", run, 9))
    assert main(["export", str(checkpoint), str(tmp_path / "out")]) == 0
    assert "after step 4 of 9" in (tmp_path / "out" / "README.md").read_text()


def test_a_model_without_a_run_says_so(tmp_path):
    folder = make_llama_folder(tmp_path / "model")
    assert main(["export", str(folder), str(tmp_path / "out")]) == 0
    front, body = parts((tmp_path / "out" / "README.md").read_text())
    assert "base_model" not in front
    assert "Which run made this model is not known." in body
