"""Converts pages to PaddleX's form and back, for engines with another native form."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

from serve_app.document import Block, Box, NativePage, Page, Polygon
from serve_app.document.markdown import page_markdown
from serve_app.outputs.lines import Line as PlacedLine
from serve_app.outputs.lines import PlacedWord, corners
from serve_app.paddlex.requests import PDF_DPI

MARGINALS = ("number", "footnote", "header", "header_image", "footer", "footer_image", "aside_text")
"""Labels that PaddleX by default leaves out of Markdown and out of the reading order."""

_CLASSES = ("text", "image", "title", "paragraph_title", "table")
_PICTURES = ("image", "chart", "seal")

MODEL_SETTINGS: dict[str, Any] = {
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
"""`model_settings` for engines that have no such settings."""


def to_paddlex(page: Page, *, ignore_labels: tuple[str, ...] | None, pretty: bool) -> NativePage:
    """Convert a page to what /layout-parsing returns; its Markdown leaves out `ignore_labels`, by default MARGINALS.

    `pretty` writes pictures as HTML, as wide as on the page. Some clients understand no other links.
    """
    ignored = MARGINALS if ignore_labels is None else ignore_labels
    blocks = sorted(page.blocks, key=lambda block: block.order)
    order = 0
    listed, boxes = [], []
    for position, block in enumerate(blocks):
        in_order = block.label not in (*MARGINALS, *ignored)
        order += in_order
        listed.append(
            {
                "block_label": block.label,
                "block_content": block.content or block.text,
                "block_bbox": list(block.bbox),
                "block_id": position,
                "block_order": order if in_order else None,
                "group_id": position if block.group is None else block.group,
            }
        )
        boxes.append(
            {
                "cls_id": _CLASSES.index(block.label) if block.label in _CLASSES else len(_CLASSES),
                "label": block.label,
                "score": block.confidence if block.confidence is not None else 1.0,
                "coordinate": list(block.bbox),
                "order": order if in_order else None,
                "polygon_points": _whole(block.polygon or corners(block.bbox)),
            }
        )
    pruned = {
        "page_count": None,
        "width": page.width,
        "height": page.height,
        "model_settings": MODEL_SETTINGS | {"markdown_ignore_labels": list(ignored)},
        "parsing_res_list": listed,
        "layout_det_res": {"boxes": boxes},
    }
    markdown = _markdown(page, blocks, ignored)
    return NativePage(pruned, with_html_pictures(markdown, page) if pretty else markdown)


def from_paddlex(pruned_result: dict[str, Any], number: int, figures: Container[str] | None = None) -> Page:
    """Return the page of a `prunedResult` that this service made or has checked.

    A block shows a figure if its path is in `figures`; with None, if its label is that of a picture.
    """
    blocks = []
    for order, listed in enumerate(pruned_result["parsing_res_list"]):
        label, content, box = listed["block_label"], listed["block_content"], tuple(map(int, listed["block_bbox"]))
        path = f"imgs/img_in_{label}_box_{'_'.join(map(str, box))}.jpg"
        is_picture = label in _PICTURES if figures is None else path in figures
        figure = path if is_picture else None
        text = "" if figure or label == "table" else content
        content = content if label == "table" else None
        blocks.append(Block(label=label, text=text, content=content, bbox=box, order=order, figure=figure))
    width, height = int(pruned_result["width"]), int(pruned_result["height"])
    return Page(number=number, width=width, height=height, dpi=PDF_DPI, blocks=blocks)


def _markdown(page: Page, blocks: list[Block], ignored: tuple[str, ...]) -> str:
    if not any(block.label in ignored for block in blocks):
        return page.markdown
    return page_markdown([block for block in blocks if block.label not in ignored])


_LINK = re.compile(r"!\[\]\(([^()\n]*)\)")


def with_html_pictures(markdown: str, page: Page) -> str:
    """Replace links to the page's figures by centred HTML images, as wide as on the page."""
    pictures: dict[str, str] = {}
    for block in page.blocks:
        if block.figure is not None and page.width:
            share = round(100 * (block.bbox[2] - block.bbox[0]) / page.width)
            picture = f'<img src="{block.figure}" alt="Image" width="{max(1, share)}%" />'
            pictures.setdefault(block.figure, f'<div style="text-align: center;">{picture}</div>')
    return _LINK.sub(lambda link: pictures.get(link[1], link[0]), markdown)


@dataclass(frozen=True)
class Line:
    """One line of text. `corners` are those of its box, unless the page is crooked. `score` is None if the engine gives none."""

    text: str
    box: Box
    corners: Polygon
    score: float | None
    words: tuple[tuple[str, Box], ...] = ()


def lines_of(page: Page) -> Iterator[Line]:
    """Yield the page's lines in reading order. A block without words is one line."""
    for block in sorted(page.blocks, key=lambda block: block.order):
        texts = [stripped for line in block.text.splitlines() if (stripped := line.strip())]
        counts = [len(text.split()) for text in texts]
        if not texts:
            continue
        if sum(counts) != len(block.words):
            yield Line(" ".join(texts), block.bbox, block.polygon or corners(block.bbox), block.confidence)
            continue
        start = 0
        for text, count in zip(texts, counts, strict=True):
            words = block.words[start : start + count]
            start += count
            scores = [word.confidence for word in words if word.confidence is not None]
            box = _bounding_box([word.bbox for word in words])
            placed = tuple(PlacedWord(word.text, word.bbox, word.polygon, word.confidence) for word in words)
            places = PlacedLine(text, placed, page.rotation + page.skew).places
            yield Line(
                text,
                box,
                (places and places.polygon) or corners(box),
                sum(scores) / len(scores) if scores else None,
                tuple((word.text, word.bbox) for word in words),
            )


def failed_result() -> dict[str, Any]:
    """Return the `prunedResult` of a page that could not be read, with the fields that clients access."""
    found: dict[str, Any] = {"parsing_res_list": [], "layout_det_res": {"boxes": []}}
    return {"page_count": None, "width": 0, "height": 0, "model_settings": MODEL_SETTINGS, **found}


def ocr_result(page: Page, *, return_word_box: bool, least_score: float, preprocessed: bool) -> dict[str, Any]:
    """Return the `prunedResult` of PaddleX's /ocr. `preprocessed`: the page was turned upright or flattened first."""
    lines = list(lines_of(page))
    confident = [line for line in lines if line.score is None or line.score >= least_score]
    result: dict[str, Any] = {
        "model_settings": {"use_doc_preprocessor": preprocessed, "use_textline_orientation": False},
        "dt_polys": [_whole(line.corners) for line in lines],
        "text_det_params": {},
        "text_type": "general",
        "textline_orientation_angles": [-1] * len(lines),
        "text_rec_score_thresh": least_score,
        "return_word_box": return_word_box,
        "rec_texts": [line.text for line in confident],
        "rec_scores": [1.0 if line.score is None else round(line.score, 6) for line in confident],
        "rec_polys": [_whole(line.corners) for line in confident],
        "rec_boxes": [list(line.box) for line in confident],
    }
    if return_word_box:
        result["text_word"] = [[text for text, _ in line.words] for line in confident]
        result["text_word_boxes"] = [[list(box) for _, box in line.words] for line in confident]
    return result


def _whole(polygon: Polygon) -> list[list[int]]:
    return [[round(x), round(y)] for x, y in polygon]


def _bounding_box(boxes: list[Box]) -> Box:
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)
