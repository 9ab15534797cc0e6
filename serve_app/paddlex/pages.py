"""Pages of engines that are not PaddleX's, in PaddleX's form."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

from serve_app.document import Block, Box, NativePage, Page
from serve_app.document.markdown import page_markdown
from serve_app.paddlex.requests import PDF_DPI

MARGINALS = ("number", "footnote", "header", "header_image", "footer", "footer_image", "aside_text")
"""Labels that PaddleX leaves out of Markdown by default, and gives no place in the reading order."""

_CLASSES = ("text", "image", "title", "paragraph_title", "table")
_PICTURES = ("image", "chart", "seal")

UNREAD: dict[str, Any] = {
    "use_doc_preprocessor": False,
    "use_layout_detection": True,
    "use_chart_recognition": False,
    "use_seal_recognition": False,
    "use_ocr_for_image_block": False,
    "format_block_content": False,
    "merge_layout_blocks": False,
    "markdown_ignore_labels": list(MARGINALS),
    "return_layout_polygon_points": False,
}
"""Of what a client may ask for, what such an engine has done."""


def as_paddlex_page(page: Page, *, ignore_labels: tuple[str, ...] | None, pretty: bool) -> NativePage:
    """A page as /layout-parsing gives it; `ignore_labels` are left out of its Markdown.

    `pretty`: pictures are HTML, as wide as on the page. There are clients that know no others.
    """
    ignored = MARGINALS if ignore_labels is None else ignore_labels
    blocks = sorted(page.blocks, key=lambda block: block.order)
    order = 0
    listed, boxes = [], []
    for place, block in enumerate(blocks):
        in_order = block.label not in (*MARGINALS, *ignored)
        order += in_order
        listed.append(
            {
                "block_label": block.label,
                "block_content": block.content or block.text,
                "block_bbox": list(block.bbox),
                "block_id": place,
                "block_order": order if in_order else None,
                "group_id": place if block.group is None else block.group,
            }
        )
        boxes.append(
            {
                "cls_id": _CLASSES.index(block.label) if block.label in _CLASSES else len(_CLASSES),
                "label": block.label,
                "score": block.confidence if block.confidence is not None else 1.0,
                "coordinate": list(block.bbox),
                "order": order if in_order else None,
                "polygon_points": _corners(block.bbox),
            }
        )
    pruned = {
        "page_count": None,
        "width": page.width,
        "height": page.height,
        "model_settings": UNREAD | {"markdown_ignore_labels": list(ignored)},
        "parsing_res_list": listed,
        "layout_det_res": {"boxes": boxes},
    }
    markdown = _markdown(page, blocks, ignored)
    return NativePage(pruned, with_html_pictures(markdown, page) if pretty else markdown)


def page_of(pruned_result: dict[str, Any], number: int, figures: Container[str] | None = None) -> Page:
    """The page of a `prunedResult` that is ours or was checked; of `figures`, those it shows, or those it may have."""
    blocks = []
    for order, listed in enumerate(pruned_result["parsing_res_list"]):
        label, content, box = listed["block_label"], listed["block_content"], tuple(map(int, listed["block_bbox"]))
        path = f"imgs/img_in_{label}_box_{'_'.join(map(str, box))}.jpg"
        shown = label in _PICTURES if figures is None else path in figures
        figure = path if shown else None
        text = "" if figure or label == "table" else content
        content = content if label == "table" else None
        blocks.append(Block(label=label, text=text, content=content, bbox=box, order=order, figure=figure))
    width, height = int(pruned_result["width"]), int(pruned_result["height"])
    return Page(number=number, width=width, height=height, dpi=PDF_DPI, blocks=blocks)


def _markdown(page: Page, blocks: list[Block], ignored: tuple[str, ...]) -> str:
    if not any(block.label in ignored for block in blocks):
        return page.markdown
    return page_markdown([block for block in blocks if block.label not in ignored])


def with_html_pictures(markdown: str, page: Page) -> str:
    for block in page.blocks:
        if block.figure is not None and page.width:
            share = round(100 * (block.bbox[2] - block.bbox[0]) / page.width)
            picture = f'<img src="{block.figure}" alt="Image" width="{max(1, share)}%" />'
            markdown = markdown.replace(f"![]({block.figure})", f'<div style="text-align: center;">{picture}</div>')
    return markdown


@dataclass(frozen=True)
class Line:
    """One line of text: its score is None where the engine has none."""

    text: str
    box: Box
    score: float | None
    words: tuple[tuple[str, Box], ...] = ()


def lines_of(page: Page) -> Iterator[Line]:
    """The page's lines in reading order; of blocks without words, the block."""
    for block in sorted(page.blocks, key=lambda block: block.order):
        texts = [stripped for line in block.text.splitlines() if (stripped := line.strip())]
        counts = [len(text.split()) for text in texts]
        if not texts:
            continue
        if sum(counts) != len(block.words):
            yield Line(" ".join(texts), block.bbox, block.confidence)
            continue
        start = 0
        for text, count in zip(texts, counts, strict=True):
            words = block.words[start : start + count]
            start += count
            scores = [word.confidence for word in words if word.confidence is not None]
            yield Line(
                text,
                _around([word.bbox for word in words]),
                sum(scores) / len(scores) if scores else None,
                tuple((word.text, word.bbox) for word in words),
            )


def failed_page() -> dict[str, Any]:
    """`prunedResult` of a page that could not be read: clients find in it what they look for."""
    found: dict[str, Any] = {"parsing_res_list": [], "layout_det_res": {"boxes": []}}
    return {"page_count": None, "width": 0, "height": 0, "model_settings": UNREAD, **found}


def ocr_result(page: Page, *, return_word_box: bool, least_score: float, preprocessed: bool) -> dict[str, Any]:
    """`prunedResult` of PaddleX's /ocr; `preprocessed`: the page was turned upright or flattened first, if need be."""
    lines = list(lines_of(page))
    kept = [line for line in lines if line.score is None or line.score >= least_score]
    result: dict[str, Any] = {
        "model_settings": {"use_doc_preprocessor": preprocessed, "use_textline_orientation": False},
        "dt_polys": [_corners(line.box) for line in lines],
        "text_det_params": {},
        "text_type": "general",
        "textline_orientation_angles": [-1] * len(lines),
        "text_rec_score_thresh": least_score,
        "return_word_box": return_word_box,
        "rec_texts": [line.text for line in kept],
        "rec_scores": [1.0 if line.score is None else round(line.score, 6) for line in kept],
        "rec_polys": [_corners(line.box) for line in kept],
        "rec_boxes": [list(line.box) for line in kept],
    }
    if return_word_box:
        result["text_word"] = [[text for text, _ in line.words] for line in kept]
        result["text_word_boxes"] = [[list(box) for _, box in line.words] for line in kept]
    return result


def _corners(box: Box) -> list[list[int]]:
    left, top, right, bottom = box
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def _around(boxes: list[Box]) -> Box:
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)
