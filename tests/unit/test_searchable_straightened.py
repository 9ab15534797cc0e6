"""Searchable PDFs whose pages are straightened, as poppler and PDFium see them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from pikepdf import Array, Dictionary, Name, Pdf
from PIL import Image

from tests.support.searchable_pdfs import (
    crooked,
    dark_box,
    drawn,
    encoded,
    page_of,
    pdftotext,
    plain_pdf,
    searchable,
    word_boxes,
    words_block,
)

INK = (200, 100, 300, 140)  # a bar on the straight page of 600 x 400 pixels


@pytest.mark.parametrize("degrees", [0.0, -4.0, 9.0])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_crooked_picture_stands_upright_with_its_word_on_its_ink(degrees: float, rotation: int) -> None:
    straight = Image.new("L", (600, 400), 255)
    straight.paste(0, INK)
    sent = straight.rotate(-degrees - rotation, Image.Resampling.BICUBIC, expand=True, fillcolor=255)
    page = crooked(page_of(words_block(("слово", INK))), degrees, rotation)
    source = encoded(sent, "JPEG", quality=95, dpi=(144, 144))

    data = searchable(source, page.model_copy(update={"width": sent.width, "height": sent.height}), straighten=True)

    picture = drawn(data)
    left, top, right, bottom = dark_box(picture)
    assert np.allclose((right - left, bottom - top), (100, 40), atol=3)
    ((word, box),) = word_boxes(data)
    assert word == "слово"
    assert np.allclose(np.array(box) * 2, (left, top, right, bottom), atol=4)
    with Pdf.open(io.BytesIO(data)) as pdf:
        assert pdf.pages[0].images["/Picture"].read_raw_bytes() == source, "the picture keeps its encoding"


def test_a_pdf_page_keeps_its_vectors_and_links_and_has_its_notes_as_content() -> None:
    def change(pdf: Pdf) -> None:
        page = pdf.pages[0].obj
        page.Contents, page.Rotate = pdf.make_stream(b"0 g 50 150 40 10 re f"), 90
        look = pdf.make_stream(b"1 0 0 rg 0 0 20 20 re f", Type=Name.XObject, Subtype=Name.Form)
        look.BBox = Array([0, 0, 20, 20])
        stamp = Dictionary(Type=Name.Annot, Subtype=Name.Stamp, Rect=Array([100, 150, 120, 170]), F=4)
        stamp.AP = Dictionary(N=look)
        link = Dictionary(Type=Name.Annot, Subtype=Name.Link, Rect=Array([50, 150, 90, 160]))
        link.A = Dictionary(S=Name.URI, URI="https://example.org/")
        page.Annots = Array([pdf.make_indirect(stamp), pdf.make_indirect(link)])

    # The page is shown turned by 90 degrees, so its text is turned by as much.
    page = page_of(words_block(("bar", (300, 100, 340, 180))), size=(400, 600), rotation=90)

    data = searchable(plain_pdf(change=change), page, straighten=True)

    picture = drawn(data)
    assert picture.shape[:2] == (400, 600)
    assert dark_box(picture) == (100, 80, 180, 100)
    assert (picture[60:100, 200:240] == (255, 0, 0)).all()
    with Pdf.open(io.BytesIO(data)) as pdf:
        (link,) = pdf.pages[0].obj.Annots
        assert np.allclose([float(side) for side in link.Rect], (50, 150, 90, 160))


@pytest.mark.parametrize(
    "content",
    [
        b"0 g 50 150 40 10 re f",
        b"0 g 50 150 40 10 re f Q Q 0 0 1 rg 100 120 20 20 re f",
        b"Q 0 g 2 0 0 2 0 0 cm 50 50 40 10 re f",
        b"q 0 g 2 0 0 2 0 0 cm 50 50 40 10 re f",
        b"0 g 2 0 0 2 0 0 cm q 50 50 40 10 re f",
        b"",
    ],
    ids=[
        "sound",
        "states-ended-halfway",
        "states-ended-first",
        "state-left-open",
        "changed-state-left-open",
        "empty",
    ],
)
def test_a_page_and_its_notes_look_as_before_but_turned(content: bytes) -> None:
    def change(pdf: Pdf) -> None:
        look = pdf.make_stream(b"1 0 0 rg 0 0 20 20 re f", Type=Name.XObject, Subtype=Name.Form)
        look.BBox = Array([0, 0, 20, 20])
        stamp = Dictionary(
            Type=Name.Annot, Subtype=Name.Stamp, Rect=Array([200, 50, 220, 70]), F=4, AP=Dictionary(N=look)
        )
        marker = Dictionary(Type=Name.Annot, Subtype=Name.Highlight, Rect=Array([100, 20, 200, 60]), C=Array([1, 0, 0]))
        marker.QuadPoints = Array([100, 30, 150, 30, 100, 20, 150, 20, 150, 60, 200, 60, 150, 50, 200, 50])
        page = pdf.pages[0].obj
        page.Contents, page.TrimBox = pdf.make_stream(content), Array([0, 0, 100, 140])
        page.Annots = Array([pdf.make_indirect(stamp), pdf.make_indirect(marker)])

    source = plain_pdf(change=change)

    data = searchable(source, page_of(words_block(("bar", (100, 80, 180, 100))), rotation=180), straighten=True)

    assert np.array_equal(drawn(data), drawn(source)[::-1, ::-1])
    assert pdftotext(data).split() == ["bar"]


def test_notes_and_links_that_pages_share_stay_on_each_page() -> None:
    def change(pdf: Pdf) -> None:
        look = pdf.make_stream(b"1 0 0 rg 0 0 20 20 re f", Type=Name.XObject, Subtype=Name.Form)
        look.BBox = Array([0, 0, 20, 20])
        stamp = Dictionary(
            Type=Name.Annot, Subtype=Name.Stamp, Rect=Array([200, 50, 220, 70]), F=4, AP=Dictionary(N=look)
        )
        link = pdf.make_indirect(Dictionary(Type=Name.Annot, Subtype=Name.Link, Rect=Array([50, 150, 90, 160])))
        shared = pdf.make_indirect(Array([pdf.make_indirect(stamp), link]))
        for page in pdf.pages:
            page.obj.Annots, page.obj.Resources = shared, pdf.pages[0].obj.Resources

    source = plain_pdf(3, change=change)
    turned = [page_of(words_block(("bar", (100, 80, 180, 100))), number=number, rotation=180) for number in (1, 3)]

    data = searchable(source, turned[0], page_of(number=2), turned[1], straighten=True)

    for index, turns in enumerate((2, 0, 2)):
        assert np.array_equal(drawn(data, index), np.rot90(drawn(source, index), turns))
    with Pdf.open(io.BytesIO(data)) as pdf:
        links = [[float(side) for side in page.obj.Annots[0].Rect] for page in pdf.pages]
    assert links == [[210, 40, 250, 50], [50, 150, 90, 160], [210, 40, 250, 50]]


def test_a_field_has_the_font_that_its_form_gives_it_and_a_note_keeps_its_hidden_layer() -> None:
    def change(pdf: Pdf) -> None:
        font = Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica)
        look = pdf.make_stream(b"BT /F 30 Tf 0 5 Td (Field) Tj ET", Type=Name.XObject, Subtype=Name.Form)
        look.BBox = Array([0, 0, 100, 40])
        field = pdf.make_indirect(
            Dictionary(Type=Name.Annot, Subtype=Name.Widget, FT=Name.Tx, T="field", Rect=Array([100, 100, 200, 140]))
        )
        field.F, field.AP = 4, Dictionary(N=pdf.make_indirect(look))
        form = Dictionary(Fields=Array([field]), DR=Dictionary(Font=Dictionary(F=font)))
        pdf.Root.AcroForm = pdf.make_indirect(form)
        layer = pdf.make_indirect(Dictionary(Type=Name.OCG, Name="hidden"))
        pdf.Root.OCProperties = Dictionary(OCGs=Array([layer]), D=Dictionary(OFF=Array([layer])))
        note = Dictionary(Type=Name.Annot, Subtype=Name.Stamp, Rect=Array([200, 10, 260, 60]), F=4, OC=layer)
        red = pdf.make_stream(b"1 0 0 rg 0 0 60 50 re f", Type=Name.XObject, Subtype=Name.Form)
        red.BBox, note.AP = Array([0, 0, 60, 50]), Dictionary(N=red)
        pdf.pages[0].obj.Annots = Array([field, pdf.make_indirect(note)])

    source = plain_pdf(change=change)

    data = searchable(source, page_of(words_block(("bar", (100, 80, 180, 100))), rotation=180), straighten=True)

    before, after = drawn(source), drawn(data)[::-1, ::-1]
    where, red = np.s_[120:200, 200:400], np.s_[280:380, 400:520]
    assert np.isclose((before[where] < 128).sum(), (after[where] < 128).sum(), rtol=0.1)
    assert (before[where] < 128).any() and (after[red] == 255).all()
    assert sorted(pdftotext(data).split()) == ["Field", "bar"]
    with Pdf.open(io.BytesIO(data)) as pdf:
        assert "/AcroForm" not in pdf.Root


@pytest.mark.parametrize("rotation", [0, 90])
def test_entries_of_the_notes_that_are_none_do_not_matter(rotation: int) -> None:
    def change(pdf: Pdf) -> None:
        link = Dictionary(Type=Name.Annot, Subtype=Name.Link, Rect=Array([50, 150, 90, 160]))
        placeless = Dictionary(Type=Name.Annot, Subtype=Name.Link, Rect=Array([0, Name.X, None, 9]))
        pdf.pages[0].obj.Annots = Array([None, 7, Name.X, placeless, pdf.make_indirect(link)])

    page = page_of(words_block(("слово", (100, 60, 200, 100))), rotation=rotation, skew=3.0)

    data = searchable(plain_pdf(change=change), page, straighten=True)

    assert pdftotext(data).split() == ["слово"]
    with Pdf.open(io.BytesIO(data)) as pdf:
        link = pdf.pages[0].obj.Annots[-1]
        assert [float(side) for side in link.Rect] != [50, 150, 90, 160]


def test_straight_pages_stay_as_they_are() -> None:
    page = page_of(words_block(("слово", (20, 20, 90, 50))))

    assert searchable(plain_pdf(), page, straighten=True) == searchable(plain_pdf(), page)


def test_lines_of_a_straightened_page_are_read_in_their_order() -> None:
    page = crooked(page_of(words_block(("раз", (20, 20, 90, 40)), ("два", (400, 20, 560, 40)))), 8)

    text = pdftotext(searchable(plain_pdf(), page, straighten=True), "-layout")

    assert text.split() == ["раз", "два"] and len(text.strip().splitlines()) == 1
