"""The run folder and its report: complete, self-contained, and saying what the records say."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.text import Text
from support.lm_runs import finished_run, lines, tiny_config

from fdpg_ref.display import plus_minus
from lm.cli import commands
from lm.config import RunConfig
from lm.config.options import from_plain
from lm.report.build import finish_run, headline_rows, limitations, samples_to_half
from lm.report.figures import (
    Curve,
    alignment_figure,
    divergence_figure,
    feature_figure,
    multiplier_figure,
    save_figure,
)
from lm.report.page import html_page, named
from lm.run.records import FOUR, best, one_line
from lm.train import StepRecord


def _page() -> str:
    return (finished_run() / "report.html").read_text(encoding="utf-8")


def _json(name: str):
    return json.loads((finished_run() / name).read_text(encoding="utf-8"))


def test_the_folder_holds_everything_and_nothing_half_written():
    names = {str(path.relative_to(finished_run())) for path in finished_run().rglob("*.*")}
    assert names >= {
        "config.json",
        "config.yaml",
        "environment.json",
        "status.json",
        "target.json",
        "metrics.jsonl",
        "timings.jsonl",
        "summary.json",
        "samples_before.txt",
        "samples_after.txt",
        "report.html",
        "README.md",
        "policy/model.safetensors",
        "policy/fdpg_ref.json",
    }
    assert not [name for name in names if ".partial" in name]


def test_the_report_asks_the_network_for_nothing():
    page = _page()
    resources = re.findall(r"(?:src|href|srcset|data|action)\s*=\s*[\"']?([^\"'\s>]+)", page)
    pictures = [link for link in resources if link.startswith("data:image/png;base64,")]
    assert len(pictures) == len(re.findall("<img", page)) == 5
    assert [link for link in resources if "//" in link.split("base64,")[0]] == []
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?:|url\(|@import|<script|<link|<iframe", text)


def test_the_pictures_in_the_report_are_the_folders():
    inside = {
        base64.b64decode(data)
        for data in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", _page())
    }
    files = {path.read_bytes() for path in (finished_run() / "figures").glob("*.png")}
    assert inside == files
    for path in (finished_run() / "figures").glob("*.png"):
        # A picture with something in it: not one colour.
        assert matplotlib.image.imread(path).std() > 0.01


def test_the_page_says_what_the_records_say():
    page, last = _page(), lines(finished_run(), "evaluation")[-1]
    assert plus_minus(*best(last, "forward_kl")) in page
    status = _json("status.json")
    assert f"'>{status['verdict']}</span>" in page
    assert status["reason"] in page
    evaluations = lines(finished_run(), "evaluation")
    for sentence in limitations({"evaluations": evaluations, "target": _json("target.json")}):
        assert html.escape(sentence) in page
    for name, version in _json("environment.json").items():
        assert version is None or f"{name} {version}" in page
    for text in (finished_run() / "samples_after.txt").read_text("utf-8").split():
        assert f"<li>{text}</li>" in page
    assert 'name="viewport"' in page


def test_a_text_cannot_break_the_page():
    run = {
        "config": {**_json("config.json"), "name": "<b>&"},
        "environment": {},
        "status": _json("status.json"),
        "target": _json("target.json"),
        "evaluations": lines(finished_run(), "evaluation"),
        "samples_before": ["<script>alert(1)</script>"],
        "samples_after": [],
    }
    names = ("alignment", "divergences", "features", "estimator")
    pictures = {name: finished_run() / "figures" / f"{name}.png" for name in names}
    page = html_page(run, [], pictures, [])
    assert "<script>" not in page
    assert "<b>" not in page


def test_the_model_card_has_status_limits_and_numbers():
    card = (finished_run() / "README.md").read_text(encoding="utf-8")
    assert "# tiny: forward KL" in card
    assert "## Limitations" in card
    assert "E[female]" in card
    assert _json("status.json")["reason"] in card


def test_a_report_is_made_again_from_the_records_alone(tmp_path):
    copy = shutil.copytree(finished_run(), tmp_path / "copy")
    for path in [copy / "report.html", copy / "README.md", copy / "summary.json"]:
        path.unlink()
    assert finish_run(copy) == copy / "report.html"
    for name in ("report.html", "README.md", "summary.json"):
        assert (copy / name).read_bytes() == (finished_run() / name).read_bytes()


def test_the_recorded_configuration_is_the_run():
    config = from_plain(RunConfig, _json("config.json"))
    assert config.partition.policy == "exact"
    assert config.divergence == "forward_kl"
    assert _json("target.json")["log_z_source"] == "exact"
    assert _json("summary.json")["samples"] == 4 * 32


def _record(samples: int, value: float) -> dict:
    return {"samples": samples, "estimates": {"d": {"exact": {"value": value}}}}


def test_the_halving_point_is_interpolated():
    records = [_record(0, 1.0), _record(100, 0.8), _record(200, 0.4), _record(300, 0.6)]
    assert samples_to_half(records, "d") == pytest.approx(175.0)
    assert samples_to_half(records[:2], "d") is None


def test_the_table_names_the_estimator_of_every_row():
    records = lines(finished_run(), "evaluation")
    rows = headline_rows(records)
    by_name = {row["quantity"]: row for row in rows}
    # Too few female names are expected among 256 samples for a z-score; with one, it is shown.
    assert by_name["E[female]"]["estimator"] == "exact"
    records[-1]["estimates"]["feature/female"]["sampled"]["z"] = -1.25
    shown = next(row for row in headline_rows(records) if row["quantity"] == "E[female]")
    assert shown["estimator"] == "exact; sampled z = -1.2"
    assert by_name["forward KL(p‖π)"]["estimator"].startswith("list + remainder")
    assert all(row["estimator"] for row in rows)


def test_axes_are_named_with_units_and_an_infinite_divergence_says_so():
    records = lines(finished_run(), "evaluation")
    curve = Curve("forward KL", "forward_kl", records)
    axes = alignment_figure([curve], "feature/female", target=(0.06, 12.0)).axes[0]
    assert "nats" in axes.get_ylabel()
    assert "female" in axes.get_xlabel()
    endless = json.loads(json.dumps(records))
    for record in endless:
        record["estimates"]["reverse_kl"] = {"exact": {"value": "inf", "reason": "holes"}}
    figure = divergence_figure([Curve("hard", "forward_kl", endless)])
    panel = figure.axes[FOUR.index("reverse_kl")]
    assert panel.texts[0].get_text().startswith("infinite")
    assert panel.get_lines() == []


def test_an_axis_between_half_and_one_has_labels():
    """It had none: 2, 5 and powers of ten were labelled alone."""
    start, end = ({"exact": {"value": value}} for value in (0.95, 0.55))
    records = [
        {"samples": place, "estimates": dict.fromkeys(FOUR, shown)}
        for place, shown in enumerate((start, end))
    ]
    curves = [Curve(name, name, records) for name in ("forward_kl", "reverse_kl")]
    figure = divergence_figure(curves)
    figure.canvas.draw()
    for axes in figure.axes[: len(FOUR)]:
        low, high = axes.get_ylim()
        labels = axes.yaxis.get_ticklabels(which="both")
        shown = [one for one in labels if one.get_text() and low < one.get_position()[1] < high]
        assert len(shown) >= 2


def test_a_dollar_sign_opens_no_mathematics(tmp_path):
    r"""Between two of them \d is no symbol, and a report failed at the end of its run."""
    name = r'matches(r"\d$") and matches(r"\w$")'
    row = {"feature": name, "base": 0.1, "target": 0.5, "wanted": 0.5, "weight": 1.0}
    fit = {"gradient_norm": 1e-12, "dual_values": [0.0, -1.0]}
    known = {key: {"exact": {"value": 0.5}} for key in (*FOUR, "entropy")}
    curve = Curve(name, "forward_kl", [{"samples": n, "estimates": known} for n in range(2)])
    for figure in (
        multiplier_figure({"features": [row], "fit": fit}),
        divergence_figure([curve], title=name),
        alignment_figure([curve], "forward_kl", target=(0.0, 1.0), title=name),
    ):
        labels = [label for axes in figure.axes for label in axes.get_xticklabels()]
        found: Any = [*figure.findobj(Text), *labels]
        texts = [one.get_text() for one in found]
        shown = [text for text in texts if "matches" in text]
        assert shown
        assert [text for text in shown if text.count("$") != text.count("\\$")] == []
        _ = save_figure(figure, tmp_path / "a.png")


def test_a_target_without_features_is_drawn_by_its_distance():
    records = lines(finished_run(), "evaluation")
    curve = Curve("forward KL", "forward_kl", records)
    axes = alignment_figure([curve], "forward_kl", target=(0.0, 12.0)).axes[0]
    assert axes.get_xlabel() == "distance to the target: forward KL (nats)"
    star: Any = next(line for line in axes.get_lines() if line.get_label() == "target p")
    assert np.ravel([star.get_xdata(), star.get_ydata()]).tolist() == [0.0, 12.0]


def test_features_beyond_three_get_a_row_of_their_own():
    records = json.loads(json.dumps(lines(finished_run(), "evaluation")))
    names = ["female", "listed", "a", "b$c", "rewards.py:polite"]
    for record in records:
        for name in names[2:]:
            record["estimates"][f"feature/{name}"] = {"sampled": {"value": 0.5}}
    rows = [{"feature": name, "base": 0.1, "target": 0.9} for name in names]
    figure = feature_figure([Curve("forward KL", "forward_kl", records)], rows)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert titles == [f"E$_π$[{name}]" for name in ("female", "listed", "a", r"b\$c", "polite")]
    assert len({round(axes.get_position().y0, 3) for axes in figure.axes}) == 2


def test_limitations_are_those_of_the_run():
    evaluations = lines(finished_run(), "evaluation")
    listed = limitations({"evaluations": evaluations, "target": {}})
    assert any("census" in sentence for sentence in listed)
    sampled = json.loads(json.dumps(evaluations))
    for record in sampled:
        del record["estimates"]["list_mass"]
    others = limitations({"evaluations": sampled, "target": {"contexts": 7}})
    assert not any("census" in sentence for sentence in others)
    assert any("over prompts" in sentence for sentence in others)


def test_a_text_is_shown_in_one_line():
    assert one_line("a\nb\r\nc") == "a⏎b⏎c"
    assert one_line("a\n") == "a⏎"
    assert one_line("plain …") == "plain …"
    assert one_line("a\u2028b\x0bc\u2029") == "a⏎b⏎c⏎"


def test_the_table_is_not_folded_where_there_is_no_terminal(capsys):
    from lm.cli.commands import print_rows

    records = json.loads(json.dumps(lines(finished_run(), "evaluation")))
    print_rows(records)
    printed = capsys.readouterr().out
    assert "KL(π‖a), distance from the base (nats)" in printed
    table, _, _ = printed.partition("from both sides")
    assert len(table.splitlines()) == len(headline_rows(records)) + 5
    # z has a column only where something is compared.
    assert "in its standard errors" in printed
    for record in records:
        for entries in record["estimates"].values():
            entries.get("sampled", {}).pop("z", None)
    print_rows(records)
    printed = capsys.readouterr().out
    assert "in its standard errors" not in printed
    assert "samples of the target" in printed


def test_quantities_stand_with_their_units_and_reasons_are_sentences():
    assert named({"quantity": "length", "unit": "tokens"}) == "length (tokens)"
    assert named({"quantity": "E[female]", "unit": ""}) == "E[female]"
    card = (finished_run() / "README.md").read_text(encoding="utf-8")
    assert "| forward KL(p‖π) (nats) |" in card
    assert "| total variation |" in card
    assert re.search(r"Gradient estimator: \*\*\w+\*\*\. [A-Z].*\.$", card, re.MULTILINE)


@pytest.fixture
def farther(tmp_path) -> Path:
    """Return a copy of a run whose divergence rose in the end, with its report."""
    folder = Path(shutil.copytree(finished_run(), tmp_path / "farther"))
    records = lines(folder)
    last = [record for record in records if record["kind"] == "evaluation"][-1]
    for entry in last["estimates"]["forward_kl"].values():
        entry["value"] = 9.0
    text = "".join(json.dumps(record) + "\n" for record in records)
    _ = (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    _ = finish_run(folder)
    return folder


def test_a_run_that_ended_farther_says_so_wherever_it_is_read(farther, monkeypatch, capsys):
    sentence = "farther from its target than the base"
    assert json.loads((farther / "summary.json").read_text())["outcome"] == "farther"
    assert sentence in (farther / "report.html").read_text(encoding="utf-8")
    assert sentence in (farther / "README.md").read_text(encoding="utf-8")
    monkeypatch.setattr(commands, "train", lambda config, **_: farther)
    commands.run_train(tiny_config(farther))
    (line,) = [one for one in capsys.readouterr().out.splitlines() if sentence in one]
    assert line.startswith("warning: forward KL rose")


def test_warnings_of_the_start_are_said_at_the_start(capsys):
    evaluation = {"warnings": ["one sample is half of Zhat"]}
    commands._tell(StepRecord(0, 4, None, evaluation))
    commands._tell(StepRecord(2, 4, None, evaluation))
    assert capsys.readouterr().err == "lm: warning: one sample is half of Zhat\n"


def test_the_printed_table_ends_in_the_warnings(capsys):
    from lm.cli.commands import print_rows

    evaluations = json.loads(json.dumps(lines(finished_run(), "evaluation")))
    evaluations[0]["warnings"], evaluations[-1]["warnings"] = (
        ["rests on one sample"],
        ["so is this"],
    )
    print_rows(evaluations)
    printed = capsys.readouterr().out.splitlines()[-2:]
    assert printed == ["warning, step 0: rests on one sample", "warning, step 4: so is this"]
