"""Image bytes to RGB pixels, with Pillow, in this process.

The bytes come from anybody: run this where a crash or a hang costs nothing else (see `isolation`).
What a file is, its first bytes say; its name and its MIME type are never asked.
ICC profiles are not applied: they matter for colour proofs, not for reading, and are one more parser.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from serve_app.errors import CorruptDocument, EmptyDocument, ServiceError, TooLarge, UnsupportedMediaType

# Pillow warns at a size of its own and fails at twice that; `_check_size` holds the service's limit
# before anything is decoded.
Image.MAX_IMAGE_PIXELS = None

MAX_SIDE = 65_535
"""Longest side in pixels, JPEG's own: Pillow keeps a pointer for each row, so 1 x 10^8 pixels would cost 0.8 GB."""

MIN_DPI, MAX_DPI = 50, 1200
"""A file's resolution outside this range is not one of a page."""

LARGEST_PAGE_INCHES = (17, 24)
"""A2 and ANSI C. A file's resolution that makes the page larger is not believed: cameras and editors write 72 or 96 dpi
into whatever they save, and an A4 page of 2480 x 3508 pixels would be 87 x 124 cm, with letters of the wrong size."""

MAX_TIFF_DIRECTORIES = 32
"""How far the chain of a TIFF's directories is followed in search of a second page."""

_TAKEN = "Send a JPEG, PNG, WebP, GIF, BMP or single-page TIFF image."

_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 274, 282, 283, 296  # EXIF and TIFF tags
_SUBFILE_TYPE, _BITS_PER_SAMPLE, _PHOTOMETRIC = 254, 258, 262  # TIFF tags

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_BMP_HEADER_SIZES = (12, 16, 40, 52, 56, 64, 108, 124)

_METADATA_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True)
class DecodedImage:
    """`pixels`: RGB, uint8, shape (height, width, 3), C-contiguous, upright, perhaps read-only; `dpi`: dots per inch."""

    pixels: npt.NDArray[np.uint8]
    dpi: int


def decode_image(data: bytes, *, max_pixels: int, dpi_hint: int | None, default_dpi: int) -> DecodedImage:
    """Decode an image: JPEG, PNG, WebP, GIF, BMP or TIFF of one page; of an animation, the first frame.

    Transparency is laid on white, EXIF orientation applied, deeper samples scaled to 8 bits.
    `dpi` is the hint, else what the file says if that is believable (see `LARGEST_PAGE_INCHES`), else the default.

    Raises EmptyDocument, UnsupportedMediaType, CorruptDocument, and TooLarge for more than `max_pixels`
    by the header or for more memory than the process may have.
    """
    if not data:
        raise EmptyDocument()
    kind = sniff(data)
    try:
        image = _open(kind, data, max_pixels)
        image.load()
        upright = _upright(image, _rgb(image, data))
        dpi = dpi_hint or _file_dpi(image, upright.size) or default_dpi
        return DecodedImage(np.asarray(upright), dpi)
    except ServiceError:
        raise
    except MemoryError as error:
        raise TooLarge("The image needs more memory than this service has for one.") from error
    except Exception as error:
        # Pillow's plugins let nearly every exception out on damaged data, and document none of them.
        raise CorruptDocument(
            f"The {kind} image is damaged or in an unusual encoding, and could not be read."
        ) from error


