"""The encoding of pages: what goes in comes out, and damage is noticed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from serve_app.document import Block, EngineInfo, Figure, NativePage, Page, PageContent, Word
from serve_app.document.codec import (
    decode_content,
    decode_native,
    decode_page,
    encode_content,
    encode_native,
    encode_page,
)

TRICKY = 'кавычки "«»", \\ и\nстрока\u2028, \x00 и 𝔸.'
ENGINE = EngineInfo(name="x", version="1")


def content() -> PageContent:
    block = Block(label="text", text=TRICKY, bbox=(1, 2, 3, 4), order=0, polygon=[(0.5, 1.0)], markdown_span=(0, 3),
                  words=[Word(text=TRICKY, bbox=(1, 2, 3, 4), confidence=0.5)])  # fmt: skip
    page = Page(number=7, width=9, height=9, dpi=72, text=TRICKY, markdown=f"*{TRICKY}*", blocks=[block])
    native = NativePage(
        {"width": 9, "nested": [{"a": None}, 1.5]}, f"{TRICKY}\n ", ((TRICKY, None), ("", "imgs/a.jpg"))
    )
    return PageContent(page, (Figure("imgs/a.jpg", b"\xff\xd8"), Figure("imgs/б.jpg", bytes(range(256)))), native)


@pytest.mark.parametrize("engine", [None, ENGINE])
@pytest.mark.parametrize("changes", [{}, {"native": None}, {"figures": ()}])
def test_a_page_with_its_figures_comes_back_as_it_was(changes: dict[str, Any], engine: EngineInfo | None) -> None:
    before = replace(content(), **changes)
    decoded = decode_content(encode_content(before, inline_figures=True, engine=engine))
    assert (decoded.content, decoded.linked_figures, decoded.engine) == (before, (), engine)


def test_figures_that_are_stored_elsewhere_are_linked() -> None:
    encoded = encode_content(content(), inline_figures=False, engine=ENGINE)
    decoded = decode_content(encoded)
    assert decoded.linked_figures == ("imgs/a.jpg", "imgs/б.jpg")
    assert decoded.content == replace(content(), figures=())
    assert json.loads(encoded).keys() == {"page", "figures", "native", "engine"}


def test_parts_of_a_page_come_back_as_they_were() -> None:
    page, native = content().page, content().native
    assert decode_page(encode_page(page)) == page
    assert native is not None and decode_native(encode_native(native)) == native
    (block,) = decode_page(encode_page(page, words=False)).blocks
    assert block == page.blocks[0].model_copy(update={"words": []})


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{}",
        b"\xff",
        b'{"page": 1, "figures": []}',
        encode_content(content(), inline_figures=True)[:-1],
        encode_content(content(), inline_figures=True).replace(b'"/9g="', b'"/9g"'),
        encode_content(content(), inline_figures=True).replace(b'"native":[', b'"native":[1,'),
    ],
    ids=["empty", "no page", "not UTF-8", "no object", "cut off", "a figure that is not base64", "another native form"],
)
def test_what_is_damaged_is_a_value_error(damaged: bytes) -> None:
    with pytest.raises(ValueError):
        decode_content(damaged)
