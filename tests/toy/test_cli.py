"""The command line of the toy: exit codes, messages, and files that are whole or absent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from support.toy_cases import measured

from toy.cli import main as cli
from toy.cli.main import main
from toy.files import is_picture, require_writable
from toy.verify.records import Record
from toy.verify.report import table as report

ROOT = Path(__file__).parents[2]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return measured()


def exit_code(arguments: list[str]) -> int:
    """Return the exit code, whether returned or raised."""
    try:
        return main(arguments)
    except SystemExit as stop:
        return int(str(stop.code))


def test_train_prints_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "new" / "picture.png"
    arguments = ["train", "--divergence", "jensen_shannon", "--problem", "bimodal"]
    assert main([*arguments, "--steps", "20", "--output", str(path)]) == 0
    out, err = capsys.readouterr()
    assert path.read_bytes().startswith(PNG)
    assert out.splitlines()[-1] == f"picture: {path}"
    assert "learning_rate=0.2" in out
    assert "seed" not in out  # an exact gradient has none
    assert err == ""
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]


def test_train_sampled_and_infinite_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "picture.png"
    arguments = ["train", "--problem", "hard", "--gradient", "sampled", "--steps", "3"]
    assert main([*arguments, "--batch_size", "16", "--output", str(path)]) == 0
    assert "batch_size=16" in capsys.readouterr().out


def test_default_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--problem", "coin", "--steps", "1"]) == 0
    assert (tmp_path / "runs" / "toy" / "coin-jensen_shannon.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--learning_rat", "1"], "Did you mean --learning_rate?"),
        (["train", "--learning-rate=1"], "Did you mean --learning_rate?"),
        (["train", "--divergence", "jensen"], "Did you mean 'jensen_shannon'?"),
        (["train", "--problem", "bimodel"], "Did you mean 'bimodal'?"),
        (["train", "--steps", "many"], "many"),
        (["train", "--steps", "0"], "steps is 0"),
        (["train", "--problem", "hard", "--divergence", "reverse_kl"], "Soften the constraint"),
        (["train", "--output", "picture.jpg"], "does not end in .png"),
        (["trian"], "Did you mean train?"),
        (["verify", "--jsn", "x"], "Did you mean --json?"),
        (["verify", "--json", "x.txt"], "does not end in .json"),
        ([], "subcommand"),
    ],
)
def test_bad_input_is_one_message(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert exit_code(arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 2
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_diverging_run_leaves_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "new" / "picture.png"
    arguments = ["train", "--problem", "rare", "--divergence", "neyman_chi2"]
    assert main([*arguments, "--learning_rate", "1e6", "--output", str(path)]) == 2
    assert "lower learning_rate" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            ZeroDivisionError("by nothing"),
            3,
            "failed: ZeroDivisionError: by nothing. This is a fault",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ValueError("two humps"), 2, "error: two humps"),
    ],
)
def test_every_error_is_one_line_and_debug_shows_where(
    error: BaseException,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(cli.museum, "run", fail)
    assert main(["museum"]) == code
    err = capsys.readouterr().err
    assert err.startswith(f"python -m toy museum: {words}")
    assert len(err.splitlines()) == 1
    assert main(["museum", "--debug"]) == code
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "in fail" in err


def test_unwritable_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        require_writable(file / "picture.png", suffix=".png", ours=is_picture)
    folder = tmp_path / "folder.png"
    folder.mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        require_writable(folder, suffix=".png", ours=is_picture)
    # Root may write anywhere, so the refusal of the system is played.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="is not writable"):
        require_writable(tmp_path / "a" / "picture.png", suffix=".png", ours=is_picture)


@pytest.mark.parametrize("command", [["train", "--steps", "1", "--output"], ["verify", "--json"]])
def test_unwritable_output_exits_before_any_work(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(cli, "run_claims", lambda: pytest.fail("work was done"))
    (tmp_path / "file").touch()
    suffix = ".png" if command[0] == "train" else ".json"
    assert main([*command, str(tmp_path / "file" / f"x{suffix}")]) == 2
    out, err = capsys.readouterr()
    assert "is not a folder" in err
    assert out == ""


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["verify", "--json"], "mine.json"),
        (["verify", "--html"], "mine.html"),
        (["train", "--output"], "mine.png"),
        (["audit", "k2", "--json"], "mine.json"),
        (["audit", "k2", "--figure"], "mine.png"),
        (["measurement", "--output"], "mine.png"),
        (["museum", "--json"], "mine.json"),
        (["museum", "--markdown"], "mine.md"),
        (["study", "--output"], "mine.parquet"),
    ],
)
def test_a_file_of_somebody_else_is_not_replaced(tmp_path, capsys, monkeypatch, words, name):
    monkeypatch.setattr(cli, "run_claims", lambda: pytest.fail("work was done"))
    mine = tmp_path / name
    # A record, a picture and a page, but none of ours.
    for content in (b'{"kind": "mine"}', b"[]", PNG + b"tEXtSoftware\0Matplotlib", b"<title>f-DPG"):
        _ = mine.write_bytes(content)
        assert main([*words, str(mine)]) == 2
        out, err = capsys.readouterr()
        assert "exists and is no file that this command wrote, so it is not replaced: choose" in err
        assert out == ""
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [content]
    # What cannot be replaced at all.
    mine.unlink()
    os.mkfifo(mine)
    assert main([*words, str(mine)]) == 2
    assert "is no regular file: choose another name" in capsys.readouterr().err


def test_what_a_command_wrote_it_writes_again(tmp_path, capsys):
    record, picture = tmp_path / "k2.json", tmp_path / "x.png"
    audit = ["audit", "k2", "--json", str(record), "--figure", str(picture)]
    train = ["train", "--problem", "coin", "--steps", "1", "--output", str(tmp_path / "y.png")]
    for path in ("k2.json", "x.png", "y.png"):
        (tmp_path / path).touch()
    for words in (audit, train, audit, train):
        assert main(words) == 0
    # A list of records, as of --all, and a picture, whichever of the commands drew it.
    _ = record.write_text(f"[{record.read_text('utf-8')}]", "utf-8")
    assert main(audit) == 0
    assert main([*train[:-1], str(picture)]) == 0
    assert capsys.readouterr().err == ""


def test_a_folder_that_takes_no_file_is_said_before_any_work(monkeypatch, capsys):
    monkeypatch.setattr(cli, "run_claims", lambda: pytest.fail("work was done"))
    assert main(["verify", "--html", "/proc/fdpg/x.html"]) == 2
    err = capsys.readouterr().err
    assert "error: output '/proc/fdpg/x.html': " in err
    # Who is not root may not write there at all.
    assert "no file can be made in '/proc'" in err or "'/proc' is not writable" in err


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    path = tmp_path / "picture.png"
    assert main(["train", "--problem", "coin", "--steps", "1", "--output", str(path)]) == 2
    assert "No space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_verify_exits_one_if_a_claim_fails(
    records: list[Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    broken = [replace(records[0], verdict="biased", max_relative_error=0.3), *records[1:]]
    monkeypatch.setattr(cli, "run_claims", lambda: broken)
    assert main(["verify", "--json", str(tmp_path / "claims.json")]) == 1
    out = capsys.readouterr().out
    assert f"FAILED {records[0].claim}" in out
    assert f"{len(records) - 1} hold, 1 fail" in " ".join(out.split())
    monkeypatch.setattr(cli, "run_claims", lambda: records)
    assert main(["verify"]) == 0


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits(records: list[Record], width: int):
    console = Console(width=width, record=True, file=open(os.devnull, "w"), force_terminal=False)  # noqa: SIM115
    report.print_report(records, console)
    console.file.close()
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    first = next(line for line in lines if line.startswith("one sample"))
    assert first.split().count("exact") == 9


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0"),
        (2.3e-16, "2e-16"),
        (0.0123, "0.012"),
        (0.6666, "0.667"),
        (2.474, "2.474"),
        (9.9999, "10.00"),
        (13.8, "14"),
        (437.2, "437"),
        (999.7, "1000"),
        (4100.0, "4e3"),
        (float("inf"), "inf"),
    ],
)
def test_short_numbers(number: float, text: str):
    assert report.short_number(number) == text
    assert len(text) <= 5


@pytest.mark.parametrize(
    ("factor", "text"),
    [(2 / 3, "×0.667"), (2.0, "×2.000"), (-1.0, "×-1.00"), (-4e-17, "×0"), (4100.0, "×4e3")],
)
def test_factors(factor: float, text: str):
    assert report.factor_text(factor) == text
    assert len(text) <= 6


@pytest.mark.slow
def test_verify_from_a_shell_is_silent_on_stderr_and_needs_no_torch(tmp_path: Path):
    path = tmp_path / "claims.json"
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['toy', 'verify', '--json', {str(path)!r}]\n"
        "try:\n    runpy.run_module('toy', run_name='__main__')\n"
        "except SystemExit as stop:\n    status = stop.code\n"
        "assert 'torch' not in sys.modules and 'lm' not in sys.modules\n"
        "sys.exit(status)\n"
    )
    environment = {**os.environ, "COLUMNS": "80"}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert "0 fail" in " ".join(run.stdout.split())
    assert isinstance(json.loads(path.read_text(encoding="utf-8")), list)


def test_a_usage_error_from_a_shell_takes_one_line():
    command = [sys.executable, "-m", "toy", "train", "--divergence", "kl"]
    bad = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert len(bad.stderr.splitlines()) == 1
    assert bad.stderr.startswith("python -m toy train: error: divergence is 'kl'")
