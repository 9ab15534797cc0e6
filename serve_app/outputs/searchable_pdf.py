"""Writes a searchable PDF: the original pages with an invisible layer of the recognized text.

Pages of a PDF keep their content, vectors and text included; a JPEG is embedded byte for byte, other images without
loss. Active content (scripts, actions, media) and attached files are left out.
The source is untrusted: run this in a process whose crash or hang harms nothing else.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pikepdf
from pikepdf import Array, Dictionary, Name, Pdf
from PIL import Image

from serve_app.document import Page
from serve_app.errors import CorruptDocument, EmptyDocument, PasswordRequired, ServiceError
from serve_app.outputs.glyphless_font import InvisibleFont
from serve_app.outputs.invisible_text import Matrix, PageFrame, pdf_number, text_content
from serve_app.raster.images import HEADER_SEARCH_BYTES, image_errors, open_image, sniff
from serve_app.raster.metadata import file_dpi, turn_upright
from serve_app.raster.page_source import PageSource, open_source
from serve_app.raster.pdf import PdfSource
from serve_app.runtime.mapped_file import FileContent, map_file

MAX_PAGE_POINTS = 14_400
"""Longest side of a page that PDF viewers accept. Larger images are scaled to it."""

UNREAD_MAX_PIXELS = 10**8
"""Pixel limit for the image of a failed page, whose true size is unknown."""

_Layer = tuple[str, bytes]
"""The font's name in the page's resources, and the compressed content stream (b"" without text)."""

_GLANCE: dict[str, Any] = {"dpi": 72, "default_dpi": 72, "max_pixels": 10**7}

_FONT_NAME = "/OcrText"
_A4 = (595, 842)
_DEFAULT_DPI = 200  # for an image without a resolution, if its page failed

_PAGE_KEYS = (
    *("/Type", "/Parent", "/Resources", "/MediaBox", "/CropBox", "/BleedBox", "/TrimBox", "/ArtBox", "/Rotate"),
    *("/UserUnit", "/Contents", "/Group", "/Annots", "/Tabs"),
)
_TITLE_KEYS = ("/Title", "/Author", "/Subject", "/Keywords")
_HARMLESS_ACTIONS = ("/GoTo", "/Named", "/URI")
_HARMLESS_SCHEMES = (b"http://", b"https://", b"mailto:")
_FILES_AND_MEDIA = ("/AA", "/AF", "/FS", "/Movie", "/Sound", "/RichMediaContent", "/RichMediaSettings", "/3DD", "/PA")


def write_searchable_pdf(source: BinaryIO, pages: Iterable[Page], *, password: str | None, to: BinaryIO) -> None:
    """Write `pages` of the document `source` to `to`, as a PDF whose text can be searched.

    `source` is a file with a PDF or an image, as `open_source` takes them; a PDF is read only as far as needed.
    `pages` is a selection of its pages in the order of the result, and is iterated once. A page with an `error` gets
    its picture and no text. A PDF page whose own text can be searched (see `text_layer`) gets no new text. Other text
    on a page, such as another OCR's, stays beside the new text. Title, author, subject and keywords stay. The result is
    not encrypted, and the same input gives the same bytes.

    Raises EmptyDocument (no bytes, no pages), UnsupportedMediaType, PasswordRequired, CorruptDocument and TooLarge;
    and whatever `pages` raises.
    """
    beginning = source.read(HEADER_SEARCH_BYTES)
    source.seek(0)
    if not beginning:
        raise EmptyDocument()
    kind = sniff(beginning)
    font = InvisibleFont()
    with Pdf.new() as result, ExitStack() as opened:
        if kind == "PDF":
            existing_text = opened.enter_context(closing(_ExistingText(map_file(source), password)))
            with _pdf_errors():
                original = opened.enter_context(Pdf.open(source, password=password or ""))
            layers = _add_pdf_pages(result, original, pages, font, existing_text)
            _copy_title(result, original)
        else:
            layers = _add_image_pages(result, kind, source.read(), pages, font)
        if not layers:
            raise EmptyDocument("There is no page to write.")
        with _pdf_errors():
            face = font.add_to(result)
            for page, (name, content) in zip(result.pages, layers, strict=True):
                _add_layer(result, page.obj, name, content, face)
            result.save(
                to,
                deterministic_id=True,
                object_stream_mode=pikepdf.ObjectStreamMode.generate,
                stream_decode_level=pikepdf.StreamDecodeLevel.none,  # copies compressed streams as they are
            )


@contextmanager
def _pdf_errors() -> Iterator[None]:
    try:
        yield
    except pikepdf.PasswordError as error:
        raise PasswordRequired() from error
    except (pikepdf.PdfError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # All but PdfError come from objects of an unexpected type.
        raise CorruptDocument("The PDF is damaged and could not be written again.") from error


def _add_layer(result: Pdf, leaf: pikepdf.Object, name: str, content: bytes, face: pikepdf.Object) -> None:
    """Put the text before the page's own content, which may leave a changed graphics state behind."""
    if not content:
        return
    contents = leaf.get("/Contents")
    existing = list(contents) if isinstance(contents, Array) else [contents]
    layer = result.make_stream(content, Filter=Name.FlateDecode)
    leaf.Contents = Array([layer, *(part for part in existing if isinstance(part, pikepdf.Stream))])
    if not isinstance(leaf.get("/Resources"), Dictionary):
        leaf.Resources = Dictionary()
    # The resources may be shared with other pages and with forms; one more name in them is harmless.
    if not isinstance(leaf.Resources.get("/Font"), Dictionary):
        leaf.Resources.Font = Dictionary()
    leaf.Resources.Font[name] = face


