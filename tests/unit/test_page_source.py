"""A document as pages: what it is, how many it has, and each on its own."""

from __future__ import annotations

import io
import struct
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serve_app.errors import CorruptDocument, EmptyDocument, TooLarge, TooManyPages, UnsupportedMediaType
from serve_app.raster.images import DecodedImage
from serve_app.raster.page_source import MAX_TIFF_DIRECTORIES, PageSource, open_source
from tests.support.image_files import GREEN, GREY_PAGE, RED, corners, png, save, tiff, tiff_tags
from tests.support.pdfs import page_pdf

MAX_PIXELS = 10**6


def opened(data: bytes, max_pixels: int = MAX_PIXELS) -> PageSource:
    return open_source(data, password=None, max_pixels=max_pixels)


def render(source: PageSource, number: int = 1, dpi: int | None = None, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    return source.render(number, dpi=dpi, default_dpi=200, max_pixels=max_pixels)


def grey_page(value: int, *more: Any) -> tuple[list[Any], bytes]:
    return tiff_tags(4, 2, (8,), 1, *more), bytes([value] * 8)


def saved_tiff(colours: list[Any], **options: Any) -> bytes:
    frames = [Image.new("RGB", (8, 8 + index), colour) for index, colour in enumerate(colours)]
    return save(frames[0], "TIFF", save_all=True, append_images=frames[1:], **options)


def test_the_kind_is_told_by_the_first_bytes() -> None:
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        source = opened(save(Image.fromarray(corners()), kind))
        assert source.page_count == 1
        assert render(source).pixels.shape == (32, 48, 3)
        assert source.text_page(1, dpi=None, default_dpi=200, max_pixels=MAX_PIXELS) is None
        source.close()
    assert opened(b"\n" * 900 + page_pdf(b"")).page_count == 1


@pytest.mark.parametrize("data", [b"some text", b"\n" * 1020 + b"%PDF-1.7\n", b"PK\x03\x04" + bytes(40)])
def test_other_kinds_are_refused(data: bytes) -> None:
    with pytest.raises(UnsupportedMediaType):
        opened(data)


def test_nothing_is_an_empty_document() -> None:
    with pytest.raises(EmptyDocument):
        opened(b"")


def test_an_image_is_refused_when_it_is_opened() -> None:
    with pytest.raises(TooLarge):
        opened(png(50_000, 50_000, 8, 2, b""))
    with pytest.raises(TooLarge):
        opened(tiff([(tiff_tags(50_000, 50_000, (8,), 1), b"")]))
    with pytest.raises(CorruptDocument):
        opened(b"MM\0*\0\0\0\x08\xff\xff")


def test_an_image_can_be_rendered_again_and_within_another_limit() -> None:
    source = opened(save(Image.fromarray(corners()), "PNG"))
    first, second = render(source, dpi=300), render(source)
    assert (first.pixels == second.pixels).all() and (first.pixels == corners()).all()
    assert (first.dpi, second.dpi) == (300, 200)
    with pytest.raises(TooLarge):
        render(source, max_pixels=100)


def test_a_damaged_image_fails_when_it_is_rendered() -> None:
    data = save(Image.fromarray(corners()), "GIF")
    source = opened(data[:-20])
    with pytest.raises(CorruptDocument):
        render(source)


# TIFF


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}, {"big_tiff": True}])
def test_every_page_of_a_tiff_is_read_in_any_order(options: dict[str, Any]) -> None:
    source = opened(saved_tiff([RED, GREEN, (0, 0, 255)], **options))
    assert source.page_count == 3
    for number in (3, 1, 2, 2):
        page = render(source, number).pixels
        assert page.shape == (7 + number, 8, 3)
        assert int(page[0, 0].argmax()) == number - 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_pages_have_their_own_size_resolution_and_orientation(order: str) -> None:
    turned = (tiff_tags(4, 2, (8,), 1, (274, 3, (6,))), bytes([0, 80, 160, 255] * 2))
    source = opened(tiff([GREY_PAGE, turned], order=order))
    assert render(source, 1).pixels.shape == (2, 4, 3)
    assert render(source, 2).pixels[:, 0, 0].tolist() == [0, 80, 160, 255]
    frames = [Image.new("L", (200, 300)), Image.new("L", (200, 300))]
    stream = io.BytesIO()
    frames[0].save(stream, "TIFF", save_all=True, append_images=frames[1:], dpi=(150, 150))
    source = opened(stream.getvalue())
    assert (render(source, 2).dpi, render(source, 2, dpi=100).dpi) == (150, 100)


