"""Several runs on one page: what is compared, what is said not to be, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.lm_runs import finished_run

from lm.cli.main import main
from lm.report import SEVERAL
from lm.report.compare import MOST_RUNS, grouped, read_runs

HOSTILE = "$x$<script>alert(1)</script>"


def copy(folder: Path, **changes: Any) -> Path:
    """Copy the finished run, with other values in its configuration."""
    run = shutil.copytree(finished_run(), folder)
    config = json.loads((run / "config.json").read_text())
    for key, value in changes.items():
        group, _, name = key.rpartition("__")
        (config[group] if group else config)[name] = value
    _ = (run / "config.json").write_text(json.dumps(config))
    return run


@pytest.mark.slow
def test_two_runs_of_one_target_are_compared(tmp_path, capsys):
    first = copy(tmp_path / "first")
    second = copy(tmp_path / HOSTILE.replace("/", "|"), optimizer__lr=0.5, seed=7)
    _ = (second / "samples_after.txt").write_text("<b>\\x1b[2J\n" * 9)
    assert main(["report", str(first), str(second)]) == 0
    page = tmp_path / "comparison.html"
    assert capsys.readouterr().out.splitlines()[-1] == f"page: {page}"
    text = page.read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "<b>" not in text
    assert "What is not compared" not in text

    # Settings that differ, and no others.
    settings = text.split("Settings that differ")[1].split("</section>")[0]
    assert re.findall(r"<tr><td>([a-z_.]+)</td>", settings) == ["seed", "optimizer.lr"]
    # Both sides of each divergence where they are stored, two pictures, texts, times.
    assert text.count("… by samples of the target") == 4
    assert text.count("data:image/png;base64,") == 2
    assert text.count("&lt;b&gt;") == 8
    assert "Times of different machines" not in text

    # A page of ours is replaced; a file of somebody else is not.
    assert main(["report", str(first), str(second)]) == 0
    _ = page.write_text("mine")
    assert main(["report", str(first), str(second)]) == 2
    assert "is not a page of several runs that this program wrote" in capsys.readouterr().err
    assert page.read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"target__moments": {"female": 0.5, "listed": "base"}}, "target"),
        ({"model": "another"}, "base model"),
        ({"sampling__temperature": 0.5}, "sampling law"),
        ({"max_new_tokens": 3}, "length limit"),
    ],
)
def test_runs_that_are_about_something_else_are_not_compared(tmp_path, changes, what, capsys):
    one, same = copy(tmp_path / "one"), copy(tmp_path / "same", optimizer__lr=0.5)
    other = copy(tmp_path / "other", **changes)
    groups = grouped(read_runs([one, other, same]))
    assert [[run.label[0] for run in group] for group in groups] == [["1", "3"], ["2"]]
    if what != "target":
        return
    page = tmp_path / "page.html"
    assert main(["report", str(one), str(other), str(same), "--output", str(page)]) == 0
    assert "not all of them can be compared" in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert f"runs 1, 3 and runs 2 have another {what}. A divergence is a distance" in text
    assert text.index("Where they ended of 1, 3") < text.index("Where they ended of 2")
    # The one that stands alone has a table and no picture.
    assert text.count("data:image/png;base64,") == 2


@pytest.mark.slow
def test_another_vocabulary_is_another_target(tmp_path):
    one, other = copy(tmp_path / "one"), copy(tmp_path / "other")
    ids = json.loads((other / "policy" / "fdpg_ref.json").read_text())
    ids["letters"] = ids["letters"][::-1]
    _ = (other / "policy" / "fdpg_ref.json").write_text(json.dumps(ids))
    (first, second) = grouped(read_runs([one, other]))
    differ = [
        name for name, value in first[0].identity.items() if second[0].identity[name] != value
    ]
    assert differ == ["vocabulary"]


@pytest.mark.slow
def test_records_that_cannot_be_read_leave_no_page(tmp_path, capsys):
    one, other = copy(tmp_path / "one"), copy(tmp_path / "other")
    (other / "timings.jsonl").unlink()
    assert main(["report", str(one), str(other)]) == 2
    assert "timings.jsonl" in capsys.readouterr().err
    _ = (other / "timings.jsonl").write_text("")
    _ = (other / "policy" / "fdpg_ref.json").write_text("{")
    assert main(["report", str(one), str(other)]) == 2
    assert f"while reading the run {other}: JSONDecodeError" in capsys.readouterr().err
    assert not (tmp_path / "comparison.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "--output", "b.html"], "--output is the page of several runs"),
        (["a", "b/../a"], "b/../a is named twice: every run once"),
        (["a", "b", "--output", "none/there.html"], "its folder does not exist"),
        (["a", "b", "--output", "."], "is a folder: name a file"),
        (["a", "b"], "is not a run folder"),
        ([], "required: run"),
    ],
)
def test_words_that_name_no_page(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert main(["report", *words]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_page_inside_a_run_and_too_many_runs_are_refused(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    config = {"target": {}, "divergence": "", "steps": 1, "seed": 0}
    _ = (run / "config.json").write_text(json.dumps(config))
    words = ["report", str(run), "other", "--output", str(run / "report.html")]
    assert main(words) == 2
    assert "is a file of the run" in capsys.readouterr().err
    monkeypatch.setattr("lm.cli.report.read_config", lambda folder: None)
    monkeypatch.chdir(tmp_path)
    assert main(["report", *map(str, range(MOST_RUNS + 1))]) == 2
    assert f"more than the {MOST_RUNS} that a page shows" in capsys.readouterr().err
    assert SEVERAL.startswith("<!--")
