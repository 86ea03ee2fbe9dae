"""Build the documentation site: ``python tools/build_site.py``.

1. Put its pages together in build/site-pages, which mirrors this repository: the same relative
   links lead from page to page. A file that a page links to is copied beside it.
2. Run MkDocs, where every warning is an error.
3. Check what came out: every link and anchor leads somewhere, and nothing is asked of another host.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from fdpg_ref import divergences

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
PAGES, SITE = BUILD / "site-pages", BUILD / "site"

# Modules of the API pages, by title. The core's page has a section for each of its modules.
API = {
    "The core": "fdpg_ref",
    "Names and colours": "fdpg_ref.display",
    "Control variates": "fdpg_ref.related.control_variates",
    "Trajectory balance": "fdpg_ref.related.trajectory_balance",
    "Quasi-rejection": "fdpg_ref.related.rejection",
    "Conventions": "fdpg_ref.related.conventions",
    "Exact gradients": "toy.exact",
    "Audit": "toy.audit",
    "Training": "lm.train",
    "Configuration": "lm.config",
    "Features": "lm.features",
    "Inside TRL": "lm.engines.trl",
    "Inside verl": "lm.engines.verl",
    "Audit a trainer": "lm.conformance",
}
CORE = (
    *("estimators", "divergences", "families", "custom", "targets", "partition", "baselines"),
    *("weights", "diagnostics", "numerics"),
)
# On a phone, notebooks lose the margin for prompts, and what is wide scrolls instead of breaking:
# pictures, whose labels would be too small (concepts have others for phones), and names in tables,
# which would be cut anywhere.
STYLE = """
.md-grid { max-width: 68rem; }
.md-typeset img { display: block; margin: 0.6rem auto; background: #fff; border-radius: 0.2rem; }
.md-typeset math[display="block"] { overflow-x: auto; max-width: 100%; }
.md-typeset table:not([class]) { font-size: 0.68rem; }
.jupyter-wrapper .celltoolbar { display: none !important; }
@media (max-width: 44rem) {
  .md-typeset p:has(> img) { overflow-x: auto; }
  .md-typeset p > img { max-width: none; width: 700px; }
  .md-typeset td code { white-space: nowrap; }
  .md-typeset td:last-child:nth-child(n + 3) { min-width: 11rem; }
  .jupyter-wrapper :is(.jp-InputPrompt, .jp-OutputPrompt) { display: none !important; }
  .jupyter-wrapper .jp-OutputArea-output pre { white-space: pre !important; overflow-x: auto; }
  .jupyter-wrapper .jp-Cell { padding-left: 0 !important; padding-right: 0 !important; }
  .jupyter-wrapper .jp-RenderedImage { overflow-x: auto; }
  .jupyter-wrapper .jp-RenderedImage img { max-width: none !important; width: 700px !important; }
}
"""
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)")


def main() -> int:
    """Build and check; 1 if a link leads nowhere or another host would be asked."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.rmtree(SITE, ignore_errors=True)
    navigation = gather()
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    settings["nav"] = filled(settings["nav"], navigation)

    # MkDocs reads paths relative to its file. Its makers advertise their next program.
    settings |= {"docs_dir": str(PAGES), "site_dir": str(SITE)}
    settings["hooks"] = [str(ROOT / hook) for hook in settings["hooks"]]
    path = BUILD / "mkdocs.yml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(path)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    if code := subprocess.run(command, cwd=ROOT, env=quiet, check=False).returncode:
        return code
    (SITE / "404.html").unlink()  # a server's page, whose links begin at the server's root

    faults = sorted(set(check(SITE)))
    for fault in faults:
        print(fault, file=sys.stderr)
    pages = sum(1 for _ in SITE.rglob("*.html"))
    print(f"{pages} pages in {SITE.relative_to(ROOT)}: {len(faults)} faults")
    return 1 if faults else 0


def gather() -> dict[str, list[dict[str, str]]]:
    """Copy pages and what they link to, write the generated ones, and return parts of the menu."""
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    pages += [*sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "study").rglob("*.md"))]
    waiting, known = [*pages, *notebooks], set()
    while waiting:
        page = waiting.pop()
        if page not in known:
            known.add(page)
            copy(page)
            # A page may be linked to from another that is no part of the menu.
            waiting += linked_files(page) if page.suffix in {".md", ".ipynb"} else []

    # The site shows these on phones; no page links to them.
    for picture in (ROOT / "docs" / "concepts").glob("*-phone.png"):
        copy(picture)

    # The explorer is one page of its own; so is the report on what is verified.
    (PAGES / "site.css").write_text(STYLE, encoding="utf-8")
    (PAGES / "explorer.md").write_text(
        "# The explorer\n\n[Open it](docs/explorer/index.html): drag a policy, a target, a start, "
        "a penalty, and see what each divergence does. One page, without a network.\n",
        encoding="utf-8",
    )
    (PAGES / "verified.md").write_text(verified(), encoding="utf-8")
    api = []
    (PAGES / "api").mkdir()
    for title, module in API.items():
        page = PAGES / "api" / f"{module}.md"
        page.write_text(f"# {title}\n\n{reference(module)}", encoding="utf-8")
        api.append({title: f"api/{page.name}"})
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    return {
        "Notebooks": [{heading(path): f"notebooks/{path.name}"} for path in notebooks],
        "API": api,
        "Decisions": [{heading(path): f"docs/decisions/{path.name}"} for path in decisions],
    }


