"""Writes the Markdown of a document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from serve_app.document import Page
from serve_app.document.markdown import escape_line


def document_markdown(pages: Iterable[Page], *, notes: bool = False, marks: bool = False) -> Iterator[str]:
    """Yield the Markdown of the pages in parts, separated by blank lines. Pages without Markdown are left out.

    With `notes`, a quotation stands for each failed page and says that it failed. With `marks`, a comment before each
    page, also before an empty one, has its number.
    """
    separator = ""
    for page in pages:
        if marks:
            yield f"{separator}<!-- page {page.number} -->"
            separator = "\n\n"
        markdown = page.markdown if page.note is None or not notes else f"> {escape_line(page.note)}"
        if markdown:
            yield separator + markdown
            separator = "\n\n"