# Pages of a PDF


class _ExistingText:
    """Finds the pages whose visible text can already be searched."""

    def __init__(self, data: FileContent, password: str | None) -> None:
        self._document: PdfSource | None = None
        with suppress(ServiceError):  # PDFium cannot read the file, so no page counts as searchable
            self._document = PdfSource(data, password)

    def is_on(self, number: int) -> bool:
        try:
            return self._document is not None and self._document.text_page(number, **_GLANCE) is not None
        except ServiceError:
            return False

    def close(self) -> None:
        if self._document is not None:
            self._document.close()


def _add_pdf_pages(
    result: Pdf, original: Pdf, pages: Iterable[Page], font: InvisibleFont, existing_text: _ExistingText
) -> list[_Layer]:
    indices, layers = [], []
    for page in pages:
        with _pdf_errors():
            if page.number > len(original.pages):
                raise CorruptDocument("The PDF is damaged: it has fewer pages than have been read.")
            leaf = original.pages[page.number - 1]
            name, frame = _unused_font_name(leaf), _frame(leaf)
        indices.append(page.number - 1)
        content = b"" if existing_text.is_on(page.number) else text_content(page, frame, font, name)
        layers.append((name, _compress(content)))
    with _pdf_errors():
        result.add_pages_from(original, indices)  # copies nothing outside pages, such as attached files
        seen: set[tuple[int, int]] = set()
        for leaf in result.pages:
            _defuse_page(leaf.obj, seen)
        _defuse_fields(result)
    return layers


def _copy_title(result: Pdf, original: Pdf) -> None:
    with _pdf_errors():
        for key in _TITLE_KEYS:
            value = original.docinfo.get(key)
            if isinstance(value, pikepdf.String):
                result.docinfo[key] = bytes(value)


def _frame(leaf: pikepdf.Page) -> PageFrame:
    """Return the visible part of the page. A missing or empty box is ignored, as PDFium does."""
    media = _rectangle(leaf.mediabox) or pikepdf.Rectangle(0, 0, 612, 792)
    crop = _rectangle(leaf.cropbox) or media
    left, bottom = max(media.llx, crop.llx), max(media.lly, crop.lly)
    right, top = min(media.urx, crop.urx), min(media.ury, crop.ury)
    return PageFrame(left, bottom, right - left, top - bottom, int(leaf.rotation / 90) % 4 * 90)


def _rectangle(box: pikepdf.Object) -> pikepdf.Rectangle | None:
    if not isinstance(box, Array):
        return None
    try:
        rectangle = pikepdf.Rectangle(box)
    except TypeError:  # not four numbers
        return None
    return rectangle if rectangle.width > 0 and rectangle.height > 0 else None


def _unused_font_name(leaf: pikepdf.Page) -> str:
    resources = leaf.get_resources()
    fonts = resources.get("/Font") if isinstance(resources, Dictionary) else None
    name = _FONT_NAME
    while isinstance(fonts, Dictionary) and name in fonts:
        name += "-"
    return name


def _defuse_page(leaf: pikepdf.Object, seen: set[tuple[int, int]]) -> None:
    """Remove active content from a page.

    `seen` has the annotation lists already processed: pages may share one, with a hundred thousand entries.
    """
    for key in set(leaf.keys()) - set(_PAGE_KEYS):
        del leaf[key]
    annotations = leaf.get("/Annots")
    if not isinstance(annotations, Array) or annotations.objgen in seen:
        return
    if annotations.is_indirect:
        seen.add(annotations.objgen)
    for annotation in annotations:
        _defuse(annotation)


def _defuse_fields(result: Pdf) -> None:
    """Remove active content from form fields, including those on no page."""
    form = result.Root.get("/AcroForm")
    fields = form.get("/Fields") if isinstance(form, Dictionary) else None
    seen, waiting = set(), list(fields) if isinstance(fields, Array) else []
    while waiting:
        field = waiting.pop()
        if isinstance(field, Dictionary) and field.objgen not in seen:
            seen.add(field.objgen)
            _defuse(field)
            kids = field.get("/Kids")
            waiting += list(kids) if isinstance(kids, Array) else []


def _defuse(annotation: object) -> None:
    """Remove all actions of an annotation or form field, except links to pages and to the web. Its appearance stays."""
    if not isinstance(annotation, Dictionary):
        return
    for key in _FILES_AND_MEDIA:
        if key in annotation:
            del annotation[key]
    action = annotation.get("/A")
    if isinstance(action, Dictionary) and _is_harmless(action):
        if "/Next" in action:
            del action["/Next"]
    elif action is not None:
        del annotation["/A"]


