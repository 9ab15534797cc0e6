"""Searchable PDFs for tests: small documents, their pages as recognized, and what poppler and PDFium see of the result."""

from __future__ import annotations

import io
import math
import re
import subprocess
from collections.abc import Callable, Sequence
from html import unescape
from typing import Any

import numpy as np
import numpy.typing as npt
import pypdfium2 as pdfium
from pikepdf import Pdf
from PIL import Image

from serve_app.document import Block, Box, ErrorInfo, Page, Word
from serve_app.outputs.searchable_pdf import write_searchable_pdf
from serve_app.runtime.mapped_file import unnamed_file

DPI = 144  # two pixels a point
SIZE = (300, 200)  # points


def words_block(*words: tuple[str, Box], order: int = 0) -> Block:
    found = [Word(text=text, bbox=box) for text, box in words]
    return Block(label="text", text=" ".join(word.text for word in found), bbox=(0, 0, 1, 1), order=order, words=found)


def region(text: str, box: Box, order: int = 0) -> Block:
    return Block(label="text", text=text, bbox=box, order=order)


def page_of(*blocks: Block, number: int = 1, size: tuple[int, int] = (600, 400), **fields: Any) -> Page:
    return Page(number=number, width=size[0], height=size[1], **{"dpi": DPI, **fields}, blocks=list(blocks))


def failed(number: int = 1) -> Page:
    error = ErrorInfo(code="corrupt_document", message="The page is damaged.")
    return Page(number=number, width=0, height=0, dpi=0, error=error)


def plain_pdf(count: int = 1, change: Callable[[Pdf], None] = lambda pdf: None, **options: Any) -> bytes:
    """Pages of SIZE, each with a grey square; `change` is made before it is saved."""
    with Pdf.new() as pdf:
        for number in range(count):
            page = pdf.add_blank_page(page_size=SIZE)
            page.obj.Contents = pdf.make_stream(f"% page-{number + 1}\n0.5 g 20 20 {40 + number} 40 re f".encode())
        change(pdf)
        out = io.BytesIO()
        pdf.save(out, **options)
        return out.getvalue()


def crooked(page: Page, degrees: float, rotation: int = 0) -> Page:
    """The page turned clockwise, with room for its corners."""
    turn = np.exp(1j * math.radians(degrees + rotation))
    corners = turn * (np.array([-1, 1, 1, -1]) * page.width + 1j * np.array([-1, -1, 1, 1]) * page.height) / 2
    middle = corners.real.max() + 1j * corners.imag.max()

    def moved(box: Box) -> dict[str, Any]:
        left, top, right, bottom = box
        straight = np.array([left + 1j * top, right + 1j * top, right + 1j * bottom, left + 1j * bottom])
        at = middle + turn * (straight - (page.width + 1j * page.height) / 2)
        upright = (at.real.min(), at.imag.min(), at.real.max(), at.imag.max())
        return {"bbox": tuple(map(round, upright)), "polygon": [(point.real, point.imag) for point in at]}

    blocks = [
        block.model_copy(
            update={
                **moved(block.bbox),
                "words": [word.model_copy(update=moved(word.bbox)) for word in block.words],
            }
        )
        for block in page.blocks
    ]
    width, height = math.ceil(2 * middle.real - 1e-6), math.ceil(2 * middle.imag - 1e-6)
    return page.model_copy(
        update={"width": width, "height": height, "rotation": rotation, "skew": degrees, "blocks": blocks}
    )


def searchable(source: bytes, *pages: Page, password: str | None = None, straighten: bool = False) -> bytes:
    """The result, which qpdf must find sound."""
    out = io.BytesIO()
    with unnamed_file(source) as file:
        write_searchable_pdf(file, iter(pages), password=password, straighten=straighten, to=out)
    with Pdf.open(io.BytesIO(out.getvalue())) as pdf:
        assert pdf.check_pdf_syntax() == []
        assert pdf.get_warnings() == []
    return out.getvalue()


def pdftotext(data: bytes, *options: str) -> str:
    run = subprocess.run(["pdftotext", *options, "-", "-"], input=data, capture_output=True, check=True)
    assert run.stderr == b""
    return run.stdout.decode()


def lines_of(data: bytes) -> list[str]:
    return [line for line in pdftotext(data).replace("\f", "").splitlines() if line]


def word_boxes(data: bytes) -> list[tuple[str, tuple[float, ...]]]:
    """By poppler: words with left, top, right, bottom in points of the page as it is seen."""
    pattern = r'<word xMin="([-\d.]+)" yMin="([-\d.]+)" xMax="([-\d.]+)" yMax="([-\d.]+)">(.*?)</word>'
    found = re.findall(pattern, pdftotext(data, "-bbox", "-cropbox"))
    return [(unescape(text), tuple(map(float, numbers))) for *numbers, text in found]


def drawn(data: bytes, index: int = 0, dpi: float = DPI, password: str | None = None) -> npt.NDArray[np.uint8]:
    """By PDFium: RGB, shape (height, width, 3)."""
    document = pdfium.PdfDocument(data, password=password)
    document.init_forms()
    image = document[index].render(scale=dpi / 72, rev_byteorder=True).to_numpy()[..., :3].copy()
    document.close()
    return np.asarray(image, np.uint8)


def dark_box(image: npt.NDArray[np.uint8]) -> Box:
    rows, columns = np.nonzero(image.max(axis=2) < 64)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def photo(size: tuple[int, int] = (60, 40)) -> Image.Image:
    """No two of its corners are alike."""
    width, height = size
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.dstack([red, green, np.full_like(red, 90)]).astype(np.uint8))


def encoded(image: Image.Image, kind: str, more: Sequence[Image.Image] = (), **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options, **({"save_all": True, "append_images": list(more)} if more else {}))
    return out.getvalue()
