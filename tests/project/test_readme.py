"""What the README says is so: its code prints its numbers, and its links lead somewhere."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# A block of python, and the block of text after it that says what it prints.
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, flags=re.DOTALL)
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?")


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


def test_the_first_example_has_twelve_lines():
    lines = [line for line in EXAMPLES[0][0].splitlines() if line.strip()]
    assert len(lines) == 12
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_every_link_into_the_repository_leads_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_every_make_command_is_a_target(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([\w-]+)", text, re.MULTILINE))
    assert {"test"} <= named <= targets
