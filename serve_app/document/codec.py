"""Pages as JSON: the one encoding for the spool, the page cache and the store of jobs."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from pydantic import AliasChoices, BaseModel, Field

from serve_app.document.model import EngineInfo, Figure, NativePage, Page, PageContent

_WORDS = {"blocks": {"__all__": {"words"}}}

_Native = tuple[dict[str, Any], str, tuple[tuple[str, str | None], ...]]


@dataclass(frozen=True)
class DecodedPage:
    """A decoded page. `linked_figures` are paths of figures that are stored elsewhere."""

    content: PageContent
    linked_figures: tuple[str, ...]
    engine: EngineInfo | None


def encode_page(page: Page, *, words: bool = True) -> bytes:
    """Encode a page as a JSON object. Without `words`, which are most of a page, its blocks have none."""
    return page.model_dump_json(exclude=None if words else _WORDS).encode()


def decode_page(data: bytes) -> Page:
    return Page.model_validate_json(data)


def encode_native(native: NativePage) -> bytes:
    return _json([native.result, native.markdown, native.raw_blocks])


def decode_native(data: bytes) -> NativePage:
    result, markdown, raw_blocks = json.loads(data)
    return NativePage(result, markdown, tuple((text, picture) for text, picture in raw_blocks))


def encode_content(content: PageContent, *, inline_figures: bool, engine: EngineInfo | None = None) -> bytes:
    """Encode a page with its native form and its figures: as base64 if `inline_figures`, else only their paths.

    `engine`, if given, is recorded as the one that read the page.
    """
    parts = {
        b"page": encode_page(content.page),
        b"figures": _json(
            [
                (each.path, base64.b64encode(each.jpeg).decode()) if inline_figures else each.path
                for each in content.figures
            ]
        ),
        b"native": b"null" if content.native is None else encode_native(content.native),
    }
    if engine is not None:
        parts[b"engine"] = engine.model_dump_json().encode()
    return b"{%b}" % b",".join(b'"%b":%b' % part for part in parts.items())


class _Encoded(BaseModel):
    page: Page
    figures: list[str | tuple[str, str]]
    native: _Native | None = Field(None, validation_alias=AliasChoices("native", "paddlex"))  # the older name
    engine: EngineInfo | None = None


def decode_content(data: bytes) -> DecodedPage:
    """Decode `encode_content`'s JSON, that of earlier versions included. Raises ValueError if it is damaged."""
    encoded = _Encoded.model_validate_json(data)
    figures = tuple(
        Figure(figure[0], base64.b64decode(figure[1])) for figure in encoded.figures if not isinstance(figure, str)
    )
    native = None if encoded.native is None else NativePage(*encoded.native)
    linked = tuple(figure for figure in encoded.figures if isinstance(figure, str))
    return DecodedPage(PageContent(encoded.page, figures, native), linked, encoded.engine)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
