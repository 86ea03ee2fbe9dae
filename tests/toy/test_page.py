"""The verification report: complete, self-contained, and red where anything is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.toy_cases import measured

from fdpg_ref import DIVERGENCES
from toy.cli import main as cli
from toy.verify.claims.penalties import DICTIONARY
from toy.verify.records import FACTS, Record
from toy.verify.report import measures
from toy.verify.report.guards import FAILED, MISSING, PASSED, find_guards, run_guards
from toy.verify.report.page import Z_TABLE, page

ROOT = Path(__file__).parents[2]
NUMBERS = [f"F{number}" for number in range(1, 16)]


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return measured()


@pytest.fixture(scope="module")
def guards(records: list[Record]) -> dict[str, str]:
    return {r.test_id: PASSED for r in records}


@pytest.fixture(scope="module")
def text(records: list[Record], guards: dict[str, str]) -> str:
    return page(records, guards)


class Reader(HTMLParser):
    """Collects ids, text, links and pictures, and sees tags that are not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [str(given["id"])] if "id" in given else []
        self.sources += [str(given[key]) for key in ("src", "href") if key in given]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


def test_every_number_has_a_section_and_a_claim(text: str, records: list[Record]):
    reader = read(text)
    assert set(NUMBERS) | {"theorem", "targets"} <= set(reader.ids)
    assert set(reader.ids) == set(FACTS)
    assert {r.fact for r in records} == set(FACTS)
    for fact in FACTS:
        assert f'href="#{fact}"' in text


def test_nothing_is_fetched(text: str):
    for source in read(text).sources:
        assert source.startswith(("#", "data:image/png;base64,"))
    assert "<script" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert text.count("data:image/png;base64,iVBOR") == 3
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in text


def test_every_claim_is_there_with_its_evidence(text: str, records: list[Record]):
    shown = "".join(read(text).words)
    for r in records:
        assert r.claim in shown
        assert r.test_id in shown
        assert r.composition in shown
        assert r.evidence in shown
    assert re.search(r"verified by exact enumeration over \d+ problems", shown)
    assert f"{len(records)} measurements" in shown
    assert "FAILED" not in shown


def test_without_guards_it_is_said_once(records: list[Record]):
    shown = "".join(read(page(records, {})).words)
    assert shown.count("not run") == 1
    assert "guarding tests are named, and were not run for this page" in shown
    assert "0 guarding" not in shown


def test_the_tables_are_measured(text: str, records: list[Record]):
    """The Z policies row by row, the dictionary, and the ratios."""
    estimators = {r.estimator for r in records}
    assert set(Z_TABLE.values()) <= estimators
    table = text[text.index("where Z comes from") :]
    rows = re.findall(r"<tr><th>(.*?)</th>(.*?)</tr>", table)[: len(Z_TABLE)]
    assert [title for title, _ in rows] == list(Z_TABLE)
    verdicts = {r.divergence: r.verdict for r in records if r.estimator == "LOO Z"}
    cells = dict(rows)["leave-one-out"].split("</td>")
    for name, cell in zip(DIVERGENCES, cells, strict=False):
        assert f'class="chip {verdicts[name]}"' in cell
    for cell in ("grad forward KL", "- grad forward KL", "2 grad total variation"):
        assert f"{cell}</td>" in text
    unnamed = sum(entry.descends is None for entry in DICTIONARY)
    assert text.count("none of the named (nearest") == unnamed > 0


def test_a_failed_claim_and_a_failed_guard_show(records: list[Record], guards: dict[str, str]):
    broken = replace(records[0], verdict="biased", max_relative_error=0.3)
    red = page([broken, *records[1:]], {**guards, records[5].test_id: FAILED})
    assert "FAILED: claimed exact, measured biased" in red
    assert 'class="verdict bad"' in red
    assert f"{records[5].test_id}</code>: failed" in red


