"""Bodies of PaddleX's self-hosted API, paddlex 3.7.2. Fields that are not known here are ignored, as they are there."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from serve_app.options import ParsingOptions

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


class LayoutParsingFields(_Written, ParsingOptions, _Visualized):
    """What /layout-parsing may be asked for, wherever the document comes from."""

    model_config = _Request.model_config

    restructure_pages: bool = Field(False, description="Look at all pages at once for tables and titles")

    @property
    def parsing(self) -> ParsingOptions:
        return ParsingOptions(**{name: getattr(self, name) for name in ParsingOptions.model_fields})


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

    pruned_result: dict[str, Any] = Field(description="As /layout-parsing gave it")
    markdown_images: dict[str, str] | None = Field(None, description="Pictures by the paths that Markdown links")


class RestructureRequest(_Written, _Request):
    """Body of POST /restructure-pages."""

    pages: tuple[RestructuredPage, ...] = Field(max_length=MAX_PAGES)
    concatenate_pages: bool = Field(False, description="One result for all pages")
