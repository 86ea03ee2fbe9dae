"""Bad inputs, walked through the command line: one line that says what was wrong, and no traces."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.lm_models import make_llama_folder
from support.lm_runs import finished_run, scratch

from lm.cli.main import main
from lm.errors import RunError, UsageError, border, reason_of

_OPTIONS = {
    "max_new_tokens": 3,
    "steps": 2,
    "batch_size": 16,
    "evaluation.samples": 64,
    "evaluation.group": 16,
    "evaluation.texts": 2,
    "partition.samples": 64,
    "device": "cpu",
    "report": "false",
    "target.kind": "reward_tilted",
    "target.beta": 1.0,
}
QUICK = [word for key, value in _OPTIONS.items() for word in (f"--{key}", str(value))]
REWARD = ["--target.reward", '{"tokens": 1.0}']
Damage = Callable[[Path], Any]


def _model(*, tokenizer: bool = False) -> Path:
    folder = scratch() / f"llama-{tokenizer}"
    return folder if folder.exists() else make_llama_folder(folder, tokenizer=tokenizer)


def _sets(name: str, **changes: Any) -> Damage:
    """Change keys of a JSON file."""

    def damage(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        _ = path.write_text(json.dumps({**content, **changes}))

    return damage


def _writes(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def _removes(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def _weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return damage


def _halves(name: str) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        _ = (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def _without_one(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in weights.items() if "norm" not in name}


def _of_another_size(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: value[:-1].clone() if "norm" in name else value for name, value in weights.items()
    }


def _with_nan(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value * float("nan") for name, value in weights.items()}


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
QUANTISED = {"quant_method": "bitsandbytes", "load_in_4bit": True}

# What a model folder may be instead of one, and words of the sentence about it.
FOLDERS: dict[str, tuple[Damage, str]] = {
    "config.json missing": (_removes("config.json"), "has no config.json"),
    "config.json empty": (_writes("config.json", b""), "is not valid JSON"),
    "config.json half": (_halves("config.json"), "is not valid JSON"),
    "config.json a list": (_writes("config.json", b"[]"), "must hold an object"),
    "config.json a number": (_writes("config.json", b"3"), "must hold an object"),
    "config.json bytes": (_writes("config.json", b"\xff\xfe"), "is not valid JSON"),
    "config.json deep": (_writes("config.json", b"[" * 100_000), "is not valid JSON"),
    "config.json a pointer": (_writes("config.json", POINTER), "is not valid JSON"),
    "no such architecture": (_sets("config.json", model_type="mine"), "is unknown here"),
    "architecture a list": (_sets("config.json", model_type=["llama"]), "model_type"),
    "no causal model": (_sets("config.json", model_type="vit"), "does not load as a causal model"),
    "an encoder with a decoder": (_sets("config.json", model_type="t5"), "t5|T5"),
    "code of its own": (_sets("config.json", auto_map={"A": "b.C"}), "code of its own"),
    "bitsandbytes": (_sets("config.json", quantization_config=QUANTISED), "quantised weights"),
    "GPTQ": (
        _sets("config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        "quantised weights",
    ),
    "flash attention": (
        _sets("config.json", attn_implementation="flash_attention_2"),
        "FlashAttention2",
    ),
    "unknown attention": (_sets("config.json", attn_implementation="mine"), "attn_implementation"),
    "hidden_size a text": (_sets("config.json", hidden_size="16"), "hidden_size"),
    "hidden_size negative": (_sets("config.json", hidden_size=-16), ""),
    "heads do not divide": (_sets("config.json", num_attention_heads=3), "heads"),
    "another vocabulary": (_sets("config.json", vocab_size=13), ""),
    "vocabulary a text": (_sets("config.json", vocab_size="12"), "vocab_size"),
    "rotary of nowhere": (_sets("config.json", rope_scaling={"rope_type": "mine"}), ""),
    "activation of nowhere": (_sets("config.json", hidden_act="mine"), ""),
    "adapter without model": (_writes("adapter_config.json", b"{}"), "merge it into its model"),
    "weights missing": (_removes("model.safetensors"), "no weights in safetensors format"),
    "weights half": (_halves("model.safetensors"), "does not load as a causal model"),
    "weights empty": (_writes("model.safetensors", b""), "does not load as a causal model"),
    "weights a pointer": (_writes("model.safetensors", POINTER), "a pointer of Git LFS"),
    "weights NaN": (_weights(_with_nan), "holds NaN or infinity"),
    "a weight missing": (_weights(_without_one), "lacks the weights"),
    "a weight too short": (_weights(_of_another_size), "does not load as a causal model"),
    "end token a text": (_sets("generation_config.json", eos_token_id="11"), "whole number"),
    "end token outside": (_sets("generation_config.json", eos_token_id=99), "outside the model's"),
    "end token none": (
        lambda folder: (
            _sets("generation_config.json", eos_token_id=None)(folder),
            _sets("config.json", eos_token_id=None)(folder),
        ),
        "names no end token",
    ),
    "pad outside": (_sets("generation_config.json", pad_token_id=99), "pad id 99 lies outside"),
    "pad a list": (_sets("generation_config.json", pad_token_id=[11]), "whole number|'<' not"),
    "generation_config broken": (_writes("generation_config.json", b"{"), "is not valid JSON"),
    "ids broken": (_writes("fdpg_ref.json", b"{"), "does not hold the token ids"),
    "ids a list": (_writes("fdpg_ref.json", b"[]"), "does not hold the token ids"),
    "ids without an end": (
        _sets("fdpg_ref.json", bos_id=10, eos_ids=[], pad_id=11),
        "must be a whole number|no end token",
    ),
    "ids with a text": (_sets("fdpg_ref.json", bos_id="10", eos_ids=[11], pad_id=11), "'10'"),
    "ids outside": (_sets("fdpg_ref.json", bos_id=10, eos_ids=[111], pad_id=11), "eos id 111"),
    "tokenizer broken": (_writes("tokenizer.json", b"{"), ""),
    "tokenizer of nothing": (_writes("tokenizer.json", b"{}"), ""),
}
FILE = "def f(completions):\n    "
# A reward file, and words of the sentence about it.
REWARDS: dict[str, tuple[str, str]] = {
    "raises": (f"{FILE}raise KeyError('x')", "raised KeyError"),
    "leaves": (f"{FILE}raise SystemExit(0)", "raised SystemExit"),
    "leaves while loaded": ("raise SystemExit(0)\ndef f(texts): pass", "raised SystemExit"),
    "recursion": (f"{FILE}return f(completions)", "RecursionError"),
    "returns nothing": (f"{FILE}pass", "must return one number per text"),
    "returns texts": (f"{FILE}return ['1.5' for _ in completions]", "text is no number"),
    "returns complex": (f"{FILE}return [1j for _ in completions]", "complex"),
    "returns one": (f"{FILE}return [1.0]", r"shape \(1,\)"),
    "returns NaN": (f"{FILE}return [float('nan') for _ in completions]", "is nan for the text"),
    "returns too much": (f"{FILE}return [10**400 for _ in completions]", "must return one number"),
    "no neighbour": ("import no_such_thing\ndef f(texts): pass", "looked for beside it"),
    "no Python": ("def f(:", "is not valid Python"),
    "zero bytes": ("\0", "is not valid Python"),
    "async": ("async def f(texts): pass", "is an async function"),
    "class": ("class f: pass", "is a class"),
    "another argument": ("def f(x): pass", "asks for 'x'"),
    "no such function": ("def g(texts): pass", "no function 'f'"),
    "deletes itself": ("def f(texts): pass\ndel f", "gone after the file was loaded"),
}
RUNS: dict[str, Damage] = {
    "config.json broken": _writes("config.json", b"{"),
    "config.json a list": _writes("config.json", b"[]"),
    "config.json of a model": _writes("config.json", b'{"model_type": "gpt2"}'),
    "config.json with another key": _sets("config.json", of_tomorrow=1),
    "config.json with a wrong type": _sets("config.json", steps="4"),
    "config.json with another target": _sets("config.json", target={"kind": "mine"}),
    "config.json with a target of texts": _sets("config.json", target={"moments": "female"}),
    "config.json without a target": _sets("config.json", target=None),
    "policy broken": _writes("policy/config.json", b"{"),
    "weights broken": _halves("policy/model.safetensors"),
    "base gone": _sets("config.json", model="no/such/model"),
}


def _refused(capsys: pytest.CaptureFixture[str], words: list[Any], reason: str) -> None:
    """Expect exit code 2 and lines for people, whatever else there is on the error stream."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as leave:
        pytest.fail(f"the program was left with exit code {leave.code}")
    error = capsys.readouterr().err
    assert code == 2, error
    assert "Traceback" not in error
    (line, *_) = [line for line in error.splitlines() if line.startswith("lm: ")]
    assert len(line) < 1200
    assert re.search(reason, line), line