def copy(path: Path) -> None:
    """Copy a file, or the files of a folder's listing, to its place in the mirror."""
    target = PAGES / path.relative_to(ROOT)
    if path.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        names = sorted(child.name for child in path.iterdir() if not child.name.startswith("."))
        listing = "".join(
            f"- [{name}]({name})\n" if name.endswith(".md") else f"- {name}\n"
            for name in names
            if name != "__pycache__"
        )
        if not (path / "README.md").exists() and not (target / "index.md").exists():
            title = path.relative_to(ROOT)
            (target / "index.md").write_text(f"# {title}/\n\n{listing}", encoding="utf-8")
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def linked_files(page: Path) -> Iterator[Path]:
    """Yield the files and folders of this repository that a page links to."""
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc or not parts.path:
            continue
        target = (page.parent / unquote(parts.path)).resolve()
        if target.exists() and target.is_relative_to(ROOT):
            yield target


def reference(module: str) -> str:
    """Return the page of a module: every public name that it defines or exports."""
    if module != "fdpg_ref":
        return f"::: {module}\n"

    # What the core exports, under the module that defines it, and the rest under the core.
    core = importlib.import_module(module)
    rest, parts = list(core.__all__), ["Everything here is imported from `fdpg_ref`.\n"]
    for part in CORE:
        defined = importlib.import_module(f"fdpg_ref.{part}")
        names = [name for name in rest if is_from(getattr(core, name), defined, name)]
        rest = [name for name in rest if name not in names]
        parts.append(section_of(f"fdpg_ref.{part}", names))
    return "\n".join([*parts, section_of(module, rest)])


def section_of(module: str, names: list[str]) -> str:
    """Return what mkdocstrings reads as some names of a module."""
    return f"::: {module}\n    options:\n      members: {json.dumps(names)}\n"


def is_from(value: object, module: ModuleType, name: str) -> bool:
    """Return whether a module is where a name of the core comes from."""
    home = getattr(value, "__module__", "")
    return home == module.__name__ or (name.isupper() and module is divergences)


def verified() -> str:
    """Measure every claim now, write the report of them, and return the page that leads to it."""
    from toy.verify import run_claims  # noqa: PLC0415
    from toy.verify.report.page import write_page  # noqa: PLC0415

    records = run_claims()
    write_page(records, {}, PAGES / "verified-claims.html")
    claims, holding = len({one.claim for one in records}), sum(one.holds for one in records)
    return (
        "# What is verified\n\n"
        f"`python -m toy verify` makes {len(records)} measurements of {claims} claims by adding up "
        f"all outcomes, batches or sequences of small problems: {holding} hold. *Verified* means "
        "on those problems; it is no proof.\n\n[All claims, with the tests that guard them]"
        "(verified-claims.html), measured when this site was built. `python -m toy verify --html "
        "FILE` makes the page again, and runs those tests.\n"
    )


def heading(path: Path) -> str:
    """Return the first heading of a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "".join(cells[0]["source"])
    return next(line for line in text.splitlines() if line.startswith("# ")).removeprefix("# ")


def filled(nav: list[Any], parts: dict[str, list[dict[str, str]]]) -> list[Any]:
    """Return the menu with the sections that are listed from files."""
    return [{name: parts.get(name, items) for name, items in section.items()} for section in nav]


class Links(HTMLParser):
    """What a page links to, asks for by itself, and can be linked at."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.requests: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember one element."""
        known = {name: value or "" for name, value in attrs}
        self.anchors |= {known[name] for name in ("id", "name") if name in known}
        if tag == "a" and "href" in known:
            self.links.append(known["href"])
        elif tag == "link" and known.get("rel") not in {"canonical", "next", "prev"}:
            self.requests.append(known.get("href", ""))
        elif tag in {"script", "img", "iframe", "source", "video"}:
            self.requests.append(known.get("src") or known.get("srcset", ""))


def check(site: Path) -> Iterator[str]:
    """Yield a line for each link that leads nowhere, and for each request to another host."""
    pages: dict[Path, Links] = {}
    for path in site.rglob("*.html"):
        pages[path] = parser = Links()
        parser.feed(path.read_text(encoding="utf-8"))

    for path, page in pages.items():
        for link in [*page.links, *page.requests]:
            if fault := fault_of(path, link, pages, asked=link in page.requests):
                yield f"{path.relative_to(site)}: {fault}"


def fault_of(path: Path, link: str, pages: Mapping[Path, Links], *, asked: bool) -> str:
    """Return what is wrong with a link of a page; asked: the browser follows it by itself."""
    parts = urlsplit(link)
    if not link or parts.scheme in {"data", "mailto", "javascript"}:
        return ""
    if parts.scheme or parts.netloc:
        return f"asks another host for {link}" if asked else ""

    # A page, a folder's page, or a file.
    target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
    target = target / "index.html" if target.is_dir() else target
    if not target.exists():
        return f"{link} leads nowhere"

    # The explorer reads the fragment itself, and so does the search.
    fragment = unquote(parts.fragment)
    free = fragment in {"", "__search"} or target.parent.name == "explorer"
    known = free or target not in pages or fragment in pages[target].anchors
    return "" if known else f"{link} has no such anchor"


if __name__ == "__main__":
    sys.exit(main())
