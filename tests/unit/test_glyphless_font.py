"""The font of searchable PDFs, its script, and its way into the package."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

from fontTools.pens.areaPen import AreaPen
from fontTools.pens.boundsPen import ControlBoundsPen
from fontTools.ttLib import TTFont
from PIL import ImageFont

from serve_app.outputs.glyphless_font import font_file
from tools.make_font import FONT, main

ROOT = Path(__file__).parents[2]


def test_the_font_is_whole_and_has_no_ink() -> None:
    face = font_file()

    font = TTFont(io.BytesIO(face), checkChecksums=2)
    tables = list(font.keys())
    for table in tables:
        assert font[table] is not None
    assert font["name"].getDebugName(6) == "Glyphless"
    assert font["hhea"].ascent - font["hhea"].descent == font["head"].unitsPerEm
    glyphs = font.getGlyphSet()
    area, bounds = AreaPen(glyphs), ControlBoundsPen(glyphs)
    glyphs[font.getGlyphName(1)].draw(area)
    glyphs[font.getGlyphName(1)].draw(bounds)
    assert area.value == 0
    assert bounds.bounds == (0, -200, 500, 800)
    assert ImageFont.truetype(io.BytesIO(face), 100).getlength("abc") == 150


def test_the_script_makes_the_committed_file(tmp_path: Path) -> None:
    main(tmp_path / "glyphless.ttf")
    assert (tmp_path / "glyphless.ttf").read_bytes() == FONT.read_bytes() == font_file()


def test_the_wheel_contains_every_file_of_the_package(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("serve_app/")}
        assert archive.read("serve_app/outputs/fonts/glyphless.ttf") == font_file()
    files = (file for file in (ROOT / "serve_app").rglob("*") if file.is_file() and file.parent.name != "__pycache__")
    assert packed == {str(file.relative_to(ROOT)) for file in files}
