"""Writes the plain text of a document, and defines the kinds of blocks for the other formats.

Engines read page by page, so a paragraph cut by a page break comes in two pieces. They are joined only if their
spelling shows that they belong together: a wrong join hides where a sentence begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from serve_app.document import Block, Page
from serve_app.document.markdown import HEADINGS

HEADING_LEVELS = {label: len(marks) for label, marks in HEADINGS.items()} | {"doc_title": 1}
"""Heading levels by label, from 1."""

CAPTIONS = frozenset({"figure_title", "vision_footnote"})

MARGINALS = frozenset({"header", "header_image", "footer", "footer_image", "number", "footnote", "aside_text"})
"""Labels of blocks around a page's running text. They may stand between a paragraph and its continuation."""

RUNNING_TEXT = frozenset({"text"})
"""Labels of blocks that may continue on the next page: no titles, tables, formulas or references."""

_SHORTEST_LINE = 3
"""Least words of a paragraph that may continue without a hyphen. A shorter one may be a label or a signature."""

_END = 100
"""Characters examined at the end of a paragraph and at the start of the next one. A text is never searched as a
whole: it may be one word of a million letters."""

_MOST_PIECES = 100
"""Most pages that one paragraph spans. Longer runs are more likely lists of names."""

_UNFINISHED = re.compile(
    r"""
      [^\W_] [»“”"’')\]]*             # a word or a number, perhaps at the end of a quotation
      (?: , | \s?[-‐–—] | \u00ad )?$  # and a comma or a hyphen, which call for more
    """,
    re.VERBOSE,
)

_BROKEN_WORD = re.compile(r"(?P<word>\w{0,60}[^\W\d_])[-‐\u00ad]$")

_LIST_MARK = re.compile(r"(?:\w{1,3}|[ivxlcdm]+)[.)]")

_ADDRESS = re.compile(r"\S*(?:@|://|^www\.)\S")

# Hyphens that belong to the word. No complete list exists; these are the ones that grammar requires.
_HYPHENATED_PREFIX = re.compile(r"(?:кое|[A-ZА-ЯЁ]{2,})$")
_HYPHENATED_REST = re.compile(r"(?:нибудь|либо|таки)\b|на-")
_HYPHENATED_WORD = re.compile(
    r"(?:из-(?:за|под)|(?:кто|кого|кому|кем|ком|чего|чему|чем|что|где|куда|откуда|когда|как|почему|зачем|чей"
    r"|как(?:ой|ого|ому|им|ом|ая|ую|ие|их|ими))-то)$"
)


@dataclass(frozen=True)
class _Paragraph:
    """A paragraph. Its text is the concatenation of `pieces`, one from each page that it spans."""

    pieces: tuple[str, ...]
    label: str = ""
    group: int | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def end(self) -> str:
        return self.pieces[-1][-_END:]

    @property
    def may_continue(self) -> bool:
        return self.label in RUNNING_TEXT and _UNFINISHED.search(self.end.rstrip()) is not None

    @property
    def marginal(self) -> bool:
        return self.label in MARGINALS


def document_text(pages: Iterable[Page], *, notes: bool = False, marks: bool = False) -> Iterator[str]:
    """Yield the text of the pages in parts, to be concatenated. Paragraphs are separated by blank lines.

    The pieces of a paragraph that continues on the next page are joined, and so are blocks that the engine has put in
    one group. Headers, footers and footnotes between the pieces follow the paragraph. A page without such paragraphs
    reads as its `text`. With `notes`, a paragraph in brackets says of each failed page that it failed. With `marks`, a
    line before each page, also before an empty one, has its number, and no paragraph is joined with one on another page.
    """
    between = ""
    for paragraph in _marked_paragraphs(pages, notes) if marks else _paragraphs(pages, notes):
        yield between + paragraph.text
        between = "\n\n"


def heading_level(block: Block) -> int | None:
    """Return the level of a heading, from 1; None for other blocks."""
    return block.level or HEADING_LEVELS.get(block.label)


