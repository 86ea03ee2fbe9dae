"""The check of the built site in a browser, on small sites with and without faults."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from support import chromium

from tools.look_at_site import look, one_of_each, served

PAGE = """<!doctype html><html><head><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,"><style>@media (prefers-color-scheme: dark) {{
  body {{ background: #111 }} }}</style></head><body>{}</body></html>"""
SCROLLS = "<div style='overflow-x: auto'><p style='width: 900px'>Wide.</p></div>"
SEARCH = "<input class=md-search__input><div id=out></div>"
PAGES = {
    "good.html": f"<p>Text.</p>{SCROLLS}",
    "bright.html": "<style>body { background: none !important; }</style>",
    "asks.html": "<script>new Image().src = 'http://fonts.example/a.png'</script>",
    "raises.html": "<script>undefined.gone()</script>",
    "wide.html": "<p style='width: 500px'>Text.</p>",
    "docs/concepts/cut.html": "<article><p style='overflow-x: auto'>"
    "<img width=500 height=200 src='data:,'></p></article>",
    "docs/concepts/low.html": "<article><p style='height: 700px'></p>"
    f"<img width=9 height=200 src='data:,'></article>{SEARCH}",
}
# A page that asks for the scheme once.
KEEPS = """<script>document.body.style.background =
  matchMedia("(prefers-color-scheme: dark)").matches ? "#111" : "#fff"</script>"""
ANSWERS = """<script>document.querySelector('input').onkeyup = () => {
  document.getElementById('out').innerHTML = '<p class=md-search-result__item>Found.</p>'; }
</script>"""


def written(folder: Path, pages: dict[str, str]) -> Path:
    for name, body in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _ = path.write_text(PAGE.format(body), encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(chromium.find() is None, reason=chromium.MISSING)
def test_a_browser_finds_what_is_wrong_with_a_page(tmp_path: Path):
    answered = PAGES | {"docs/concepts/low.html": PAGES["docs/concepts/low.html"] + ANSWERS}
    site = written(tmp_path / "site", answered)
    kept = written(tmp_path / "kept", {"index.html": KEEPS + SEARCH + ANSWERS})
    with chromium.Page(tmp_path / "profile") as page:
        found = list(look(page, site, sorted(answered), tmp_path / "pictures"))
        stays = list(look(page, kept, ["index.html"]))
    assert stays == ["index.html: stays bright when the system turns dark"]
    by_page = {name: [line for line in found if line.startswith(name)] for name in answered}
    assert by_page["good.html"] == []
    assert by_page["asks.html"][0] == "asks.html: asks another host for http://fonts.example/a.png"
    # A closed network is what the browser says of it, too.
    assert "ERR_NAME_NOT_RESOLVED" in by_page["asks.html"][1]
    (raised,) = by_page["raises.html"]
    assert "TypeError" in raised
    assert by_page["wide.html"] == [
        'wide.html: wider than 390 pixels: <p style="width: 500px">Text.</p>'
    ]
    # In the dark and in the light, on a phone and on a screen.
    cut = "docs/concepts/cut.html: its picture is cut off at 390 pixels"
    assert by_page["docs/concepts/cut.html"] == [cut] * 2
    low = "docs/concepts/low.html: its picture ends below {} pixels"
    assert by_page["docs/concepts/low.html"] == [low.format(y) for y in (844, 844, 800, 800)]
    assert by_page["bright.html"] == ["bright.html: bright in the dark"]
    assert len(found) == 11
    assert len(list((tmp_path / "pictures").iterdir())) == len(answered)


# A browser whose helper still writes into the profile when the browser has gone.
BROWSER = """#!/usr/bin/env bash
profile=${@: -1}; profile=${profile#--user-data-dir=}
(while :; do mkdir -p "$profile"; echo > "$profile/$RANDOM"; sleep 0.01; done) &
exec sleep 60
"""


def test_no_helper_of_a_browser_outlives_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program, profile = tmp_path / "browser", tmp_path / "profile"
    _ = program.write_text(BROWSER, encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(chromium, "find", lambda: str(program))
    page = chromium.Page(profile)
    end = time.monotonic() + 60  # of patience with a busy machine
    while not (profile.is_dir() and any(profile.iterdir())):
        assert time.monotonic() < end, "the browser's helper did not begin"
        time.sleep(0.01)

    page.__exit__(None, None, None)
    shutil.rmtree(profile)
    time.sleep(0.1)
    assert not profile.exists()


def test_the_longest_page_of_each_folder_is_opened_and_every_concept(tmp_path: Path):
    names = ["a.html", "docs/b.html", "docs/c.html", "docs/concepts/d.html", "docs/concepts/e.html"]
    site = written(tmp_path, dict(zip(names, ["x", "xx", "x", "x", "xx"], strict=True)))
    assert one_of_each(site, names) == [name for name in names if name != "docs/c.html"]


def test_a_served_folder_is_this_machine_s_alone(tmp_path: Path):
    with served(written(tmp_path, {"a.html": "x"})) as address:
        assert address.startswith("http://127.0.0.1:")
