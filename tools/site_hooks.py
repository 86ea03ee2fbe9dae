"""Hooks of the documentation site: formulas become MathML, so that no script has to draw them."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from bs4 import BeautifulSoup
from bs4.element import NavigableString
from latex2mathml.converter import convert

# In Markdown pages arithmatex marks formulas; in notebooks they stand between dollars.
_MARKED = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_DOLLARS = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)
# MkDocs leads Markdown's links to pages; those of notebooks are left to us.
_TO_MARKDOWN = re.compile(r'href="(?![a-z]+:)([^"#]+)\.md(#[^"]*)?"')
_NOT_PROSE = {"pre", "code", "script", "style", "math", "textarea"}


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Replace the formulas of a page by MathML, which browsers draw themselves."""
    if page.file.src_uri.endswith(".ipynb"):
        return _notebook(html)
    return _MARKED.sub(lambda found: mathml(unescape(found[3]), block=found[2] == "["), html)


def mathml(latex: str, *, block: bool) -> str:
    """Return a formula as MathML: fractions and indices, as the browser can draw them."""
    # The converter knows neither \tfrac nor \big( nor an unbraced \mathbb E; MathML's own
    # parentheses grow with what they hold.
    latex = latex.replace(r"\tfrac", r"\frac").replace(r"\|", r"\Vert ")
    latex = re.sub(r"\\mathbb ?([A-Z])", r"\\mathbb{\1}", latex)
    latex = re.sub(r"\\[bB]igg?[lr]?\s*([(\[])", r"\\left\1", latex)
    latex = re.sub(r"\\[bB]igg?[lr]?\s*([)\]])", r"\\right\1", latex)
    return convert(latex.strip(), display="block" if block else "inline")


def _notebook(html: str) -> str:
    html = _TO_MARKDOWN.sub(lambda found: f'href="{found[1]}.html{found[2] or ""}"', html)
    if "$" not in html:
        return html
    soup = BeautifulSoup(html, "html.parser")
    for text in soup.find_all(string=_DOLLARS):
        names = {parent.name for parent in text.parents}
        classes = {one for parent in text.parents for one in parent.get_attribute_list("class")}
        prose = not names & _NOT_PROSE and "jp-RenderedMarkdown" in classes
        if type(text) is not NavigableString or not prose:
            continue
        made = _DOLLARS.sub(lambda found: mathml(found[1] or found[2], block=bool(found[1])), text)
        _ = text.replace_with(BeautifulSoup(made, "html.parser"))
    return str(soup)
