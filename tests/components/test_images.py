"""Image bytes to pixels: the right ones, or the right error."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from serve_app.errors import CorruptDocument, EmptyDocument, TooLarge, UnsupportedMediaType
from serve_app.raster.images import DecodedImage, decode_image
from tests.support.image_files import (
    BLACK,
    BLUE,
    GREEN,
    GREY_PAGE,
    RED,
    WHITE,
    Pixels,
    Tag,
    chunk,
    corners,
    png,
    save,
    tiff,
    tiff_tags,
)

MEGABYTE = zlib.compress(bytes(1_000_000))


def decode(data: bytes, *, max_pixels: int = 10**6, dpi_hint: int | None = None) -> DecodedImage:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return decode_image(data, max_pixels=max_pixels, dpi_hint=dpi_hint, default_dpi=200)


def pixels_of(data: bytes) -> Pixels:
    decoded = decode(data)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.ndim == 3 and decoded.pixels.shape[2] == 3
    assert decoded.pixels.flags.c_contiguous
    return decoded.pixels


def assert_looks_like(actual: Pixels, expected: Pixels, tolerance: int = 0) -> None:
    assert actual.shape == expected.shape
    assert int(np.abs(actual.astype(int) - expected.astype(int)).max()) <= tolerance


# What is taken, by its first bytes


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "packbits"}),
        ("TIFF", {"big_tiff": True}),
    ],
)
def test_lossless_formats_keep_every_pixel(kind: str, options: dict[str, Any]) -> None:
    assert_looks_like(pixels_of(save(Image.fromarray(corners()), kind, **options)), corners())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {"quality": 95}),
        ("TIFF", {"compression": "jpeg", "quality": 95}),
    ],
)
def test_lossy_formats_keep_the_picture(kind: str, options: dict[str, Any]) -> None:
    # Colours one at a time: chroma is subsampled, which blurs across edges.
    for colour in (WHITE, BLACK, RED, GREEN, BLUE):
        page = np.full((16, 32, 3), colour, np.uint8)
        assert_looks_like(pixels_of(save(Image.fromarray(page), kind, **options)), page, tolerance=6)


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><html><body>Log in</body></html>",
        "Просто текст".encode(),
        b"BMW is a maker of cars, and this is a text about it.",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"\xc5\xd0\xd3\xc6" + bytes(40),  # EPS with a preview
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40),
        b"\0\0\0\x1cftypavif\0\0\0\0avifmif1" + bytes(40),
        b"\xff\x0a" + bytes(40),  # JPEG XL codestream
        b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40),
        b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),  # JPEG 2000
        b"PK\x03\x04" + bytes(40),
        b"P6 1 1 255 abc",  # Pillow has plugins for these and must not be asked
        b"8BPS\0\x01" + bytes(40),
        b"RIFF\x10\0\0\0WAVEfmt ",
        b"\0",
    ],
)
def test_other_kinds_get_415_that_names_what_is_taken(data: bytes) -> None:
    with pytest.raises(UnsupportedMediaType, match="a PDF, or a JPEG, PNG, WebP, GIF, BMP or TIFF image"):
        decode(data)


def test_nothing_is_an_empty_document() -> None:
    with pytest.raises(EmptyDocument):
        decode(b"")


@pytest.mark.parametrize("size", [(1, 1), (1, 30_000), (30_000, 1)])
def test_extreme_shapes_are_pages_too(size: tuple[int, int]) -> None:
    assert pixels_of(save(Image.new("RGB", size, "white"), "PNG")).shape == (size[1], size[0], 3)


# Animations and pages


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_of_an_animation_the_first_frame_is_read(kind: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    data = save(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as animation:
        assert getattr(animation, "n_frames", 1) == 3
    assert_looks_like(pixels_of(data), np.full((8, 8, 3), RED, np.uint8))


@pytest.mark.parametrize("subfile_type", [1, 4])
def test_thumbnail_or_mask_in_a_tiff_is_not_a_second_page(subfile_type: int) -> None:
    thumbnail = (tiff_tags(2, 1, (8,), 1, (254, 4, (subfile_type,))), bytes([9, 9]))
    assert pixels_of(tiff([GREY_PAGE, thumbnail]))[1, :, 2].tolist() == [0, 80, 160, 255]


# Damage


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (90, 120, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *(("JPEG", {}), ("PNG", {}), ("GIF", {"interlace": 0}), ("TIFF", {})),
        *(("WEBP", {"quality": 60}), ("WEBP", {"lossless": True})),
    ],
)
@pytest.mark.parametrize("kept", [0.5, 0.95])
def test_an_image_without_its_end_is_read_as_far_as_it_goes(kind: str, options: dict[str, Any], kept: float) -> None:
    data = save(noise(), kind, **options)
    whole, part = decode(data), decode(data[: int(len(data) * kept)])
    assert (whole.warnings, [warning.code for warning in part.warnings]) == ((), ["damaged_image"])
    rows = int(90 * kept * 0.5) // 16 * 16
    assert (part.pixels[:rows] == whole.pixels[:rows]).all()
    assert (part.pixels[-1] != whole.pixels[-1]).any()


def test_a_progressive_jpeg_without_its_last_bytes_is_whole_but_for_the_warning() -> None:
    data = save(noise(), "JPEG", progressive=True)
    part = decode(data[:-2])
    assert (part.pixels == decode(data).pixels).all()
    assert [warning.code for warning in part.warnings] == ["damaged_image"]


@pytest.mark.parametrize("lossless", [False, True])
def test_missing_rows_of_a_webp_are_white_and_so_is_what_is_transparent(lossless: bool) -> None:
    image = noise().resize((120, 300))
    image.putalpha(Image.new("L", image.size, 0))
    image.paste(noise(), (0, 0, 120, 90))
    data = save(image, "WEBP", lossless=lossless)
    part = decode(data[: len(data) * 7 // 8])
    assert [warning.code for warning in part.warnings] == ["damaged_image"]
    rows = 32
    assert (part.pixels[:rows] == decode(data).pixels[:rows]).all()
    assert (part.pixels[100:] == 255).all() and part.pixels.shape == (300, 120, 3)


def test_a_bmp_without_its_end_lacks_its_upper_rows() -> None:
    data = save(noise(), "BMP")
    part = decode(data[: len(data) // 2])
    assert (part.pixels[50:] == decode(data).pixels[50:]).all()
    assert (part.pixels[0] == 255).all()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("WEBP", {"save_all": True, "append_images": [Image.new("RGB", (120, 90))]}),
        ("TIFF", {"compression": "tiff_lzw"}),  # Pillow writes the directory of a compressed TIFF at the end
        ("TIFF", {"compression": "jpeg"}),
    ],
)
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.95])
def test_an_image_of_which_nothing_can_be_decoded_is_corrupt(kind: str, options: dict[str, Any], kept: float) -> None:
    data = save(noise(), kind, **options)
    with pytest.raises(CorruptDocument):
        decode(data[: int(len(data) * kept)])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("kept", [20, 60])
def test_an_image_that_ends_before_its_pixels_is_corrupt(kind: str, kept: int) -> None:
    data = save(noise(), kind, **({"progressive": True} if kind == "JPEG" else {}))
    with pytest.raises(CorruptDocument):
        decode(data[:kept])


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_png_with_all_its_pixels_is_whole(cut: int) -> None:
    part = decode(save(Image.fromarray(corners()), "PNG")[:-cut])
    assert (part.pixels == corners()).all() and part.warnings == ()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "LA"])
def test_missing_rows_of_a_png_are_of_one_colour(mode: str) -> None:
    data = save(noise().resize((240, 300)).convert(mode), "PNG")
    part = decode(data[: len(data) // 2])
    assert [warning.code for warning in part.warnings] == ["damaged_image"]
    assert (part.pixels[:100] == decode(data).pixels[:100]).all()
    assert len(np.unique(part.pixels[-30:].reshape(-1, 3), axis=0)) == 1


def test_missing_passes_of_an_interlaced_png_are_white() -> None:
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1)
    passes = b"".join(
        (b"\0" + bytes(columns)) * rows for columns, rows in ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4))
    )
    pixels = chunk(b"IDAT", zlib.compress(passes))  # the last one has the odd rows
    part = decode(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels)
    assert part.pixels[::2].max() == 0 and part.pixels[1::2].min() == 255
    assert [warning.code for warning in part.warnings] == ["damaged_image"]


def test_a_png_with_a_wrong_checksum_in_its_header_is_corrupt() -> None:
    data = bytearray(png(2, 1, 8, 0, b"\0\x10\x20"))
    data[29] ^= 1
    with pytest.raises(CorruptDocument):
        decode(bytes(data))


@pytest.mark.parametrize("target", [b"IDAT", b"tEXt"])
def test_a_wrong_checksum_beside_right_pixels_does_no_harm(target: bytes) -> None:
    data = bytearray(png(2, 1, 8, 0, b"\0\x10\x20", extra=chunk(b"tEXt", b"Title\0page")))
    start = data.index(target)
    (length,) = struct.unpack_from(">I", data, start - 4)
    data[start + 4 + length] ^= 1
    decoded = decode(bytes(data))
    assert (decoded.pixels[0, :, 0].tolist(), decoded.warnings) == ([16, 32], ())


def test_damage_amid_the_pixels_of_a_png_ends_them_there() -> None:
    data = bytearray(save(noise(), "PNG"))
    whole = decode(bytes(data)).pixels
    data[len(data) // 2] ^= 0xFF
    part = decode(bytes(data))
    assert [warning.code for warning in part.warnings] == ["damaged_image"]
    assert (part.pixels[:30] == whole[:30]).all()


@pytest.mark.parametrize(
    "extra",
    [
        lambda: chunk(b"tEXt", b"mxfile\0" + b"x" * 3_000_000),
        lambda: chunk(b"zTXt", b"mxfile\0\0" + zlib.compress(b"y" * 3_000_000)),
        lambda: chunk(b"iCCP", b"big\0\0" + zlib.compress(bytes(2_000_000))),
        lambda: chunk(b"iTXt", b"\0"),
        lambda: chunk(b"pHYs", b"\0\1"),
    ],
    ids=["tEXt", "zTXt", "iCCP", "iTXt", "pHYs"],
)
def test_long_and_odd_metadata_of_a_png_costs_nothing(extra: Callable[[], bytes]) -> None:
    decoded = decode(png(2, 1, 8, 0, b"\0\x10\x20", extra()))
    assert (decoded.pixels[0, :, 0].tolist(), decoded.warnings) == ([16, 32], ())


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\0\0\0\0WEBP",
        b"RIFF\x20\0\0\0WEBPVP8X",
        b"GIF89a",
        b"BM" + bytes(12) + b"\x28\0\0\0",
        b"II*\0",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"II+\0" + bytes(12),
    ],
)
def test_headers_with_nothing_behind_them_are_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptDocument):
        decode(data)


def test_message_of_corrupt_document_holds_no_text_of_a_library() -> None:
    with pytest.raises(CorruptDocument) as caught:
        decode(save(Image.fromarray(corners()), "WEBP")[:-30])
    assert caught.value.message == "The WebP image is damaged or in an unusual encoding, and could not be read."


def test_damaged_exif_does_not_cost_the_page() -> None:
    for exif in (b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0", b"Exif\0\0MM"):
        data = save(Image.fromarray(corners()), "WEBP", lossless=True, exif=exif)
        assert_looks_like(pixels_of(data), corners())
        jpeg = save(Image.new("RGB", (16, 16), RED), "JPEG", exif=exif)
        assert_looks_like(pixels_of(jpeg), np.full((16, 16, 3), RED, np.uint8), tolerance=6)


# Size and amplification


def webp_header(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size


@pytest.mark.parametrize(
    "data",
    [
        png(50_000, 50_000, 8, 2, b""),
        save(Image.new("L", (8, 8)), "JPEG").replace(struct.pack(">HH", 8, 8), struct.pack(">HH", 50_000, 50_000), 1),
        b"GIF89a"
        + struct.pack("<HHBBB", 50_000, 50_000, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, 9, 9, 0)
        + b"\2\0;",
        b"BM" + bytes(12) + struct.pack("<IIIHHIIIIII", 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0),
        webp_header(50_000, 50_000),
        tiff([(tiff_tags(50_000, 50_000, (8,), 1), b"")]),
    ],
    ids=["png", "jpeg", "gif", "bmp", "webp", "tiff"],
)
def test_size_is_judged_by_the_header_before_decoding(data: bytes) -> None:
    with pytest.raises(TooLarge, match=r"2500\.0 megapixels.*limit is 1 megapixels"):
        decode(data)


def test_the_limit_itself_is_still_taken_without_a_warning() -> None:
    data = save(Image.new("1", (1000, 1000), 1), "PNG")
    assert decode(data, max_pixels=1_000_000).pixels.shape == (1000, 1000, 3)
    with pytest.raises(TooLarge):
        decode(data, max_pixels=999_999)


def test_limits_above_that_of_pillow_work() -> None:
    data = save(Image.new("1", (60_000, 3_100), 1), "TIFF", compression="group4")  # 186 megapixels
    with pytest.raises(TooLarge, match="60000 x 3100"):
        decode(data, max_pixels=100_000_000)
    with pytest.raises(
        CorruptDocument
    ):  # let through by size, and not stopped by Pillow's own limit, but without its directory
        decode(data[: len(data) // 2], max_pixels=1_000_000_000)


def test_sides_that_no_engine_takes_are_too_large() -> None:
    with pytest.raises(TooLarge, match="65535"):
        decode(png(70_000, 1, 1, 0, bytes(1 + 70_000 // 8)))


@pytest.mark.parametrize(
    "extra",
    [
        lambda: chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20_000_000), 1)),
        lambda: chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(20_000_000), 1)),
        lambda: chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(bytes(20_000_000), 1)),
        lambda: b"".join(chunk(b"zTXt", b"Key%d\0\0" % i + MEGABYTE) for i in range(80)),
    ],
    ids=["zTXt", "iTXt", "iCCP", "many"],
)
def test_text_bombs_in_a_png_are_not_unpacked(extra: Callable[[], bytes]) -> None:
    data = png(1, 1, 8, 0, b"\0\0", extra())
    tracemalloc.start()
    try:
        assert pixels_of(data).tolist() == [[[0, 0, 0]]]
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def tiff_with_a_tag_of_four_billion_values(number: int) -> bytes:
    data = bytearray(tiff([(tiff_tags(4, 2, (8,), 1, (270, 3, (1,)), (34675, 3, (1,))), bytes(8))]))
    struct.pack_into("<I", data, data.index(struct.pack("<H", number), 16) + 4, 0xFFFFFFFF)
    return bytes(data)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("number", [270, 34675])
def test_a_huge_description_or_profile_in_a_tiff_is_skipped(number: int) -> None:
    assert pixels_of(tiff_with_a_tag_of_four_billion_values(number)).shape == (2, 4, 3)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("number", [256, 273])
def test_a_huge_size_or_strip_table_in_a_tiff_is_corrupt(number: int) -> None:
    with pytest.raises(CorruptDocument):
        decode(tiff_with_a_tag_of_four_billion_values(number))


# Orientation

STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),  # the viewer turns it clockwise
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("JPEG", {"quality": 100, "subsampling": 0}, 6),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
    ],
)
@pytest.mark.parametrize("orientation", STORED)
def test_pages_come_out_upright(kind: str, options: dict[str, Any], tolerance: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    stored = np.ascontiguousarray(STORED[orientation](corners()))
    assert_looks_like(pixels_of(save(Image.fromarray(stored), kind, exif=exif, **options)), corners(), tolerance)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_impossible_orientation_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    assert_looks_like(pixels_of(save(Image.fromarray(corners()), "PNG", exif=exif)), corners())


# Colour

CMYK_PATCHES = {(0, 0, 0, 0): WHITE, (0, 0, 0, 255): BLACK, (0, 255, 255, 0): RED, (255, 0, 255, 0): GREEN}


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [("JPEG", {"quality": 95}, 6), ("TIFF", {}, 0), ("TIFF", {"compression": "tiff_lzw"}, 0)],
)
def test_cmyk_is_not_inverted(kind: str, options: dict[str, Any], tolerance: int) -> None:
    for ink, colour in CMYK_PATCHES.items():
        data = save(Image.new("CMYK", (16, 16), ink), kind, **options)
        assert_looks_like(pixels_of(data), np.full((16, 16, 3), colour, np.uint8), tolerance)


def test_cmyk_jpeg_without_the_mark_of_adobe_is_read_as_browsers_do() -> None:
    for ink, colour in CMYK_PATCHES.items():
        data = save(Image.new("CMYK", (16, 16), ink), "JPEG", quality=95)
        start = data.index(b"\xff\xee\0\x0eAdobe")
        assert_looks_like(pixels_of(data[:start] + data[start + 16 :]), np.full((16, 16, 3), colour, np.uint8), 6)


def test_ycck_jpeg_has_the_right_colours() -> None:
    for ink, colour in CMYK_PATCHES.items():
        # The mark of Adobe says that the first three components are YCbCr of the inks, and all are inverted:
        # so Pillow, which inverts on saving, is given inverted YCbCr, and the mark's last byte is set.
        luma = Image.new("RGB", (16, 16), ink[:3]).convert("YCbCr")
        inverted = [band.point(lambda value: 255 - value) for band in luma.split()]
        image = Image.merge("CMYK", [*inverted, Image.new("L", (16, 16), ink[3])])
        data = bytearray(save(image, "JPEG", quality=95))
        mark = data.index(b"Adobe")
        assert data[mark + 11] == 0
        data[mark + 11] = 2
        assert_looks_like(pixels_of(bytes(data)), np.full((16, 16, 3), colour, np.uint8), 8)


def test_lab_tiff_has_the_right_colours() -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    image = ImageCms.applyTransform(Image.fromarray(corners()), to_lab)
    assert image is not None
    assert_looks_like(pixels_of(save(image, "TIFF")), corners(), tolerance=25)  # 8 bits are coarse in Lab


def test_ycbcr_tiff_has_the_right_colours() -> None:
    data = save(Image.fromarray(corners()).convert("YCbCr"), "TIFF")
    assert_looks_like(pixels_of(data), corners(), tolerance=3)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette_images_have_the_colours_of_their_palette(kind: str) -> None:
    image = Image.fromarray(corners()).quantize(16)
    assert image.mode == "P"
    assert_looks_like(pixels_of(save(image, kind)), corners())


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("GIF", {}), ("TIFF", {}), ("TIFF", {"compression": "group4"})],
)
def test_one_bit_images_are_black_on_white(kind: str, options: dict[str, Any]) -> None:
    ink = np.ones((16, 24), bool)
    ink[:8, :8] = False
    expected = np.repeat(ink[:, :, None] * np.uint8(255), 3, axis=2)
    assert_looks_like(pixels_of(save(Image.fromarray(ink), kind, **options)), expected)


# Depth


def column(data: bytes) -> list[int]:
    """The values of a grey image of one row."""
    pixels = pixels_of(data)
    assert (pixels == pixels[:, :, :1]).all()
    return [int(value) for value in pixels[0, :, 0]]


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 257, 32_768, 65_278, 65_535]], ">u2")
    expected = [0, 1, 128, 254, 255]
    assert column(png(5, 1, 16, 0, b"\0" + values.tobytes())) == expected
    assert column(save(Image.fromarray(values.astype("<u2")), "TIFF")) == expected
    assert column(save(Image.fromarray(values.astype("<u2")), "TIFF", compression="tiff_lzw")) == expected
    assert column(tiff([(tiff_tags(5, 1, (16,), 1), values.tobytes())], order=">")) == expected


def test_16_bit_tiff_with_white_as_zero_is_not_a_negative() -> None:
    samples = np.array([0, 32_768, 65_535], "<u2").tobytes()
    assert column(tiff([(tiff_tags(3, 1, (16,), 0), samples)])) == [255, 127, 0]


def test_12_bit_tiff_is_not_nearly_black() -> None:
    samples = bytes([0xFF, 0xF8, 0x00])  # 4095, 2048
    assert column(tiff([(tiff_tags(2, 1, (12,), 1), samples)])) == [255, 128]


def test_16_bit_colour_keeps_its_colours() -> None:
    samples = struct.pack(">6H", 65_535, 0x8000, 0, 0x1234, 0, 65_535)
    expected = np.array([[[255, 128, 0], [0x12, 0, 255]]], np.uint8)
    assert_looks_like(pixels_of(png(2, 1, 16, 2, b"\0" + samples)), expected)
    assert_looks_like(pixels_of(tiff([(tiff_tags(2, 1, (16,) * 3, 2), samples)], order=">")), expected)


@pytest.mark.parametrize("top", [1.0, 255.0, 1e30])
def test_float_tiff_is_stretched_over_its_range(top: float) -> None:
    assert column(save(Image.fromarray(np.array([[0, top * 3 / 4, top]], np.float32)), "TIFF")) == [0, 191, 255]


def test_float_tiff_with_holes_keeps_its_ink() -> None:
    values = np.array([[np.nan, -np.inf, 0, 1, np.inf]], np.float32)
    assert column(save(Image.fromarray(values), "TIFF")) == [255, 0, 0, 255, 255]
    assert column(save(Image.fromarray(np.full((1, 2), np.nan, np.float32)), "TIFF")) == [255, 255]


def test_32_bit_integer_tiff_is_stretched_over_its_range() -> None:
    values = np.array([[-2_000_000_000, 1_000_000_000, 2_000_000_000]], np.int32)
    assert column(save(Image.fromarray(values), "TIFF")) == [0, 191, 255]
    assert set(column(save(Image.fromarray(np.full((1, 3), 7, np.int32)), "TIFF"))) == {0}


# Transparency: text on a transparent ground, which hides black


def ink_on_nothing() -> tuple[Image.Image, Pixels]:
    """RGBA with an opaque red square on transparent black, and what it should look like."""
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[4:8, 4:8] = (*RED, 255)
    expected = np.full((16, 16, 3), 255, np.uint8)
    expected[4:8, 4:8] = RED
    return Image.fromarray(rgba), expected


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {}), ("GIF", {})],
)
def test_transparent_pixels_become_white(kind: str, options: dict[str, Any]) -> None:
    image, expected = ink_on_nothing()
    assert_looks_like(pixels_of(save(image, kind, **options)), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_transparent_grey_becomes_white(kind: str) -> None:
    values = np.array([[[0, 0], [0, 255], [100, 255], [0, 128]]], np.uint8)
    assert column(save(Image.fromarray(values, "LA"), kind)) == [255, 0, 100, 127]


def test_transparent_palette_entries_become_white() -> None:
    palette = chunk(b"PLTE", bytes([*BLACK, *RED, *GREEN]))
    several = png(3, 1, 8, 3, b"\0\0\1\2", palette + chunk(b"tRNS", bytes([0, 255, 128])))
    assert_looks_like(pixels_of(several), np.array([[WHITE, RED, (127, 255, 127)]], np.uint8))
    one = png(3, 1, 8, 3, b"\0\0\1\2", palette + chunk(b"tRNS", bytes([0])))
    assert_looks_like(pixels_of(one), np.array([[WHITE, RED, GREEN]], np.uint8))


@pytest.mark.parametrize(
    ("depth", "row", "key", "expected"),
    [
        (1, b"\0\x40", 0, [255, 255]),
        (2, b"\0\x18", 0, [255, 85, 170, 255]),
        (4, b"\0\x5a", 5, [255, 170]),
        (8, b"\0\x05\x5a", 5, [255, 90]),
        (16, b"\0\x05\x00\x05\x80", 0x0500, [255, 5]),
    ],
)
def test_the_transparent_grey_of_a_png_becomes_white(depth: int, row: bytes, key: int, expected: list[int]) -> None:
    assert column(png(len(expected), 1, depth, 0, row, chunk(b"tRNS", struct.pack(">H", key)))) == expected


@pytest.mark.parametrize(
    ("depth", "row", "key"),
    [
        (8, bytes([0, *BLACK, *RED]), BLACK),
        (16, b"\0" + struct.pack(">6H", 0x1200, 0, 0, 65_535, 0, 0), (0x1200, 0, 0)),
    ],
)
def test_the_transparent_colour_of_a_png_becomes_white(depth: int, row: bytes, key: tuple[int, int, int]) -> None:
    data = png(2, 1, depth, 2, row, chunk(b"tRNS", struct.pack(">3H", *key)))
    assert_looks_like(pixels_of(data), np.array([[WHITE, RED]], np.uint8))


def test_premultiplied_alpha_is_not_darkened_twice() -> None:
    extra: Tag = (338, 3, (1,))
    rgb = tiff([(tiff_tags(3, 1, (8,) * 4, 2, extra), bytes([0, 0, 0, 0, 128, 0, 0, 128, *GREEN, 255]))])
    assert_looks_like(pixels_of(rgb), np.array([[WHITE, (255, 127, 127), GREEN]], np.uint8), tolerance=1)
    grey = tiff([(tiff_tags(3, 1, (8,) * 2, 1, extra), bytes([0, 0, 64, 128, 9, 255]))])
    assert np.abs(np.array(column(grey)) - [255, 191, 9]).max() <= 1


def test_a_fourth_channel_left_at_zero_does_not_blank_the_page() -> None:
    samples = b"".join(bytes([*colour, 0]) for colour in (BLACK, RED, WHITE))
    assert_looks_like(
        pixels_of(tiff([(tiff_tags(3, 1, (8,) * 4, 2), samples)])), np.array([[BLACK, RED, WHITE]], np.uint8)
    )


# Resolution


def dpi_of(size: tuple[int, int], kind: str, **options: Any) -> int:
    return decode(save(Image.new("L", size, 255), kind, **options), max_pixels=10**8).dpi


A4_AT_150 = (1240, 1754)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("dpi", [50, 96, 150, 300])
def test_a_believable_resolution_of_the_file_is_taken(kind: str, dpi: int) -> None:
    assert dpi_of((200, 300), kind, dpi=(dpi + 0.1, dpi + 0.1)) == dpi


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("dpi", [1, 30, 1500, 5000])
def test_an_impossible_resolution_is_not_believed(kind: str, dpi: int) -> None:
    assert dpi_of((200, 300), kind, dpi=(dpi, dpi)) == 200


@pytest.mark.parametrize(
    ("size", "dpi", "expected"),
    [
        (A4_AT_150, 72, 200),  # 44 x 62 cm
        (A4_AT_150, 150, 150),
        ((3508, 2480), 72, 200),  # 124 x 87 cm
        ((3508, 2480), 300, 300),
        ((4000, 3000), 72, 200),  # a photograph
        ((595, 842), 72, 72),  # A4 drawn at 72 dpi
        ((1920, 1080), 96, 96),  # a screenshot
        ((3307, 4677), 200, 200),  # A2
        ((4677, 3307), 199, 199),
        ((1701, 1000), 100, 100),  # 17.01 x 10 inches: fits the longer way round
        ((1701, 2000), 100, 200),
        ((1000, 2401), 100, 200),
        ((2400, 1700), 100, 100),
    ],
)
def test_a_resolution_that_makes_a_poster_of_the_page_is_not_believed(
    size: tuple[int, int], dpi: int, expected: int
) -> None:
    assert dpi_of(size, "JPEG", dpi=(dpi, dpi)) == expected


def test_the_hint_wins_over_file_and_default() -> None:
    data = save(Image.new("L", (200, 300)), "PNG", dpi=(150, 150))
    assert decode(data, dpi_hint=300).dpi == 300
    assert decode(save(Image.new("L", (200, 300)), "PNG"), dpi_hint=70).dpi == 70


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_without_a_resolution_the_default_holds(kind: str) -> None:
    assert dpi_of((200, 300), kind) == 200


def test_resolutions_per_centimetre_are_converted() -> None:
    assert dpi_of((200, 300), "TIFF", resolution_unit=3, x_resolution=118.11, y_resolution=118.11) == 300
    jfif = bytearray(save(Image.new("L", (200, 300)), "JPEG", dpi=(60, 60)))
    jfif[13] = 2
    assert decode(bytes(jfif)).dpi == 152


@pytest.mark.parametrize(
    ("unit", "value", "expected"), [(2, 300.0, 300), (3, 118.11, 300), (None, 150.0, 150), (1, 9.0, 200)]
)
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_resolution_in_exif_is_found(kind: str, unit: int | None, value: float, expected: int) -> None:
    exif = Image.Exif()
    exif[282] = exif[283] = value
    if unit is not None:
        exif[296] = unit
    assert dpi_of((200, 300), kind, exif=exif) == expected


def test_exif_without_a_resolution_does_not_make_it_72() -> None:
    exif = Image.Exif()
    exif[274] = 1
    assert dpi_of((600, 800), "JPEG", exif=exif) == 200


def test_exif_is_asked_when_the_own_field_is_a_meaningless_72() -> None:
    exif = Image.Exif()
    exif[282] = exif[283] = 300.0
    exif[296] = 2
    assert dpi_of((2480, 3508), "JPEG", dpi=(72, 72), exif=exif) == 300


@pytest.mark.parametrize(
    ("kind", "size", "dpi", "shape"),
    [
        ("TIFF", (1728, 1100), (204, 98), (2290, 1728)),
        ("TIFF", (1728, 2200), (204, 196), (2290, 1728)),
        ("PNG", (600, 400), (100, 200), (400, 1200)),
        ("JPEG", (600, 400), (200, 100), (800, 600)),
        ("TIFF", (600, 400), (201, 200), (400, 600)),  # rounded
        ("JPEG", (600, 400), (72, 300), (400, 600)),  # not plausible
    ],
)
def test_pixels_are_made_square(kind: str, size: tuple[int, int], dpi: tuple[int, int], shape: tuple[int, int]) -> None:
    decoded = decode(save(Image.new("L", size, 255), kind, dpi=dpi), max_pixels=10**8)
    assert decoded.pixels.shape[:2] == shape
    assert decoded.dpi == (200 if max(dpi) > 250 else max(dpi))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_pixels_are_made_square_as_they_are_stored(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    decoded = decode(save(Image.new("L", (400, 150), 255), kind, dpi=(200, 100), exif=exif), max_pixels=10**8)
    assert decoded.pixels.shape[:2] == ((300, 400) if orientation in (1, 3) else (400, 300))


def test_square_pixels_are_within_the_limit_too() -> None:
    with pytest.raises(TooLarge):
        decode(save(Image.new("L", (1728, 1100), 255), "TIFF", dpi=(204, 98)), max_pixels=2_000_000)


def test_a_png_of_a_million_text_chunks_is_refused_at_once() -> None:
    stream = io.BytesIO()
    Image.new("L", (10, 10), 255).save(stream, "PNG")
    png = stream.getvalue()
    text = b"\0\0\0\2tEXta\0" + struct.pack(">I", zlib.crc32(b"tEXta\0"))
    started = time.perf_counter()
    with pytest.raises(CorruptDocument, match="too many chunks"):
        decode_image(png[:33] + text * 1_000_000 + png[33:], max_pixels=10**6, dpi_hint=None, default_dpi=200)
    assert time.perf_counter() - started < 1
