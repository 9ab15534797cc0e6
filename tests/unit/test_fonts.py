"""Text in fonts that the PDF does not embed: drawn in the system's fonts, or reported."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.raster import fonts
from serve_app.raster.images import DecodedImage
from serve_app.raster.page_source import open_source
from serve_app.raster.pdf import PdfSource
from tests.support.pdfs import page_pdf, stream

SIZE = (600, 100)
LETTER = 40
CYRILLIC = [0x0416, 0x042F, 0x0434, 0x0451, 0x2116]  # Ж Я д ё №
NAMES_OF_GLYPHS = b"/Differences[1/afii10024/afii10049/afii10069/afii10071/afii61352]"
DESCRIPTOR = (
    b"/FontDescriptor<</Type/FontDescriptor/FontName/%b/Flags %d/ItalicAngle 0/Ascent 800/Descent -200/StemV 80>>"
)


def draw(data: bytes) -> DecodedImage:
    source = open_source(data, password=None, max_pixels=10**6)
    try:
        return source.render(1, dpi=72, default_dpi=72, max_pixels=10**6)
    finally:
        source.close()


def simple_font(name: bytes, *, flags: int | None = 32, subtype: bytes = b"TrueType") -> bytes:
    """A font of single-byte codes, whose codes 1 to 5 are Cyrillic letters."""
    descriptor = b"" if flags is None else DESCRIPTOR % (name, flags)
    encoding = b"/Encoding<</Type/Encoding/BaseEncoding/WinAnsiEncoding%b>>" % NAMES_OF_GLYPHS
    return b"<</Type/Font/Subtype/%b/BaseFont/%b%b%b>>" % (subtype, name, encoding, descriptor)


def page_in(font: bytes, codes: list[bytes], *more: bytes, mode: int = 0) -> bytes:
    """A page with these codes (in hexadecimal), one every LETTER points, in the font, which is object 5."""
    content = b"".join(
        b"BT %d Tr /F1 30 Tf %d 40 Td <%b> Tj ET\n" % (mode, 10 + LETTER * index, code)
        for index, code in enumerate(codes)
    )
    return page_pdf(content, size=SIZE, page=b"/Resources<</Font<</F1 5 0 R>>>>", more=[font, *more])


def letters_drawn(image: DecodedImage, count: int) -> list[bool]:
    return [bool((image.pixels[:, 5 + LETTER * i : 5 + LETTER * (i + 1)] < 128).any()) for i in range(count)]


CODES = [b"%02X" % code for code in range(1, 6)]


@pytest.mark.parametrize(
    "name",
    [
        *(b"Arial", b"Arial,Bold", b"ABCDEF+Arial-BoldItalicMT", b"TimesNewRoman,Italic", b"TimesNewRomanPSMT"),
        *(b"CourierNewPS-BoldMT", b"Tahoma", b"Tahoma-Bold", b"Verdana", b"Calibri", b"Calibri-BoldItalic"),
        *(b"Cambria", b"SegoeUI", b"ArialNarrow", b"#2Fafii10097", b"SomeFontThatNobodyHas"),
    ],
)
def test_letters_beyond_latin_are_drawn(name: bytes) -> None:
    image = draw(page_in(simple_font(name), CODES))
    assert letters_drawn(image, 5) == [True] * 5 and image.warnings == ()


@pytest.mark.parametrize(
    "letters",
    [
        (0x391, 0x3B2, 0x3C9),
        (0x5D0, 0x5D1, 0x5E9),
        (0x627, 0x628, 0x634),
        (0x531, 0x562, 0x577),
        (0x10D0, 0x10D1, 0x10E8),
    ],
    ids=["Greek", "Hebrew", "Arabic", "Armenian", "Georgian"],
)
@pytest.mark.parametrize("name", [b"Arial", b"TimesNewRoman", b"CourierNew", b"David"])
def test_letters_that_the_font_of_the_same_widths_lacks_are_drawn_in_another(
    name: bytes, letters: tuple[int, ...]
) -> None:
    glyphs = b"/Differences[1%b]" % b"".join(b"/uni%04X" % letter for letter in letters)
    image = draw(page_in(simple_font(name).replace(NAMES_OF_GLYPHS, glyphs), CODES[:3]))
    assert letters_drawn(image, 3) == [True] * 3 and image.warnings == ()


@pytest.mark.parametrize(("flags", "subtype"), [(4, b"TrueType"), (None, b"TrueType"), (None, b"Type1")])
def test_letters_are_those_that_the_pdf_names(flags: int | None, subtype: bytes) -> None:
    expected = draw(page_in(simple_font(b"Arial"), CODES)).pixels
    assert np.array_equal(draw(page_in(simple_font(b"Arial", flags=flags, subtype=subtype), CODES)).pixels, expected)


def test_styles_and_families_look_different() -> None:
    names = (b"Arial", b"Arial,Bold", b"Arial,Italic", b"TimesNewRoman", b"CourierNew", b"Calibri", b"Verdana")
    drawn = {draw(page_in(simple_font(name), CODES)).pixels.tobytes() for name in names}
    assert len(drawn) == len(names)


def test_pictures_in_a_font_of_symbols_are_not_drawn_as_letters() -> None:
    letters, symbols = (draw(page_in(simple_font(name, flags=4), [b"6C", b"6E"])) for name in (b"Arial", b"Wingdings"))
    assert not np.array_equal(letters.pixels, symbols.pixels)


def foreign_font(codes: list[int]) -> list[bytes]:
    """A font whose codes, of two bytes, are these characters, and the objects that it needs."""
    names = b"".join(b"<%04X> <%04X>\n" % (code, code) for code in codes)
    cmap = (
        b"/CIDInit /ProcSet findresource begin begincmap 1 begincodespacerange <0000> <FFFF> endcodespacerange\n"
        b"%d beginbfchar\n%bendbfchar endcmap end" % (len(codes), names)
    )
    return [
        b"<</Type/Font/Subtype/Type0/BaseFont/KaiTi/Encoding/Identity-H/ToUnicode 7 0 R/DescendantFonts[6 0 R]>>",
        b"<</Type/Font/Subtype/CIDFontType2/BaseFont/KaiTi/CIDToGIDMap/Identity/DW 1000"
        b"/CIDSystemInfo<</Registry(Adobe)/Ordering(Identity)/Supplement 0>>" + DESCRIPTOR % (b"KaiTi", 4) + b">>",
        stream(cmap),
    ]


@pytest.mark.parametrize("codes", [[b"A000A000"], [b"A000"] * 9], ids=["words", "letters placed one by one"])
def test_a_font_without_a_stand_in_is_a_warning_that_names_it(codes: list[bytes]) -> None:
    font, *parts = foreign_font([0xA000])
    image = draw(page_in(font, codes, *parts))
    (warning,) = image.warnings
    assert warning.code == "font_missing" and "KaiTi" in warning.message
    assert draw(page_in(font, codes, *parts, mode=3)).warnings == ()  # an invisible layer has nothing to draw


def test_text_in_a_font_without_a_stand_in_is_taken_from_the_text_layer() -> None:
    codes = list(range(0xA000, 0xA000 + 24))
    font, *parts = foreign_font(codes)
    content = b"BT /F1 10 Tf 20 40 Td <%b> Tj ET" % b"".join(b"%04X" % code for code in codes)
    data = page_pdf(content, size=SIZE, page=b"/Resources<</Font<</F1 5 0 R>>>>", more=[font, *parts])
    page = PdfSource(data, None).text_page(1, dpi=72, default_dpi=72, max_pixels=10**6)
    assert page is not None and [block.text for block in page.blocks] == ["".join(map(chr, codes))]


def test_missing_fonts_come_with_their_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fonts.main() == 0 and not capsys.readouterr().out
    monkeypatch.setitem(fonts._PACKAGES, "Missing Sans", "fonts-missing")
    assert fonts.main() == 1
    assert capsys.readouterr().out == "fonts not found: Missing Sans; install fonts-missing\n"
