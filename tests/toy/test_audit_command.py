"""`python -m toy audit`: losses in a user's file, what is printed and written, and usage errors."""

from __future__ import annotations

import gc
import io
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from fdpg_ref import DIVERGENCES
from toy.audit.audits import assert_descends, audit
from toy.audit.losses import DESCRIPTIONS, F7, PENALTIES, pasted_loss
from toy.audit.report import plot_signals
from toy.audit.sentence import details, headline
from toy.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
USER_FILE = '''
import torch

BETA = 0.1


def k3_penalty(log_policy, log_reference):
    """Schulman's third estimate."""
    log_ratio = log_reference - log_policy
    return BETA * (torch.exp(log_ratio) - 1 - log_ratio)


def doubly_negated(log_policy, log_reference):
    penalty = -(k3_penalty(log_policy, log_reference))
    return penalty.mean()
'''


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_losses.py"
    _ = path.write_text(USER_FILE, encoding="utf-8")
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(["audit", *arguments])
    except SystemExit as stopped:
        code = int(str(stopped.code or 0))
    printed = capsys.readouterr()
    return code, " ".join(printed.out.split()), " ".join(printed.err.split())


@pytest.mark.parametrize(
    ("function", "placement", "said"),
    [
        ("k3_penalty", "loss", "descends 0.1 x forward KL, KL(reference‖policy)"),
        ("k3_penalty", "reward", "descends 0.1 x (reverse KL - forward KL) (RKL - FKL)"),
        ("doubly_negated", "loss", "ascends 0.1 x forward KL"),
    ],
)
def test_a_loss_in_a_users_file(function, placement, said, user_file, capsys):
    target = user_file.with_suffix(".json")
    arguments = f"{user_file}:{function}", "--placement", placement, "--json", str(target)
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    record = json.loads(target.read_text(encoding="utf-8"))
    assert said in record["sentence"]
    assert record["ascends"] == ("ascends" in said)
    assert record["best_match"] == ("forward_kl" if placement == "loss" else None)
    assert set(record["cosine"]) == set(record["relative_residual"]) == set(DIVERGENCES)
    assert f"{function} in the {placement}" in out


def test_a_users_file_is_run_once_and_named_as_it_was_written(user_file, capsys):
    _ = user_file.write_text(f"{USER_FILE}\n\nprint('run')\n", encoding="utf-8")
    target, text = user_file.with_suffix(".json"), f"{user_file}:k3_penalty"
    code, out, _ = run(capsys, text, "--json", str(target))
    assert code == 0
    assert out.split().count("run") == 1
    assert json.loads(target.read_text(encoding="utf-8"))["name"] == text
    # Nothing else is left there, bytecode of the file included.
    assert set(user_file.parent.iterdir()) == {user_file, target}


def test_all_of_it_on_the_command_line(tmp_path, capsys):
    table = tmp_path / "new" / "all.json"
    code, out, err = run(capsys, "--all", "--json", str(table))
    assert (code, err) == (0, "")
    records = json.loads(table.read_text(encoding="utf-8"))
    keys = [(r["row"], r["name"], r["placement"], r["samples"]) for r in records]
    assert keys == list(F7)
    assert records[0]["zero_gradient"] is True
    assert records[0]["cosine"] is records[0]["relative_residual"] is None
    assert "nothing: it is zero" in out


