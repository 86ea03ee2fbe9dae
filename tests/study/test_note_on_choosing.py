"""docs/notes/choosing-a-divergence.md quotes the findings of both editions as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOTE = (DOCS / "notes" / "choosing-a-divergence.md").read_text(encoding="utf-8")
FINDINGS = (DOCS / "findings.md").read_text(encoding="utf-8")
# The numbers of each hypothesis by the first edition, as docs/findings.md writes them.
QUOTED = {
    "H1": ("6e-16",),
    "H2": ("27 %", "42 %"),
    "H4": ("0.45", "0.49", "0.21", "0.33", "0.53"),
    "H5": ("0.83", "1.14", "2.0", "1 of 12"),
    "H6": ("0.80 [0.60, 0.90]",),
    "H8": ("0.05",),
    "H11": ("−0.98", "0.74"),
}
# Those of the second edition.
QUOTED_LATER = {
    "H3": ("0.84 to 1.07",),
    "H4": ("0.46", "0.53", "0.54"),
    "H5": ("1.7 times", "0.84 to 3.3", "0.91 to 1.7", "4.9 times", "1.1 to 22"),
    "H9": ("0.13 times", "0.041 to 0.44"),
    "H11": ("0.51 [0.17, 0.86]", "−0.41 [−0.81, −0.01]"),
}


@pytest.mark.parametrize("hypothesis", QUOTED)
def test_numbers_are_those_of_the_findings(hypothesis: str):
    (row,) = re.findall(rf"^\| {hypothesis} \|.*$", FINDINGS, flags=re.MULTILINE)
    # A row of the table, or the paragraphs below it.
    for number in QUOTED[hypothesis]:
        assert number in row, number
        assert number in said_of(hypothesis), number


def said_of(hypothesis: str) -> str:
    """Return the rows of the note's table that name a hypothesis, or the paragraphs below it."""
    table, _, rest = NOTE.partition("## What would change")
    rows = (line for line in table.splitlines() if line.startswith("|"))
    return " ".join(line for line in rows if f"[{hypothesis}]" in line) or rest


@pytest.mark.parametrize("hypothesis", QUOTED_LATER)
def test_numbers_of_the_second_edition_are_those_of_the_findings(hypothesis: str):
    second, _, _ = FINDINGS.partition("## The first edition")
    for number in QUOTED_LATER[hypothesis]:
        assert number in second, number
        assert number in said_of(hypothesis), number


def test_each_hypothesis_leads_to_the_edition_that_judged_it():
    links = dict(re.findall(r"^\[(\w+)\]: (\S+)$", NOTE, flags=re.MULTILINE))
    named = set(re.findall(r"\[([HF]\d+)\]", NOTE))
    assert named <= links.keys()
    for link in links.values():
        page, _, anchor = link.partition("#")
        text = (DOCS / "notes" / page).read_text(encoding="utf-8")
        assert f"## {anchor.replace('-', ' ').capitalize()}" in text
    for line in NOTE.splitlines():
        if found := re.match(r"\[(H\d+)\]: .*hypotheses-first", line):
            # Without a verdict of the second edition, a row says that it is the first's.
            assert "1st" in said_of(found[1]), line


def test_the_gap_of_entropy_is_at_equal_alignment():
    assert "the gap of entropy is −0.73 nats" in FINDINGS
    assert "nats of entropy below (2nd, [H3]; 0.73 in the 1st)" in NOTE


def test_what_the_second_edition_judges_is_not_called_decided():
    """H4 and H5 are undecided on transformers: the note must not decide them."""
    for hypothesis in ("H4", "H5"):
        assert "undecided" in said_of(hypothesis)


def test_both_sides_in_the_readme_are_those_of_the_report():
    """The three batch sizes in a row, by the best value and by samples of the policy."""
    root = DOCS.parent
    report = (root / "study" / "results" / "REPORT.md").read_text(encoding="utf-8")
    readme = (root / "README.md").read_text(encoding="utf-8")
    for side in ("", ", policy side"):
        found = []
        for batch in (64, 256, 1024):
            line = rf"^- lm, batch {batch}{side}: .* KL\(p‖π\) after Jensen-Shannon is (.*) times "
            (words,) = re.findall(line + r"\(95 %: (.*) to (.*?)\)", report, flags=re.MULTILINE)
            found.append("{} [{}, {}]".format(*words))
        assert ", ".join(found) in readme
