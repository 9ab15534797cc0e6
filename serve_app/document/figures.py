"""Figure paths. Engines name a figure by its box, so in a document of several pages each path gets its page's number."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import replace

from serve_app.document.model import Page, PageContent

OVERLAYS, PICTURES = "overlays/", "pages/"
"""Folders beside a document's result, for pictures of whole pages: with their blocks drawn, and as recognized."""


def qualify_figures(content: PageContent, number: int) -> PageContent:
    """Prefix the file names of a page's figures with `page-{number}-`, and change all links to them; in place."""
    page, figures = content.page, []
    prefix = _prefix(number)
    links = sorted(
        match.start()
        for figure in content.figures
        for match in re.finditer(re.escape(figure.path), page.markdown)
        if not _shows_whole_page(figure.path)
    )
    for block in page.blocks:
        if block.markdown_span is not None:
            start, end = (position + len(prefix) * bisect_left(links, position) for position in block.markdown_span)
            block.markdown_span = start, end
    for figure in content.figures:
        if _shows_whole_page(figure.path):
            figures.append(figure)
            continue
        folder, _, name = figure.path.rpartition("/")
        path = f"{folder}/{prefix}{name}".lstrip("/")
        figures.append(replace(figure, path=path))
        page.markdown = page.markdown.replace(figure.path, path)
        for block in page.blocks:
            block.content = block.content and block.content.replace(figure.path, path)
            block.figure = path if block.figure == figure.path else block.figure
    return replace(content, page=page, figures=tuple(figures))


def local_figure_path(path: str, number: int) -> str:
    """Return the path of a figure without the prefix that `qualify_figures` added."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{name.removeprefix(_prefix(number))}".lstrip("/")


def with_local_figures(page: Page, paths: Iterable[str]) -> Page:
    """Return a copy of a page on which `qualify_figures` is undone for the figures at `paths`."""
    page = page.model_copy(update={"blocks": [block.model_copy() for block in page.blocks]})
    for path in paths:
        local = local_figure_path(path, page.number)
        page.markdown = page.markdown.replace(path, local)
        for block in page.blocks:
            block.content = block.content and block.content.replace(path, local)
            block.figure = local if block.figure == path else block.figure
            block.markdown_span = None
    return page


def _prefix(number: int) -> str:
    return f"page-{number}-"


def _shows_whole_page(path: str) -> bool:
    """Whether it is a picture of a whole page; those have the page's number in their names already."""
    return path.startswith((OVERLAYS, PICTURES))
