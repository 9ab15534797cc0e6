"""Validates pages that a client sends back to /restructure-pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from serve_app.errors import TooLarge

MAX_BLOCKS = 20_000
MAX_CHARACTERS = 4 * 2**20
"""Total for all blocks: about a thousand dense pages."""

MAX_DEPTH = 50
MAX_LABELS = 50

_Label = Annotated[str, Field(max_length=100)]
_Number = Annotated[float, Field(ge=-1e9, le=1e9)]


class _Block(BaseModel):
    block_label: _Label
    block_content: str
    block_bbox: tuple[_Number, _Number, _Number, _Number]


class _Settings(BaseModel):
    markdown_ignore_labels: Annotated[list[_Label], Field(max_length=MAX_LABELS)] | None = None


class _Page(BaseModel):
    width: Annotated[float, Field(ge=0, le=1e9)]
    height: Annotated[float, Field(ge=0, le=1e9)]
    parsing_res_list: list[_Block]
    model_settings: _Settings | None = None


def check_page(pruned_result: dict[str, Any]) -> dict[str, Any]:
    """Return a `prunedResult` after checking the types of all fields that are used.

    Raises ValueError with a message for the client.
    """
    try:
        page = _Page.model_validate(pruned_result)
    except ValidationError:
        raise ValueError("is not as /layout-parsing returns it") from None
    if not all(0 <= side < math.inf for side in (page.width, page.height)):
        raise ValueError("is not as /layout-parsing returns it")
    _check(pruned_result, 0)
    return pruned_result


def check_size(pages: Sequence[dict[str, Any]]) -> None:
    """Raise TooLarge if checked pages have too much content altogether."""
    contents = [block["block_content"] for page in pages for block in page["parsing_res_list"]]
    if len(contents) > MAX_BLOCKS or sum(map(len, contents)) > MAX_CHARACTERS:
        raise TooLarge(f"The pages have more than {MAX_BLOCKS} blocks or {MAX_CHARACTERS} characters.")


def _check(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"is nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _check(each, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("holds a number that is not finite")
