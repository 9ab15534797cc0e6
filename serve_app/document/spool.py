"""PageSpool: holds the pages of a document until it is complete, a few in memory and the rest on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from serve_app.document.codec import decode_native, decode_page, encode_native, encode_page
from serve_app.document.model import Figure, NativePage, Page, PageContent
from serve_app.document.outline import Structure

PAGES_IN_MEMORY = 16
"""A page of dense text with its words takes up to 2 MB as an object, and a tenth of that on disk."""

BYTES_IN_MEMORY = 2 * 2**20

Location = tuple[int, int]  # start and size in the file


@dataclass(frozen=True)
class _OnDisk:
    """Locations of a page in the file, as JSON."""

    whole: Location
    without_words: Location


class PageSpool:
    """Pages and figures, added in any order and read back in page order, any number of times.

    Its file has no name and is gone with the process. Not for use by two threads at once.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=BYTES_IN_MEMORY)  # noqa: SIM115 - closed by close()
        self._pages: dict[int, Page | _OnDisk] = {}
        self._figures: dict[str, Location] = {}
        self._figures_of: dict[int, list[str]] = {}
        self._native: dict[int, Location] = {}
        self._in_memory = 0
        self.structure = Structure()

    def __len__(self) -> int:
        return len(self._pages)

    @property
    def is_in_memory(self) -> bool:
        """Whether all pages are in memory."""
        return self._in_memory == len(self._pages)

    def add(self, content: PageContent) -> None:
        """Add a page that is not there yet."""
        page = content.page
        if content.native is not None:
            self._native[page.number] = self._write(encode_native(content.native))
        for figure in content.figures:
            self._figures[figure.path] = self._write(figure.jpeg)
            self._figures_of.setdefault(page.number, []).append(figure.path)
        if self._in_memory < PAGES_IN_MEMORY:
            self._in_memory += 1
            self._pages[page.number] = page
        else:
            self._pages[page.number] = _OnDisk(
                self._write(encode_page(page)), self._write(encode_page(page, words=False))
            )

    @property
    def numbers(self) -> list[int]:
        return sorted(self._pages)

    def page(self, number: int) -> Page:
        """Return a page as it was added, without its figures. Raises KeyError."""
        stored = self._pages[number]
        return stored if isinstance(stored, Page) else decode_page(self._read(*stored.whole))

    def remove(self, number: int) -> None:
        """Remove a page, which must have no figures. Raises KeyError."""
        if isinstance(self._pages.pop(number), Page):
            self._in_memory -= 1

    def __contains__(self, number: object) -> bool:
        return number in self._pages

    def pages(self) -> Iterator[Page]:
        """Yield the pages as parts of the document (see `Structure.as_one_piece`), in page order.

        Their blocks may lack words, which are most of a page and slow to read back.
        """
        for number in sorted(self._pages):
            stored = self._pages[number]
            page = stored if isinstance(stored, Page) else decode_page(self._read(*stored.without_words))
            yield self.structure.as_one_piece(page)

    def pages_with_words(self) -> Iterator[Page]:
        """Yield the pages as they are on paper, in page order, with words and the annotations of `structure`."""
        for number in sorted(self._pages):
            yield self.structure.annotate(self.page(number))

    def pages_as_json(self) -> Iterator[bytes]:
        """Yield each page as a JSON object, in page order, with words and the annotations of `structure`."""
        for number in sorted(self._pages):
            stored = self._pages[number]
            if isinstance(stored, _OnDisk) and not self.structure.changes_page(number):
                yield self._read(*stored.whole)
                continue
            page = stored if isinstance(stored, Page) else decode_page(self._read(*stored.whole))
            yield encode_page(self.structure.annotate(page))

    @property
    def figure_paths(self) -> list[str]:
        return list(self._figures)

    def content(self, number: int) -> PageContent:
        """Return a page as it was added, with its figures and its native form. Raises KeyError."""
        figures = tuple(Figure(path, self.figure(path) or b"") for path in self.figures_of(number))
        return PageContent(self.page(number), figures, self.native(number))

    def native(self, number: int) -> NativePage | None:
        """Return the page's native form; None if it was added without one."""
        location = self._native.get(number)
        return None if location is None else decode_native(self._read(*location))

    def figures_of(self, number: int) -> list[str]:
        """Return the paths of the figures of one page."""
        return self._figures_of.get(number, [])

    def figure(self, path: str) -> bytes | None:
        """Return the JPEG file that pages link as `path`; None if there is none."""
        location = self._figures.get(path)
        return None if location is None else self._read(*location)

    def close(self) -> None:
        self._file.close()

    def _write(self, data: bytes) -> Location:
        start = self._file.seek(0, 2)
        self._file.write(data)
        return start, len(data)

    def _read(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        return self._file.read(size)
