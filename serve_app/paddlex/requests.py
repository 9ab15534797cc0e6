"""Bodies of PaddleX's self-hosted API, paddlex 3.7.2. Fields that are not known here are ignored, as they are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from serve_app.document.options import (
    LEAST_BLOCK_PIXELS,
    MAX_BLOCK_PIXELS,
    MAX_CLASSES,
    MAX_NEW_TOKENS,
    LayoutClass,
    ParsingOptions,
    VlmExtraArgs,
    check_pixels,
)
from serve_app.paddlex.uploaded_pages import checked_page

PDF_DPI = 144
"""Pages of a PDF are drawn at twice their size in points; clients divide boxes by two."""

MAX_LOG_ID = 256
MAX_PAGES = 2000


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel, populate_by_name=True)

    log_id: str | None = Field(None, max_length=MAX_LOG_ID, description="A label that the answer repeats")


class _FileRequest(_Request):
    file: str = Field(description="A URL of the document, or its bytes as base64")
    file_type: Literal[0, 1] | None = Field(
        None, description="0 for a PDF, 1 for an image; what the document is, its bytes say"
    )


class _Visualized(_Request):
    visualize: bool | None = Field(None, description="Pictures of the page, and of what was found on it; default: none")


class _Written(BaseModel):
    """How pages are written."""

    prettify_markdown: bool = Field(True, description="Markdown with HTML that centres titles, pictures and tables")
    show_formula_number: bool = Field(False, description="Numbers of formulas in Markdown")
    return_markdown_images: bool = Field(True, description="Pictures that Markdown links, in the answer")
    output_formats: tuple[Literal["docx"], ...] | None = Field(None, max_length=10, description="Each page as DOCX too")
    merge_tables: bool = Field(True, description="Join tables that go on over pages")
    relevel_titles: bool = Field(True, description="Set the levels of titles by the whole document")


_Count = Annotated[int, Field(gt=0)]
_AnyRatio = Annotated[float, Field(gt=0)]
_Ratios = (
    _AnyRatio
    | tuple[_AnyRatio, _AnyRatio]
    | Annotated[dict[LayoutClass, _AnyRatio | tuple[_AnyRatio, _AnyRatio]], Field(max_length=MAX_CLASSES)]
)

_MAX_RATIO = 10.0


def _each(value: Any, within: Callable[[Any], Any]) -> Any:
    return None if value is None else within(value)


def _ratio(value: Any) -> Any:
    if isinstance(value, dict):
        pairs = {name: each if isinstance(each, tuple) else (each, each) for name, each in value.items()}
        return {name: _ratio(pair) for name, pair in pairs.items()}
    return tuple(map(_ratio, value)) if isinstance(value, tuple) else min(value, _MAX_RATIO)


def _pixels(value: int) -> int:
    return min(max(value, LEAST_BLOCK_PIXELS), MAX_BLOCK_PIXELS)


class _ExtraArgs(BaseModel):
    """As VlmExtraArgs, where others are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    ocr_min_pixels: _Count | None = None
    ocr_max_pixels: _Count | None = None
    table_min_pixels: _Count | None = None
    table_max_pixels: _Count | None = None
    chart_min_pixels: _Count | None = None
    chart_max_pixels: _Count | None = None
    formula_min_pixels: _Count | None = None
    formula_max_pixels: _Count | None = None
    seal_min_pixels: _Count | None = None
    seal_max_pixels: _Count | None = None

    @model_validator(mode="after")
    def _ordered(self) -> _ExtraArgs:
        for kind in ("ocr", "table", "chart", "formula", "seal"):
            check_pixels(getattr(self, f"{kind}_min_pixels"), getattr(self, f"{kind}_max_pixels"))
        return self

    @property
    def within_limits(self) -> VlmExtraArgs:
        return VlmExtraArgs(**{name: _pixels(each) for name, each in self if each is not None})


