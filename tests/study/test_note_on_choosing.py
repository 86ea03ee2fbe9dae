"""docs/notes/choosing-a-divergence.md quotes the first edition's findings as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOTE = (DOCS / "notes" / "choosing-a-divergence.md").read_text(encoding="utf-8")
FINDINGS = (DOCS / "findings.md").read_text(encoding="utf-8")
# The numbers of each hypothesis, as docs/findings.md writes them.
QUOTED = {
    "H1": ("6e-16",),
    "H2": ("27 %", "42 %"),
    "H4": ("0.45", "0.49", "0.21", "0.33", "0.53"),
    "H5": ("0.83", "1.14", "2.0", "1 of 12"),
    "H6": ("0.80 [0.60, 0.90]",),
    "H8": ("0.05",),
    "H11": ("−0.98", "0.74"),
}


@pytest.mark.parametrize("hypothesis", QUOTED)
def test_numbers_are_those_of_the_findings(hypothesis: str):
    (row,) = re.findall(rf"^\| {hypothesis} \|.*$", FINDINGS, flags=re.MULTILINE)
    # A row of the table, or the paragraphs below it.
    table, _, rest = NOTE.partition("## What would change")
    said = " ".join(line for line in table.splitlines() if f"({hypothesis}" in line) or rest
    for number in QUOTED[hypothesis]:
        assert number in row, number
        assert number in said, number


def test_the_gap_of_entropy_is_at_equal_alignment():
    assert "the gap of entropy is −0.73 nats" in FINDINGS
    assert "at equal alignment reverse KL is 0.73 nats of entropy below" in NOTE


def test_what_the_second_edition_judges_is_not_called_decided():
    """H4 and H5 rest on one pilot run: the note must not decide them."""
    for hypothesis in ("H4", "H5"):
        (line,) = (line for line in NOTE.splitlines() if f"({hypothesis}" in line)
        assert "undecided" in line