@pytest.mark.parametrize("subfile_type", [1, 4, 5])
@pytest.mark.parametrize("kind", [3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
def test_thumbnails_and_masks_are_not_pages(subfile_type: int, kind: int, order: str) -> None:
    source = opened(tiff([grey_page(1), grey_page(2, (254, kind, (subfile_type,))), grey_page(3)], order=order))
    assert source.page_count == 2
    assert render(source, 2).pixels.max() == 3


def test_a_page_of_a_series_is_a_page() -> None:
    assert opened(tiff([grey_page(n, (254, 4, (2,)), (297, 3, (n, 3))) for n in range(3)])).page_count == 3


def test_a_broken_page_of_a_tiff_leaves_the_others() -> None:
    broken = (tiff_tags(4, 2, (8,), 1)[1:], b"")
    too_large = (tiff_tags(50_000, 50_000, (8,), 1), b"")
    source = opened(tiff([grey_page(1), broken, too_large, grey_page(4)]))
    with pytest.raises(CorruptDocument):
        render(source, 2)
    with pytest.raises(TooLarge):
        render(source, 3)
    assert [int(render(source, number).pixels.max()) for number in (1, 4)] == [1, 4]


def test_a_tiff_that_ends_early_keeps_the_pages_it_has() -> None:
    whole = tiff([grey_page(n) for n in range(4)])
    for cut in (120, 60):  # before the last directory, and in the middle of it
        source = opened(whole[:-cut])
        assert source.page_count == 4
        assert [int(render(source, number).pixels.max()) for number in (1, 2, 3)] == [0, 1, 2]
        with pytest.raises(CorruptDocument):
            render(source, 4)


@pytest.mark.parametrize("count", [1, 3])
def test_tiff_directories_in_a_circle_are_corrupt(count: int) -> None:
    with pytest.raises(CorruptDocument, match="form a cycle"):
        opened(tiff([GREY_PAGE] * count, last_next=0))


def test_ten_thousand_frames_are_counted_or_refused_at_once() -> None:
    most, more = (tiff([GREY_PAGE] * count) for count in (MAX_TIFF_DIRECTORIES, MAX_TIFF_DIRECTORIES + 1))
    started = time.perf_counter()
    source = opened(most)
    assert source.page_count == MAX_TIFF_DIRECTORIES
    assert render(source, MAX_TIFF_DIRECTORIES).pixels.shape == (2, 4, 3)
    with pytest.raises(TooManyPages, match="more than 10000 pages"):
        opened(more)
    assert time.perf_counter() - started < 3


def test_directories_of_sixty_thousand_entries_each_are_gone_through_at_once() -> None:
    count, entries = 9_000, 0xFFFF * 12
    data = bytearray(8 + entries + 6 * count + 6)
    struct.pack_into("<2sHI", data, 0, b"II", 42, 8)
    for index in range(count):  # one after another, so that each one's entries are all the others
        start = 8 + 6 * index
        struct.pack_into("<H", data, start, 0xFFFF)
        struct.pack_into("<I", data, start + 2 + entries, start + 6 if index < count - 1 else 0)
    started = time.perf_counter()
    assert opened(bytes(data)).page_count == count
    assert time.perf_counter() - started < 3


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_of_an_animation_the_first_frame_is_the_page(kind: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    source = opened(save(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert source.page_count == 1
    assert np.array_equal(render(source).pixels[0, 0], RED)