class LayoutParsingFields(_Written, ParsingOptions, _Visualized):
    """What /layout-parsing may be asked for, wherever the document comes from."""

    model_config = _Request.model_config

    # Wider than what an engine is asked for: here, what is beyond the service's own limits is brought within them.
    layout_unclip_ratio: _Ratios | None = ParsingOptions.model_fields["layout_unclip_ratio"]  # type: ignore[assignment]
    repetition_penalty: Annotated[float, Field(gt=0)] | None = Field(None, description="Of the VLM's sampling")
    temperature: Annotated[float, Field(ge=0)] | None = Field(None, description="Of the VLM's sampling")
    min_pixels: _Count | None = Field(None, description="Least pixels of a block's picture in the VLM")
    max_pixels: _Count | None = Field(None, description="Most pixels of a block's picture in the VLM")
    max_new_tokens: _Count | None = Field(None, description="Most tokens of a block; the service's own limit holds too")
    vlm_extra_args: _ExtraArgs | None = Field(None, description="Pixels of single kinds of blocks")  # type: ignore[assignment]

    restructure_pages: bool = Field(False, description="Look at all pages at once for tables and titles")

    @property
    def parsing(self) -> ParsingOptions:
        asked: dict[str, Any] = {name: getattr(self, name) for name in ParsingOptions.model_fields}
        asked["layout_unclip_ratio"] = _each(self.layout_unclip_ratio, _ratio)
        for name in ("repetition_penalty", "temperature"):
            asked[name] = _each(asked[name], _ratio)
        for name in ("min_pixels", "max_pixels"):
            asked[name] = _each(asked[name], _pixels)
        asked["max_new_tokens"] = _each(asked["max_new_tokens"], lambda count: min(count, MAX_NEW_TOKENS))
        asked["vlm_extra_args"] = None if self.vlm_extra_args is None else self.vlm_extra_args.within_limits
        return ParsingOptions(**asked)


class LayoutParsingRequest(LayoutParsingFields, _FileRequest):
    """Body of POST /layout-parsing."""


class LinesFields(_Visualized):
    """What PaddleX's /ocr may be asked for."""

    use_doc_orientation_classify: bool | None = Field(None, description="Turn the page upright first")
    use_doc_unwarping: bool | None = Field(None, description="Flatten a page that was photographed curved")
    use_textline_orientation: bool | None = Field(
        None, description="Accepted: engines see for themselves how lines run"
    )
    return_word_box: bool | None = Field(None, description="Boxes of words too, where the engine has them")
    text_det_limit_side_len: int | None = Field(None, gt=0, description="Accepted: of PP-OCR's text detection")
    text_det_limit_type: Literal["min", "max"] | None = Field(None, description="Accepted: of PP-OCR's text detection")
    text_det_thresh: float | None = Field(None, ge=0, le=1, description="Accepted: of PP-OCR's text detection")
    text_det_box_thresh: float | None = Field(None, ge=0, le=1, description="Accepted: of PP-OCR's text detection")
    text_det_unclip_ratio: float | None = Field(None, gt=0, description="Accepted: of PP-OCR's text detection")
    text_rec_score_thresh: float | None = Field(None, ge=0, le=1, description="Lines of a lower score are left out")

    @property
    def parsing(self) -> ParsingOptions:
        return ParsingOptions(
            use_doc_orientation_classify=self.use_doc_orientation_classify, use_doc_unwarping=self.use_doc_unwarping
        )


class LinesRequest(LinesFields, _FileRequest):
    """Body of POST /ocr, where it has a `file`."""


class RestructuredPage(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel, populate_by_name=True)

    pruned_result: Annotated[dict[str, Any], AfterValidator(checked_page)] = Field(
        description="As /layout-parsing gave it"
    )
    markdown_images: dict[str, str] | None = Field(None, description="Pictures by the paths that Markdown links")


class RestructureRequest(_Written, _Request):
    """Body of POST /restructure-pages."""

    pages: tuple[RestructuredPage, ...] = Field(min_length=1, max_length=MAX_PAGES)
    concatenate_pages: bool = Field(False, description="One result for all pages")
