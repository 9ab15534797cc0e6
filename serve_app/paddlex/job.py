"""What the official job API may ask for, and the result that its clients fetch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

from pydantic import BaseModel, Field

from serve_app.document import NativePage
from serve_app.document.spool import PageSpool
from serve_app.paddlex.exports import Exports
from serve_app.paddlex.requests import LayoutParsingFields, LinesFields
from serve_app.paddlex.responses import Picture, layout_parsing_results, ocr_results, write_lines

LINES_MODELS = ("PP-OCRv5", "PP-OCRv5-latin", "PP-OCRv6")
LAYOUT_MODELS = ("PP-StructureV3", "PaddleOCR-VL", "PaddleOCR-VL-1.5", "PaddleOCR-VL-1.6")

RESULT = "result.jsonl"
RESULT_TYPE = "application/x-ndjson; charset=utf-8"  # clients guess at a charset that is not told


class PaddlexJob(BaseModel):
    """What a job of the official API has beside the others; `payload` as in /layout-parsing or /ocr, checked."""

    model: str
    payload: dict[str, Any] = Field(default_factory=dict)
    batch_id: str | None = None
    address: str = Field(description="The service's own, for the URLs in the result")

    @property
    def of_lines(self) -> bool:
        return self.model in LINES_MODELS

    @property
    def layout(self) -> LayoutParsingFields:
        return LayoutParsingFields.model_validate(self.payload)

    @property
    def lines(self) -> LinesFields:
        return LinesFields.model_validate(self.payload)

    def writer(
        self,
        spool: PageSpool,
        restructured: list[NativePage] | None,
        picture: Picture,
        exports: Exports,
        *,
        kind: str,
        preprocessed: bool,
    ) -> Callable[[BinaryIO], None]:
        """Writes the result into a file; it blocks."""
        if self.of_lines:
            name, results = "ocrResults", ocr_results(self.lines, spool, picture, preprocessed=preprocessed)
        else:
            name, results = (
                "layoutParsingResults",
                layout_parsing_results(self.layout, spool, restructured, picture, exports),
            )
        return lambda to: write_lines(name, results, spool, kind=kind, to=to)
