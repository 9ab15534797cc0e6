"""Documents like those of office scanners, of any length: black and white pages full of text, each one different."""

from __future__ import annotations

import io
import random
import textwrap
import zlib
from collections.abc import Sequence

import numpy as np
import pikepdf
from pikepdf import Dictionary, Name, Pdf

from samples.make_samples import SAMPLES, draw_page

PAGE_POINTS = (595, 842)  # A4
SIZE = (1240, 1754)  # A4 at 150 dpi, in pixels
FONT_PX = 20
MARGIN = 90
LINE_CHARACTERS = 84
LINES = 50

_BODY = " ".join(SAMPLES["page-ru"].body.split())
_ALL = textwrap.wrap(f"{_BODY} " * 4, LINE_CHARACTERS)
TEXT = "\n".join(_ALL[:LINES])
"""The lines of a page, before they are shuffled."""


def scans(count: int) -> list[bytes]:
    """`count` pages in the form that `pdf_of_scans` takes."""
    page = np.asarray(draw_page(TEXT, size=SIZE, font_px=FONT_PX, margin=MARGIN)) > 127
    bottom = MARGIN + LINES * (FONT_PX * 3 // 2)
    lines = page[MARGIN:bottom].reshape(LINES, -1, SIZE[0])
    made = []
    for number in range(count):
        order = random.Random(number).sample(range(LINES), LINES)
        shuffled = np.concatenate([page[:MARGIN], lines[order].reshape(-1, SIZE[0]), page[bottom:]])
        made.append(zlib.compress(np.packbits(shuffled, axis=1).data))
    return made


def pdf_of_scans(pages: Sequence[bytes]) -> bytes:
    """A PDF with a picture on each page, without a text layer."""
    with Pdf.new() as pdf:
        for scan in pages:
            picture = pdf.make_stream(
                scan,
                Type=Name.XObject,
                Subtype=Name.Image,
                Width=SIZE[0],
                Height=SIZE[1],
                ColorSpace=Name.DeviceGray,
                BitsPerComponent=1,
                Filter=Name.FlateDecode,
            )
            page = pdf.add_blank_page(page_size=PAGE_POINTS)
            page.obj.Resources = Dictionary(XObject=Dictionary(Scan=picture))
            page.obj.Contents = pdf.make_stream(b"q %d 0 0 %d 0 0 cm /Scan Do Q" % PAGE_POINTS)
        out = io.BytesIO()
        pdf.save(out, stream_decode_level=pikepdf.StreamDecodeLevel.none)
    return out.getvalue()
