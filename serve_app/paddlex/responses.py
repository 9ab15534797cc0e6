"""Responses in PaddleX's form, written page by page."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from serve_app.document import ErrorInfo, NativePage, Page
from serve_app.document.figures import OVERLAYS, PICTURES, local_figure_path, with_local_figures
from serve_app.document.spool import PageSpool
from serve_app.paddlex.exports import Exports
from serve_app.paddlex.pages import failed_result, ocr_result, to_paddlex
from serve_app.paddlex.requests import LayoutParsingFields, LinesFields, RestructureRequest

Picture = Callable[[str], str]
"""Represents a picture of the spool in a response, given its path: as base64, or as a URL."""


def inline_picture(spool: PageSpool, path: str) -> str:
    return base64.b64encode(spool.figure(path) or b"").decode()


def layout_parsing_results(
    fields: LayoutParsingFields,
    spool: PageSpool,
    restructured: Sequence[NativePage] | None,
    picture: Picture,
    exports: Exports,
) -> Iterator[dict[str, Any]]:
    """Yield `layoutParsingResults`, one page at a time.

    `restructured` holds the pages that did not fail, in order, if they were restructured.
    """
    next_restructured = iter(restructured) if restructured is not None else None
    for page in _pages(spool):
        if page.error is not None:
            # Clients find pages by position, so a failed page needs an entry too.
            yield _failed(page, {"markdown": {"text": "", "images": {}}})
            continue
        native = next(next_restructured) if next_restructured is not None else native_page(page, spool, fields)
        paths = [path for path in spool.figures_of(page.number) if not path.startswith((OVERLAYS, PICTURES))]
        figures = {local_figure_path(path, page.number): path for path in paths}
        images = {name: picture(path) for name, path in figures.items()} if fields.return_markdown_images else {}
        result: dict[str, Any] = {
            "prunedResult": native.result,
            "markdown": {"text": native.markdown, "images": images},
        }
        if fields.visualize:
            overlay = f"{OVERLAYS}page-{page.number}.jpg"
            if overlay in spool.figures_of(page.number):
                result["outputImages"] = {"layout_det_res": picture(overlay)}
            input_image = f"{PICTURES}page-{page.number}.jpg"
            if input_image in spool.figures_of(page.number):
                result["inputImage"] = picture(input_image)
        yield result | exports.for_page(page.number) | _warnings(page)


def ocr_results(
    fields: LinesFields, spool: PageSpool, picture: Picture, *, preprocessed: bool
) -> Iterator[dict[str, Any]]:
    """Yield `ocrResults`, one page at a time; `preprocessed` as in `ocr_result`."""
    words, least_score = bool(fields.return_word_box), fields.text_rec_score_thresh or 0.0
    for page in _pages(spool):
        pruned = ocr_result(page, return_word_box=words, least_score=least_score, preprocessed=preprocessed)
        result: dict[str, Any] = {"prunedResult": pruned}
        if page.error is not None:
            result = _failed(page, {}) | {"prunedResult": pruned}
        elif fields.visualize:
            for name, folder in (("ocrImage", OVERLAYS), ("inputImage", PICTURES)):
                path = f"{folder}page-{page.number}.jpg"
                if path in spool.figures_of(page.number):
                    result[name] = picture(path)
        yield result | _warnings(page)


def write_pages(
    name: str,
    results: Iterator[dict[str, Any]],
    spool: PageSpool,
    *,
    kind: str,
    warnings: Sequence[ErrorInfo] = (),
    log_id: str,
    to: BinaryIO,
) -> None:
    """Write the response of /layout-parsing or /ocr, with `results` as `name`. `kind` is the file's, by `sniff`.

    `warnings` are about the document as a whole. Only this service has them, and those of a page beside its result.
    """
    more: dict[str, Any] = {"dataInfo": data_info(spool, kind)}
    if warnings:
        more["warnings"] = [warning.model_dump() for warning in warnings]
    _write_envelope(name, results, log_id, more, to)


def write_lines(name: str, results: Iterator[dict[str, Any]], spool: PageSpool, *, kind: str, to: BinaryIO) -> None:
    """Write the result of a job: one line of JSON for each page. The first also has the fields of the document."""
    more: dict[str, Any] = {"dataInfo": data_info(spool, kind)}
    for result in results:
        to.write(_json({"result": {name: [result], **more}}) + b"\n")
        more = {}


def write_restructured(
    fields: RestructureRequest,
    restructured: Sequence[NativePage],
    images: Sequence[dict[str, str]],
    exports: Exports,
    *,
    log_id: str,
    to: BinaryIO,
) -> None:
    """Write the response of /restructure-pages; `images` are those of each page, by the paths of their links."""

    def results() -> Iterator[dict[str, Any]]:
        for number, (native, page_images) in enumerate(zip(restructured, images, strict=True), 1):
            markdown = {"text": native.markdown, "images": page_images if fields.return_markdown_images else {}}
            yield {"prunedResult": native.result, "markdown": markdown} | exports.for_page(number)

    _write_envelope("layoutParsingResults", results(), log_id, {}, to)


def response_images(fields: RestructureRequest) -> list[dict[str, str]]:
    """Return the pictures of each page in the response: for concatenated pages, the last one of each name."""
    uploaded = [page.markdown_images or {} for page in fields.pages]
    if not fields.concatenate_pages:
        return uploaded
    return [{path: image for images in uploaded for path, image in images.items()}]


def native_page(page: Page, spool: PageSpool, fields: LayoutParsingFields) -> NativePage:
    """Return a page in PaddleX's form, native or converted. Its Markdown links figures by their local paths."""
    native = spool.native(page.number)
    if native is None:
        local = with_local_figures(page, spool.figures_of(page.number))
        native = to_paddlex(local, ignore_labels=fields.markdown_ignore_labels, pretty=fields.prettify_markdown)
    return native


def native_pages(spool: PageSpool, fields: LayoutParsingFields) -> list[NativePage]:
    """Return all pages that did not fail, as `native_page` returns them."""
    return [native_page(page, spool, fields) for page in _pages(spool) if page.error is None]


def _pages(spool: PageSpool) -> Iterator[Page]:
    return (Page.model_validate_json(page) for page in spool.pages_as_json())


def _failed(page: Page, fields: dict[str, Any]) -> dict[str, Any]:
    assert page.error is not None
    return {
        "prunedResult": failed_result(),
        **fields,
        "error": {"code": page.error.code, "message": page.error.message},
    }


def _warnings(page: Page) -> dict[str, Any]:
    return {"warnings": [warning.model_dump() for warning in page.warnings]} if page.warnings else {}


def data_info(spool: PageSpool, kind: str) -> dict[str, Any]:
    """Return `dataInfo`: the size of the image, or of each page."""
    sizes = [{"width": page.width, "height": page.height} for page in spool.pages()]
    if kind == "PDF" or (kind == "TIFF" and len(sizes) > 1):
        return {"numPages": len(sizes), "pages": sizes, "type": kind.lower()}
    return {**sizes[0], "type": "image"}


def _write_envelope(
    name: str, results: Iterator[dict[str, Any]], log_id: str, more: dict[str, Any], to: BinaryIO
) -> None:
    to.write(b'{"logId":' + _json(log_id) + b',"result":{"' + name.encode() + b'":[')
    for index, result in enumerate(results):
        to.write(b"," * (index > 0) + _json(result))
    to.write(b"]")
    for key, value in more.items():
        to.write(b"," + _json(key) + b":" + _json(value))
    to.write(b'},"errorCode":0,"errorMsg":"Success"}')


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
