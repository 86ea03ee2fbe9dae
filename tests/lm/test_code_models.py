"""Models of functions: what is learnt from, its tokens, and what the cache holds."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from lm.cli.main import main
from lm.code_models.functions import is_held_out, library_functions, signature_of
from lm.code_models.train import read_code_facts, train_code, train_tokenizer
from lm.config.code_model import CodeConfig, code_model
from lm.errors import RunError
from lm.models.hub import MissingModelFolder, find_model
from lm.policy import load_policy

ROOT = Path(__file__).resolve().parents[2]
TINY = CodeConfig(size="1x16", steps=40, batch_size=16, vocabulary=300, learning_rate=2e-2)
SOURCE = '''
import os

class A:
    @property
    def short(self):
        """Return it."""
        return self._short

    def one_line(self): return 1

    def wide(
        self, other
    ):
        return other

async def later(x):
    return x

def outer(x):
    def inner(y):
        return y + 1
    return inner(x)

def accent(x):
    return "\u00e9"

def long(x):
    return """{}"""
'''


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """A folder of Python files, one of them not to be read, one of another version."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "test").mkdir()
    (folder / "inner").mkdir()
    _ = (folder / "a.py").write_text(SOURCE.replace("{}", 300 * "x"), encoding="utf-8")
    _ = (folder / "inner" / "old.py").write_text("print 'two'\n")
    _ = (folder / "test" / "b.py").write_text("def tested(x):\n    return x\n")
    many = [f"def get_{i}(self, x):\n    return self.x + {i % 7}\n" for i in range(200)]
    _ = (folder / "inner" / "many.py").write_text("\n".join([*many, many[0]]))
    return folder


def reading(folder: Path) -> Any:
    """Let a folder be that of the standard library."""
    return mock.patch("sysconfig.get_paths", return_value={"stdlib": str(folder)})


@pytest.fixture(scope="module")
def trained(library, tmp_path_factory) -> Path:
    with reading(library):
        return train_code(TINY, cache=tmp_path_factory.mktemp("cache"))


def test_short_functions_are_taken_as_they_stand(library):
    functions = library_functions(200, library)
    texts = [*functions.learnt, *functions.held_out]
    assert len(set(texts)) == len(texts) == 203
    others = {text for text in texts if "get_" not in text}
    assert others == {
        'def short(self):\n    """Return it."""\n    return self._short',
        "def outer(x):\n    def inner(y):\n        return y + 1\n    return inner(x)",
        "def inner(y):\n    return y + 1",
    }
    for text in texts:
        _ = compile(text, "<text>", "exec")
    # The order and the list follow from the texts alone.
    assert library_functions(200, library).sha256 == functions.sha256
    assert library_functions(50, library).sha256 != functions.sha256


def test_a_signature_is_held_out_or_learnt_and_never_both(library):
    functions = library_functions(200, library)
    assert all(is_held_out(signature_of(text)) for text in functions.held_out)
    assert not any(is_held_out(signature_of(text)) for text in functions.learnt)
    assert 5 < len(functions.held_out) < 45


def test_a_python_without_its_sources_is_an_error(tmp_path):
    with pytest.raises(
        RunError, match=r"holds 0 short functions in Python files, .*so take another"
    ):
        _ = library_functions(200, tmp_path)


def test_a_signature_has_the_same_tokens_alone_as_before_its_body(library):
    texts = library_functions(200, library).learnt
    tokenizer = train_tokenizer(texts, 400)
    assert 257 < len(tokenizer) <= 400
    for text in [*texts, "def other(a, *b):\n\n    if a:\n        return [a]", "d\u00e9f"]:
        whole = tokenizer(text)["input_ids"]
        alone = tokenizer(signature_of(text))["input_ids"]
        assert whole[: len(alone)] == alone
        assert tokenizer.decode(whole, skip_special_tokens=True) == text


def test_the_folder_is_a_policy_with_its_facts(trained):
    policy = load_policy(trained)
    assert policy.max_new_tokens == 80
    facts = read_code_facts(trained)
    assert facts.python == platform.python_version()
    assert facts.functions + facts.held_out == 203
    # Uniform over 300 tokens costs log 300 = 5.7 nats each, which is about 2.5 per character.
    assert facts.nats_per_character < 1.7
    assert 0.0 < facts.compiles < 1.0
    content = json.loads((trained / "code.json").read_text())
    assert CodeConfig(**content["config"]) == TINY

    # A body follows its signature.
    (prompt,) = policy.vocabulary.encode_prompts(["def get_5(self, x):"])
    tokens, mask = torch.tensor([prompt]), torch.ones(1, len(prompt), dtype=torch.bool)
    assert prompt[0] == policy.ids.bos_id
    assert policy.vocabulary.decode(tokens, mask) == ["def get_5(self, x):"]