def is_formula(block: Block) -> bool:
    return "formula" in block.label and block.label != "formula_number"


def _paragraphs(pages: Iterable[Page], notes: bool) -> Iterator[_Paragraph]:
    pending: list[_Paragraph] = []  # a paragraph that may continue, and the marginals after it
    pending_number = 0
    for page in pages:
        paragraphs = [_Paragraph((f"[{page.note}]",))] if notes and page.note is not None else _page_paragraphs(page)
        body = [index for index, paragraph in enumerate(paragraphs) if not paragraph.marginal]
        if pending and body and page.number == pending_number + 1 and _continues(pending[0], paragraphs[body[0]]):
            first = body[0]
            whole = _Paragraph(_join(pending[0], paragraphs[first]), paragraphs[first].label)
            paragraphs = [whole, *pending[1:], *paragraphs[:first], *paragraphs[first + 1 :]]
            body = [index for index, paragraph in enumerate(paragraphs) if not paragraph.marginal]
        else:
            yield from pending
        last = body[-1] if body and paragraphs[body[-1]].may_continue else len(paragraphs)
        yield from paragraphs[:last]
        pending, pending_number = paragraphs[last:], page.number
    yield from pending


def _marked_paragraphs(pages: Iterable[Page], notes: bool) -> Iterator[_Paragraph]:
    for page in pages:
        yield _Paragraph((f"[page {page.number}]",))
        yield from _paragraphs([page], notes)


def _page_paragraphs(page: Page) -> list[_Paragraph]:
    blocks = [block for block in page.blocks if block.text]
    if "\n\n".join(block.text for block in blocks) != page.text:  # the engine gives more text than its blocks have
        return [_Paragraph((page.text,))] if page.text else []
    paragraphs: list[_Paragraph] = []
    for block in blocks:
        before = paragraphs[-1] if paragraphs else None
        # Groups of tables and pictures are numbered separately, and may have the number of a group of texts.
        if (
            before
            and block.group is not None
            and block.group == before.group
            and {block.label, before.label} == {"text"}
        ):
            following = _Paragraph((block.text,), block.label, block.group)
            paragraphs[-1] = replace(following, pieces=_join(before, following))
        else:
            paragraphs.append(_Paragraph((block.text,), block.label, block.group))
    return paragraphs


def _continues(above: _Paragraph, following: _Paragraph) -> bool:
    start = following.pieces[0][:_END].lstrip()
    if following.label not in RUNNING_TEXT or _LIST_MARK.match(start) or _ADDRESS.match(start):
        return False
    if len(above.pieces) >= _MOST_PIECES:
        return False
    if _BROKEN_WORD.search(above.end.rstrip()):
        return start[:1].islower()
    long_enough = len(above.pieces) > 1 or len(above.end) == _END or len(above.end.split()) >= _SHORTEST_LINE
    return start.lstrip("«„“\"'(")[:1].islower() and long_enough


def _join(above: _Paragraph, following: _Paragraph) -> tuple[str, ...]:
    """Return the pieces of both as one paragraph. Drops a hyphen that only breaks a word, unless the word may need it."""
    *before, last = above.pieces
    last, first, *rest = last.rstrip(), following.pieces[0].lstrip(), *following.pieces[1:]
    broken = _BROKEN_WORD.search(last[-_END:])
    if broken:
        hyphenated = not first[:1].islower() or _is_hyphenated(broken["word"], first[:_END])
        last = last if hyphenated and not last.endswith("\u00ad") else last[:-1]
    elif not re.search(r"\d[-‐]$", last[-_END:]):
        last += " "
    return (*before, last, first, *rest)


def _is_hyphenated(word: str, following: str) -> bool:
    rest = re.match(r"\w*", following)
    whole = f"{word.lower()}-{rest[0] if rest else ''}"
    return bool(
        _HYPHENATED_PREFIX.fullmatch(word) or _HYPHENATED_REST.match(following) or _HYPHENATED_WORD.fullmatch(whole)
    )
