"""Drops what was read where there is no text: print of the other side that shines through, stains, grain."""

from __future__ import annotations

from serve_app.document import Block, ErrorInfo
from serve_app.document.warnings import WarningCode, warning
from serve_app.recognition.engines.tesseract_blocks import mean_confidence, words_of

PAGE_CONFIDENCE = 0.6
"""Mean confidence of a page's words below which the page is suspected. Measured: at most 0.57 on ten empty pages through
which the other side shines (Russian, English, a table; by 10, 20 and 35 grey levels); 0.74 to 0.96 on four pages of text, each
blurred by 2 and 2.5 pixels, at 75 dpi, compressed with JPEG quality 8, and photographed fairly."""

BLOCK_CONFIDENCE = 0.66
"""Mean confidence below which a paragraph of a suspected page is dropped. On those empty pages, two of about 45 paragraphs had
more, of one word each: 0.78 and 0.83."""

LEAST_CONFIDENCE = 0.3
"""Mean confidence below which a paragraph is dropped from any page. On the pages of text, one had less: a word that is not on
its page."""

FEW_WORDS = 5
"""Fewer words than this are too few to judge a page by: only LEAST_CONFIDENCE holds for them."""

WARNING = warning(
    WarningCode.LOW_CONFIDENCE_TEXT_DROPPED,
    "Something on this page looked like text but could not be read, such as print of the other side or a language that "
    "was not asked for. It was left out.",
)


def without_nonsense(blocks: list[Block]) -> tuple[list[Block], list[ErrorInfo]]:
    """Return the blocks that are believed, and a warning if others were dropped."""
    words = words_of(blocks)
    suspected = len(words) >= FEW_WORDS and mean_confidence(words) < PAGE_CONFIDENCE
    least = BLOCK_CONFIDENCE if suspected else LEAST_CONFIDENCE
    kept = [block for block in blocks if not block.words or mean_confidence(block.words) >= least]
    return kept, [WARNING] if len(kept) < len(blocks) else []
