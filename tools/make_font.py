"""Makes the font of the searchable PDF's text layer: `serve_app/outputs/fonts/glyphless.ttf`.

    python -m tools.make_font [FILE]

Text in this font can be searched but is invisible. Glyph 0 is the obligatory .notdef, without a contour. Glyph 1 stands for every
character: one contour of two points, at opposite corners of the character. It has no ink, and yet extends over the
whole character. PDFium takes the size of a glyph for that of its text and skips an empty one: so it does with glyph 2, a
space that marks places.

The same fontTools gives the same bytes: dates are zero, and nothing else depends on the day.
Table by table: https://learn.microsoft.com/typography/opentype/spec/.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from serve_app.outputs.glyphless_font import ADVANCE, ASCENT, DESCENT, FONT_NAME, UNITS_PER_EM

FONT = Path(__file__).parents[1] / "serve_app" / "outputs" / "fonts" / "glyphless.ttf"


def main(file: Path) -> None:
    """Write the font to `file`."""
    pen = TTGlyphPen(None)
    empty = pen.glyph()
    pen.moveTo((0, DESCENT))
    pen.lineTo((ADVANCE, ASCENT))
    pen.closePath()
    glyphs = {".notdef": empty, "character": pen.glyph(), "space": empty}

    builder = FontBuilder(UNITS_PER_EM, isTTF=True)
    builder.font.recalcTimestamp = False
    builder.updateHead(created=0, modified=0, lowestRecPPEM=8)
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap({0x20: "space"})  # for the face that marks places; for the other, the PDF maps codes
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics({name: (ADVANCE, 0) for name in glyphs})
    builder.setupHorizontalHeader(ascent=ASCENT, descent=DESCENT)
    builder.setupNameTable(
        {"familyName": FONT_NAME, "styleName": "Regular", "uniqueFontIdentifier": FONT_NAME}
        | {"fullName": FONT_NAME, "psName": FONT_NAME},
        mac=False,
    )
    builder.setupOS2(
        version=3,
        xAvgCharWidth=ADVANCE,
        achVendID="NONE",
        fsType=0,  # may be embedded anywhere
        fsSelection=0x40,  # Regular
        sTypoAscender=ASCENT,
        sTypoDescender=DESCENT,
        usWinAscent=ASCENT,
        usWinDescent=-DESCENT,
        sxHeight=500,
        sCapHeight=700,
        usBreakChar=0x20,
    )
    builder.setupPost(keepGlyphNames=False, isFixedPitch=1, underlinePosition=-100, underlineThickness=50)
    builder.save(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FONT)
