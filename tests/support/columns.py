"""A page of two columns, as recognized: what readers of PDF put into the wrong order."""

from __future__ import annotations

import io

from pikepdf import Pdf
from PIL import Image

from serve_app.document import Block, Page, Word

_WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "wizards",
    "gather",
    "around",
    "old",
    "tables",
    "to",
    "discuss",
    "matters",
    "съешь",
    "же",
    "ещё",
    "этих",
    "мягких",
    "французских",
    "булок",
    "да",
    "выпей",
    "чаю",
    "of",
    "great",
    "importance",
    "and",
    "nobody",
    "listens",
]
_LINE, _LETTER = 34, 11  # pixels


def two_columns() -> Page:
    """A heading over two columns, of three and two paragraphs."""
    blocks = [_paragraph(0, 300, 80, 600, 1, 0)]
    top = 150
    for left, lengths in ((80, (6, 9, 4)), (660, (8, 5))):
        down = top
        for lines in lengths:
            blocks.append(_paragraph(len(blocks), left, down, 500, lines, 7 * len(blocks)))
            down += lines * _LINE + 40
    return Page(number=1, width=1240, height=1000, dpi=144, blocks=blocks)


def lines_in_order(page: Page) -> list[str]:
    """The lines of an upright page, in reading order."""
    lines: list[str] = []
    for block in page.blocks:
        tops = dict.fromkeys(word.bbox[1] for word in block.words)
        lines += [" ".join(word.text for word in block.words if word.bbox[1] == top) for top in tops]
    return lines


def blank_scan(page: Page, rotate: int | None) -> bytes:
    """White paper for the page: an image, or a PDF that is turned when it is shown."""
    out = io.BytesIO()
    if rotate is None:
        Image.new("1", (page.width, page.height), 1).save(out, "PNG")
        return out.getvalue()
    size = page.width * 72 / page.dpi, page.height * 72 / page.dpi
    with Pdf.new() as pdf:
        leaf = pdf.add_blank_page(page_size=size[::-1] if rotate in (90, 270) else size)
        leaf.obj.Rotate = rotate
        pdf.save(out)
    return out.getvalue()


def _paragraph(order: int, left: int, top: int, width: int, lines: int, start: int) -> Block:
    words: list[Word] = []
    for line in range(lines):
        across, down = left, top + line * _LINE
        while across < left + width - 120:
            text = _WORDS[(start + len(words)) % len(_WORDS)]
            words.append(Word(text=text, bbox=(across, down, across + _LETTER * len(text), down + 22)))
            across += _LETTER * (len(text) + 1)
    text = " ".join(word.text for word in words)
    box = (left, top, left + width, top + lines * _LINE)
    return Block(label="text", text=text, bbox=box, order=order, words=words)
