"""Searchable PDFs of pages that have text already: each word is there once, as poppler sees it."""

from __future__ import annotations

import io
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pikepdf import Array, Dictionary, Name, Pdf

from serve_app.document import Box
from serve_app.outputs.searchable_pdf import write_searchable_pdf
from serve_app.runtime.mapped_file import unnamed_file
from tests.support.pdfs import text_pdf
from tests.support.searchable_pdfs import (
    SIZE,
    drawn,
    failed,
    page_of,
    pdftotext,
    plain_pdf,
    region,
    searchable,
    word_boxes,
    words_block,
)

SHOWN = b"BT /F1 12 Tf 20 150 Td (shown on paper) Tj ET "
LONG = SHOWN.replace(b"shown on paper", b"shown on paper and on screen")
HIDDEN = b"q BT 3 Tr /F1 12 Tf 20 100 Td (0ld) Tj 0 -20 Td [(lay) -10 (er)] TJ T* (more) ' 1 1 (most) \" ET Q "
PICTURE = b"q 300 0 0 200 0 0 cm /Scan Do Q "


def with_content(content: bytes, form: bytes = b"", more: Callable[[Pdf], None] = lambda pdf: None) -> bytes:
    """A page with `content`, which may draw `form` as /Form and a grey picture as /Scan."""

    def change(pdf: Pdf) -> None:
        face = Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica, Encoding=Name.WinAnsiEncoding)
        fonts = Dictionary(F1=pdf.make_indirect(face))
        scan = pdf.make_stream(b"\xc0", Type=Name.XObject, Subtype=Name.Image, Width=1, Height=1, BitsPerComponent=8)
        scan.ColorSpace = Name.DeviceGray
        piece = pdf.make_stream(form, Type=Name.XObject, Subtype=Name.Form, BBox=Array([0, 0, 300, 200]))
        piece.Resources = Dictionary(Font=fonts)
        page = pdf.pages[0].obj
        page.Resources = Dictionary(Font=fonts, XObject=Dictionary(Scan=scan, Form=piece))
        page.Contents = pdf.make_stream(content)
        more(pdf)

    return plain_pdf(change=change)


def at(left: float, top: float, text: str) -> tuple[str, Box]:
    """A word of 12 points whose box begins at points from the upper left corner."""
    width = 6 * len(text)
    return text, (round(2 * left), round(2 * top), round(2 * (left + width)), round(2 * top + 24))


SHOWING = ("ShownOne", "ShownAny", "ShownAnyOff", "ShownAllOff", "ShownExpression")
HIDING = ("HiddenOne", "HiddenAll", "HiddenAnyOff", "HiddenAllOff", "HiddenExpression")

NEW = (at(20, 90, "new"), at(60, 90, "words"))


@pytest.mark.parametrize("wrap", [b"%b", b"q %b Q 0 g"], ids=["page", "group"])
@pytest.mark.parametrize("in_form", [False, True], ids=["", "in-a-form"])
def test_a_picture_drawn_through_letters_stays_and_covers_nothing(wrap: bytes, in_form: bool) -> None:
    through = wrap % (b"BT 7 Tr /F1 60 Tf 20 60 Td (ink) Tj ET " + PICTURE)
    source = with_content(SHOWN + HIDDEN + (b"/Form Do" if in_form else through), through, _scan_in_form)

    data = searchable(source, page_of(words_block(at(20, 40, "shown"), at(20, 120, "слово"))))

    assert (drawn(source) == 0xC0).any(), "the picture is seen"
    assert np.array_equal(drawn(data), drawn(source))
    assert "shown on paper" in pdftotext(data) and "слово" in pdftotext(data) and "0ld" not in pdftotext(data)
    assert pdftotext(data).split().count("shown") == 1


