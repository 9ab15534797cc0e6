"""Markdown of a document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from serve_app.document import Page
from serve_app.document.markdown import escape_line


def document_markdown(pages: Iterable[Page], *, notes: bool = False) -> Iterator[str]:
    """The Markdown of all pages that have some, a blank line apart, in parts.

    `notes`: a page that failed is a quotation that says so.
    """
    separator = ""
    for page in pages:
        markdown = page.markdown if page.note is None or not notes else f"> {escape_line(page.note)}"
        if markdown:
            yield separator + markdown
            separator = "\n\n"
