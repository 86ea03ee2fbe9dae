"""Open pages of the built site in Chromium: ``python tools/look_at_site.py [--all] [FOLDER]``.

The network is closed but for this machine. A fault is a request to another host, an error of a
script, a page that is wider than a phone or bright in the dark, a concept whose picture needs
scrolling on a phone or a common screen, a page that a reader had open while the system turned dark
and that stays bright, and a search that finds nothing. The concepts are opened, and of the other
pages the longest of each folder, which share their scripts; ``--all`` opens every page, which takes
minutes. What newcomers read is opened in the light on a phone, and in the dark on a screen, too.
FOLDER takes a picture of each as a phone shows it in the dark. Without Chromium nothing is checked,
which is said.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build" / "site"
CONCEPTS = "docs/concepts/"
FIRST = {"index.html", "docs/start.html"}  # what newcomers read, with the concepts
PHONE, SCREEN = (390, 844), (1280, 800)
BRIGHT = 128

# What sticks out of the page, and can neither be scrolled nor is cut off on purpose.
TOO_WIDE = """(() => {
  const wide = document.documentElement.clientWidth + 1;
  const held = (element) => {
    for (let e = element.parentElement; e && e !== document.body; e = e.parentElement)
      if (getComputedStyle(e).overflowX !== "visible") return true;
    return false;
  };
  const out = [...document.body.querySelectorAll("*")].find((element) => {
    const box = element.getBoundingClientRect();
    return box.width > 0 && box.right > wide && !held(element);
  });
  return out ? out.outerHTML.slice(0, 80) : "";
})()"""
# The red, green and blue behind the text, of 255 each, where a reader asked for dark pages.
BEHIND = """(() => {
  const colours = [document.body, document.documentElement]
    .map((element) => getComputedStyle(element).backgroundColor)
    .filter((colour) => !/, 0\\)$/.test(colour));
  return colours.length ? colours[0].match(/[0-9.]+/g).slice(0, 3).map(Number) : [255, 255, 255];
})()"""
PICTURE = """(() => {
  const box = document.querySelector("article img").getBoundingClientRect();
  return [box.right, box.bottom];
})()"""
# The worker of the search answers when it has read the index.
FOUND = """new Promise((done) => {
  const input = document.querySelector(".md-search__input");
  input.focus();
  input.value = "forward KL";
  input.dispatchEvent(new KeyboardEvent("keyup", {bubbles: true}));
  const from = Date.now();
  const look = () => {
    const found = document.querySelectorAll(".md-search-result__item").length;
    if (found || Date.now() - from > 20000) done(found); else setTimeout(look, 50);
  };
  look();
})"""


def main(arguments: list[str] | None = None) -> int:
    """Print every fault, and return 1 if there is one."""
    parser = argparse.ArgumentParser(prog="python tools/look_at_site.py")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("pictures", nargs="?", type=Path, metavar="FOLDER")
    given = parser.parse_args(arguments)
    # The browser's driver is the tests'.
    sys.path.insert(0, str(ROOT / "tests"))
    chromium = importlib.import_module("support.chromium")
    if chromium.find() is None:
        print(f"not opened in a browser, which {chromium.MISSING}")
        return 0

    pages = [path.relative_to(SITE).as_posix() for path in sorted(SITE.rglob("*.html"))]
    pages = pages if given.all else one_of_each(SITE, pages)
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        chromium.Page(Path(profile)) as page,
    ):
        faults = list(look(page, SITE, pages, given.pictures))
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(pages)} pages opened in Chromium, the network closed: {len(faults)} faults")
    return 1 if faults else 0


def one_of_each(site: Path, names: list[str]) -> list[str]:
    """Return the concepts, the pages that another program wrote, and the longest of each folder."""
    longest: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (site / name).stat().st_size):
        longest[str(Path(name).parent)] = name
    kept = {*longest.values(), "verified-claims.html"}
    return [name for name in names if name in kept or name.startswith(CONCEPTS)]


def look(page: Any, site: Path, names: list[str], pictures: Path | None = None) -> Iterator[str]:
    """Yield a line for each fault of some pages of a site.

    Parameters
    ----------
    page : support.chromium.Page
        An open browser.
    site : pathlib.Path
        The folder that the site was built into.
    names : list of str
        Pages, relative to it.
    pictures : pathlib.Path, optional
        Where a picture of each page goes.

    Yields
    ------
    str
        The page, and what is wrong with it.
    """
    first = [name for name in names if name in FIRST or name.startswith(CONCEPTS)]
    views = (
        (PHONE, True, names, pictures),
        (PHONE, False, first, None),
        (SCREEN, True, first, None),
        (SCREEN, False, first, None),
    )
    with served(site) as address:
        # A reader opens the first page by day, and it gets dark.
        if first and not _follows(page, f"{address}/{first[0]}"):
            yield f"{first[0]}: stays bright when the system turns dark"

        for size, dark, shown, folder in views:
            page.screen(*size, dark=dark, touch=size == PHONE)
            for name in shown:
                for fault in _faults_of(page, f"{address}/{name}", size, dark=dark):
                    yield f"{name}: {fault}"
                if folder:
                    folder.mkdir(parents=True, exist_ok=True)
                    page.picture(folder / f"{name.replace('/', '_')}.png")
        if first and not page.run(FOUND):
            yield "the search finds nothing for: forward KL"


def _follows(page: Any, url: str) -> bool:
    page.screen(*SCREEN)
    page.open(url)
    page.screen(*SCREEN, dark=True)
    return max(page.run(BEHIND)) <= BRIGHT


def _faults_of(page: Any, url: str, size: tuple[int, int], *, dark: bool) -> Iterator[str]:
    """Yield what is wrong with a page on a screen of some size, by day or in the dark."""
    page.requests.clear()
    page.errors.clear()
    page.open(url)
    local = ("/".join(url.split("/", 3)[:3]), "data:", "blob:")
    others = {found for found in page.requests if not found.startswith(local)}
    yield from (f"asks another host for {found}" for found in sorted(others))
    yield from page.errors
    if out := page.run(TOO_WIDE):
        yield f"wider than {size[0]} pixels: {out}"
    if dark and max(page.run(BEHIND)) > BRIGHT:
        yield "bright in the dark"
    if f"/{CONCEPTS}" in url:
        right, bottom = page.run(PICTURE)
        if right > size[0]:
            yield f"its picture is cut off at {size[0]} pixels"
        if bottom > size[1]:
            yield f"its picture ends below {size[1]} pixels"


class _Quiet(SimpleHTTPRequestHandler):
    """A server of files that says nothing about it."""

    def do_GET(self) -> None:
        """Send a file; a browser asks for an icon where a page names none."""
        if self.path == "/favicon.ico":
            self.send_response(HTTPStatus.NO_CONTENT)
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder to this machine alone, and yield the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