def _scan_in_form(pdf: Pdf) -> None:
    """Let the form draw the picture; states of the page and the form, layers, a group, and copies in the layer that is off."""
    resources = pdf.pages[0].obj.Resources
    objects = resources.XObject
    objects.Form.Resources.XObject = Dictionary(Scan=objects.Scan)
    resources.ExtGState = Dictionary(Pale=Dictionary(ca=0.5), Full=Dictionary(ca=1, BM=Name.Normal))
    objects.Form.Resources.ExtGState = resources.ExtGState
    off, on = (pdf.make_indirect(Dictionary(Type=Name.OCG, Name=name)) for name in ("off", "on"))
    pdf.Root.OCProperties = Dictionary(OCGs=Array([off, on]), D=Dictionary(OFF=Array([off])))
    resources.Properties = Dictionary(Off=off, On=on, **_rules(off, on))
    for name, stream in (("ScanOff", objects.Scan), ("FormOff", objects.Form), ("Group", objects.Form)):
        objects["/" + name] = pdf.make_stream(stream.read_raw_bytes(), dict(stream.items()))
    objects.ScanOff.OC = objects.FormOff.OC = off
    objects.Group.Group = Dictionary(S=Name.Transparency, I=True)


def _rules(off: Dictionary, on: Dictionary) -> dict[str, Any]:
    """Rules about layers, by name."""
    both = Array([off, None, on])
    negation = Array([Name.Not, off])
    rules: dict[str, dict[str, Any]] = {
        "ShownOne": {"OCGs": on},
        "ShownAny": {"OCGs": both},
        "ShownAnyOff": {"OCGs": both, "P": Name.AnyOff},
        "ShownAllOff": {"OCGs": Array([off]), "P": Name.AllOff},
        "ShownExpression": {"VE": Array([Name.And, on, Array([Name.Or, negation, off])]), "OCGs": off},
        "HiddenOne": {"OCGs": off},
        "HiddenAll": {"OCGs": both, "P": Name.AllOn},
        "HiddenAnyOff": {"OCGs": Array([on]), "P": Name.AnyOff},
        "HiddenAllOff": {"OCGs": both, "P": Name.AllOff},
        "HiddenExpression": {"VE": Array([Name.Not, Array([Name.Or, off, on])])},
    }
    return {name: Dictionary(Type=Name.OCMD, **entries) for name, entries in rules.items()}


@pytest.mark.parametrize(
    ("picture", "form"),
    [
        (b"q 300 0 0 120 0 0 cm /Scan Do Q", b""),
        (b"q 0 0 300 120 re W n " + PICTURE + b"Q", b""),
        (b"q 0 1 -1 0 300 0 cm 0 0 120 300 re W n q 200 0 0 300 0 0 cm /Scan Do Q Q", b""),
        (b"q 0 0 m 300 0 l 300 120 l 0 200 90 140 0 120 c h W* n " + PICTURE + b"Q", b""),
        (b"q 0 0 m 300 0 l 300 120 l 150 130 l 0 120 l h W n " + PICTURE + b"Q", b""),
        (b"q /Pale gs " + PICTURE + b"Q", b""),
        (b"q 1 0 0 1 0 -80 cm /Form Do Q", PICTURE),
        (b"q .5 0 0 1 0 0 cm /Form Do Q", b"q 0 0 600 120 re W n 600 0 0 200 0 0 cm /Scan Do Q"),
        (b"q 0 0 300 200 re 10 130 280 60 re W* n " + PICTURE + b"Q", b""),
        (b"q 200 200 -200 200 300 -200 cm /Scan Do Q", b""),
        (b"q /Pale gs /Form Do Q", PICTURE),
        (b"q /Pale gs /Group Do Q", b"/Full gs " + PICTURE),
        (b"/OC /Off BDC /OC /On BDC EMC " + PICTURE + b"EMC", b""),
        *((b"/OC /%b BDC " % name.encode() + PICTURE + b"EMC", b"") for name in HIDING),
        (PICTURE.replace(b"Scan", b"ScanOff"), b""),
        (b"/FormOff Do", PICTURE),
    ],
    ids=[
        *("beside", "clipped", "turned", "curve", "five-corners", "transparent", "box-of-form", "clip-in-form"),
        *("hole", "crooked", "transparent-form", "transparent-group", "off", *HIDING, "picture-off", "form-off"),
    ],
)
def test_text_that_a_picture_does_not_cover_stays(picture: bytes, form: bytes) -> None:
    source = with_content(SHOWN + HIDDEN + picture, form, _scan_in_form)

    data = searchable(source, page_of(words_block(at(20, 40, "shown"), at(20, 120, "слово"))))

    assert pdftotext(data).split() == ["shown", "on", "paper", "слово"]
    assert np.array_equal(drawn(data), drawn(source))