def test_the_page_and_the_json_hold_the_same_records(
    records: list[Record],
    guards: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(cli, "run_claims", lambda: records)
    monkeypatch.setattr(cli, "run_guards", lambda test_ids: {t: guards[t] for t in test_ids})
    paths = tmp_path / "new" / "report.html", tmp_path / "new" / "report.json"
    assert cli.main(["verify", "--html", str(paths[0]), "--json", str(paths[1])]) == 0
    rows = json.loads(paths[1].read_text(encoding="utf-8"))
    shown = "".join(read(paths[0].read_text(encoding="utf-8")).words)
    assert len(rows) == len(records)
    for row in rows:
        assert {"fact", "claim", "composition", "evidence", "holds", "guard"} <= set(row)
        assert row["claim"] in shown
        assert row["guard"] == PASSED
        assert row["holds"] is True
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("outcome", [MISSING, FAILED])
def test_a_claim_without_a_passing_test_fails_the_command(
    outcome: str,
    records: list[Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    test = records[3].test_id
    monkeypatch.setattr(cli, "run_claims", lambda: records)
    monkeypatch.setattr(
        cli, "run_guards", lambda test_ids: {**dict.fromkeys(test_ids, PASSED), test: outcome}
    )
    assert cli.main(["verify", "--html", str(tmp_path / "report.html")]) == 1
    assert f"UNGUARDED {test}: {outcome}" in capsys.readouterr().err


def test_html_must_be_writable(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["verify", "--html", str(tmp_path / "report.htm")]) == 2
    assert "does not end in .html" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ guards


def test_guards_are_found_and_run(tmp_path: Path):
    _ = (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\nmarkers = ['slow']\n")
    (tmp_path / "tests").mkdir()
    _ = (tmp_path / "tests" / "test_it.py").write_text(
        textwrap.dedent(
            """
            import pytest
            def test_good(): pass
            @pytest.mark.parametrize("x", [1, 2])
            def test_half(x): assert x == 1
            @pytest.mark.skip(reason="never")
            def test_skipped(): pass
            @pytest.mark.slow
            def test_slow(): pass
            """
        )
    )
    names = ("good", "half", "skipped", "slow", "absent")
    ids = [f"tests/test_it.py::test_{name}" for name in names] + ["tests/test_no.py::test_good"]
    assert find_guards(ids, root=tmp_path) == frozenset(ids[:4])
    outcomes = run_guards(ids, root=tmp_path)
    # A guard that never runs guards nothing.
    expected = [PASSED, FAILED, FAILED, FAILED, MISSING, MISSING]
    assert [outcomes[test] for test in ids] == expected


def test_without_tests_every_guard_is_missing(tmp_path: Path):
    assert run_guards(["tests/test_it.py::test_good"], root=tmp_path) == {
        "tests/test_it.py::test_good": MISSING
    }


def test_every_guard_of_the_claims_exists(records: list[Record]):
    ids = {r.test_id for r in records}
    assert find_guards(ids) == ids


# ------------------------------------------------------------------ what the figures show


def test_biases_of_the_figure():
    curves = measures.bias_curves()
    for title in ("leave-one-out", "past-only"):
        for name in ("reverse_kl", "pearson_chi2"):
            assert max(curves[title][name]) < 1e-12
    sizes = [1 / n for n in measures.SIZES]
    assert list(curves["same batch"]["pearson_chi2"]) == pytest.approx(sizes, rel=1e-11)
    for title, by_name in curves.items():
        for name in ("forward_kl", "jensen_shannon"):
            assert by_name[name][-1] < by_name[name][0], (title, name)


def test_forward_kl_loses_where_the_policy_misses_a_mode():
    masses, ratios = measures.missing_mode()
    # With one sample of the mode in 1/eps, both mean and noise come from it: sqrt(n eps) in all.
    expected = (5 * masses[0]) ** 0.5
    assert ratios["forward_kl"][0] == pytest.approx(expected, rel=0.05)
    assert ratios["reverse_kl"][0] > 20 * ratios["forward_kl"][0]
    near = measures.noise_of_divergences()
    assert near["forward_kl"][1.0].rarest > near["reverse_kl"][1.0].rarest
    # One second-order form near the target: one ratio, but for total variation.
    last = [near[n][0.1].signal_to_noise for n in DIVERGENCES if n != "total_variation"]
    assert max(last) / min(last) < 1.1


def test_the_best_constant_has_the_least_noise_of_all_constants():
    noise = measures.noise_of_baselines()
    for name in DIVERGENCES:
        assert noise["none"][name] == 1.0
        assert noise["optimal"][name] < min(1.0, noise["running"][name])


def test_the_page_needs_no_torch(tmp_path: Path):
    code = (
        "import sys\nfrom toy.verify.report import page\n"
        "assert 'torch' not in sys.modules and 'lm' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
