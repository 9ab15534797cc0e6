"""Finds a sheet of paper photographed on a darker table by its four corners, and flattens it.

A mistake would cost more than the perspective does, so every doubt leaves the photograph as it is: paper must be one
bright quadrilateral with nothing bright beside it, inside the picture, and its opposite edges must not be parallel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from serve_app.document import Block, Box, Polygon, RgbPixels
from serve_app.recognition.engines.placing import bounds_of, corners_of

Flatten = Literal["auto", "true", "false"]

SIDE = 480
"""Longest side in pixels of the reduced copy in which corners are looked for."""

LINE_HEIGHT = 9
"""Text is lower than this in the reduced copy. The lightest of as many pixels is paper. An odd number."""

MIN_CONTRAST = 30
"""Least difference of paper and table, in grey levels."""

MIN_SHARE, MAX_SHARE = 0.25, 0.97
"""Share of the picture that the paper covers."""

MIN_LIKENESS = 0.94
"""Least overlap (intersection by union) of the bright region and the quadrilateral."""

MIN_PERSPECTIVE = 1.0
"""Least angle in degrees between opposite edges. With less, the page is straight or crooked, not in perspective."""

MAX_PERSPECTIVE = 35.0
"""Largest angle in degrees between opposite edges, and of a corner from 90: a page at which one could not read more."""

MAX_GROWTH = 1.5
"""Largest ratio of a flattened page's area to the photograph's."""

DARKEST_PAPER = 40
"""Grey level down to which a region is a shaded sheet. A darker one is a picture."""

ROWS_AT_ONCE = 256
"""Rows whose light is evened at once: in floating point, a page takes eight times its memory."""

_Points = npt.NDArray[np.float64]  # shape (n, 2): x, y
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class FlatPage:
    """A flattened page. `pixels` as in PageImage; `skew`: degrees clockwise by which its middle was turned.

    `sent`: width and height of the photograph. `_to_sent` has the coefficients of the way back, as Pillow has them.
    """

    pixels: RgbPixels
    skew: float
    sent: tuple[int, int]
    _to_sent: tuple[float, ...]

    def as_sent(self, blocks: list[Block], rotation: int) -> list[Block]:
        """Return blocks and words with boxes and polygons in the photograph. `rotation` is that of the text (see Page)."""
        return [
            block.model_copy(
                update={
                    **self._place(block.bbox, block.polygon, rotation),
                    "words": [
                        word.model_copy(update=self._place(word.bbox, word.polygon, rotation)) for word in block.words
                    ],
                }
            )
            for block in blocks
        ]

    def _place(self, box: Box, polygon: Polygon | None, rotation: int) -> dict[str, Box | Polygon]:
        outline = [self._sent_point(x, y) for x, y in polygon or corners_of(box, rotation)]
        return {"bbox": bounds_of(outline, self.sent), "polygon": outline}

    def _sent_point(self, x: float, y: float) -> tuple[float, float]:
        return _transform(self._to_sent, x, y)


def flatten(pixels: RgbPixels, mode: Flatten, *, max_side: int) -> FlatPage | None:
    """Flatten the sheet of paper in a photograph. Returns None to leave it as it is.

    With `auto`, only if the sheet is in perspective; with `true`, also if its edges are parallel, to cut it out.
    """
    if mode == "false" or min(pixels.shape[:2]) < SIDE:
        return None
    corners = find_corners(pixels, min_perspective=MIN_PERSPECTIVE if mode == "auto" else 0.0)
    if corners is None:
        return None
    top, right, bottom, left = (
        float(np.hypot(*(corners[end] - corners[start]))) for start, end in ((0, 1), (1, 2), (2, 3), (3, 0))
    )
    width, height = round(max(top, bottom)), round(max(left, right))
    photo_height, photo_width = pixels.shape[:2]
    if max(width, height) > max_side or width * height > MAX_GROWTH * photo_width * photo_height:
        return None
    to_sent = _homography(np.array([(0, 0), (width, 0), (width, height), (0, height)], float), corners)
    photo = Image.fromarray(pixels)
    flat = photo.transform((width, height), Image.Transform.PERSPECTIVE, to_sent, Image.Resampling.BICUBIC)
    (x, y), (x1, y1) = (_transform(to_sent, width / 2 + step, height / 2) for step in (0, width / 8))
    skew = math.degrees(math.atan2(y1 - y, x1 - x))
    return FlatPage(np.asarray(flat), skew, (photo_width, photo_height), to_sent)


def even_light(pixels: RgbPixels) -> RgbPixels:
    """Make the paper of a photograph white where it is shaded or lit from one side."""
    height, width = pixels.shape[:2]
    scale = max(1, max(height, width) // SIDE)
    paper = Image.fromarray(pixels).reduce(scale).filter(ImageFilter.MaxFilter(LINE_HEIGHT))
    paper = paper.filter(ImageFilter.GaussianBlur(LINE_HEIGHT)).resize((width, height), Image.Resampling.BILINEAR)
    light = np.maximum(np.asarray(paper), DARKEST_PAPER)
    lit = np.empty_like(pixels)
    for top in range(0, height, ROWS_AT_ONCE):
        rows = slice(top, top + ROWS_AT_ONCE)
        lit[rows] = np.minimum(pixels[rows] * (255 / light[rows].astype(np.float32)), 255)
    return lit


def find_corners(pixels: RgbPixels, *, min_perspective: float) -> _Points | None:
    """Return the corners of the sheet of paper in pixels, from the top left one clockwise, or None if there is any doubt.

    `min_perspective`: least angle in degrees between opposite edges.
    """
    scale = max(1, max(pixels.shape[:2]) // SIDE)
    if not _has_darker_margin(pixels[::scale, ::scale, 1], MIN_CONTRAST / 2):
        return None  # nearly every page, within a millisecond
    small = Image.fromarray(pixels).reduce(scale)
    corners = _sheet(np.asarray(small.convert("L")), min_perspective)
    return None if corners is None else (corners + 0.5) * scale


def _sheet(grey: npt.NDArray[np.uint8], min_perspective: float) -> _Points | None:
    """Return the corners of the one light quadrilateral, from the top left one clockwise."""
    if not _has_darker_margin(grey, MIN_CONTRAST):
        return None
    paper = Image.fromarray(grey).filter(ImageFilter.MaxFilter(LINE_HEIGHT)).filter(ImageFilter.MinFilter(LINE_HEIGHT))
    bright = _bright(np.asarray(paper))
    if bright is None or not MIN_SHARE <= bright.mean() <= MAX_SHARE:
        return None
    corners = _corners(bright)
    if corners is None or not _is_sheet(corners, bright.shape, min_perspective):
        return None
    sheet = Image.new("1", bright.shape[::-1])
    ImageDraw.Draw(sheet).polygon([tuple(corner) for corner in corners], fill=1)
    inside = np.asarray(sheet)
    return corners if (inside & bright).sum() >= MIN_LIKENESS * (inside | bright).sum() else None


def _has_darker_margin(grey: npt.NDArray[np.uint8], contrast: float) -> bool:
    height, width = grey.shape
    middle = np.percentile(grey[height // 4 : height * 3 // 4 : 2, width // 4 : width * 3 // 4 : 2], 75)
    edges = (grey[0], grey[-1], grey[:, 0], grey[:, -1])
    return all(np.median(edge) + contrast <= middle for edge in edges)


def _bright(grey: npt.NDArray[np.uint8]) -> _Mask | None:
    """Tell paper from table by Otsu's threshold. Returns None if they differ little, or if an edge of the picture is paper."""
    counts = np.bincount(grey.ravel(), minlength=256).astype(float)
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    total = np.cumsum(counts * np.arange(256))
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = total / below, (total[-1] - total) / (above - counts)
        spread = np.nan_to_num(below * (above - counts) * (low - high) ** 2)
    threshold = int(spread.argmax())
    if not high[threshold] - low[threshold] >= MIN_CONTRAST:
        return None
    bright: _Mask = grey > threshold
    edges = (bright[:2], bright[-2:], bright[:, :2], bright[:, -2:])
    return None if any(edge.mean() > 0.1 for edge in edges) else bright


