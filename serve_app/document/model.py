"""The vocabulary: what a document is made of, inside the service and in its answers.

Coordinates are pixels of the page as it is read (after EXIF rotation), origin top left,
boxes as [left, top, right, bottom]. Confidence is 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

Box = tuple[int, int, int, int]
RgbPixels = npt.NDArray[np.uint8]  # shape (height, width, 3)


@dataclass(frozen=True)
class PageImage:
    """A decoded page on its way to an engine.

    `pixels` is RGB, uint8, of shape (height, width, 3), contiguous; `dpi` is what the file or the
    request says, or the configured default; `rasterize_ms` is what decoding took.
    """

    pixels: RgbPixels
    number: int
    dpi: int
    rasterize_ms: float


@dataclass(frozen=True)
class SourceFile:
    """A document's file on its way to the rasterizers.

    `id` is the document's; rasterizers keep the file open under it. `data` is the file as an array of uint8, or Ray's
    reference to one, so that it travels once and not with every page. `owner` is the key's name: owners take turns.
    `digest` is the SHA-256 of the content, if pages are cached.
    """

    id: str
    data: Any
    password: str | None = None
    owner: str = ""
    digest: str | None = None

    def as_arguments(self) -> tuple[str, Any, str | None]:
        """`id`, `data` and `password` for a remote call: Ray resolves references only if they are arguments themselves."""
        return self.id, self.data, self.password


class Word(BaseModel):
    text: str
    bbox: Box
    confidence: float | None = None


class Block(BaseModel):
    """A region of a page that reads as one: a paragraph, a title, a table."""

    label: str = Field(description="Kind of region; `text` for a paragraph")
    text: str = Field(description="Plain text; of a table, a line a row and tabs between cells")
    content: str | None = Field(
        None, description="As the engine wrote it, where that is more than text: HTML of a table, LaTeX of a formula"
    )
    bbox: Box = Field(description="[left, top, right, bottom] in pixels of the page")
    order: int = Field(description="Position in reading order, from 0")
    polygon: list[tuple[float, float]] | None = Field(None, description="Its outline, where the engine has one")
    group: int | None = Field(None, description="Blocks of the same group continue each other")
    figure: str | None = Field(None, description="Of a picture: its path as Markdown links it")
    level: int | None = Field(None, description="Of a heading: its level in the document, 1 for the document's title")
    continues_from: int | None = Field(
        None,
        description="Of a table that began on an earlier page: that page's number. The whole table is there, "
        "wherever the document is one piece",
    )
    markdown_span: tuple[int, int] | None = Field(
        None, description="[start, end) of it in the page's Markdown, in characters, where the engine tells"
    )
    confidence: float | None = Field(None, description="Mean confidence of its words, 0..1, where the engine has one")
    words: list[Word] = Field(default_factory=list, description="Its words, where the engine has them")


class ErrorInfo(BaseModel):
    code: str
    message: str


class Page(BaseModel):
    """One page as recognized. A page that failed has an `error` and no blocks."""

    number: int = Field(description="From 1")
    width: int = Field(description="Pixels")
    height: int = Field(description="Pixels")
    dpi: int
    rotation: int = Field(
        0, description="Degrees the text is turned clockwise: 0, 90, 180 or 270, where the engine tells"
    )
    text_source: Literal["recognition", "text_layer"] = Field(
        "recognition", description="Whether an engine read it, or its text is the PDF's own"
    )
    text: str = ""
    markdown: str = ""
    blocks: list[Block] = Field(default_factory=list)
    degraded: bool = Field(False, description="There is less of it than there should be: `warnings` tell what and why")
    warnings: list[ErrorInfo] = Field(default_factory=list)
    error: ErrorInfo | None = None

    @property
    def note(self) -> str | None:
        """What readers of the document are told in place of a page that failed."""
        return None if self.error is None else f"Page {self.number}: {self.error.message} ({self.error.code})"


class EngineInfo(BaseModel):
    name: str
    version: str


@dataclass(frozen=True)
class Figure:
    """A picture cut from a page. `path` is how the page's Markdown links it, `jpeg` the file."""

    path: str
    jpeg: bytes


@dataclass(frozen=True)
class NativePage:
    """A page in its engine's native form, which only that engine and its dialect interpret.

    `result` is plain JSON, `markdown` is exact to the last blank. `raw_blocks` holds each block's content before
    it was formatted and the path of its picture; it is empty where these are unknown.
    """

    result: dict[str, Any]
    markdown: str
    raw_blocks: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True)
class PageContent:
    """A recognized page with its figures, and its native form if the engine has one."""

    page: Page
    figures: tuple[Figure, ...] = ()
    native: NativePage | None = None


@dataclass(frozen=True)
class PageResult:
    """A recognizer's response for one page; `timings_ms` by stage."""

    content: PageContent
    engine: EngineInfo
    timings_ms: dict[str, float] = field(default_factory=dict)

    @property
    def page(self) -> Page:
        return self.content.page


class StorageInfo(BaseModel):
    """Where the result lies. `keys` are relative to the store: the folder, or the bucket."""

    status: Literal["stored", "failed"]
    uri: str | None = Field(None, description="Folder of the result: s3://bucket/... or file:///...")
    keys: dict[str, str] = Field(
        default_factory=dict, description="result, markdown, figures by their paths and, where kept, source"
    )


class DocumentStatus(StrEnum):
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"


class DocumentSummary(BaseModel):
    """What is said of a document as a whole."""

    id: str
    status: DocumentStatus = Field(description="`partial`: some pages could not be read; each says why")
    page_count: int = Field(description="Pages of the document, also those that were not asked for")
    engine: EngineInfo
    degraded: bool = Field(False, description="Some page is degraded, or was read by the fallback engine")
    warnings: list[ErrorInfo] = Field(default_factory=list, description="What the document as a whole lacks")
    timings_ms: dict[str, float] = Field(
        description="Milliseconds by stage: receive, fetch, cache, text_layer, rasterize, queue, analyze, "
        "recognize, restructure, store, total. Those of pages are added up"
    )
    storage: StorageInfo


class Document(DocumentSummary):
    """The answer to a request, and what is kept in the store as result.json."""

    pages: list[Page] = Field(description="The pages that were asked for")
    text: str = Field(description="The text of all pages, a blank line between blocks")
    markdown: str
    images: dict[str, str] = Field(
        default_factory=dict, description="With `include_images`: JPEG files as base64, by the paths that link them"
    )