def sniff(data: bytes) -> str:
    """The kind of image that `data` begins like: a name from the list in `decode_image`.

    Raises UnsupportedMediaType for anything else.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    # "BM" begins many a text; the size of the header behind it does not.
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if b"%PDF-" in data[:1024]:
        raise UnsupportedMediaType(f"PDF files are not supported yet. {_TAKEN}")
    raise UnsupportedMediaType(f"This kind of file is not supported. {_TAKEN}")


def _open(kind: str, data: bytes, max_pixels: int) -> ImageFile:
    """The header parsed and its size checked; nothing is decoded. Only the plugin of `kind` sees the bytes."""
    stream = io.BytesIO(data)
    image: ImageFile
    match kind:
        case "JPEG":
            image = JpegImageFile(stream)
        case "PNG":
            image = PngImageFile(stream)
            _check_size(image.size, max_pixels)
            PngImageFile(io.BytesIO(data)).verify()  # loading alone does not look at the checksums of pixel data
        case "WebP":
            _check_size(_webp_size(data), max_pixels)  # its decoder allocates the canvas when it is opened
            image = WebPImageFile(stream)
        case "GIF":
            image = GifImageFile(stream)
        case "BMP":
            image = BmpImageFile(stream)
        case _:
            tiff = TiffImageFile(stream)
            _check_size(tiff.size, max_pixels)
            _check_single_page(tiff)
            return tiff
    _check_size(image.size, max_pixels)
    return image


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise TooLarge(
            f"The image has {width} x {height} pixels ({width * height / 1e6:.1f} megapixels);"
            f" the limit is {max_pixels / 1e6:g} megapixels."
        )
    if max(size) > MAX_SIDE:
        raise TooLarge(f"The image has {width} x {height} pixels; no side may be longer than {MAX_SIDE}.")


def _webp_size(data: bytes) -> tuple[int, int]:
    """The canvas by the header: https://developers.google.com/speed/webp/docs/riff_container."""
    match data[12:16]:
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case _:
            return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _check_single_page(tiff: TiffImageFile) -> None:
    if sum(1 for _ in _pages(tiff)) > 1:
        raise UnsupportedMediaType(f"Multi-page TIFF files are not supported yet. {_TAKEN}")
    tiff.seek(0)


def _pages(tiff: TiffImageFile) -> Iterator[int]:
    """Indices of the directories that are pages: the first, and what is neither a thumbnail nor a mask."""
    yield 0
    for index in range(1, MAX_TIFF_DIRECTORIES):
        try:
            tiff.seek(index)
        except EOFError:
            return
        if not tiff.tag_v2.get(_SUBFILE_TYPE, 0) & 0b101:
            yield index


def _rgb(image: ImageFile, data: bytes) -> Image.Image:
    """A loaded image in mode RGB."""
    if image.mode.startswith("I;16"):
        return _from_16_bits(image)
    if image.mode in ("I", "F"):
        return _from_32_bits(image)
    if image.mode == "LAB":
        to_rgb = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        converted = ImageCms.applyTransform(image, to_rgb)
        assert converted is not None  # only None when asked to work in place
        return converted
    if image.mode in ("LA", "RGBA"):
        return _on_white(image)
    if image.mode == "La":
        return _on_white(image.convert("LA"))
    if image.mode in ("PA", "RGBa"):
        return _on_white(image.convert("RGBA"))
    key = image.info.get("transparency")
    if key is None:
        return image.convert("RGB")  # 1, L, P, RGB, CMYK, YCbCr
    if image.mode == "P":
        return _on_white(image.convert("RGBA"))
    return _without_key_colour(image, key, png_depth=data[24] if isinstance(image, PngImageFile) else 8)


def _on_white(image: Image.Image) -> Image.Image:
    """LA or RGBA as the eye sees it on paper, whatever colour hides behind transparent pixels."""
    alpha = image.getchannel("A")
    lowest, highest = alpha.getextrema()
    # BMP and TIFF writers leave a fourth channel at zero when they mean none.
    if lowest == 255 or (highest == 0 and isinstance(image, BmpImageFile | TiffImageFile)):
        return image.convert("RGB")
    page = Image.new("RGB", image.size, "white")
    page.paste(image.convert("RGB"), mask=alpha)
    return page


def _without_key_colour(image: Image.Image, key: int | tuple[int, int, int], png_depth: int) -> Image.Image:
    """Mode 1, L or RGB with one colour that means transparent, which becomes white.

    PNG gives that colour at the file's bit depth, Pillow the pixels at 8.
    """
    if isinstance(key, tuple):
        image.info["transparency"] = tuple(value >> (png_depth - 8) for value in key)
        return _on_white(image.convert("RGBA"))
    if image.mode == "L" and png_depth < 8:
        key = key * 255 // (2**png_depth - 1)
    return image.convert("L").point([255 if value == key else value for value in range(256)]).convert("RGB")