def _corners(bright: _Mask) -> _Points | None:
    """Fit a line to each edge of the bright region, and return where they meet."""
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    down, across = np.nonzero(bright)
    nearest = [
        (across + down).argmin(),
        (down - across).argmin(),
        (across + down).argmax(),
        (down - across).argmax(),
    ]
    (_, y0), (_, y1), (_, y2), (_, y3) = ((across[at], down[at]) for at in nearest)
    x0, x1, x2, x3 = (across[at] for at in nearest)
    first_column, last_column = bright.argmax(axis=1), bright.shape[1] - 1 - bright[:, ::-1].argmax(axis=1)
    first_row, last_row = bright.argmax(axis=0), bright.shape[0] - 1 - bright[::-1].argmax(axis=0)
    top = _line(columns, first_row, x0, x1)
    bottom = _line(columns, last_row, x3, x2)
    left = _line(rows, first_column, y0, y3)
    right = _line(rows, last_column, y1, y2)
    if top is None or bottom is None or left is None or right is None:
        return None
    return np.array([_meet(top, left), _meet(top, right), _meet(bottom, right), _meet(bottom, left)])


def _line(places: npt.NDArray[np.intp], edge: npt.NDArray[np.intp], start: int, end: int) -> tuple[float, float] | None:
    """Fit edge = slope * place + offset from start to end, without what lies off it. Returns None if that is much."""
    rest = (end - start) // 20
    places = places[(places >= start + rest) & (places <= end - rest)]
    if len(places) < LINE_HEIGHT * 4:
        return None
    values = edge[places]
    kept = np.ones(len(places), bool)
    for _ in range(4):
        slope, offset = np.polyfit(places[kept], values[kept], 1)
        distance = np.abs(values - slope * places - offset)
        kept = distance <= max(1.5, 1.5 * float(np.median(distance)))
    return (float(slope), float(offset)) if (distance <= 3).mean() >= 0.8 else None


