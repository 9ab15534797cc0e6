"""Pages that are a picture."""

from __future__ import annotations

from pikepdf import Array, Dictionary, Name, Page, Pdf

from serve_app.outputs.pdf_picture import Picture
from serve_app.outputs.reading_frame import PageFrame, pdf_number

MAX_POINTS = 14_400
"""Longest side of a page that PDF viewers accept. Larger pages are scaled to it."""


def add_picture_page(pdf: Pdf, picture: Picture, width: float, height: float) -> PageFrame:
    """Add a page filled by a picture to `pdf`; see `picture_page`. Returns where the picture lies."""
    page, frame = picture_page(pdf, picture, width, height)
    pdf.pages.append(page)
    return frame


def picture_page(pdf: Pdf, picture: Picture, width: float, height: float) -> tuple[Page, PageFrame]:
    """Make a page filled by a picture, for `pdf`, and return it with where the picture lies.

    Sizes are in points, and scaled down to MAX_POINTS.
    """
    scale = min(1, MAX_POINTS / max(width, height))
    frame = PageFrame(0, 0, width * scale, height * scale, 0)
    # `add_blank_page` makes no page thinner than 3 points.
    leaf = Dictionary(Type=Name.Page, MediaBox=Array([0, 0, frame.width, frame.height]))
    fill_with_picture(pdf, leaf, picture, frame)
    return Page(leaf), frame


def fill_with_picture(pdf: Pdf, leaf: Dictionary, picture: Picture, frame: PageFrame) -> None:
    """Make a picture all that a page shows, as it lies in `frame`."""
    left, bottom = frame.user_space(0, 1)
    right, top = frame.user_space(1, 1), frame.user_space(0, 0)
    place = (right[0] - left, right[1] - bottom, top[0] - left, top[1] - bottom, left, bottom)
    placing, turning = (" ".join(map(pdf_number, matrix)) for matrix in (place, picture.matrix))
    leaf.Resources = Dictionary(XObject=Dictionary(Picture=picture.add_to(pdf)))
    leaf.Contents = pdf.make_stream(f"q {placing} cm {turning} cm /Picture Do Q\n".encode())
