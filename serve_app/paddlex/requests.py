"""Bodies of PaddleX's self-hosted API, paddlex 3.7.2. As there, unknown fields are ignored."""

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
from serve_app.paddlex.uploaded_pages import check_page

PDF_DPI = 144
"""PDF pages are drawn at twice their size in points; clients divide boxes by two."""

MAX_LOG_ID = 256
MAX_PAGES = 2000


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel, populate_by_name=True)

    log_id: str | None = Field(None, max_length=MAX_LOG_ID, description="A label that the response repeats")


class _FileRequest(_Request):
    file: str = Field(description="The URL of the document, or its bytes as base64")
    file_type: Literal[0, 1] | None = Field(
        None, description="0 for a PDF, 1 for an image. Ignored: the type is detected from the content"
    )


class _VisualizeOption(_Request):
    visualize: bool | None = Field(
        None, description="Add pictures of the page and of its detected layout; default: none"
    )


class _OutputOptions(BaseModel):
    """Options of the output."""

    prettify_markdown: bool = Field(True, description="Centre titles, pictures and tables in Markdown, with HTML")
    show_formula_number: bool = Field(False, description="Show the numbers of formulas in Markdown")
    return_markdown_images: bool = Field(True, description="Include the pictures that the Markdown links")
    output_formats: tuple[Literal["docx"], ...] | None = Field(
        None, max_length=10, description="Also return each page as DOCX"
    )
    merge_tables: bool = Field(True, description="Join tables that continue across pages")
    relevel_titles: bool = Field(True, description="Set heading levels across the whole document")


_Count = Annotated[int, Field(gt=0)]
_AnyRatio = Annotated[float, Field(gt=0)]
_Ratios = (
    _AnyRatio
    | tuple[_AnyRatio, _AnyRatio]
    | Annotated[dict[LayoutClass, _AnyRatio | tuple[_AnyRatio, _AnyRatio]], Field(max_length=MAX_CLASSES)]
)

_MAX_RATIO = 10.0


def _unless_none(value: Any, change: Callable[[Any], Any]) -> Any:
    return None if value is None else change(value)


def _ratio(value: Any) -> Any:
    if isinstance(value, dict):
        pairs = {name: each if isinstance(each, tuple) else (each, each) for name, each in value.items()}
        return {name: _ratio(pair) for name, pair in pairs.items()}
    return tuple(map(_ratio, value)) if isinstance(value, tuple) else min(value, _MAX_RATIO)


def _pixels(value: int) -> int:
    return min(max(value, LEAST_BLOCK_PIXELS), MAX_BLOCK_PIXELS)


class _ExtraArgs(BaseModel):
    """Pixel limits by kind of block. Other fields are ignored, and values are reduced to the service's limits."""

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
    def _check_pixel_order(self) -> _ExtraArgs:
        for kind in ("ocr", "table", "chart", "formula", "seal"):
            check_pixels(getattr(self, f"{kind}_min_pixels"), getattr(self, f"{kind}_max_pixels"))
        return self

    @property
    def within_limits(self) -> VlmExtraArgs:
        return VlmExtraArgs(**{name: _pixels(each) for name, each in self if each is not None})


class LayoutParsingFields(_OutputOptions, ParsingOptions, _VisualizeOption):
    """The fields of /layout-parsing without the document."""

    model_config = _Request.model_config

    # These types are wider than those of ParsingOptions: PaddleX's clients may send larger values, which are reduced.
    layout_unclip_ratio: _Ratios | None = ParsingOptions.model_fields["layout_unclip_ratio"]  # type: ignore[assignment]
    repetition_penalty: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Repetition penalty of the VLM's sampling"
    )
    temperature: Annotated[float, Field(ge=0)] | None = Field(None, description="Temperature of the VLM's sampling")
    min_pixels: _Count | None = Field(None, description="Minimum pixels of a block's picture for the VLM")
    max_pixels: _Count | None = Field(None, description="Maximum pixels of a block's picture for the VLM")
    max_new_tokens: _Count | None = Field(None, description="Maximum tokens per block; the service has a limit too")
    vlm_extra_args: _ExtraArgs | None = Field(None, description="Pixel limits by kind of block")  # type: ignore[assignment]

    restructure_pages: bool = Field(False, description="Join tables and set heading levels across pages")

    @property
    def parsing(self) -> ParsingOptions:
        options: dict[str, Any] = {name: getattr(self, name) for name in ParsingOptions.model_fields}
        options["layout_unclip_ratio"] = _unless_none(self.layout_unclip_ratio, _ratio)
        for name in ("repetition_penalty", "temperature"):
            options[name] = _unless_none(options[name], _ratio)
        for name in ("min_pixels", "max_pixels"):
            options[name] = _unless_none(options[name], _pixels)
        options["max_new_tokens"] = _unless_none(options["max_new_tokens"], lambda count: min(count, MAX_NEW_TOKENS))
        options["vlm_extra_args"] = None if self.vlm_extra_args is None else self.vlm_extra_args.within_limits
        return ParsingOptions(**options)


class LayoutParsingRequest(LayoutParsingFields, _FileRequest):
    """Body of POST /layout-parsing."""


class LinesFields(_VisualizeOption):
    """The fields of PaddleX's /ocr without the document."""

    use_doc_orientation_classify: bool | None = Field(None, description="Turn the page upright first")
    use_doc_unwarping: bool | None = Field(None, description="Flatten a page that was photographed curved")
    use_textline_orientation: bool | None = Field(None, description="Ignored: engines detect the direction of lines")
    return_word_box: bool | None = Field(None, description="Also return the boxes of words, if the engine gives them")
    text_det_limit_side_len: int | None = Field(None, gt=0, description="Ignored: an option of PP-OCR's text detection")
    text_det_limit_type: Literal["min", "max"] | None = Field(
        None, description="Ignored: an option of PP-OCR's text detection"
    )
    text_det_thresh: float | None = Field(None, ge=0, le=1, description="Ignored: an option of PP-OCR's text detection")
    text_det_box_thresh: float | None = Field(
        None, ge=0, le=1, description="Ignored: an option of PP-OCR's text detection"
    )
    text_det_unclip_ratio: float | None = Field(None, gt=0, description="Ignored: an option of PP-OCR's text detection")
    text_rec_score_thresh: float | None = Field(None, ge=0, le=1, description="Leave out lines with a lower score")

    @property
    def parsing(self) -> ParsingOptions:
        return ParsingOptions(
            use_doc_orientation_classify=self.use_doc_orientation_classify, use_doc_unwarping=self.use_doc_unwarping
        )


class LinesRequest(LinesFields, _FileRequest):
    """Body of POST /ocr if it has a `file`."""


class RestructuredPage(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel, populate_by_name=True)

    pruned_result: Annotated[dict[str, Any], AfterValidator(check_page)] = Field(
        description="As /layout-parsing returned it"
    )
    markdown_images: dict[str, str] | None = Field(None, description="Pictures by the paths that the Markdown links")


class RestructureRequest(_OutputOptions, _Request):
    """Body of POST /restructure-pages."""

    pages: tuple[RestructuredPage, ...] = Field(min_length=1, max_length=MAX_PAGES)
    concatenate_pages: bool = Field(False, description="Return one result for all pages")
