"""Opens documents of all supported types and renders their pages on request.

The bytes are untrusted: run this only in a process that may crash or hang (see `decoder_client`).
"""

from __future__ import annotations

import io
import struct
from typing import Protocol

from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from serve_app.errors import CorruptDocument, EmptyDocument, TooManyPages
from serve_app.raster.images import (
    HEADER_SEARCH_BYTES,
    DecodedImage,
    check_size,
    decode_opened,
    image_errors,
    open_image,
    sniff,
)
from serve_app.raster.old_style_jpeg import open_tiff
from serve_app.raster.pdf import PdfSource
from serve_app.raster.text_layer import TextPage
from serve_app.runtime.mapped_file import FileContent

MAX_TIFF_DIRECTORIES = 10_000
"""Most directories of a TIFF, pages and others: their chain can still be followed within milliseconds."""

_SUBFILE_TYPE = 254  # TIFF tag: bit 0 for a thumbnail, bit 2 for a transparency mask

_ENTRIES_SEARCHED = 64
"""Number of a directory's entries searched for the subfile type. Entries are sorted, so it comes first in a valid file."""


class PageSource(Protocol):
    """An opened document. Pages are numbered from 1 to `page_count`. A failed page does not affect the others."""

    @property
    def page_count(self) -> int: ...

    def render(self, number: int, *, dpi: int | None, default_dpi: int, max_pixels: int) -> DecodedImage:
        """Render a page.

        A PDF page is drawn at `dpi`, or at less if it would exceed `max_pixels`; the result's `dpi` is the actual one.
        An image takes `dpi` as its resolution, whatever its file says. If `dpi` is None, `default_dpi` applies.

        Raises CorruptDocument and TooLarge, for this page only.
        """

    def text_page(self, number: int, *, dpi: int | None, default_dpi: int, max_pixels: int) -> TextPage | None:
        """Read the page's text layer, in pixels of the rendered page. Returns None if it is missing or untrustworthy.

        Raises CorruptDocument, for this page only.
        """

    def close(self) -> None: ...


def open_source(data: FileContent, *, password: str | None, max_pixels: int) -> PageSource:
    """Open a PDF, a TIFF of one or more pages, or an image. Only the first frame of an animation is used.

    The first bytes decide the file type. An image of one page is refused here if its header is damaged or it has more
    than `max_pixels`; pages of other documents are checked when they are rendered.

    Raises EmptyDocument (no bytes, no pages), UnsupportedMediaType, CorruptDocument, PasswordRequired,
    TooLarge and TooManyPages.
    """
    if not data:
        raise EmptyDocument()
    match sniff(data[:HEADER_SEARCH_BYTES]):
        case "PDF":
            return PdfSource(data, password)
        case _:
            return open_image_source(bytes(data), max_pixels)


def open_image_source(data: bytes, max_pixels: int) -> ImageSource | TiffSource:
    """Open an image, like `open_source`."""
    kind = sniff(data[:HEADER_SEARCH_BYTES])
    return TiffSource(data, max_pixels) if kind == "TIFF" else ImageSource(kind, data, max_pixels)


class ImageSource:
    """An image of one page."""

    page_count = 1

    def __init__(self, kind: str, data: bytes, max_pixels: int) -> None:
        self.kind, self.data = kind, data
        # Used for the first rendering, usually the only one, then dropped, since it holds the decoded pixels.
        self._opened: ImageFile | None = self._open(max_pixels)

    def render(self, number: int, *, dpi: int | None, default_dpi: int, max_pixels: int) -> DecodedImage:
        image, self._opened = self._opened or self._open(max_pixels), None
        with image_errors(self.kind):
            check_size(image.size, max_pixels)
            return decode_opened(image, self.data, max_pixels=max_pixels, dpi_hint=dpi, default_dpi=default_dpi)

    def text_page(self, number: int, *, dpi: int | None, default_dpi: int, max_pixels: int) -> TextPage | None:
        return None

    def close(self) -> None:
        self._opened = None

    def open_page(self, number: int, max_pixels: int) -> ImageFile:
        """Open the image without decoding it. Raises CorruptDocument and TooLarge."""
        return self._open(max_pixels)

    def _open(self, max_pixels: int) -> ImageFile:
        with image_errors(self.kind):
            return open_image(self.kind, self.data, max_pixels)