@pytest.mark.parametrize(
    "picture",
    [
        b"q 5 5 290 190 re W n " + PICTURE + b"Q",
        b"q 0 0 m 300 0 l 300 200 l 0 200 l h W* n " + PICTURE + b"Q",
        b"q 1 0 0 1 9 9 cm 0 0 9 9 re f Q /Pale gs /Full gs " + PICTURE,
        b"/Form Do",
        b"/OC /On BDC " + PICTURE + b"EMC",
        b"/OC /Off BDC EMC " + PICTURE,
        *(b"/OC /%b BDC " % name.encode() + PICTURE + b"EMC" for name in SHOWING),
        b"q 3 0 m 300 3 l 297 200 l 0 197 l h W n " + PICTURE + b"Q",
        b"q 20 0 m 280 0 l 291 0 300 9 300 20 c 300 180 l 300 200 280 200 v 20 200 l 0 200 0 180 y 0 20 l h W n "
        + PICTURE
        + b"Q",
        b"q 300 9 -9 200 4 -4 cm /Scan Do Q",
    ],
    ids=[
        *("rectangle", "four-lines", "opaque-again", "form", "on", "after-a-layer", *SHOWING),
        *("crooked-clip", "round-clip"),
        "crooked",
    ],
)
def test_text_that_a_picture_covers_is_replaced(picture: bytes) -> None:
    source = with_content(SHOWN + picture, PICTURE, _scan_in_form)

    data = searchable(source, page_of(words_block(at(20, 40, "scanned"))))

    assert pdftotext(data).split() == ["scanned"]


LEFT_HALF = b"q 200 0 0 200 0 0 cm /Scan Do Q "
NARROW = [500] * 224


def _narrow_fonts(pdf: Pdf) -> None:
    """Give the font widths of half its size, and add such a font with codes of two bytes."""
    fonts = pdf.pages[0].obj.Resources.Font
    fonts.F1.FirstChar, fonts.F1.LastChar, fonts.F1.Widths = 32, 255, Array(NARROW)
    inner = Dictionary(Type=Name.Font, Subtype=Name.CIDFontType2, BaseFont=Name.Helvetica, DW=3000)
    inner.CIDSystemInfo = Dictionary(Registry="Adobe", Ordering="Identity", Supplement=0)
    inner.W = Array([0, 64, 500, 65, Array(NARROW)])
    wide = Dictionary(Type=Name.Font, Subtype=Name.Type0, BaseFont=Name.Helvetica, Encoding=Name("/Identity-H"))
    wide.DescendantFonts = Array([inner])
    fonts.F2 = pdf.make_indirect(wide)


@pytest.mark.parametrize(
    "text",
    [
        b"/F1 12 Tf 10 150 Td (a text of thirty letters, alone) Tj",
        b"/F1 12 Tf 10 150 Td [(a text of) -4000 (thirty letters)] TJ",
        b"/F1 12 Tf 40 Tc 0 Tc 10 150 Td (a text) Tj (of thirty letters, alone) Tj",
        b"/F1 12 Tf 50 Tz 10 150 Td (a text of sixty letters, each of them half as wide, and alone) Tj",
        b"/F1 24 Tf .5 0 0 .5 10 150 Tm (a text of thirty letters, alone) Tj",
        b"/F2 12 Tf 10 150 Td <" + b"0041" * 29 + b"> Tj",
    ],
    ids=["plain", "moved", "in-pieces", "stretched", "scaled", "two-bytes"],
)
def test_text_that_ends_below_a_picture_is_replaced_and_one_that_goes_on_beside_it_stays(text: bytes) -> None:
    for beside in (b"", b"1 0 0 1 30 0 cm "):
        content = b"q " + beside + b"BT " + text + b" ET Q " + LEFT_HALF
        source = with_content(content, more=_narrow_fonts)

        with Pdf.open(io.BytesIO(searchable(source, page_of(words_block(*NEW))))) as pdf:
            written = b"".join(part.read_bytes() for part in pdf.pages[0].obj.Contents)

        assert (text.split(b"Td")[-1].split(b"Tm")[-1] in written) == bool(beside)