def test_the_signatures_of_both_parts_lie_beside_the_model(trained):
    learnt, held_out = (
        (trained / name).read_text().splitlines() for name in ("signatures.txt", "held_out.txt")
    )
    assert not set(learnt) & set(held_out)
    assert len(learnt) + len(held_out) == 203
    assert all(map(is_held_out, held_out))


def test_a_length_limit_that_no_function_fits_is_an_error(tmp_path):
    for number in range(40):
        long = " + ".join(f"x{number}{place}" for place in range(20))
        _ = (tmp_path / f"{number}.py").write_text(f"def f{number}(x):\n    return {long}\n")
    config = dataclasses.replace(TINY, max_new_tokens=8)
    advice = r"max_new_tokens is 8: .* 0 are learnt .*: raise it"
    with reading(tmp_path), pytest.raises(RunError, match=advice):
        _ = train_code(config, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cached_model_is_not_trained_again(trained, tmp_path):
    with reading(tmp_path / "nothing"):
        assert train_code(TINY, cache=trained.parents[1]) == trained


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(library, trained, tmp_path):
    with reading(library):
        again, other = (
            load_policy(train_code(config, cache=tmp_path)).model.state_dict()
            for config in (TINY, dataclasses.replace(TINY, seed=1))
        )
    weights = load_policy(trained).model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
    assert not all(torch.equal(value, other[name]) for name, value in weights.items())


def test_a_recipe_names_a_model_by_size_and_seed(tmp_path, monkeypatch):
    assert code_model("code-2x64") == CodeConfig()
    assert code_model("code-4x128-seed3") == CodeConfig(size="4x128", seed=3)
    assert [code_model(name) for name in ("smollm2", "code-2x64-seed", "me/code-2x64")] == 3 * [
        None
    ]
    monkeypatch.chdir(tmp_path)
    advice = r"not in the cache .*: python -m lm base code --size 2x64 --seed 1$"
    with pytest.raises(MissingModelFolder, match=advice):
        _ = find_model("code-2x64-seed1")
    with pytest.raises(MissingModelFolder, match="there is no model code-2x65: size is '2x65'"):
        _ = find_model("code-2x65")
    folder = CodeConfig(seed=1).folder()
    folder.mkdir(parents=True)
    assert find_model("code-2x64-seed1") == folder


def test_the_command_trains_and_says_what_a_recipe_calls_it(library, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--size", "1x16", "--steps", "2", "--seed", "1"]
    with reading(library):
        assert main(["base", "code", *words]) == 0
    out = capsys.readouterr().out
    assert f"functions of Python {platform.python_version()}" in out
    assert "in a recipe" not in out
    assert main(["base", "code", "--size", "1x15"]) == 2
    assert "LAYERSxWIDTH with a width that 16 divides" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "2x"}, "size is '2x': it is LAYERSxWIDTH"),
        ({"size": "0x64"}, "it is LAYERSxWIDTH"),
        ({"vocabulary": 256}, "vocabulary"),
        ({"steps": 0}, "steps"),
        ({"seed": -1}, "seed"),
        ({"seed": 10**9}, "from 0 to 999999999"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"max_new_tokens": 7}, "max_new_tokens"),
        ({"characters": 39}, "characters"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_a_meaningless_configuration_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        _ = CodeConfig(**changes)


def test_every_field_and_the_version_of_python_change_the_fingerprint(monkeypatch):
    changed = [
        CodeConfig(size="2x32"),
        CodeConfig(seed=1),
        CodeConfig(characters=100),
        CodeConfig(max_new_tokens=81),
        CodeConfig(vocabulary=500),
        CodeConfig(steps=1),
        CodeConfig(batch_size=1),
        CodeConfig(learning_rate=1e-3),
    ]
    assert len(changed) == len(dataclasses.fields(CodeConfig))
    found = {config.fingerprint() for config in [CodeConfig(), *changed]}
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")
    assert len(found | {CodeConfig().fingerprint()}) == 10


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"facts": {"other": 1}}'])
def test_damaged_facts_say_what_to_delete(tmp_path, content):
    _ = (tmp_path / "code.json").write_text(content)
    with pytest.raises(RunError, match=r"code\.json does not hold .*: delete .*trained again"):
        _ = read_code_facts(tmp_path)


@pytest.mark.slow
def test_the_configuration_is_read_without_torch():
    code = (
        "import sys; import lm.cli.main; from lm.config.code_model import CodeConfig; "
        "CodeConfig().fingerprint(); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.slow
def test_the_standard_library_has_thousands_of_short_functions():
    functions = library_functions(CodeConfig().characters)
    assert len(functions.learnt) > 4_000
    assert 300 < len(functions.held_out) < len(functions.learnt) / 5
