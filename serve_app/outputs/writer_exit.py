"""How the process that writes a file ends, as it and its parent know it: see writer_process.py and writer_client.py."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.errors import CorruptDocument

REFUSED, NOT_KEPT = 3, 4
"""Exit statuses: the process printed why it does not write the file, or which pages it cannot keep."""

FORMAT_NAMES = {"pdf": "PDF", "docx": "DOCX", "pages": "DOCX"}
"""The name of each kind in messages."""


class PagesNotKept(CorruptDocument):
    """Some pages cannot be copied, or kept in the form that was asked for: write the document again, with these drawn.

    `positions` are those of the pages in the result, from 0.
    """

    def __init__(self, positions: Sequence[int]) -> None:
        super().__init__("The document has pages that cannot be kept.")
        self.positions = tuple(positions)
