"""Writes a document as one HTML file that loads nothing and runs nothing.

Recognized text is escaped; only tables are markup (see `document.tables`). If an escape ever fails, the file's content
security policy still forbids scripts and all addresses.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Callable, Iterable, Iterator

from PIL import Image

from serve_app.document import Block, Page
from serve_app.document.characters import escaped, xml_text
from serve_app.document.tables import table_html, table_pictures
from serve_app.outputs.text import CAPTIONS, MARGINALS, heading_level, is_formula

_CSS_DPI = 96  # CSS pixels per inch

_STYLE = """
body { max-width: 50rem; margin: 0 auto; padding: 1rem; font: 1rem/1.5 system-ui, "Noto Sans", Arial, sans-serif;
  color: #1a1a1a; background: #fff; overflow-wrap: break-word; }
section { padding: 1.5rem 0; border-bottom: 1px solid #ccc; }
section:last-child { border-bottom: 0; }
h1, h2, h3, h4, h5, h6, p, pre, td, th, figcaption { unicode-bidi: plaintext; text-align: start; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.25rem; line-height: 1.3; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { border: 1px solid #888; padding: .25rem .5rem; vertical-align: top; }
pre { font-family: ui-monospace, Consolas, "DejaVu Sans Mono", monospace; white-space: pre-wrap; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; }
.caption, .marginal { font-size: .875rem; color: #555; }
.note { padding: .5rem .75rem; border-left: .25rem solid #b00020; background: #fdecee; }
@media print {
  body { max-width: none; padding: 0; }
  section { padding: 0; border: 0; break-after: page; }
  section:last-child { break-after: auto; }
  h1, h2, h3, h4, h5, h6 { break-after: avoid; }
  tr, figure { break-inside: avoid; }
}
"""

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)


def html_document(pages: Iterable[Page], *, title: str, figure: Callable[[str], bytes | None]) -> Iterator[str]:
    """Yield the document in parts, to be concatenated and encoded in UTF-8. One page at a time is in memory.

    Each page is a section with the id `page-<number>`. `figure` returns the JPEG of a picture by its path
    (`Block.figure`), or None if the picture is missing.
    """
    yield (
        '<!DOCTYPE html>\n<html>\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(' '.join(title.split()) or 'Document')}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
    )
    for page in pages:
        yield f'<section id="page-{page.number}">\n'
        if page.note is not None:
            yield f'<p class="note">{escaped(page.note)}</p>\n'
        for block in page.blocks:
            yield from _block(block, page, figure)
        yield "</section>\n"
    yield "</body>\n</html>\n"


def _block(block: Block, page: Page, figure: Callable[[str], bytes | None]) -> Iterator[str]:
    if block.figure is not None:
        yield _picture(block.figure, page, figure)
    if block.label == "table":
        yield table_html(block) + "\n"
        for path in table_pictures(block):
            yield _picture(path, page, figure)
        return
    text = (block.content or block.text) if is_formula(block) else block.text
    lines = [escaped(stripped) for line in xml_text(text).split("\n") if (stripped := line.strip())]
    if not lines:
        return
    level = heading_level(block)
    if level is not None:
        yield f"<h{level}>{' '.join(lines)}</h{level}>\n"
    elif is_formula(block):
        yield '<pre class="formula">' + "\n".join(lines) + "</pre>\n"
    else:
        yield f"<p{_class(block.label)}>" + "<br>\n".join(lines) + "</p>\n"


def _class(label: str) -> str:
    if label in CAPTIONS:
        return ' class="caption"'
    return ' class="marginal"' if label in MARGINALS else ""


def _picture(path: str, page: Page, figure: Callable[[str], bytes | None]) -> str:
    jpeg = figure(path)
    if jpeg is None:
        return '<p class="note">A picture of this page is missing.</p>\n'
    with Image.open(io.BytesIO(jpeg)) as image:  # reads only the header
        width = max(1, image.width * _CSS_DPI // page.dpi)
    data = base64.b64encode(jpeg).decode()
    alt = f"Picture on page {page.number}"
    return f'<figure><img src="data:image/jpeg;base64,{data}" alt="{alt}" width="{width}"></figure>\n'