def _from_16_bits(image: ImageFile) -> Image.Image:
    """Grey of up to 16 bits, scaled by the range that the format has, not by that of the pixels."""
    white, inverted = 65_535, False
    if isinstance(image, TiffImageFile):
        white = 2 ** int(image.tag_v2[_BITS_PER_SAMPLE][0]) - 1
        inverted = image.tag_v2.get(_PHOTOMETRIC) == 0
    to_8_bits = [min((value * 255 + white // 2) // white, 255) for value in range(65_536)]
    if inverted:
        to_8_bits = [255 - value for value in to_8_bits]
    key = image.info.get("transparency")
    if key is not None:
        to_8_bits[key] = 255
    return image.convert("I").point(to_8_bits, "L").convert("RGB")


def _from_32_bits(image: ImageFile) -> Image.Image:
    """Integer or float grey, which has no agreed range: stretched from its least to its greatest value."""
    values = np.asarray(image).astype(np.float32)
    finite = np.isfinite(values)
    low = float(np.min(values, where=finite, initial=np.inf))
    high = float(np.max(values, where=finite, initial=-np.inf))
    with np.errstate(over="ignore", invalid="ignore"):
        values -= low
        values *= 255 / (high - low) if high > low else 0
    np.nan_to_num(values, copy=False, nan=255, posinf=255, neginf=0)
    grey = np.clip(np.rint(values, out=values), 0, 255, out=values).astype(np.uint8)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0:
        grey = 255 - grey
    return Image.fromarray(grey).convert("RGB")


def _upright(source: ImageFile, rgb: Image.Image) -> Image.Image:
    """`rgb` turned as the EXIF data of its source say."""
    if isinstance(source, TiffImageFile):  # Pillow has turned it while loading
        return rgb
    try:
        method = _UPRIGHT[source.getexif()[_ORIENTATION]]
    except _METADATA_ERRORS:  # absent, or damaged, which is no reason to refuse the page
        return rgb
    return rgb.transpose(method)


def _file_dpi(image: ImageFile, size: tuple[int, int]) -> int | None:
    """The first resolution in the file that can be that of a page of `size` pixels; None if there is none."""
    short, long = sorted(size)
    for dpi in _resolutions(image):
        fits = short / dpi <= LARGEST_PAGE_INCHES[0] and long / dpi <= LARGEST_PAGE_INCHES[1]
        if fits and MIN_DPI <= dpi <= MAX_DPI:
            return round(dpi)
    return None


def _resolutions(image: ImageFile) -> Iterator[float]:
    """Dots per inch by the format's own field (JFIF, pHYs, TIFF tags, BMP header), then by EXIF; positive numbers.

    Where the two axes differ (fax), the coarser one.
    """
    for read in (_format_resolution, _exif_resolution):
        try:
            dpi = min(read(image))
        except _METADATA_ERRORS:  # as in _upright
            continue
        if dpi > 0:
            yield dpi


def _format_resolution(image: ImageFile) -> tuple[float, float]:
    if isinstance(image, JpegImageFile):  # not info["dpi"]: Pillow puts 72 there for EXIF data without a resolution
        per_inch = {1: 1.0, 2: 2.54}[image.info["jfif_unit"]]
        across, down = image.info["jfif_density"]
        return across * per_inch, down * per_inch
    across, down = image.info["dpi"]
    return float(across), float(down)


def _exif_resolution(image: ImageFile) -> tuple[float, float]:
    exif = image.getexif()
    per_inch = {2: 1.0, 3: 2.54}[exif.get(_RESOLUTION_UNIT, 2)]
    return float(exif[_X_RESOLUTION]) * per_inch, float(exif[_Y_RESOLUTION]) * per_inch
