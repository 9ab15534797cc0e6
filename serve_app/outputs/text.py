"""Plain text of a document, and what the outputs in other formats share: kinds of blocks, characters.

Engines read page by page, so a paragraph that a page break cuts comes in two pieces. They are put together
where spelling shows that they are one, and nowhere else: a wrong join hides where a sentence begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from serve_app.document import Block, Page
from serve_app.document.markdown import HEADINGS

HEADING_LEVELS = {label: len(marks) for label, marks in HEADINGS.items()} | {"doc_title": 1}
"""Levels of the labels that are headings, from 1."""

CAPTIONS = frozenset({"figure_title", "vision_footnote"})

MARGINALS = frozenset({"header", "header_image", "footer", "footer_image", "number", "footnote", "aside_text"})
"""Labels of what stands around a page's running text, and may part a paragraph from its continuation."""

RUNNING_TEXT = frozenset({"text"})
"""Labels of what may run on: paragraphs, and no titles, tables, formulas or references."""

_SHORTEST_LINE = 3
"""Words of a paragraph that runs on without a hyphen; less is as likely a label or a signature."""

_END = 100
"""Characters at the end of a paragraph, and at the start of the next one, that tell whether it runs on. A text is
never searched as a whole: it may be one word of a million letters."""

_MOST_PIECES = 100
"""Pages that one paragraph runs on over; more are rather a page of nothing but names."""

_UNFINISHED = re.compile(
    r"""
      [^\W_] [»“”"’')\]]*             # a word or a number, perhaps at the end of a quotation
      (?: , | \s?[-‐–—] | \u00ad )?$  # and what leads on
    """,
    re.VERBOSE,
)

_BROKEN_WORD = re.compile(r"(?P<word>\w{0,60}[^\W\d_])[-‐\u00ad]$")

_LIST_MARK = re.compile(r"(?:\w{1,3}|[ivxlcdm]+)[.)]")

_ADDRESS = re.compile(r"\S*(?:@|://|^www\.)\S")

# Hyphens that belong to the word. There is no list of all of them; these are the ones that grammar puts.
_OWN_HYPHEN_AFTER = re.compile(r"(?:кое|[A-ZА-ЯЁ]{2,})$")
_OWN_HYPHEN_BEFORE = re.compile(r"(?:нибудь|либо|таки)\b|на-")
_OWN_HYPHEN = re.compile(
    r"(?:из-(?:за|под)|(?:кто|кого|кому|кем|ком|чего|чему|чем|что|где|куда|откуда|когда|как|почему|зачем|чей"
    r"|как(?:ой|ого|ому|им|ом|ая|ую|ие|их|ими))-то)$"
)


@dataclass(frozen=True)
class _Paragraph:
    """`pieces`, put one behind the other, are its text: of one that runs on, what each page has of it."""

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
    def may_run_on(self) -> bool:
        return self.label in RUNNING_TEXT and _UNFINISHED.search(self.end.rstrip()) is not None

    @property
    def marginal(self) -> bool:
        return self.label in MARGINALS


def document_text(pages: Iterable[Page], *, notes: bool = False) -> Iterator[str]:
    """The text of all pages that have some, a blank line apart, in pieces to be put one behind the other.

    A paragraph that runs on from a page to the next one, and what an engine has put in one group, are one paragraph;
    headers, footers and footnotes that stood between come behind it. A page where nothing runs on reads as its `text`.
    `notes`: a page that failed is a paragraph in brackets that says so.
    """
    between = ""
    for paragraph in _paragraphs(pages, notes):
        yield between + paragraph.text
        between = "\n\n"


def heading_level(block: Block) -> int | None:
    """From 1; None for what is no heading."""
    return block.level or HEADING_LEVELS.get(block.label)


def is_formula(block: Block) -> bool:
    return "formula" in block.label and block.label != "formula_number"


def _paragraphs(pages: Iterable[Page], notes: bool) -> Iterator[_Paragraph]:
    held: list[_Paragraph] = []  # one that may run on, and the marginals behind it
    held_of = 0
    for page in pages:
        paragraphs = [_Paragraph((f"[{page.note}]",))] if notes and page.note is not None else _of_page(page)
        body = [index for index, paragraph in enumerate(paragraphs) if not paragraph.marginal]
        if held and body and page.number == held_of + 1 and _continues(held[0], paragraphs[body[0]]):
            first = body[0]
            whole = _Paragraph(_joined(held[0], paragraphs[first]), paragraphs[first].label)
            paragraphs = [whole, *held[1:], *paragraphs[:first], *paragraphs[first + 1 :]]
            body = [index for index, paragraph in enumerate(paragraphs) if not paragraph.marginal]
        else:
            yield from held
        last = body[-1] if body and paragraphs[body[-1]].may_run_on else len(paragraphs)
        yield from paragraphs[:last]
        held, held_of = paragraphs[last:], page.number
    yield from held


def _of_page(page: Page) -> list[_Paragraph]:
    blocks = [block for block in page.blocks if block.text]
    if "\n\n".join(block.text for block in blocks) != page.text:  # an engine whose text is more than its blocks
        return [_Paragraph((page.text,))] if page.text else []
    paragraphs: list[_Paragraph] = []
    for block in blocks:
        before = paragraphs[-1] if paragraphs else None
        # Tables and pictures get numbers of their own as groups, which may happen to be those of a text.
        if (
            before
            and block.group is not None
            and block.group == before.group
            and {block.label, before.label} == {"text"}
        ):
            following = _Paragraph((block.text,), block.label, block.group)
            paragraphs[-1] = replace(following, pieces=_joined(before, following))
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


def _joined(above: _Paragraph, following: _Paragraph) -> tuple[str, ...]:
    """The pieces of both as one paragraph. A hyphen that only broke a word is gone; one that may belong to it stays."""
    *before, last = above.pieces
    last, first, *rest = last.rstrip(), following.pieces[0].lstrip(), *following.pieces[1:]
    broken = _BROKEN_WORD.search(last[-_END:])
    if broken:
        own = not first[:1].islower() or _has_own_hyphen(broken["word"], first[:_END])
        last = last if own and not last.endswith("\u00ad") else last[:-1]
    elif not re.search(r"\d[-‐]$", last[-_END:]):
        last += " "
    return (*before, last, first, *rest)


def _has_own_hyphen(word: str, following: str) -> bool:
    rest = re.match(r"\w*", following)
    whole = f"{word.lower()}-{rest[0] if rest else ''}"
    return bool(
        _OWN_HYPHEN_AFTER.fullmatch(word) or _OWN_HYPHEN_BEFORE.match(following) or _OWN_HYPHEN.fullmatch(whole)
    )