def _is_harmless(action: pikepdf.Object) -> bool:
    uri = action.get("/URI")
    address = bytes(uri).strip().lower() if isinstance(uri, pikepdf.String) else b""
    kind = action.get("/S")
    return kind in _HARMLESS_ACTIONS and (kind != "/URI" or address.startswith(_HARMLESS_SCHEMES))


# Images


def _add_image_pages(result: Pdf, kind: str, data: bytes, pages: Iterable[Page], font: InvisibleFont) -> list[_Layer]:
    layers = []
    source: PageSource | None = None
    for page in pages:
        limit = page.width * page.height or UNREAD_MAX_PIXELS
        try:
            if kind == "JPEG":
                picture = _embed_jpeg(result, data, limit)
            else:
                source = source or open_source(data, password=None, max_pixels=limit)
                picture = _embed_pixels(result, source, page.number, limit)
        except ServiceError:
            if page.error is None:
                raise
            picture = None
        layers.append((_FONT_NAME, _compress(_draw(result, picture, page, font))))
    return layers


@dataclass(frozen=True)
class _Picture:
    """An image in the PDF. PDF draws images on the unit square; `matrix` turns that square so that the image is upright."""

    stream: pikepdf.Object
    width: int  # upright, as height
    height: int
    dpi: int
    matrix: Matrix = (1, 0, 0, 1, 0, 0)


def _draw(result: Pdf, picture: _Picture | None, page: Page, font: InvisibleFont) -> bytes:
    """Add the page with its picture; returns the content stream of its text."""
    if picture is None:
        result.add_blank_page(page_size=_A4)
        return b""
    scale = min(72 / (page.dpi or picture.dpi), MAX_PAGE_POINTS / max(picture.width, picture.height))
    width, height = picture.width * scale, picture.height * scale
    leaf = result.add_blank_page(page_size=(width, height))
    leaf.obj.Resources = Dictionary(XObject=Dictionary(Picture=picture.stream))
    scaling, turning = (" ".join(map(pdf_number, matrix)) for matrix in ((width, 0, 0, height, 0, 0), picture.matrix))
    leaf.obj.Contents = result.make_stream(f"q {scaling} cm {turning} cm /Picture Do Q\n".encode())
    return text_content(page, PageFrame(0, 0, width, height, 0), font, _FONT_NAME)


def _embed_jpeg(result: Pdf, data: bytes, max_pixels: int) -> _Picture:
    """Embed the file unchanged."""
    with image_errors("JPEG"):
        image = open_image("JPEG", data, max_pixels)
        # The numbered corners of a 2 x 2 image (top left, top right, bottom left, bottom right), turned as this image is.
        corners = turn_upright(image, Image.frombytes("L", (2, 2), bytes(range(4)))).tobytes()
        (x, y), (x1, y1), (x2, y2) = ((at % 2, 1 - at // 2) for at in map(corners.index, (2, 3, 0)))
        turned = x1 == x
        width, height = image.size[::-1] if turned else image.size
        dpi = file_dpi(image, (width, height)) or _DEFAULT_DPI
        channels = len(image.getbands())
    stream = result.make_stream(
        data,
        **_image_entries(*image.size, channels, 8),
        Filter=Name.DCTDecode,
        # JPEG files have inverted CMYK, as Adobe introduced it. The rasterizer reads them as inverted too.
        **({"Decode": Array([1, 0] * 4)} if channels == 4 else {}),
    )
    return _Picture(stream, width, height, dpi, (x1 - x, y1 - y, x2 - x, y2 - y, x, y))


def _embed_pixels(result: Pdf, source: PageSource, number: int, max_pixels: int) -> _Picture:
    """Embed the pixels that were recognized, in the fewest channels and bits that lose nothing."""
    if number > source.page_count:
        raise CorruptDocument("The image is damaged: it has fewer pages than have been read.")
    image = source.render(number, dpi=None, default_dpi=_DEFAULT_DPI, max_pixels=max_pixels)
    samples, channels, bits = image.pixels, 3, 8
    if np.array_equal(samples[..., 0], samples[..., 1]) and np.array_equal(samples[..., 0], samples[..., 2]):
        samples, channels = np.ascontiguousarray(samples[..., 0]), 1
        if np.all((samples == 0) | (samples == 255)):
            samples, bits = np.packbits(samples > 0, axis=1), 1
    height, width, _ = image.pixels.shape
    stream = result.make_stream(
        zlib.compress(samples.data), **_image_entries(width, height, channels, bits), Filter=Name.FlateDecode
    )
    return _Picture(stream, width, height, image.dpi)


def _image_entries(width: int, height: int, channels: int, bits: int) -> dict[str, Any]:
    return {
        "Type": Name.XObject,
        "Subtype": Name.Image,
        "Width": width,
        "Height": height,
        "ColorSpace": {1: Name.DeviceGray, 3: Name.DeviceRGB, 4: Name.DeviceCMYK}[channels],
        "BitsPerComponent": bits,
    }


def _compress(content: bytes) -> bytes:
    return zlib.compress(content) if content else b""