def _meet(level: tuple[float, float], upright: tuple[float, float]) -> tuple[float, float]:
    """Return where y = a x + b and x = c y + d meet."""
    (a, b), (c, d) = level, upright
    y = (a * d + b) / (1 - a * c)
    return c * y + d, y


def _is_sheet(corners: _Points, shape: tuple[int, ...], min_perspective: float) -> bool:
    height, width = shape
    if (corners < 1).any() or (corners > (width - 2, height - 2)).any():
        return False
    edges = np.roll(corners, -1, axis=0) - corners
    angles = np.degrees(np.arctan2(edges[:, 1], edges[:, 0]))
    turns = (np.roll(angles, -1) - angles) % 360
    apart = np.abs((angles[:2] - angles[2:]) % 360 - 180)
    return bool(min_perspective <= apart.max() <= MAX_PERSPECTIVE and (np.abs(turns - 90) <= MAX_PERSPECTIVE).all())


def _homography(flat: _Points, photo: _Points) -> tuple[float, ...]:
    """Return the eight coefficients of the way from the flat page to the photograph."""
    rows, values = [], []
    for (x, y), (u, v) in zip(flat, photo, strict=True):
        rows += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
        values += [u, v]
    return tuple(map(float, np.linalg.solve(np.array(rows), np.array(values))))


def _transform(coefficients: tuple[float, ...], x: float, y: float) -> tuple[float, float]:
    a, b, c, d, e, f, g, h = coefficients
    depth = g * x + h * y + 1
    return round((a * x + b * y + c) / depth, 2), round((d * x + e * y + f) / depth, 2)
