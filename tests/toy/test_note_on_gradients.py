"""docs/notes/kl-gradients.md says what is measured: each cell, each number, and its code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from toy.verify.claims import penalties
from toy.verify.claims.penalties import DICTIONARY, MEANS
from toy.verify.token_claims import sequences, tokens

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOTE = (DOCS / "notes" / "kl-gradients.md").read_text(encoding="utf-8")
CONCEPT = (DOCS / "concepts" / "kl-penalties.md").read_text(encoding="utf-8")
# As the note writes them, times a factor.
NAMES = {
    "KL(π‖ref)": {"reverse_kl": 1.0},
    "KL(ref‖π)": {"forward_kl": 1.0},
    "KL(π‖ref) − KL(ref‖π)": {"reverse_kl": 1.0, "forward_kl": -1.0},
    "2 × total variation": {"total_variation": 2.0},
    "½ Pearson χ²": {"pearson_chi2": 0.5},
    "½ Pearson χ² − KL(π‖ref)": {"pearson_chi2": 0.5, "reverse_kl": -1.0},
    "χ²(π‖ref) − KL(π‖ref)": {"pearson_chi2": 1.0, "reverse_kl": -1.0},
    "nothing": {},
    "none": None,
}
ROWS = {"k1": "k1", "k2": "k2", "k3": "k3", "abs(u)": "abs", "k3 of −u": "k3_reversed"}
COLUMNS = (
    ("loss", "on_policy"),
    ("reward", "on_policy"),
    ("ratio", "on_policy"),
    ("loss", "stale"),
)


def table() -> dict[str, list[str]]:
    rows = [line.strip("| ").split("|") for line in NOTE.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row] for row in rows]
    return {ROWS[row[0]]: row[1:] + [""] * (5 - len(row[1:])) for row in cells if row[0] in ROWS}


def test_each_cell_is_an_entry_of_the_dictionary():
    found = table()
    assert found.keys() == set(ROWS.values())
    entries = {(e.penalty, e.placement, e.samples): e.descends for e in DICTIONARY}
    for penalty, (_, *cells) in found.items():
        for how, cell in zip(COLUMNS, cells, strict=True):
            assert bool(cell) == ((penalty, *how) in entries), (penalty, how)
            if cell:
                assert NAMES[cell] == entries[penalty, *how], (penalty, how)
    # The column of the ratio holds for stale samples, too.
    for penalty in ("k1", "k2", "k3"):
        assert entries[penalty, "ratio", "stale"] == entries[penalty, "ratio", "on_policy"]


def test_the_table_of_the_concept_is_that_of_the_dictionary():
    entries = {(e.penalty, e.placement): e.descends for e in DICTIONARY if e.samples == "on_policy"}
    rows = re.findall(r"^\| (k[123]) \|(.*)\|(.*)\|(.*)\|$", CONCEPT, re.MULTILINE)
    assert [penalty for penalty, *_ in rows] == ["k1", "k2", "k3"]
    for penalty, *cells in rows:
        for place, cell in zip(("reward", "loss", "ratio"), cells, strict=True):
            what, _, exactly = (
                cell.strip().removesuffix(", *forward* KL").partition("no divergence")
            )
            said = NAMES[what or exactly.removeprefix(": ") or "none"]
            assert said == entries[penalty, place], (penalty, place)


def test_the_advice_of_the_concept_descends_reverse_kl():
    """Of fresh samples it takes each cell that does, of stale ones each that does there."""
    advice = dict(re.findall(r"^\| (the policy itself|an older policy) \| (.*) \|$", CONCEPT, re.M))
    written = {
        ("k1", "reward"): "k1 in the reward",
        ("k2", "loss"): "k2 in the loss",
        ("k1", "ratio"): "k1 or k3 in the loss with the ratio",
        ("k3", "ratio"): "k1 or k3 in the loss with the ratio",
    }
    for source, samples in (("the policy itself", "on_policy"), ("an older policy", "stale")):
        right = {
            (e.penalty, e.placement)
            for e in DICTIONARY
            if e.samples == samples and e.descends == {"reverse_kl": 1.0}
        }
        assert right == {cell for cell, words in written.items() if words in advice[source]}


def test_each_value_is_a_claim():
    values = {penalty: cells[0] for penalty, cells in table().items()}
    assert {name: NAMES[value] for name, value in values.items() if value in NAMES} == MEANS
    assert values["k2"] == "something else"


def test_what_is_called_none_is_far_from_every_divergence():
    """The note says: by more than its own length on some problem, after the best scaling."""
    for entry in DICTIONARY:
        if entry.descends is None and entry.penalty in ROWS.values():
            assert penalties._entry_record(entry).max_relative_error > 1


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        ("token k1, immediate", "k1 of token t alone | off by 1.09"),
        ("token k1, stale, token ratio", "each token's own ratio, stale samples | off by 0.316"),
        ("token k1, stale, mean ratio", "(geometric), stale samples | off by 0.345"),
        ("token k3 in the loss", "KL(ref‖π): off by 0.637"),
        ("1/length, no baseline, after the best scaling", "KL(π‖ref)'s: off by 0.497"),
    ],
)
def test_each_number_is_measured(estimator: str, words: str):
    assert words in NOTE
    (claim,) = (
        claim
        for claim in (*sequences.CLAIMS.listed, *tokens.CLAIMS.listed)
        if claim.estimator == estimator
    )
    (record,) = claim.records()
    said = float(words.rpartition(" ")[2])
    # The note rounds to three digits.
    assert record.max_relative_error == pytest.approx(said, rel=5e-3)


def test_the_code_of_the_note_runs():
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", NOTE, flags=re.DOTALL):
        exec(compile(block, "kl-gradients.md", "exec"), names)
    test = names["test_the_penalty_descends_reverse_kl"]
    assert callable(test)
    _ = test()


def test_the_note_is_short():
    prose = re.sub(r"```.*?```", "", NOTE, flags=re.DOTALL)
    assert len(prose.split()) <= 800