def test_the_figure_shows_the_recovered_signal_over_the_matched_one(tmp_path, capsys):
    path = tmp_path / "new" / "k3.png"
    assert run(capsys, "k3", "--figure", str(path))[0] == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    report = audit("k3", placement="reward")
    (axes,) = plot_signals([report]).axes
    found, matched = (np.asarray(line.get_ydata()) for line in axes.lines[:2])
    np.testing.assert_allclose(found, matched, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["k4"], "Did you mean 'k3'"),
        ([], "name one loss"),
        (["k1", "--all"], "not both"),
        (["--all", "--samples", "stale"], "leave out --samples"),
        (["k1", "--placment", "reward"], "Did you mean --placement"),
        (["k1", "--placement", "rewrd"], "'loss', 'reward'"),
        (["k1", "--json", "x.txt"], "does not end in .json"),
        (["k1", "--level", "token", "--figure", "x.png"], "per sequence only"),
        (["nowhere.py:loss"], "there is no file 'nowhere.py'"),
        (["losses.py"], "write losses.py:FUNCTION"),
        (["{file}:k3_penalt"], "Did you mean 'k3_penalty'"),
    ],
)
def test_usage_errors_exit_2_and_write_nothing(arguments, message, user_file, capsys, monkeypatch):
    monkeypatch.chdir(user_file.parent)
    code, out, err = run(capsys, *(a.format(file=user_file) for a in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert list(user_file.parent.iterdir()) == [user_file]


def test_a_file_that_raises_is_an_error_with_its_reason(tmp_path, capsys):
    path = tmp_path / "broken.py"
    _ = path.write_text("import nothing_of_that_name\n", encoding="utf-8")
    code, _, err = run(capsys, f"{path}:loss")
    assert code == 2
    assert "raised ModuleNotFoundError: No module named 'nothing_of_that_name'" in err
    _ = path.write_text("raise SystemExit(0)\n", encoding="utf-8")
    code, _, err = run(capsys, f"{path}:loss")
    assert code == 2
    assert "raised SystemExit: 0" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("async def loss(a, b):\n    return a - b\n", "the loss is an async function, which would"),
        ("BETA = 0.1\n", "defines no function: write `def loss(log_policy, log_reference): ...`"),
    ],
)
def test_what_a_file_lacks_is_said_without_a_warning(tmp_path, capsys, text, message):
    path = tmp_path / "lacking.py"
    _ = path.write_text(text, encoding="utf-8")
    # A coroutine that is dropped warns, at the latest when it is collected.
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        code, out, err = run(capsys, f"{path}:loss")
        _ = gc.collect()
    assert [str(one.message) for one in warned if "never awaited" in str(one.message)] == []
    assert (code, out) == (2, "")
    assert message in err


BACKWARD = """
import sys, torch


class Leaving(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, slope):
        sys.exit()


def loss(log_policy, log_reference):
    return Leaving.apply(log_policy) - log_reference
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys\ndef loss(a, b):\n    sys.exit()\n", "the loss raised SystemExit (called"),
        ("def loss(a, b):\n    raise SystemExit(0)\n", "the loss raised SystemExit: 0 (called"),
        (BACKWARD, "the gradient of the loss raised SystemExit"),
    ],
)
def test_a_loss_that_leaves_the_program_is_an_error(tmp_path, monkeypatch, capsys, text, message):
    path = tmp_path / "leaving.py"
    _ = path.write_text(text, encoding="utf-8")
    for code, out, err in (
        run(capsys, f"{path}:loss"),
        paste(text, monkeypatch, capsys),
    ):
        assert (code, out) == (2, "")
        assert message in err


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it fails from here on
import toy
from toy.__main__ import run
assert run(["audit", "k1"]) == 2
"""


def test_without_torch_the_audit_says_what_to_install():
    """The other commands import the command line too, so this also guards them."""
    command = [sys.executable, "-c", WITHOUT_TORCH]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == (
        "python -m toy: torch is not installed: python -m pip install '.[lm]' in a clone\n"
    )


def test_the_documentation_example_runs():
    """The three lines of docs/audit.md, as they stand there, and the test they define."""
    text = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/audit.md", "exec"), names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        assert callable(test)
        assert test() is None


# ---------------------------------------------------------------- pasted losses, and hints