class TiffSource:
    """A TIFF. Each page is read as if it were the file's first, so damage to one does not affect the others."""

    kind = "TIFF"

    def __init__(self, data: bytes, max_pixels: int) -> None:
        self.data = data
        self._directories = _TiffDirectories(data)
        self._pages = self._directories.pages()
        self._stream = io.BytesIO(data)
        self.page_count = len(self._pages)
        if self.page_count == 1:
            self.open_page(1, max_pixels)

    def render(self, number: int, *, dpi: int | None, default_dpi: int, max_pixels: int) -> DecodedImage:
        image = self.open_page(number, max_pixels)
        with image_errors("TIFF"):
            return decode_opened(image, self.data, max_pixels=max_pixels, dpi_hint=dpi, default_dpi=default_dpi)

    def text_page(self, number: int, *, dpi: int | None, default_dpi: int, max_pixels: int) -> TextPage | None:
        return None

    def close(self) -> None:
        self._stream = io.BytesIO()

    def open_page(self, number: int, max_pixels: int) -> TiffImageFile:
        """Open a page without decoding it. Raises CorruptDocument and TooLarge."""
        with image_errors("TIFF"):
            self._directories.put_first(self._stream, self._pages[number - 1])
            self._stream.seek(0)
            image = open_tiff(self._stream)
            check_size(image.size, max_pixels)
            return image


class _TiffDirectories:
    """The chain of directories in a TIFF or BigTIFF: https://www.awaresystems.be/imaging/tiff/bigtiff.html."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        order = "<" if data.startswith(b"II") else ">"
        big = 43 in data[2:4]
        self._offset = struct.Struct(order + ("Q" if big else "I"))
        self._count = struct.Struct(order + ("Q" if big else "H"))
        self._entry = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
        self._short, self._long = struct.Struct(order + "H"), struct.Struct(order + "I")
        self._first_at = 8 if big else 4

    def pages(self) -> list[int]:
        """Return the offsets of the directories that are pages: the first one, and all but thumbnails and masks.

        A directory outside the file counts as a page, since the file was truncated there, and ends the chain.

        Raises CorruptDocument for a cyclic chain, and TooManyPages.
        """
        pages: list[int] = []
        seen: set[int] = set()
        offset = self._read(self._offset, self._first_at) or 0
        while offset or not pages:
            if offset in seen:
                raise CorruptDocument("The page directories of the TIFF form a cycle.")
            if len(seen) == MAX_TIFF_DIRECTORIES:
                raise TooManyPages(f"The TIFF has more than {MAX_TIFF_DIRECTORIES} pages.")
            seen.add(offset)
            count = self._read(self._count, offset)
            entries = offset + self._count.size
            if not pages or count is None or not self._subfile_type(entries, count) & 0b101:
                pages.append(offset)
            offset = 0 if count is None else self._read(self._offset, entries + count * self._entry.size) or 0
        return pages

    def put_first(self, stream: io.BytesIO, offset: int) -> None:
        """Point the file header in `stream` to the directory at `offset`."""
        stream.seek(self._first_at)
        stream.write(self._offset.pack(offset))

    def _subfile_type(self, entries: int, count: int) -> int:
        for index in range(min(count, _ENTRIES_SEARCHED)):
            position = entries + index * self._entry.size
            if position + self._entry.size > len(self._data):
                break
            tag, kind, _, value = self._entry.unpack_from(self._data, position)
            if tag == _SUBFILE_TYPE:
                number: int = (self._short if kind == 3 else self._long).unpack_from(value)[0]
                return number
        return 0

    def _read(self, number: struct.Struct, position: int) -> int | None:
        """Read the number at `position`. Returns None if it is outside the file."""
        if position + number.size > len(self._data):
            return None
        value: int = number.unpack_from(self._data, position)[0]
        return value