@pytest.mark.parametrize(
    "text",
    [
        b"20 150 Td (shown) Tj 40 Tc (on paper) Tj",
        b"20 150 Td [(shown) -14000 (paper)] TJ",
        b"20 150 Td 9 Tw (shown on paper and on) Tj",
        b"20 150 Td 200 Tz (shown on paper) Tj",
        b"20 150 Td 1 Ts (shown on paper) ' 180 0 Td (beside) Tj",
        b"0 1 -1 0 20 190 Tm (over the edge) Tj 0 1 -1 0 205 20 Tm (upwards) Tj",
        b"1 0 0 1 20 195 Tm (up) Tj 0 1 -1 0 202 20 Tm (half covered) Tj",
    ],
    ids=["spaced", "moved", "words-apart", "stretched", "second-line", "upwards", "half-a-letter"],
)
def test_text_of_which_a_part_can_be_seen_stays(text: bytes) -> None:
    source = with_content(b"BT /F1 12 Tf " + text + b" ET " + LEFT_HALF + HIDDEN, more=_narrow_fonts)

    data = searchable(source, page_of(words_block(*NEW)))

    assert np.array_equal(drawn(data), drawn(source))
    assert "0ld" not in pdftotext(data)


def test_operators_with_odd_operands_do_not_matter() -> None:
    odd = b"/Odd gs /Odd /Odd m /Odd TL /Odd Tr /Odd 1 Td /Odd 0 0 1 0 0 cm /Odd 0 9 9 re "

    data = searchable(with_content(SHOWN + HIDDEN + odd), page_of(words_block(*NEW)))

    with Pdf.open(io.BytesIO(data)) as pdf:
        written = b"".join(part.read_bytes() for part in pdf.pages[0].obj.Contents)
    assert b"(shown on paper)" in written and b"0ld" not in written


def test_text_of_a_form_that_is_covered_in_one_place_stays_in_the_other() -> None:
    places = b"/Form Do q 1 0 0 1 0 -100 cm /Form Do Q " + HIDDEN
    source = with_content(places + b"q 300 0 0 120 0 0 cm /Scan Do Q", SHOWN)

    data = searchable(source, page_of(words_block(at(20, 40, "shown"))))

    assert np.array_equal(drawn(data), drawn(source))
    assert "0ld" not in pdftotext(data)


def test_text_that_goes_on_after_hidden_text_does_not_move() -> None:
    goes_on = b"BT /F1 12 Tf 20 150 Td 3 Tr (0ld ) Tj 0 Tr (shown) Tj 0 -20 Td 3 Tr (layer) Tj ET"
    source = with_content(goes_on)

    data = searchable(source, page_of(words_block(at(20, 120, "new"))))

    assert np.array_equal(drawn(data), drawn(source))
    assert pdftotext(data).split() == ["0ld", "shown", "new"]


def test_many_groups_within_each_other_take_little_time() -> None:
    content = HIDDEN + b"q " * 20_000 + b"S " * 40_000

    started = time.process_time()
    data = searchable(with_content(content), page_of(words_block(*NEW)))

    assert time.process_time() - started < 10
    assert pdftotext(data).split() == ["new", "words"]


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (PICTURE + HIDDEN + SHOWN, b""),
        (HIDDEN + PICTURE + SHOWN, b""),
        (HIDDEN.replace(b"3 Tr", b"") + PICTURE + SHOWN, b""),
        (PICTURE + b"/Form Do " + SHOWN, HIDDEN + b"0 g 200 10 9 9 re f"),
        (PICTURE + b"q BT 3 Tr ET /Form Do Q " + SHOWN, HIDDEN.replace(b"3 Tr", b"")),
    ],
    ids=["over-the-picture", "under-it", "covered", "in-a-form", "mode-of-the-page"],
)
def test_hidden_text_is_replaced_and_the_page_looks_as_before(content: bytes, form: bytes) -> None:
    source = with_content(content, form)

    data = searchable(source, page_of(words_block(*NEW)))

    assert pdftotext(data).split() == ["shown", "on", "paper", "new", "words"]
    assert np.array_equal(drawn(data), drawn(source))


