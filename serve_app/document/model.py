"""The vocabulary: documents, pages and blocks, inside the service and in its responses.

Coordinates are pixels of the page as it is recognized (after EXIF rotation), with the origin at the top left;
boxes are [left, top, right, bottom]. Confidence is 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

Box = tuple[int, int, int, int]
Polygon = list[tuple[float, float]]
RgbPixels = npt.NDArray[np.uint8]  # shape (height, width, 3)


class ErrorInfo(BaseModel):
    code: str
    message: str


@dataclass(frozen=True)
class PageImage:
    """A decoded page on its way to an engine.

    `pixels` is RGB, uint8, of shape (height, width, 3), contiguous. `dpi` comes from the request, the file, or the
    settings, in this order. `rasterize_ms` is the duration of decoding. `warnings` say what the decoder could not draw;
    the recognized page gets them too.
    """

    pixels: RgbPixels
    number: int
    dpi: int
    rasterize_ms: float
    warnings: tuple[ErrorInfo, ...] = ()


@dataclass(frozen=True)
class PagePart:
    """The boxes `inside` of a page, without those `outside`, which may lie over them."""

    inside: tuple[Box, ...]
    outside: tuple[Box, ...] = ()

    def of(self, pixels: RgbPixels) -> RgbPixels:
        """Return a copy of the page that is white everywhere else."""
        part = np.full_like(pixels, 255)
        for left, top, right, bottom in self.inside:
            part[top:bottom, left:right] = pixels[top:bottom, left:right]
        for left, top, right, bottom in self.outside:
            part[top:bottom, left:right] = 255
        return part


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
        """Return `id`, `data` and `password` as arguments of a remote call: Ray resolves no references within an argument."""
        return self.id, self.data, self.password


class Word(BaseModel):
    text: str
    bbox: Box
    polygon: Polygon | None = Field(
        None,
        description="Four corners in pixels of the page, from the start of the word's top edge along it; "
        "only if the page is crooked",
    )
    confidence: float | None = None


class Block(BaseModel):
    """A region of a page that reads as one unit: a paragraph, a title, a table."""

    label: str = Field(description="Kind of region; `text` for a paragraph")
    text: str = Field(description="Plain text. A table has one line per row, with tabs between cells")
    content: str | None = Field(
        None, description="Markup by the engine, if it is more than text: HTML for a table, LaTeX for a formula"
    )
    bbox: Box = Field(description="[left, top, right, bottom] in pixels of the page")
    order: int = Field(description="Position in reading order, from 0")
    polygon: Polygon | None = Field(None, description="Outline, if the engine gives one or the page is crooked")
    group: int | None = Field(None, description="Blocks of the same group continue each other")
    figure: str | None = Field(None, description="Path of a picture, as the Markdown links it")
    level: int | None = Field(None, description="Level of a heading in the document; 1 is the document's title")
    continues_from: int | None = Field(
        None,
        description="Number of the page on which this table begins, if that is an earlier one. "
        "Outputs of the whole document have the complete table there",
    )
    markdown_span: tuple[int, int] | None = Field(
        None, description="[start, end) in the page's Markdown, in characters, if the engine gives it"
    )
    confidence: float | None = Field(None, description="Mean confidence of the words, 0..1, if the engine gives it")
    words: list[Word] = Field(default_factory=list, description="Words, if the engine gives them")


class Page(BaseModel):
    """One recognized page. A page that failed has an `error` and no blocks."""

    number: int = Field(description="Page number, from 1")
    width: int = Field(description="Width in pixels")
    height: int = Field(description="Height in pixels")
    dpi: int = Field(description="Resolution, in dots per inch")
    rotation: int = Field(
        0, description="Degrees by which the text is turned clockwise: 0, 90, 180 or 270, if the engine detects it"
    )
    skew: float = Field(
        0.0,
        description="Degrees by which the text is turned clockwise beyond `rotation`, up to about 10 either way, "
        "more on a photographed sheet, if the engine detects it",
    )
    text_source: Literal["recognition", "text_layer"] = Field(
        "recognition",
        description="`text_layer` if the text was taken from the PDF, and only that of its pictures recognized",
    )
    text: str = ""
    markdown: str = ""
    blocks: list[Block] = Field(default_factory=list)
    degraded: bool = Field(False, description="Something is missing or of lower quality; `warnings` explain what")
    warnings: list[ErrorInfo] = Field(default_factory=list)
    error: ErrorInfo | None = None

    @property
    def note(self) -> str | None:
        """The line that outputs show instead of a page that failed; None for any other page."""
        return None if self.error is None else f"Page {self.number}: {self.error.message} ({self.error.code})"


class EngineInfo(BaseModel):
    name: str
    version: str


@dataclass(frozen=True)
class Figure:
    """A picture cut from a page: the `path` by which the page's Markdown links it, and the JPEG file."""

    path: str
    jpeg: bytes


@dataclass(frozen=True)
class NativePage:
    """A page in its engine's native form, which only that engine and its dialect interpret.

    `result` is plain JSON; `markdown` is exact, white space included. `raw_blocks` holds each block's content before
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
    """A recognizer's response for one page; `timings_ms` by stage.

    `unread_pictures`: boxes of pictures that may have text, on a page whose text is its text layer.
    """

    content: PageContent
    engine: EngineInfo
    timings_ms: dict[str, float] = field(default_factory=dict)
    unread_pictures: tuple[Box, ...] = ()

    @property
    def page(self) -> Page:
        return self.content.page


class StorageInfo(BaseModel):
    """Location of the stored result. `keys` are relative to the store: the folder, or the bucket."""

    status: Literal["stored", "spooled", "failed"] = Field(
        description="`spooled`: it waits on the disk of a node until the store takes it"
    )
    uri: str | None = Field(None, description="Folder of the result: s3://bucket/... or file:///...")
    keys: dict[str, str] = Field(
        default_factory=dict,
        description="Keys by name: `result`, `markdown`, the path of each figure and, if it is stored, `source`",
    )


class DocumentStatus(StrEnum):
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"


class DocumentSummary(BaseModel):
    """A document without its pages."""

    id: str
    status: DocumentStatus = Field(description="`partial`: some pages could not be read; each has an `error`")
    page_count: int = Field(description="Pages in the document, including those that were not requested")
    engine: EngineInfo
    degraded: bool = Field(False, description="Some page is degraded, or was read by the fallback engine")
    warnings: list[ErrorInfo] = Field(default_factory=list, description="Problems of the document as a whole")
    page_warnings: dict[str, list[int]] = Field(
        default_factory=dict, description="Codes of the pages' warnings, each with the numbers of its pages"
    )
    timings_ms: dict[str, float] = Field(
        description="Milliseconds by stage: receive, fetch, cache, text_layer, rasterize, queue, analyze, "
        "recognize, restructure, store, total. Stages of pages are summed"
    )
    storage: StorageInfo


class Document(DocumentSummary):
    """The response to a request. The store has it as result.json."""

    pages: list[Page] = Field(description="The requested pages")
    text: str = Field(description="The text of all pages, with a blank line between blocks")
    markdown: str
    images: dict[str, str] = Field(
        default_factory=dict, description="With `include_images`: JPEG files as base64, by the paths of their links"
    )
