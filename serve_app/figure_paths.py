"""Paths of figures: pages name theirs by place alone, and a document of many pages needs names of their own."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import replace

from serve_app.document import PageReading
from serve_app.outputs.overlay import OVERLAYS


def with_own_figures(reading: PageReading, number: int) -> PageReading:
    """The page with `page-{number}-` before the names of its figures, in all places where they are linked."""
    page, figures = reading.page, []
    added = f"page-{number}-"
    links = sorted(
        match.start()
        for figure in reading.figures
        for match in re.finditer(re.escape(figure.path), page.markdown)
        if not figure.path.startswith(OVERLAYS)
    )
    for block in page.blocks:
        if block.markdown_span is not None:
            start, end = (place + len(added) * bisect_left(links, place) for place in block.markdown_span)
            block.markdown_span = start, end
    for figure in reading.figures:
        if figure.path.startswith(OVERLAYS):  # has the page's number already
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
