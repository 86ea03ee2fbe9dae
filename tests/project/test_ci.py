"""`.ci/run`: its stages, its budget, and what it says at the end. A stand-in plays `make`."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = [
    "check",
    "test",
    "numbers",
    "browser",
    "test-slow",
    "engines",
    "verl",
    "notebooks",
    "docs",
    "mutants",
    "reproduce-fast",
    "test-llm",
]
MAKE = """#!/usr/bin/env bash
echo "$@" >> calls.txt
[[ -z ${SLOW:-} || $1 != "$SLOW" ]] || sleep "${NAP:-2}"
[[ $1 != "${FAILS:-}" ]] || exit 2
[[ $1 != test-llm || -z ${NO_INDEX:-} ]] || echo "left out: no index" > "${3#LEFT_OUT=}"
[[ $1 != mutants || $# == 1 ]] || eval "echo '63 mutants (lm 63)' > ${2##*--not-reached }"
"""


@pytest.fixture
def project(tmp_path) -> Path:
    for name, text in ((".ci/run", (ROOT / ".ci" / "run").read_text("utf-8")), ("bin/make", MAKE)):
        path = tmp_path / name
        path.parent.mkdir()
        _ = path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    return tmp_path


def run(project: Path, **changes: str) -> tuple[int, list[str], list[list[str]]]:
    """Return exit code, lines of output, and the words of every call of make."""
    path = os.pathsep.join([str(project / "bin"), os.environ["PATH"]])
    inherited = {name: value for name, value in os.environ.items() if name != "CI_SECONDS"}
    done = subprocess.run(
        [shutil.which("bash") or "bash", ".ci/run"],
        cwd=project,
        env={**inherited, "PATH": path, **changes},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    calls = (project / "calls.txt").read_text("utf-8").splitlines()
    return done.returncode, done.stdout.splitlines(), [call.split() for call in calls]


def test_every_stage_runs_and_mutants_leave_time_for_the_study(project):
    code, out, calls = run(project, CI_SECONDS="1000")
    assert code == 0
    assert [call[0] for call in calls] == STAGES
    assert out[0].endswith("the budget is 1000 s")
    mutants = calls[STAGES.index("mutants")]
    assert 790 <= int(mutants[2]) <= 800
    assert mutants[1] == "OPTIONS=--seconds"
    assert out[-1] == "not reached within the budget: 63 mutants (lm 63)"
    (file,) = shlex.split(" ".join(mutants[4:]))
    assert not Path(file).exists()


def test_the_budget_follows_the_processor(project):
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    minutes = 25 if "avx512f" in flags.split() else 70
    _, out, _ = run(project)
    assert out[0].endswith(f"the budget is {60 * minutes} s")


def test_without_a_budget_nothing_is_cut_short(project):
    code, out, calls = run(project, CI_SECONDS="0", SLOW="test")
    assert code == 0
    assert calls[:-1] == [[name] for name in STAGES[:-1]]
    assert calls[-1][:2] == ["test-llm", "LIMIT=600"]
    assert not any("not reached" in line for line in out)


def test_what_the_budget_does_not_reach_is_named_and_green(project):
    # Bash counts the ends of seconds: a budget of one may be over before the first stage.
    code, out, calls = run(project, CI_SECONDS="3", SLOW="check", NAP="4")
    assert code == 0
    assert [call[0] for call in calls] == STAGES[:1]
    assert out[-len(STAGES[1:]) :] == [
        f"not reached within the budget: make {name}" for name in STAGES[1:]
    ]


def test_mutants_that_there_is_no_time_for_are_named_and_the_study_comes(project):
    # 2 s of it are the study's: what is left would hardly do to sort them.
    code, out, calls = run(project, CI_SECONDS="11")
    assert code == 0
    assert "reproduce-fast" in [call[0] for call in calls]
    assert "mutants" not in [call[0] for call in calls]
    assert "not reached within the budget: make mutants" in out


def test_what_needs_a_model_has_a_limit_and_is_told_of_where_it_is_left_out(project):
    code, out, calls = run(project, CI_SECONDS="100", NO_INDEX="1")
    assert code == 0
    assert calls[-1][0] == "test-llm"
    assert 40 <= int(calls[-1][1].removeprefix("LIMIT=")) <= 100
    assert out[-1] == "left out: no index"
    _ = (project / "calls.txt").write_text("")
    _, out, calls = run(project, CI_SECONDS="30")
    assert calls[-1][0] == "reproduce-fast"
    assert out[-1] == "not reached within the budget: make test-llm"


PYTHON = """#!/usr/bin/env bash
echo "$2 $3" >> calls.txt
[[ "$2 $3" != "${SLOW:-}" ]] || sleep 9
[[ "$2 $3" != "${FAILS:-}" ]] || { echo "first"; echo "${SAYS:-}"; exit 2; }
"""


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({}, 0, ""),
        ({"FAILS": "pip install"}, 0, "left out: pip cannot bring gguf"),
        ({"FAILS": "lm fetch", "SAYS": "python -m lm: pip cannot bring it"}, 0, "left out: python"),
        ({"FAILS": "lm fetch", "SAYS": "a fault"}, 1, ""),
        ({"FAILS": "pytest -n"}, 2, ""),
        ({"SLOW": "lm fetch"}, 0, "left out: it takes longer than 1 s"),
    ],
)
def test_tests_of_a_model_are_left_out_for_want_of_network_or_time_alone(
    changes, code, said, tmp_path
):
    python = tmp_path / "python"
    _ = python.write_text(PYTHON, encoding="utf-8")
    python.chmod(0o755)
    seconds = "1" if "SLOW" in changes else "60"
    done = subprocess.run(
        [str(ROOT / "tools" / "llm_tests.sh"), str(python), seconds, "why.txt"],
        cwd=tmp_path,
        env={**os.environ, **changes},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    why = tmp_path / "why.txt"
    assert why.exists() == bool(said)
    if said:
        assert said in why.read_text(encoding="utf-8")
        assert said in done.stdout


@pytest.mark.parametrize("stage", ["check", "mutants", "reproduce-fast"])
def test_a_failing_stage_is_red_at_once(project, stage):
    code, out, calls = run(project, FAILS=stage)
    assert code == 1
    assert calls[-1][0] == stage
    assert f"==== make {stage} FAILED" in "\n".join(out)
    assert not any("all stages passed" in line for line in out)


def test_the_tests_of_numbers_are_there_and_run_without_avx512():
    command = ["make", "--dry-run", "--no-print-directory", "numbers"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    line = printed.splitlines()[-1]
    paths = [word for word in line.split() if word.startswith("tests/")]
    assert "tests/core" in paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
    for limit in ("ATEN_CPU_CAPABILITY=avx2", "MKL_ENABLE_INSTRUCTIONS=AVX2", "=Haswell"):
        assert limit in line


# ---------------------------------------------------------------- the browser

CHROMIUM = "#!/bin/sh\necho Chromium 1.2\n"
GET = {
    "gets it": 'case "$*" in *download*|update*) ;; *) cp "$HERE/later" "$HERE/chromium" ;; esac',
    "fails": 'echo "E: Unable to locate package chromium" >&2; exit 100',
    "hangs": "exit 124",
}


@pytest.mark.parametrize(
    ("have", "get", "user", "said"),
    [
        (True, None, 1000, "they run, with Chromium 1.2"),
        (False, "gets it", 0, "they run, with Chromium 1.2"),
        (False, None, 0, "left out, since Chromium is missing, and so is apt-get to install it"),
        (False, "gets it", 1000, "left out, since Chromium is missing; as root: apt-get install"),
        (False, "fails", 0, "failed: E: Unable to locate package chromium"),
        (False, "hangs", 0, "left out, since apt-get did not load Chromium within 90 s"),
    ],
)
def test_the_browser_is_had_or_left_out_with_a_reason(tmp_path, have, get, user, said):
    programs = {"id": f"#!/bin/sh\necho {user}\n", "timeout": '#!/bin/sh\nshift\nexec "$@"\n'}
    programs |= {"chromium": CHROMIUM} if have else {"later": CHROMIUM}
    programs |= {} if get is None else {"apt-get": f"#!/bin/sh\n{GET[get]}\n"}
    for name, text in programs.items():
        _ = (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    # Of this machine's programs only those that are no part of the question.
    for name in ("bash", "sh", "cp", "mktemp", "rm", "tail"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    done = subprocess.run(
        [str(tmp_path / "bash"), str(ROOT / "tools" / "browser.sh")],
        env={"PATH": str(tmp_path), "HERE": str(tmp_path), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("browser tests: ")
    assert said in done.stdout.splitlines()[-1]
