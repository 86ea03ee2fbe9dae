"""The documentation site: its menu, its concept pages, and the checks that its build makes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CONCEPTS = sorted((DOCS / "concepts").glob("*.md"))


def loaded(name: str) -> ModuleType:
    """Return a module of tools/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return loaded("build_site")


def menu() -> list[str]:
    """Return the pages that the menu names itself; some sections are listed from files."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    items = [item for section in settings["nav"] for part in section.values() for item in part]
    return [item if isinstance(item, str) else next(iter(item.values())) for item in items]


def test_every_page_of_docs_is_in_the_menu():
    written = {str(path.relative_to(ROOT)) for path in DOCS.rglob("*.md")}
    listed = {page for page in written if page.startswith("docs/decisions/")}
    assert written - listed == {page for page in menu() if page.startswith("docs/")}


def test_every_page_of_the_menu_is_there():
    made = {"explorer.md", "verified.md"}
    assert [page for page in menu() if page not in made and not (ROOT / page).is_file()] == []


@pytest.mark.parametrize("path", CONCEPTS, ids=lambda path: path.stem)
def test_a_concept_is_one_short_page_that_opens_with_its_picture(path):
    text = path.read_text(encoding="utf-8")
    title, picture, caption = (part for part in text.split("\n\n")[:3])
    assert title.startswith("# ")
    assert picture.endswith(f"]({path.stem}.png)")
    assert caption.startswith("*")
    assert (path.parent / f"{path.stem}.png").is_file()
    assert (path.parent / f"{path.stem}-phone.png").is_file()
    assert len(text.split()) <= 600


def test_links_that_lead_nowhere_and_other_hosts_are_found(tool, tmp_path):
    page = (
        '<link rel="stylesheet" href="https://fonts.example/a.css"><p id="here"></p>'
        '<a href="https://example.org">may be followed</a><a href="#here"></a><a href="#gone"></a>'
        '<a href="other.html#there"></a><a href="lost.html"></a><img src="lost.png">'
        '<source srcset="tall.png"><script src="//cdn.example/x.js"></script>'
        '<img src="data:image/png;base64,AA==">'
    )
    _ = (tmp_path / "a.html").write_text(page, encoding="utf-8")
    _ = (tmp_path / "other.html").write_text('<h2 id="there"></h2>', encoding="utf-8")
    assert sorted(tool.check(tmp_path)) == [
        "a.html: #gone has no such anchor",
        "a.html: asks another host for //cdn.example/x.js",
        "a.html: asks another host for https://fonts.example/a.css",
        "a.html: lost.html leads nowhere",
        "a.html: lost.png leads nowhere",
        "a.html: tall.png leads nowhere",
    ]


def test_what_a_page_links_to_is_found(tool):
    found = {path.relative_to(ROOT).as_posix() for path in tool.linked_files(DOCS / "tour.md")}
    assert {"lm/train.py", "docs/notes/kl-gradients.md", "docs/decisions"} <= found


def test_the_core_is_documented_name_by_name(tool):
    import fdpg_ref

    page = tool.reference("fdpg_ref")
    assert [name for name in fdpg_ref.__all__ if f'"{name}"' not in page] == []


def test_formulas_become_mathml():
    _ = pytest.importorskip("latex2mathml", reason="python -m pip install '.[docs]' in a clone")
    made = loaded("site_hooks").mathml(
        r"\mathbb E_p\Big[f\big(\tfrac{\pi}{p}\big)\Big]\|x\|", block=True
    )
    assert made.startswith("<math")
    assert 'display="block"' in made
    assert "<mfrac>" in made
    # Nothing is left that the converter took for plain text.
    assert "\\" not in made
    assert "Big" not in made


def test_braces_at_the_end_of_a_cell_or_a_heading_are_text():
    """An extension that reads them as attributes would drop a set such as {0, 1}."""
    markdown = pytest.importorskip("markdown", reason="python -m pip install '.[docs]' in a clone")
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = settings["markdown_extensions"]
    given = {name: each for one in listed if isinstance(one, dict) for name, each in one.items()}
    names = [one if isinstance(one, str) else next(iter(one)) for one in listed]
    text = "# Rules {0, 1}\n\n| b is in |\n|---|\n| the set {0, 1} |\n\n*b* in *B*{0, 1}\n"
    made = markdown.markdown(text, extensions=names, extension_configs=given)
    assert made.count("{0, 1}") == 3


def test_a_phone_gets_the_tall_picture_of_a_concept():
    _ = pytest.importorskip("latex2mathml", reason="python -m pip install '.[docs]' in a clone")
    image = '<p><img alt="Two panels" src="targets.png" /></p>'
    shown = {}
    for name in ("docs/concepts/targets.md", "docs/tour.md"):
        page = SimpleNamespace(file=SimpleNamespace(src_uri=name))
        shown[name] = loaded("site_hooks").on_page_content(image, page)
    source = '<source media="(max-width: 44rem)" srcset="targets-phone.png">'
    assert shown["docs/tour.md"] == image
    assert shown["docs/concepts/targets.md"] == image.replace(
        image[3:-4], f"<picture>{source}{image[3:-4]}</picture>"
    )


def test_what_other_people_s_trainers_call_is_documented(tool):
    assert {"lm.engines.trl", "lm.engines.verl", "lm.conformance"} <= set(tool.API.values())


CELLS = """
<div class="jp-Cell jp-MarkdownCell"><p>Predict.</p></div>
<div class="jp-Cell jp-CodeCell celltag_prediction"><div class="jp-Cell-inputWrapper">x</div></div>
<div class="jp-Cell jp-CodeCell"><div class="jp-Cell-inputWrapper">a</div>
<div class="jp-Cell-outputWrapper">answer</div></div>
<div class="jp-Cell jp-CodeCell celltag_hide-input"><div class="jp-Cell celltag_hide-input">
<div class="jp-Cell-inputWrapper">b</div><div class="jp-Cell-outputWrapper">picture</div></div>
</div>
<div class="jp-Cell jp-MarkdownCell"><div class="jp-RenderedMarkdown"><p>It is 3.</p>
<ul><li>Why.</li></ul><p><strong>Predict.</strong> And then?</p></div></div>
<div class="jp-Cell jp-CodeCell celltag_prediction"><div class="jp-Cell-inputWrapper">y</div></div>
<div class="jp-Cell jp-MarkdownCell"><div class="jp-RenderedMarkdown"><p>It is 4.</p>
<h2>Next</h2><p>Text.</p></div></div>
<div class="jp-Cell jp-MarkdownCell"><div class="jp-RenderedMarkdown"><p>Prose.</p></div></div>
<div class="jp-Cell jp-CodeCell celltag_hide-input"><div class="jp-Cell-inputWrapper">c</div>
<div class="jp-Cell-outputWrapper">shown</div></div>
"""


def test_answers_to_predictions_and_the_code_of_pictures_are_folded():
    _ = pytest.importorskip("latex2mathml", reason="python -m pip install '.[docs]' in a clone")
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(CELLS, "html.parser")
    loaded("site_hooks").fold(soup)
    folded = [found.get_text(" ", strip=True) for found in soup.find_all("details")]
    code, answer = "The code of this cell", "What came out"
    assert folded == [
        *(f"{answer} answer", f"{code} b", f"{answer} picture"),
        *("After your run It is 3. Why.", "After your run It is 4."),
        f"{code} c",
    ]


@pytest.mark.parametrize("name", ["README.md", "docs/start.md", "docs/tour.md", "docs/teaching.md"])
def test_pages_lead_to_rendered_notebooks_and_a_lecturer_to_files(name):
    _ = pytest.importorskip("latex2mathml", reason="python -m pip install '.[docs]' in a clone")
    page = SimpleNamespace(file=SimpleNamespace(src_uri=name), meta={})
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "notebooks/student/01_" in text
    made = loaded("site_hooks").on_page_markdown(text, page)
    assert ("notebooks/student/01_" in made) == (name == "docs/teaching.md")
    assert "notebooks/01_" in made or name == "docs/teaching.md"
    # A search shows an explanation before anything else.
    assert (page.meta.get("search", {}).get("boost", 1) > 1) == (name == "docs/start.md")