def _train(output: Path, *words: Any) -> list[Any]:
    return ["train", "--name", "t", "--output", output, *QUICK, *words]


@pytest.mark.parametrize("case", FOLDERS)
def test_a_bad_model_folder(case, tmp_path, capsys):
    damage, reason = FOLDERS[case]
    folder = shutil.copytree(_model(), tmp_path / "model")
    damage(folder)
    before = sorted(tmp_path.rglob("*"))
    _refused(capsys, _train(tmp_path / "run", "--model", folder, *REWARD), reason)
    _refused(capsys, ["sample", folder, "--max_new_tokens", 3], reason)
    _refused(capsys, ["export", folder, tmp_path / "exported"], reason)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("case", REWARDS)
def test_a_bad_reward(case, tmp_path, capsys):
    content, reason = REWARDS[case]
    file = tmp_path / f"rewards_{case.replace(' ', '_')}.py"
    _ = file.write_text(content + "\n")
    words = ["--model", _model(), "--target.reward", json.dumps({f"{file}:f": 1.0})]
    _refused(capsys, _train(tmp_path / "run", *words), reason)
    assert [path for path in tmp_path.iterdir() if path.name != "__pycache__"] == [file]


@pytest.mark.parametrize("case", RUNS)
def test_a_bad_run_folder(case, tmp_path, capsys):
    run = shutil.copytree(finished_run(), tmp_path / "run")
    RUNS[case](run)
    before = sorted(tmp_path.rglob("*"))
    _refused(capsys, ["evaluate", run, "--samples", 128], "")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--max_new_tokens", "5000"], "max_new_tokens must lie between 1 and the model's 32"),
        (["--sampling.top_k", "-1"], "sampling.top_k is -1"),
        (["--prompts.file", "/no/such/file"], r"prompts.file /no/such/file cannot be read"),
        (["--lora.rank", "2", "--lora.targets", '["nowhere"]'], "nowhere"),
        (["--output", "."], "no name of its own"),
        (["--output", "/proc/run"], "cannot be created"),
        (["--target.kind", "teacher"], "needs target.teacher"),
    ],
)
def test_bad_words(words, reason, tmp_path, capsys):
    _refused(capsys, _train(tmp_path / "run", "--model", _model(), *REWARD, *words), reason)
    assert list(tmp_path.iterdir()) == []


