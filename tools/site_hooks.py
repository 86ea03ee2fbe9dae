"""Hooks of the documentation site: what a reader should not have to draw, or not see at once.

Formulas become MathML, so that no script draws them. In notebooks, the code of a picture and the
answer to a prediction, in outputs and in prose, are folded: one click opens them, without a script.
"""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from bs4 import BeautifulSoup
from bs4.element import NavigableString, Tag
from latex2mathml.converter import convert

# In Markdown pages arithmatex marks formulas; in notebooks they stand between dollars.
_MARKED = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_DOLLARS = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)
# MkDocs leads Markdown's links to pages; those of notebooks, also to one another, are left to us.
_TO_PAGE = re.compile(r'href="(?![a-z]+:)([^"#]+)\.(?:md|ipynb)(#[^"]*)?"')
# What a search shows first, and what last: who asks for a word wants it explained.
_BOOSTS = {
    "docs/start.md": 8,
    "docs/glossary.md": 4,
    "docs/concepts/": 4,
    "docs/notes/": 2,
    "docs/decisions/": 0.3,
}
# The picture of a concept, which has a second file for phones beside it.
_PICTURE = re.compile(r'<img [^>]*?src="([^"/]+)\.png"[^>]*>')
_NOT_PROSE = {"pre", "code", "script", "style", "math", "textarea"}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead to the notebooks of this site, but where the files for a class are handed out."""
    name = page.file.src_uri
    for start, boost in _BOOSTS.items():
        if name.startswith(start):
            page.meta["search"] = {"boost": boost}
    files = name == "docs/teaching.md"
    return markdown if files else markdown.replace("notebooks/student/0", "notebooks/0")


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Replace the formulas of a page by MathML, which browsers draw themselves."""
    if page.file.src_uri.endswith(".ipynb"):
        return _notebook(html)
    if page.file.src_uri.startswith("docs/concepts/"):
        html = _PICTURE.sub(_for_phones, html)
    return _MARKED.sub(lambda found: mathml(unescape(found[3]), block=found[2] == "["), html)


def _for_phones(found: re.Match[str]) -> str:
    source = f'<source media="(max-width: 44rem)" srcset="{found[1]}-phone.png">'
    return f"<picture>{source}{found[0]}</picture>"


def mathml(latex: str, *, block: bool) -> str:
    """Return a formula as MathML: fractions and indices, as the browser can draw them."""
    # The converter knows neither \tfrac nor \big( nor an unbraced \mathbb E; MathML's own
    # parentheses grow with what they hold.
    latex = latex.replace(r"\tfrac", r"\frac").replace(r"\|", r"\Vert ")
    latex = re.sub(r"\\mathbb ?([A-Z])", r"\\mathbb{\1}", latex)
    latex = re.sub(r"\\[bB]igg?[lr]?\s*([(\[])", r"\\left\1", latex)
    latex = re.sub(r"\\[bB]igg?[lr]?\s*([)\]])", r"\\right\1", latex)
    return convert(latex.strip(), display="block" if block else "inline")


def fold(soup: BeautifulSoup) -> None:
    """Fold the code of cells tagged ``hide-input``, and what answers a prediction."""
    asked = False
    # The plug-in writes a cell into another of the same classes.
    cells = [cell for cell in soup.select(".jp-Cell") if not cell.find_parent(class_="jp-Cell")]
    for cell in cells:
        classes = cell.get_attribute_list("class")
        # A question is open from the cell that takes the prediction to the next text.
        if "jp-MarkdownCell" in classes or "celltag_prediction" in classes:
            if asked and "jp-MarkdownCell" in classes:
                _fold_text(soup, cell.select_one(".jp-RenderedMarkdown"))
            asked = "celltag_prediction" in classes
            continue
        if "celltag_hide-input" in classes:
            _wrap(soup, cell.select_one(".jp-Cell-inputWrapper"), "The code of this cell")
        if asked:
            _wrap(soup, cell.select_one(".jp-Cell-outputWrapper"), "What came out")


def _fold_text(soup: BeautifulSoup, text: Tag | None) -> None:
    """Fold a text up to its first heading or its next question, as students' copies do."""
    answer = soup.new_tag("div")
    for part in list(text.children) if text else []:
        is_heading = isinstance(part, Tag) and re.fullmatch("h[1-6]", part.name)
        if is_heading or part.get_text().startswith("Predict."):
            break
        _ = answer.append(part.extract())
    if text is not None and answer.get_text(strip=True):
        _ = text.insert(0, answer)
        _wrap(soup, answer, "After your run")


def _wrap(soup: BeautifulSoup, part: Tag | None, label: str) -> None:
    if part is not None:
        summary = soup.new_tag("summary")
        summary.string = label
        part.wrap(soup.new_tag("details")).insert(0, summary)


def _notebook(html: str) -> str:
    html = _TO_PAGE.sub(lambda found: f'href="{found[1]}.html{found[2] or ""}"', html)
    soup = BeautifulSoup(html, "html.parser")
    fold(soup)
    for text in soup.find_all(string=_DOLLARS):
        names = {parent.name for parent in text.parents}
        classes = {one for parent in text.parents for one in parent.get_attribute_list("class")}
        prose = not names & _NOT_PROSE and "jp-RenderedMarkdown" in classes
        if type(text) is not NavigableString or not prose:
            continue
        made = _DOLLARS.sub(lambda found: mathml(found[1] or found[2], block=bool(found[1])), text)
        _ = text.replace_with(BeautifulSoup(made, "html.parser"))
    return str(soup)
