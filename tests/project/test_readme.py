"""What the README says is so: its code prints its numbers, and its links lead somewhere."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import statistics
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import pytest

from benchmarks import race
from lm.cli.main import COMMANDS as lm_commands
from lm.config.base import BaseConfig
from study.__main__ import COMMANDS as study_commands
from toy.cli.main import build_parser as toy_parser

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# A block of python, and the block of text after it that says what it prints.
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, flags=re.DOTALL)
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?")
# What is asked of the small base on a page.
PROMPTED = re.compile(r"lm sample \S+ --prompt (.*?) *(?:#|$)", re.MULTILINE)


def test_every_python_block_states_what_it_prints():
    assert EXAMPLES
    assert README.count("```python") == len(EXAMPLES)


@pytest.mark.parametrize(("code", "stated"), EXAMPLES)
def test_the_code_prints_the_stated_numbers(code, stated):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {"__name__": "readme"})
    shape, stated_shape = (NUMBER.sub("#", text).split() for text in (printed.getvalue(), stated))
    assert shape == stated_shape
    numbers, stated_numbers = (
        np.array([float(n) for n in NUMBER.findall(text)]) for text in (printed.getvalue(), stated)
    )
    # Four decimals are printed: another rounding may move the last by one.
    assert np.all(np.abs(numbers - stated_numbers) < 1.5e-4)


def test_the_first_example_is_short():
    lines = [line for line in EXAMPLES[0][0].splitlines() if line.strip()]
    assert len(lines) <= 12
    assert max(map(len, lines)) <= 100


def test_it_is_short():
    assert len(README.encode()) <= 7_000


def test_the_two_statements_are_those_of_the_loops():
    shown = re.search(r"^signal = .*log_z.*\ncoefficients = .*$", README, re.M)
    assert shown is not None
    for name, baseline in (("toy", "leave_one_out(signal)"), ("lm", "baseline.of(signal)")):
        code = _without_spaces((ROOT / name / "train.py").read_text(encoding="utf-8"))
        stated = shown[0].replace("leave_one_out(signal)", baseline)
        assert code.count(_without_spaces(stated)) == 1, name


def _without_spaces(code: str) -> str:
    return re.sub(r"\s+", "", code)


def test_the_small_base_can_continue_the_prompts_that_we_show():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    shown = [
        words for page in pages for words in PROMPTED.findall(page.read_text(encoding="utf-8"))
    ]
    assert shown
    for words in shown:
        prompt, *limit = words.split(" --max_new_tokens ")
        assert set(prompt) <= set(ascii_lowercase)
        # Without a word of its own it writes as many tokens as it has positions.
        positions = BaseConfig().max_new_tokens
        assert len(prompt) + int(limit[0] if limit else positions) <= positions, words


def test_the_sentence_on_speed_is_that_of_the_stored_race():
    found = []
    for task, share in (("names", 0.5), ("code", 0.1)):
        stored = ROOT / "benchmarks" / "results" / f"race_{task}.json"
        record = json.loads(stored.read_text(encoding="utf-8"))
        assert all(len(curves) >= 5 for curves in record["curves"].values())
        times = race.ratios(record, share, "cpu")
        found.append(f"{statistics.median(times['TRL RLOO']):.2g}")
        if task == "names":
            found.append(f"{len(times['TRL RLOO'])} of {len(record['seeds']['race'])}")
        assert times["TRL GRPO"] == []
        assert len(record["rates"]) == 3
    where = r"best of three rates, TRL's RLOO takes (\S+) \(names, to half, (\d of \d) seeds\)"
    shown = re.search(where + r" and (\S+) \(code, .*tenth\)", README)
    assert shown is not None
    assert list(shown.groups()) == found


def test_the_table_of_the_demonstration_is_the_stored_one():
    stored = (ROOT / "benchmarks" / "results" / "demo.md").read_text(encoding="utf-8")
    rows = {cells[1]: cells for line in stored.splitlines() if (cells := table_row(line))}
    names = ["base a", "target p", "forward KL", "reverse KL", "total variation", "Jensen–Shannon"]
    columns = ["E[ends_in_i] exact", "entropy (nats)", "KL(p‖π)", "KL(π‖p)", "JS"]
    shown = {cells[1]: cells[2:-1] for line in README.splitlines() if (cells := table_row(line))}
    places = [rows[""].index(column) for column in columns]
    for name in names:
        assert shown[name] == [rows[name][place].partition(" ±")[0] for place in places], name


def table_row(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")] if line.startswith("|") else []


DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_into_the_repository_leads_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", prose) if "://" not in link]
    assert links or document != "README.md"
    folder = (ROOT / document).parent
    assert [link for link in links if not (folder / link).exists()] == []


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_every_make_command_is_a_target(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([\w-]+)", text, re.MULTILINE))
    assert {"test"} <= named <= targets


def test_each_command_that_a_message_names_exists():
    """What the string literals of the packages advise, such as `python -m lm sweep`."""
    help_of_toy = re.search(r"\{([a-z,]+)\}", toy_parser().format_help())
    assert help_of_toy is not None
    known = {
        "toy": set(help_of_toy[1].split(",")),
        "lm": set(lm_commands),
        "study": set(study_commands),
    }
    assert "verify" in known["toy"]
    texts = [
        text
        for package in known
        for path in sorted((ROOT / package).rglob("*.py"))
        if "python -m" in (text := path.read_text(encoding="utf-8"))
    ]
    named: list[tuple[str, str]] = [
        words
        for text in texts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for words in re.findall(r"python -m (toy|lm|study) ([a-z]+)\b(?!\.)", node.value)
    ]
    assert len(named) > 30
    assert [words for words in named if words[1] not in known[words[0]]] == []