def paste(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return run(capsys, "-", *more)


def test_a_pasted_function_is_judged_the_verdict_first(monkeypatch, capsys):
    text = "def half(x):\n    return x / 2\n\n\ndef mine(a, b):\n    return half((a - b) ** 2)\n"
    code, out, err = paste(text, monkeypatch, capsys)
    assert (code, err) == (0, "")
    # The last function is the loss; what comes before it helps.
    verdict = "Has its minimum at the reference. mine in the loss descends reverse KL"
    assert out.startswith(verdict)
    assert out.index("relative residual") > out.index("descends")
    assert "Hint" not in out


def test_a_pasted_expression_is_a_loss(tmp_path, monkeypatch, capsys):
    target = tmp_path / "audit.json"
    text = "torch.exp(log_policy - log_behavior) * (log_policy - log_reference)\n"
    code, out, _ = paste(text, monkeypatch, capsys, "--samples", "stale", "--json", str(target))
    assert code == 0
    assert "your_loss in the loss on stale samples descends reverse KL" in out
    assert json.loads(target.read_text(encoding="utf-8"))["hints"] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def loss(:", "is no Python"),
        ("a\0b", "is no Python"),
        ("", "defines no function"),
        ("x = 3", "defines no function"),
        (
            "import nothing_of_that_name\ndef loss(a, b):\n    return a",
            "raised ModuleNotFoundError",
        ),
        ("log_polcy - log_reference", "name 'log_polcy' is not defined"),
    ],
)
def test_what_is_no_loss_is_said(text, message, monkeypatch, capsys):
    code, out, err = paste(text, monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert message in err


HINTS = [
    ("log_policy - log_reference", [], "Hint: in the reward it descends reverse KL"),
    ("(log_policy - log_reference) ** 2 / 2", ["--samples", "stale"], "on fresh samples it"),
    ("log_policy.exp() * (log_policy - log_reference)", [], "counts twice"),
    (
        "F.kl_div(log_policy, log_reference, log_target=True, reduction='none')",
        [],
        "summed once over every outcome it descends forward KL",
    ),
    ("(log_policy - log_reference) * log_policy", [], "factor.detach() * log_policy descends rev"),
    ("-((log_policy - log_reference) ** 2)", [], "Hint: change its sign."),
    (
        "def loss(a, b):\n    c = (a - b).detach()\n    return (c - c.mean()) * a",
        ["--batch_size", "2"],
        "(sum - own) / (n - 1)",
    ),
    ("((log_policy - log_reference) ** 2).sum()", [], "call .mean(), not .sum()"),
    # No hint: a factor that is detached, and what is no known mistake.
    ("(log_policy - log_reference).detach() * log_policy", [], ""),
    ("(log_policy - log_reference) ** 3", [], ""),
]


@pytest.mark.parametrize(("text", "more", "hint"), HINTS)
def test_common_mistakes_are_recognised(text, more, hint, monkeypatch, capsys):
    code, out, err = paste(text, monkeypatch, capsys, *more)
    assert (code, err) == (0, "")
    assert hint in out
    assert ("Hint:" in out) == bool(hint)


def test_what_a_hint_says_is_true():
    """The three repairs that hints name descend what they promise."""
    assert_descends(
        pasted_loss(
            "torch.exp(log_policy - log_behavior).detach() * (log_policy - log_reference) ** 2"
        ),
        "reverse_kl",
        samples="stale",
    )
    assert_descends(pasted_loss("(log_policy - log_reference).detach() * log_policy"), "reverse_kl")
    text = (
        "def f(a, b):\n    c = (a - b).detach()\n    return (c - (c.sum() - c) / (len(c) - 1)) * a"
    )
    assert audit(pasted_loss(text), batch_size=2).batch_change == pytest.approx({3: 0}, abs=1e-12)


def test_the_penalties_are_listed(capsys):
    code, out, err = run(capsys, "--list")
    assert (code, err) == (0, "")
    assert set(DESCRIPTIONS) == set(PENALTIES)
    assert all(name in out for name in PENALTIES)
    code, out, err = run(capsys, "--list", "--samples", "stale", "--json", "x.json")
    assert (code, out) == (2, "")
    assert "leave out --samples, --json" in err


def test_the_headline_is_the_end_of_the_sentence():
    for report in (audit("k1"), audit("k2"), audit("k3", placement="reward")):
        first = headline(report)
        assert report.sentence == f"{details(report)} It {first[0].lower()}{first[1:]}"