def test_a_constraint_that_no_sample_meets(tmp_path, capsys):
    file = tmp_path / "never.py"
    _ = file.write_text("def never(completions):\n    return [False for _ in completions]\n")
    words = [word if word != "reward_tilted" else "constrained" for word in QUICK]
    place = words.index("--target.beta")
    del words[place : place + 2]
    constraint = ["--target.constraints", json.dumps([f"{file}:never"])]
    train = ["train", "--output", tmp_path / "run", *words, "--model", _model(), *constraint]
    _refused(capsys, train, "no text of the base satisfies the constraint")
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".py"] == ["never.py"]
    assert not (tmp_path / ".run.partial").exists()


def test_the_table_has_at_least_sixty_inputs():
    assert len(FOLDERS) + len(REWARDS) + len(RUNS) > 60


def test_debug_shows_the_traceback_and_changes_nothing_else(tmp_path, capsys):
    for words in (["--debug"], ["--debug", "true"], ["--debug=true"]):
        assert main(["sample", str(tmp_path), *words]) == 2
        error = capsys.readouterr().err
        assert "Traceback" in error
        assert error.splitlines()[-1].startswith("lm: ")
    for words in ([], ["--debug", "false"]):
        assert main(["sample", str(tmp_path), *words]) == 2
        assert "Traceback" not in capsys.readouterr().err


def test_what_was_not_foreseen_is_one_line_too_and_has_a_code_of_its_own(monkeypatch, capsys):
    def broken() -> None:
        raise ZeroDivisionError("by a mistake of ours")

    monkeypatch.setattr("lm.cli.commands.run_env", broken)
    assert main(["env"]) == 3
    error = capsys.readouterr().err
    assert error == (
        "lm: python -m lm env failed: ZeroDivisionError: by a mistake of ours. This is a fault of "
        "the program or of a library: --debug true shows where, which is what a report of it "
        "should hold\n"
    )


def test_a_border_turns_what_others_raise_and_lets_pass_what_is_named():
    match = r"^while cooking: KeyError: 'salt'\. Taste it$"
    with pytest.raises(RunError, match=match) as caught, border("cooking", "Taste it"):
        raise KeyError("salt")
    assert isinstance(caught.value.__cause__, KeyError)
    for named in (UsageError("a"), RunError("b"), FileNotFoundError("c"), torch.OutOfMemoryError()):
        with pytest.raises(type(named)) as passed, border("cooking", "Taste it"):
            raise named
        assert passed.value is named
    with pytest.raises(KeyboardInterrupt), border("cooking", "Taste it"):
        raise KeyboardInterrupt
    assert reason_of(ValueError("a\n  b" + "x" * 5000)).startswith("a bxxx")
    assert len(reason_of(ValueError("x" * 5000))) < 500
