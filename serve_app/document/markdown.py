"""Renders a page as Markdown.

Recognized text is not markup: characters that Markdown (CommonMark with GitHub's tables and strikethrough) would
interpret are escaped, and no others, so the text stays readable.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from serve_app.document.model import Block

HEADINGS = {"title": "#", "paragraph_title": "##"}

MAX_HEADING_LEVEL = 6
"""The deepest heading level of Markdown and HTML."""

_INLINE = re.compile(
    r"""
      \\(?=[!-/:-@\[-`{-~]|$)        # a backslash before punctuation or a line's end
    | `
    | (?<!\s)(?<!^)\*+ | \*+(?!\s|$)  # emphasis, except a star that stands alone
    | (?<![^\W_])_+ | _+(?![^\W_])    # the same; not within a word: foo_bar
    | ~~+                             # strikethrough
    | \](?=[(\[:])                    # a link, or the definition of one
    | <(?=[a-zA-Z/!?])                # HTML or <https://...>
    | &(?=\#?\w+;)                    # an entity
    """,
    re.VERBOSE,
)

_LINE_START = re.compile(
    r"""
      \#{1,6}(?=\s|$)                 # heading
    | >                               # quote
    | [-+*](?=\s|$)                   # list
    | (?P<number>\d{1,9})[.)](?=\s|$) # numbered list
    | =+$ | (?:[-_*]\s*){3,}$         # underlined heading, rule
    | ~~~                             # code
    | (?=[|:\s]*-)[-:|][-:|\s]*$      # the line under a table's head, or under a heading
    """,
    re.VERBOSE,
)


def page_markdown(blocks: Sequence[Block]) -> str:
    """Render blocks as paragraphs and headings with blank lines between them. Line breaks become soft breaks."""
    return "\n\n".join(filter(None, map(_block, blocks)))


def _block(block: Block) -> str:
    lines = [stripped for line in block.text.splitlines() if (stripped := line.strip())]
    heading = HEADINGS.get(block.label)
    if block.figure is not None:
        return "\n\n".join(filter(None, (f"![]({block.figure})", "\n".join(map(escape_line, lines)))))
    if heading is None or not lines:
        return "\n".join(map(escape_line, lines))
    title = _inline(" ".join(lines))
    return f"{heading} " + re.sub(r"#+$", lambda match: "\\" + match[0], title)  # Markdown would drop a closing #


def _inline(line: str) -> str:
    return _INLINE.sub(lambda match: "".join(f"\\{character}" for character in match[0]), line)


def escape_line(line: str) -> str:
    """Put a backslash before each character of a line that Markdown would interpret."""
    escaped = _inline(line)
    start = _LINE_START.match(line)
    if start is None or escaped.startswith("\\"):
        return escaped
    position = len(start["number"] or "")
    return f"{escaped[:position]}\\{escaped[position:]}"
