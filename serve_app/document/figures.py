"""Paths of figures: pages name theirs by place alone, and a document of many pages needs names of their own."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import replace

from serve_app.document.model import Page, PageContent

OVERLAYS, PICTURES = "overlays/", "pages/"
"""Where the pictures of a document's pages lie, beside its result: with their blocks marked, and as they were read."""


def qualify_figures(reading: PageContent, number: int) -> PageContent:
    """The page with `page-{number}-` before the names of its figures, in all places where they are linked."""
    page, figures = reading.page, []
    added = _added(number)
    links = sorted(
        match.start()
        for figure in reading.figures
        for match in re.finditer(re.escape(figure.path), page.markdown)
        if not _of_whole_page(figure.path)
    )
    for block in page.blocks:
        if block.markdown_span is not None:
            start, end = (place + len(added) * bisect_left(links, place) for place in block.markdown_span)
            block.markdown_span = start, end
    for figure in reading.figures:
        if _of_whole_page(figure.path):
            figures.append(figure)
            continue
        folder, _, name = figure.path.rpartition("/")
        path = f"{folder}/{added}{name}".lstrip("/")
        figures.append(replace(figure, path=path))
        page.markdown = page.markdown.replace(figure.path, path)
        for block in page.blocks:
            block.content = block.content and block.content.replace(figure.path, path)
            block.figure = path if block.figure == figure.path else block.figure
    return replace(reading, page=page, figures=tuple(figures))


def local_figure_path(path: str, number: int) -> str:
    """The path by which the page alone links a figure of its own."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{name.removeprefix(_added(number))}".lstrip("/")


def with_local_figures(page: Page, paths: Iterable[str]) -> Page:
    """What `qualify_figures` has done to a page and its figures `paths`, undone on a copy."""
    page = page.model_copy(update={"blocks": [block.model_copy() for block in page.blocks]})
    for path in paths:
        own = local_figure_path(path, page.number)
        page.markdown = page.markdown.replace(path, own)
        for block in page.blocks:
            block.content = block.content and block.content.replace(path, own)
            block.figure = own if block.figure == path else block.figure
            block.markdown_span = None
    return page


def _added(number: int) -> str:
    return f"page-{number}-"


def _of_whole_page(path: str) -> bool:
    """Whether it is one of the pictures that have the page's number already."""
    return path.startswith((OVERLAYS, PICTURES))
