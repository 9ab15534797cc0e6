"""Warnings: why a page or a document has less than it should."""

from __future__ import annotations

from enum import StrEnum

from serve_app.document.model import ErrorInfo


class WarningCode(StrEnum):
    """Every code in the `warnings` of a page, a document or a file. Each has its row in docs/api.md."""

    # The page could not be drawn as it should be
    DAMAGED_IMAGE = "damaged_image"
    FONT_MISSING = "font_missing"

    # Its text is not complete
    LOW_CONFIDENCE_TEXT_DROPPED = "low_confidence_text_dropped"
    PICTURES_NOT_READ = "pictures_not_read"
    FALLBACK_ENGINE = "fallback_engine"
    PAGE_OUT_OF_TIME = "page_out_of_time"
    PAGE_OUT_OF_TOKENS = "page_out_of_tokens"
    BLOCK_CUT = "block_cut"
    BLOCK_REPEATS = "block_repeats"
    BLOCK_FAILED = "block_failed"

    # Its pictures are not complete
    NO_OVERLAY = "no_overlay"
    FIGURE_LOST = "figure_lost"

    # The document, or a file of it
    NOT_RESTRUCTURED = "not_restructured"
    PAGES_DRAWN = "pages_drawn"


def warning(code: WarningCode, message: str) -> ErrorInfo:
    """Make a warning. The message is for people, and as public as that of an error."""
    return ErrorInfo(code=code.value, message=message)


NOT_RESTRUCTURED = warning(WarningCode.NOT_RESTRUCTURED, "Tables and headings were not connected across pages.")
