"""Rows of hostile input that reach the rasterizer, over HTTP; after each the service is as before."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import pytest
from PIL import Image

from tests.support.samples import SAMPLES
from tests.support.service import Service


def png(image: Image.Image, **options: object) -> bytes:
    return encoded(image, "PNG", **options)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def declared_png(width: int, height: int) -> bytes:
    """A small PNG whose header declares the size; its pixels are one compressed run of zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 10_000))
        + chunk(b"IEND", b"")
    )


@pytest.fixture(autouse=True)
def service_is_as_before(service: Service) -> Iterator[None]:
    yield
    with service.client() as client:
        answer = client.post("/ocr", files={"file": png(Image.new("RGB", (60, 60), "white"))}, data={"engine": "dummy"})
        assert answer.status_code == 200
        assert answer.json()["text"] == "Привет"


def post(service: Service, image: bytes, engine: str = "tesseract") -> tuple[int, dict[str, object]]:
    with service.client() as client:
        answer = client.post("/ocr", files={"file": ("page", image)}, data={"engine": engine})
    return answer.status_code, answer.json()


def error_code(service: Service, image: bytes) -> tuple[int, str]:
    status, answer = post(service, image)
    error = answer["error"]
    assert isinstance(error, dict) and error["message"] and error["request_id"]
    return status, error["code"]


def test_row_31_a_png_that_declares_2500_megapixels_is_413_before_decoding(service: Service) -> None:
    assert error_code(service, declared_png(50_000, 50_000)) == (413, "too_large")


@pytest.mark.parametrize("size", [(1, 1), (1, 30_000), (30_000, 1), (800, 600)])
def test_row_32_blank_and_thin_images_are_empty_text(service: Service, size: tuple[int, int]) -> None:
    status, document = post(service, png(Image.new("L", size, 255)))
    assert (status, document["text"], document["status"]) == (200, "", "done")


def test_row_33_a_damaged_image_is_read_as_far_as_it_goes(service: Service, russian_page: bytes) -> None:
    with Image.open(io.BytesIO(russian_page)) as page:
        jpeg = encoded(page.convert("RGB"), "JPEG")
    broken = bytearray(russian_page)
    broken[len(broken) // 2] ^= 0xFF
    for damaged in (jpeg[: len(jpeg) // 2], bytes(broken)):
        status, document = post(service, damaged)
        assert (status, document["degraded"]) == (200, True)
        assert "damaged_image" in str(document["pages"])
        assert str(document["text"]).startswith("Счёт на оплату № 1047")
    assert error_code(service, jpeg[:300]) == (422, "corrupt_document")


def test_row_34_every_kind_of_pixels_gives_the_right_text(service: Service, russian_text: str) -> None:
    with Image.open(SAMPLES / "page-ru.png") as opened:
        page = opened.convert("RGB").crop((0, 0, opened.width, 550))  # its first three paragraphs
    text = " ".join(russian_text.split("\n\n")[:3]).split()
    transparent = page.convert("L").point(lambda value: 255 - value)
    see_through = Image.merge("LA", (Image.new("L", page.size, 0), transparent))
    turned = page.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    variants = {
        "cmyk": encoded(page.convert("CMYK"), "JPEG", quality=95),
        "16-bit": encoded(page.convert("L").convert("I;16").point(lambda value: value * 257), "PNG"),
        "1-bit": encoded(page.convert("1", dither=Image.Dither.NONE), "TIFF"),
        "palette": encoded(page.quantize(16), "GIF"),
        "alpha": encoded(see_through, "PNG"),
        "exif": encoded(turned, "JPEG", quality=95, exif=exif),
        "webp": encoded(page, "WEBP", lossless=True),
        "bmp": encoded(page, "BMP"),
    }
    for name, image in variants.items():
        status, document = post(service, image)
        assert status == 200, (name, document)
        assert str(document["text"]).split() == text, name


@pytest.mark.parametrize(
    "data",
    [
        b"just text",
        b"<html><body>login</body></html>",
        b"%!PS-Adobe-3.0",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"plain text under the name x.pdf",
    ],
)
def test_row_22_files_that_are_no_image_are_415(service: Service, data: bytes) -> None:
    assert error_code(service, data) == (415, "unsupported_media_type")


def test_row_7_bytes_decide_whatever_the_name_says(service: Service) -> None:
    page = png(Image.new("RGB", (60, 60), "white"))
    with service.client() as client:
        answer = client.post("/ocr", files={"file": ("x.pdf", page, "application/pdf")}, data={"engine": "dummy"})
    assert answer.status_code == 200


def test_row_12_hostile_file_names_are_200(service: Service) -> None:
    page = png(Image.new("RGB", (60, 60), "white"))
    with service.client() as client:
        for name in ("../../x", "/etc/passwd", "a\x00b", "x" * 4096, "\u202egnp.exe"):
            answer = client.post("/ocr", files={"file": (name, page)}, data={"engine": "dummy"})
            assert answer.status_code == 200, name
            assert "passwd" not in str(answer.json()["storage"])


def test_row_8_a_chunked_body_over_the_limit_is_413(service: Service) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(2000):
            yield b"x" * 100_000

    with service.client() as client:
        declared = client.post("/ocr", files={"file": b"x" * 13_000_000})
        answer = client.post("/ocr", content=endless(), headers={"Content-Type": "application/json"})
    assert declared.status_code == 413 and "12 MB" in declared.json()["error"]["message"]
    assert answer.status_code == 413
