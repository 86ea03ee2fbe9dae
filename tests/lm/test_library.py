"""docs/library.md says what is so: its blocks run, print what stands below them, and are short."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path

import pytest
from support.lm_models import make_llama_folder

from lm.features import registry as features

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A working directory with the model that the page calls my-model."""
    path = tmp_path_factory.mktemp("library")
    _ = make_llama_folder(path / "my-model")
    return path


@pytest.fixture
def _forget_names(monkeypatch):
    monkeypatch.setattr(features, "FEATURES", dict(features.FEATURES))
    monkeypatch.setattr(features, "SCORES", dict(features.SCORES))


def _run(code: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/library.md", "exec"), {"__name__": "library"})
    return printed.getvalue()


def test_every_block_states_what_it_prints():
    assert len(EXAMPLES) == PAGE.count("```python") == 3


@pytest.mark.usefixtures("_forget_names")
@pytest.mark.parametrize("number", range(3))
def test_the_block_prints_what_the_page_says(number, folder, monkeypatch):
    monkeypatch.chdir(folder)
    code, stated = EXAMPLES[number]
    assert _run(code) == stated
    if number == 0:
        assert (folder / stated.strip()).stat().st_size > 10_000


def test_ten_lines_are_ten_lines():
    lines = [line for line in EXAMPLES[0][0].splitlines() if line.strip()]
    assert len(lines) == 9
    assert max(map(len, lines)) <= 100


def test_the_two_sentences_stand_in_the_foreign_loop():
    code = EXAMPLES[2][0]
    assert "import lm" not in code
    assert "from lm" not in code
    for sentence in ("signal = score_signal(", "coefficients = score_coefficients("):
        assert code.count(sentence) == 1


def test_naming_a_feature_and_a_run_needs_no_torch():
    import subprocess

    code = (
        "import sys\n"
        "from lm.config import RunConfig, TargetConfig\n"
        "from lm.features.registry import feature, score\n"
        "feature('mine')(lambda texts: [0.0] * len(texts))\n"
        "RunConfig(target=TargetConfig(kind='reward_tilted', reward={'mine': 1.0}))\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()\n"
    )
    _ = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
