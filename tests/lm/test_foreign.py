"""A run folder that came from somebody else: its code is not executed, its words are only words."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.lm_runs import finished_run, lines

from lm.cli.main import main
from lm.config import RunConfig, TargetConfig
from lm.errors import RunError
from lm.report.build import headline_rows, limitations
from lm.report.page import html_page, model_card
from lm.run.foreign import require_own_code
from lm.run.records import printable

HOSTILE = "'\"><script>alert(1)</script><img src=x onerror=alert(1)>\n[x](javascript:alert(1))"
FILES = ("config", "environment", "status", "target")


@pytest.fixture
def run(tmp_path) -> Path:
    return shutil.copytree(finished_run(), tmp_path / "run")


def _name(run: Path, file: Path) -> None:
    """Let the run's configuration name a function in a file."""
    config = json.loads((run / "config.json").read_text())
    config["target"] = {"kind": "reward_tilted", "reward": {f"{file}:f": 1.0}, "beta": 1.0}
    config["partition"]["policy"] = "frozen"
    _ = (run / "config.json").write_text(json.dumps(config))


def _trap(path: Path, sign: Path) -> Path:
    text = f"open({str(sign)!r}, 'w').close()\ndef f(texts):\n    return [1.0 for _ in texts]\n"
    _ = path.write_text(text)
    return path


@pytest.mark.parametrize("spelling", ["plain", "dots", "link", "folder link"])
def test_code_that_came_with_a_run_is_not_executed(run, tmp_path, capsys, spelling):
    sign = tmp_path / "executed"
    trap = _trap(run / "figures" / "rewards.py", sign)
    if spelling == "dots":
        trap = run / "policy" / ".." / "figures" / "rewards.py"
    elif spelling == "link":
        outside = _trap(tmp_path / "outside.py", sign)
        trap.unlink()
        trap.symlink_to(outside)
    elif spelling == "folder link":
        (tmp_path / "elsewhere").symlink_to(run / "figures")
        trap = tmp_path / "elsewhere" / "rewards.py"
    _name(run, trap)
    assert main(["evaluate", str(run), "--samples", "128"]) == 2
    error = capsys.readouterr().err
    assert f"lm: the run {run} names the Python file" in error
    assert "came with it: it is not executed. Read it, and if you trust it, add" in error
    assert "--trust_code true" in error
    for command in ("report", "sample"):
        _ = main([command, str(run)])
    _ = main(["export", str(run), str(tmp_path / "model")])
    assert not sign.exists()


def test_code_that_is_trusted_is_executed(run, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr("lm.cli.commands.run_evaluate", called.append)
    for words in (["--trust_code", "true"], ["--trust-code=true"], ["--trust_code"]):
        assert main(["evaluate", str(run), *words]) == 0
        assert called.pop().trust_code is True
    for words in ([], ["--trust_code", "false"]):
        assert main(["evaluate", str(run), *words]) == 0
        assert called.pop().trust_code is False
    assert main(["evaluate", str(run), "--trust_code", "perhaps"]) == 2

    # A file of one's own, outside of the run, needs no word.
    own = _trap(tmp_path / "mine.py", tmp_path / "sign")
    inside = _trap(run / "theirs.py", tmp_path / "sign")
    for file, target in ((own, "target"), (inside, "target"), (inside, "measure")):
        tilted = TargetConfig(kind="reward_tilted", reward={f"{file}:f": 1.0})
        plain = TargetConfig(moments={"listed": 0.5})
        config = RunConfig(target=tilted if target == "target" else plain)
        if target == "measure":
            config = RunConfig(target=plain, measure=tilted)
        if file == own:
            require_own_code(config, run)
        else:
            with pytest.raises(RunError, match="came with it"):
                require_own_code(config, run)


def _run_of(folder: Path) -> dict[str, Any]:
    read = {name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in FILES}
    samples = {"samples_before": [HOSTILE], "samples_after": [HOSTILE]}
    return {**read, "evaluations": lines(folder, "evaluation"), **samples}


def _hostile(tree: Any) -> Any:
    """Return a tree with every text replaced, and every key of what users name."""
    if isinstance(tree, dict):
        return {key: _hostile(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_hostile(item) for item in tree]
    return HOSTILE if isinstance(tree, str) else tree


def _leaves(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the container and the key of every value in a tree."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _leaves(value)


def _documents(run: dict[str, Any]) -> tuple[str, str]:
    names = ("alignment", "divergences", "features", "estimator")
    pictures = {name: finished_run() / "figures" / f"{name}.png" for name in names}
    rows = headline_rows(run["evaluations"])
    sentences = limitations(run)
    return html_page(run, rows, pictures, sentences), model_card(run, rows, sentences)


def _assert_harmless(run: dict[str, Any]) -> None:
    page, card = _documents(run)
    for text in (page, card):
        assert "<script" not in text
        assert "<img src=x" not in text
    assert "](javascript:" not in card


def test_a_report_shows_hostile_words_as_words():
    run = _run_of(finished_run())
    for name in FILES:
        run[name] = _hostile(run[name])
    run["environment"] = {HOSTILE: HOSTILE, **run["environment"]}
    run["config"] = {HOSTILE: HOSTILE, **run["config"]}
    for record in run["evaluations"]:
        record["warnings"] = [HOSTILE]
        entry = {"exact": {"value": 1.0}}
        record["estimates"] = {**record["estimates"], f"feature/{HOSTILE}": entry}
    _assert_harmless(run)


def test_a_report_takes_no_field_for_a_number_that_is_none():
    run = _run_of(finished_run())
    places = sum(1 for name in (*FILES, "evaluations") for _ in _leaves(run[name]))
    assert places > 300
    shown = refused = 0
    for name in (*FILES, "evaluations"):
        for index in range(sum(1 for _ in _leaves(run[name]))):
            changed = {**run, name: copy.deepcopy(run[name])}
            container, key = next(
                pair for n, pair in enumerate(_leaves(changed[name])) if n == index
            )
            container[key] = HOSTILE
            try:
                _assert_harmless(changed)
                shown += 1
            except (ValueError, TypeError, KeyError, AttributeError, StopIteration):
                refused += 1  # no report at all, which `lm report` says in one line
    assert shown + refused == places
    # Most fields are only shown: refusing everything would pass as well.
    assert shown > 2 * refused


def test_the_command_says_in_one_line_that_records_cannot_be_drawn(run, capsys):
    _ = (run / "target.json").write_text('{"features": 3}')
    assert main(["report", str(run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"lm: while drawing the report of {run}: ")
    assert "Traceback" not in error


def test_a_sample_cannot_steer_the_terminal():
    text = "a\x1b[2Jb\x07\r\n\u2028c\x9b31m\u202ed\\n é 漢\ud83d"
    shown = printable(text)
    assert shown == "a\\x1b[2Jb\\x07\\r\\n\\u2028c\\x9b31m\\u202ed\\\\n é 漢\\ud83d"
    assert shown.isprintable()
