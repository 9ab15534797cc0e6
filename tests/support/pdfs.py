"""PDFs for tests, written object by object, so that each is exactly as sound or as broken as it should be."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Literal

import matplotlib
import pikepdf
from fontTools import subset
from fontTools.ttLib import TTFont
from PIL import Image

A4 = (595, 842)

FONT_FILE = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"


def pdf_of(objects: Sequence[bytes], *, trailer: bytes = b"", junk: bytes = b"") -> bytes:
    """A file with these objects, numbered from 1; the first is the catalog. `junk` goes before the header."""
    out = bytearray(junk + b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
    positions = []
    for number, body in enumerate(objects, 1):
        positions.append(len(out) - len(junk))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    start = len(out) - len(junk)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % position for position in positions)
    out += b"trailer\n<</Size %d/Root 1 0 R%b>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, trailer, start)
    return bytes(out)


def stream(data: bytes, entries: bytes = b"") -> bytes:
    """A stream object."""
    return b"<<%b/Length %d>>\nstream\n%b\nendstream" % (entries, len(data), data)


def page_pdf(
    content: bytes,
    *,
    size: tuple[float, float] = A4,
    page: bytes = b"",
    catalog: bytes = b"",
    more: Sequence[bytes] = (),
    mediabox: bytes | None = None,
) -> bytes:
    """One page. `page` and `catalog` are more entries of theirs; `more` are objects, from number 5.

    Helvetica is there as /F1.
    """
    box = mediabox if mediabox is not None else b"[0 0 %g %g]" % size
    return pdf_of(
        [
            b"<</Type/Catalog/Pages 2 0 R%b>>" % catalog,
            b"<</Type/Pages/Count 1/Kids[3 0 R]>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox%b/Contents 4 0 R%b%b>>" % (box, page, _resources(page)),
            stream(content),
            *more,
        ]
    )


def _resources(page: bytes) -> bytes:
    if b"/Resources" in page:
        return b""
    return b"/Resources<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"


def pages_pdf(contents: Sequence[bytes], *, size: tuple[float, float] = A4) -> bytes:
    """A page of each content."""
    count = len(contents)
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%b]>>" % (count, b" ".join(b"%d 0 R" % (3 + 2 * i) for i in range(count))),
    ]
    for index, content in enumerate(contents):
        objects += [
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 %g %g]/Contents %d 0 R%b>>"
            % (*size, 4 + 2 * index, _resources(b"")),
            stream(content),
        ]
    return pdf_of(objects)


def encrypted(data: bytes, password: str, *, revision: Literal[3, 4, 6] = 6) -> bytes:
    """Protected as the standard has it: revision 6 is AES of 256 bits, 3 is RC4."""
    out = io.BytesIO()
    with pikepdf.open(io.BytesIO(data)) as pdf:
        pdf.save(
            out,
            encryption=pikepdf.Encryption(
                user=password, owner="owner", R=revision, aes=revision >= 4, metadata=revision >= 4
            ),
        )
    return out.getvalue()


LETTERS = frozenset(map(chr, [*range(0x20, 0x7F), *range(0x410, 0x450), *map(ord, "Ёё№₽«»–—")]))


def _font(characters: Set[str]) -> tuple[bytes, dict[str, int], dict[str, int]]:
    """DejaVu Sans with these characters: the file, and by character its glyph's number and width in 1/1000 em.

    Texts of common letters have the same font, since to make one takes 0.2 s.
    """
    return _subset(LETTERS if characters <= LETTERS else frozenset(characters))


@functools.cache
def _subset(characters: frozenset[str]) -> tuple[bytes, dict[str, int], dict[str, int]]:
    options = subset.Options(retain_gids=True, hinting=False, drop_tables=["FFTM"])
    subsetter = subset.Subsetter(options)
    font = TTFont(FONT_FILE)
    subsetter.populate(text="".join(characters))
    subsetter.subset(font)
    out = io.BytesIO()
    font.save(out)
    names, widths = font.getBestCmap(), font["hmtx"]
    glyphs = {character: font.getGlyphID(names[ord(character)]) for character in characters}
    return out.getvalue(), glyphs, {c: round(widths[names[ord(c)]][0] * 1000 / 2048) for c in characters}


def text_pdf(
    lines: Sequence[tuple[float, float, float, str]],
    *,
    before: bytes = b"",
    after: bytes = b"",
    mode: int = 0,
    size: tuple[float, float] = A4,
    page: bytes = b"",
    to_unicode: dict[str, str] | None = None,
    resources: bytes = b"",
    more: Sequence[bytes] = (),
    matrix: bytes = b"1 0 0 1",
) -> bytes:
    """One page of lines (x, y, font size, text) in an embedded font, as a word processor writes it.

    `before` and `after` are more content, `mode` is the text rendering mode (3 is invisible), `matrix` turns
    each line about its start. `to_unicode` lies on what characters are. `more` are objects, from number 10.
    """
    characters = "".join(sorted({character for *_, text in lines for character in text}))
    file, glyphs, widths = _font(set(characters))
    told = {c: (to_unicode or {}).get(c, c) for c in characters}
    content = before + b"".join(
        b"BT %d Tr /F1 %g Tf %b %g %g Tm <%b> Tj ET\n"
        % (mode, font_size, matrix, x, y, b"".join(b"%04X" % glyphs[c] for c in text))
        for x, y, font_size, text in lines
    )
    names = b"\n".join(
        b"<%04X> <%b>" % (glyphs[c], told[c].encode("utf-16-be").hex().encode()) for c in characters if told[c]
    )
    cmap = (
        b"/CIDInit /ProcSet findresource begin begincmap 1 begincodespacerange <0000> <FFFF> endcodespacerange\n"
        b"%d beginbfchar\n%b\nendbfchar endcmap end" % (names.count(b"\n") + 1, names)
    )
    return pdf_of(
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Count 1/Kids[3 0 R]>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 %g %g]/Contents 4 0 R"
            b"/Resources<</Font<</F1 5 0 R>>%b>>%b>>" % (*size, resources, page),
            stream(content + after),
            b"<</Type/Font/Subtype/Type0/BaseFont/AAAAAA+DejaVuSans/Encoding/Identity-H"
            b"/DescendantFonts[6 0 R]/ToUnicode 9 0 R>>",
            b"<</Type/Font/Subtype/CIDFontType2/BaseFont/AAAAAA+DejaVuSans/FontDescriptor 7 0 R/CIDToGIDMap/Identity"
            b"/CIDSystemInfo<</Registry(Adobe)/Ordering(Identity)/Supplement 0>>/W[%b]>>"
            % b" ".join(b"%d[%d]" % (glyphs[c], widths[c]) for c in characters),
            b"<</Type/FontDescriptor/FontName/AAAAAA+DejaVuSans/Flags 4/FontBBox[-1021 -463 1793 1232]/ItalicAngle 0"
            b"/Ascent 928/Descent -236/CapHeight 729/StemV 80/FontFile2 8 0 R>>",
            stream(file, b"/Length1 %d" % len(file)),
            stream(cmap),
            *more,
        ]
    )


def scan(*pages: bytes, damaged: int | None = None) -> bytes:
    """A PDF of these page images, one of them (from 0) damaged."""
    images = [Image.open(io.BytesIO(page)).convert("L") for page in pages]
    whole = io.BytesIO()
    images[0].save(whole, "PDF", save_all=True, append_images=images[1:], resolution=200)
    with pikepdf.open(io.BytesIO(whole.getvalue())) as pdf:
        if damaged is not None:
            pdf.pages[damaged].obj.Type = pikepdf.Name.Broken
        out = io.BytesIO()
        pdf.save(out)
    return out.getvalue()
