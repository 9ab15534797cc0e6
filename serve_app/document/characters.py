"""Makes text safe within XML and HTML."""

from __future__ import annotations

import html
import re

_FORBIDDEN = re.compile("[^\t\n -\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str) -> str:
    """Make `text` valid in XML 1.0, HTML and UTF-8: line breaks become LF; other controls and surrogates are removed."""
    for line_break in ("\r\n", "\r", "\v", "\f", "\x85"):
        text = text.replace(line_break, "\n")
    return _FORBIDDEN.sub("", text)


def escaped(text: str) -> str:
    """Return `xml_text` of it with markup escaped, for content and for attributes in double quotes."""
    return html.escape(xml_text(text))