def test_hidden_text_stays_where_nothing_was_recognized() -> None:
    source = with_content(PICTURE + HIDDEN)

    for page in (failed(), page_of()):
        assert pdftotext(searchable(source, page)).split() == pdftotext(source).split()


@pytest.mark.parametrize("place", ["page", "form"])
@pytest.mark.parametrize("straighten", [False, True])
def test_a_page_with_damaged_content_is_kept(place: str, straighten: bool) -> None:
    def damage(pdf: Pdf) -> None:
        page = pdf.pages[0].obj
        damaged = page.Contents if place == "page" else page.Resources.XObject.Form
        comment = b"%" + bytes(32 + number * number * 7 % 89 for number in range(3000))
        packed = zlib.compress(damaged.read_bytes() + comment)
        half = len(packed) // 2
        damaged.write(packed[:half] + 40 * b"\xff" + packed[half + 40 :], filter=Name.FlateDecode)

    source = with_content(PICTURE + HIDDEN + SHOWN + b"/Form Do", HIDDEN, damage)
    out = io.BytesIO()

    with unnamed_file(source) as file:
        drawn_anew = write_searchable_pdf(
            file, [page_of(words_block(*NEW), rotation=180)], password=None, straighten=straighten, to=out
        )

    assert drawn_anew == []
    assert np.isclose((drawn(out.getvalue()) < 128).mean(), (drawn(source) < 128).mean(), rtol=0.1)


@pytest.mark.parametrize("skew", [0.0, 3.0])
def test_a_result_that_is_sent_again_has_its_text_once_and_grows_no_more(skew: float) -> None:
    page = page_of(words_block(*NEW), skew=skew)
    first = searchable(with_content(PICTURE + SHOWN), page)

    again = searchable(first, page)

    assert pdftotext(again) == pdftotext(first)
    assert len(searchable(again, page)) <= len(again)


def test_only_words_that_the_page_does_not_show_as_text_are_added() -> None:
    read = words_block(at(20, 40, "shawn"), at(60, 40, "on"), at(75, 40, "paper"), at(20, 120, "clause"))
    unplaced = region("shown on paper", (40, 80, 260, 104), order=1)

    data = searchable(with_content(SHOWN + b"q 90 0 0 30 15 55 cm /Scan Do Q"), page_of(read, unplaced))

    assert pdftotext(data).split() == ["shown", "on", "paper", "clause"]


def test_a_heading_drawn_as_outlines_beside_text_is_added_once() -> None:
    source = with_content(LONG + b"20 100 90 20 re f")
    page = page_of(words_block(at(20, 40, "shown"), at(60, 40, "on"), at(75, 40, "paper"), at(20, 80, "HEADING")))
    every = ["shown", "on", "paper", "and", "on", "screen", "HEADING"]

    data = searchable(source, page)

    assert pdftotext(data).split() == every
    assert pdftotext(searchable(data, page)).split() == every


def test_a_word_in_a_box_as_high_as_its_line_is_not_added() -> None:
    data = searchable(with_content(LONG), page_of(words_block(("on", (110, 70, 150, 120)))))

    assert pdftotext(data).split() == ["shown", "on", "paper", "and", "on", "screen"]


def test_letters_with_boxes_as_large_as_the_page_cover_nothing_but_themselves() -> None:
    def add_font(pdf: Pdf) -> None:
        dot = pdf.make_stream(b"600 0 -30000 -30000 30000 30000 d1 0 0 500 500 re f")
        font = Dictionary(Type=Name.Font, Subtype=Name.Type3, FontBBox=Array([0, 0, 0, 0]))
        font.FontMatrix, font.CharProcs = Array([0.001, 0, 0, 0.001, 0, 0]), Dictionary(dot=dot)
        font.Encoding = Dictionary(Type=Name.Encoding, Differences=Array([65, *[Name.dot] * 26]))
        font.FirstChar, font.LastChar, font.Widths = 65, 90, Array([600] * 26)
        pdf.pages[0].obj.Resources.Font.Dots = pdf.make_indirect(font)

    source = with_content(LONG + b"BT /Dots 8 Tf 200 20 Td (LETTERS) Tj ET 20 100 90 20 re f", more=add_font)

    data = searchable(source, page_of(words_block(at(20, 40, "shown"), at(20, 80, "HEADING"), at(60, 80, "no"))))

    assert {"HEADING", "no"} < set(pdftotext(data).split())
    assert pdftotext(data).split().count("shown") == 1


