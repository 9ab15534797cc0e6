"""Documents that are damaged, huge or up to no good: each gets its answer, and nobody else notices."""

from __future__ import annotations

import io
import socket
import zlib
from collections.abc import Iterator

import pytest
from PIL import Image

from tests.support.image_files import GREY_PAGE, tiff
from tests.support.pdfs import page_pdf, pages_pdf, pdf_of, stream
from tests.support.service import Service

CATALOG = b"<</Type/Catalog/Pages 2 0 R>>"


def post(service: Service, document: bytes) -> tuple[int, str]:
    """Status and error code, or the document's status."""
    with service.client() as client:
        answer = client.post("/ocr", files={"file": document}, data={"engine": "dummy"})
        told = answer.json()
        health = client.get("/health")
    assert health.status_code == 200 and health.json()["status"] == "healthy"
    return answer.status_code, told["status"] if answer.status_code == 200 else told["error"]["code"]


@pytest.mark.parametrize(
    "document",
    [
        b"%PDF-1.7\n",
        pages_pdf([b""] * 20)[:600],
        b"%PDF-1.7\n" + bytes(range(256)) * 40,
        pdf_of([CATALOG, b"<</Type/Pages/Count 3/Kids[2 0 R 2 0 R 2 0 R]>>"]),
    ],
    ids=["only a header", "truncated", "noise", "a loop in the page tree"],
)
def test_row_23_damaged_pdfs_are_corrupt(service: Service, document: bytes) -> None:
    assert post(service, document) in ((422, "corrupt_document"), (422, "empty_document"))


def test_row_23_a_pdf_with_a_broken_table_of_objects_is_mended(service: Service) -> None:
    assert post(service, pages_pdf([b"", b""]).replace(b"startxref\n", b"startxref\n9")) == (200, "done")


def test_row_25_a_pdf_of_no_pages_is_empty(service: Service) -> None:
    assert post(service, pdf_of([CATALOG, b"<</Type/Pages/Count 0/Kids[]>>"])) == (422, "empty_document")


@pytest.mark.parametrize("box", [b"[0 0 14400 14400]", b"[0 0 0 0]", b"[nan nan nan nan]", b"[0 0 1e30 1e30]", b"[]"])
def test_row_27_pages_of_any_size_are_drawn_within_the_limit(service: Service, box: bytes) -> None:
    assert post(service, page_pdf(b"", mediabox=box)) in ((200, "done"), (422, "corrupt_document"))


def bombs() -> Iterator[tuple[str, bytes]]:
    packer = zlib.compressobj(9)
    gigabyte = b"".join(packer.compress(b" " * 2**20) for _ in range(1024)) + packer.flush()
    packed = zlib.compress(gigabyte, 9)
    yield "flate", page_pdf(b"").replace(stream(b""), stream(packed, b"/Filter[/FlateDecode/FlateDecode]"))
    image = b"/Type/XObject/Subtype/Image/Width 30000/Height 30000/ColorSpace/DeviceGray/BitsPerComponent 8"
    draw = b"500 0 0 500 0 0 cm /I Do"
    resources = b"/Resources<</XObject<</I 5 0 R>>>>"
    run = bytes([129, 32]) * 2**20
    for name, data, entries in (
        ("picture", packed, b"/Filter[/FlateDecode/FlateDecode]"),
        ("run length", zlib.compress(run), b"/Filter[/FlateDecode/RunLengthDecode]"),
        (
            "jbig2",
            b"\x00\x00\x00\x000\x00\x01\x00\x00\x00\x13" + b"\xff\xff\xff\xfe" * 4 + bytes(3),
            b"/Filter/JBIG2Decode",
        ),
    ):
        yield name, page_pdf(draw, page=resources, more=[stream(data, image + entries)])


def test_row_28_bombs_cost_their_own_page_at_most(service: Service) -> None:
    for name, document in bombs():
        assert len(document) < 100_000
        assert post(service, document) in ((200, "done"), (422, "corrupt_document"), (413, "too_large")), name


def test_row_29_nothing_in_a_pdf_is_run_or_fetched(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        for action in (
            b"<</S/JavaScript/JS(app.launchURL('http://127.0.0.1:%d/'))>>" % port,
            b"<</S/Launch/F(/bin/true)>>",
            b"<</S/URI/URI(http://127.0.0.1:%d/)>>" % port,
        ):
            document = page_pdf(b"", page=b"/AA<</O %b>>" % action, catalog=b"/OpenAction " + action)
            assert post(service, document) == (200, "done")
            with service.client() as client:
                files = {"file": document}
                written = client.post("/ocr", files=files, data={"engine": "dummy", "output": "pdf"}).content
            assert written.startswith(b"%PDF-") and b"OpenAction" not in written and b"/AA" not in written
        with pytest.raises(TimeoutError):
            server.accept()


def test_row_35_tiffs_of_too_many_or_circular_frames(service: Service) -> None:
    assert post(service, tiff([GREY_PAGE] * 10_001)) == (413, "too_many_pages")
    assert post(service, tiff([GREY_PAGE] * 1_001)) == (413, "too_many_pages")
    assert post(service, tiff([GREY_PAGE] * 3, last_next=0)) == (422, "corrupt_document")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_row_36_of_an_animation_the_first_frame_is_the_one_page(service: Service, kind: str) -> None:
    frames = [Image.new("RGB", (60, 40), colour) for colour in ("white", "black", "red")]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    with service.client() as client:
        document = client.post("/ocr", files={"file": file.getvalue()}, data={"engine": "dummy"}).json()
    assert [(page["width"], page["height"]) for page in document["pages"]] == [(60, 40)]