def test_letters_of_a_watermark_are_not_added() -> None:
    tilted = LONG + b"BT .7 .7 -.7 .7 150 20 Tm /F1 60 Tf (X) Tj ET"
    letter = ("X", (250, 250, 350, 355))

    data = searchable(with_content(tilted), page_of(words_block(at(20, 40, "shown"), letter)))

    assert pdftotext(data).split().count("X") == 1


def test_a_page_all_of_whose_words_are_text_keeps_its_own_hidden_text() -> None:
    source = with_content(LONG + b"BT 3 Tr /F1 12 Tf 200 20 Td (x2) Tj ET")

    data = searchable(source, page_of(words_block(at(20, 40, "shown"), at(60, 40, "on"))))

    assert pdftotext(data) == pdftotext(source)


def test_a_hidden_copy_of_what_the_page_shows_is_gone() -> None:
    double = SHOWN + b"q BT 3 Tr /F1 12 Tf 20 150 Td (shown on paper) Tj ET Q"

    data = searchable(with_content(double), page_of(words_block(at(20, 40, "shown"), at(60, 40, "on"))))

    assert pdftotext(data).split() == ["shown", "on", "paper"]


def test_a_word_under_other_text_is_added() -> None:
    stamp = SHOWN.replace(b"shown on paper", b"REVISED COPY")

    data = searchable(with_content(stamp), page_of(words_block(at(20, 40, "harbour"))))

    assert sorted(pdftotext(data).split()) == ["COPY", "REVISED", "harbour"]


def test_garbled_text_does_not_count_as_text() -> None:
    garbled = SHOWN.replace(b"shown on paper", "Контора порта открыта".encode("cp1251"))
    words = (at(20, 40, "Контора"), at(65, 40, "порта"), at(100, 40, "открыта"))

    text = pdftotext(searchable(with_content(garbled), page_of(words_block(*words))), "-raw").split()

    assert {"Контора", "порта", "открыта"} < set(text)


def test_text_of_a_stamp_is_there_once() -> None:
    def add_stamp(pdf: Pdf) -> None:
        look = pdf.make_stream(b"BT /F1 12 Tf 2 5 Td (approved) Tj ET", Type=Name.XObject, Subtype=Name.Form)
        look.BBox, look.Resources = Array([0, 0, 60, 20]), Dictionary(Font=pdf.pages[0].obj.Resources.Font)
        stamp = Dictionary(Type=Name.Annot, Subtype=Name.Stamp, Rect=Array([200, 95, 260, 115]), F=4)
        stamp.AP = Dictionary(N=look)
        pdf.pages[0].obj.Annots = Array([pdf.make_indirect(stamp)])

    source = with_content(SHOWN, more=add_stamp)
    read = words_block(at(20, 40, "shown"), at(60, 40, "on"), at(75, 40, "paper"), at(202, 87, "approved"))

    data = searchable(source, page_of(read))

    assert pdftotext(data).split() == pdftotext(source).split() == ["shown", "on", "paper", "approved"]


def test_bullets_without_a_meaning_do_not_make_the_words_beside_them_garbled() -> None:
    lines = ["• Каждый ящик с биркой", "• Вопросы задавайте клерку", "• Деньги возвращают быстро"]
    source = text_pdf(
        [(20, 160 - 30 * row, 12, line) for row, line in enumerate(lines)], size=SIZE, to_unicode={"•": "\ufffd"}
    )
    boxes = [(word, box) for word, box in word_boxes(source) if word.isalpha()]
    assert len(boxes) == 10
    found = [
        (word, (round(2 * left), round(2 * top), round(2 * right), round(2 * bottom)))
        for word, (left, top, right, bottom) in boxes
    ]

    text = pdftotext(searchable(source, page_of(words_block(*found))))

    assert [word for word in text.split() if word.isalpha()] == [word for word, _ in boxes]
