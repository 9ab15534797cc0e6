"""Pages drawn here, and what scanners, cameras and people do to them, in steps.

The same Pillow and NumPy give the same pixels: the noise is that of a fixed seed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from samples.make_samples import A4, DPI, MARGIN, SAMPLES, draw_page, load_font

FINE_DPI = 300
FONT_PX = 28  # 10 points
JPEG_QUALITY = 90  # of photographs
_DARK_WOOD = (70, 52, 40)
_SEED = 15

Degrade = Callable[[Image.Image], Image.Image]

_LETTER = """\
Dear Ms Hargreaves,

Thank you for sending the revised drawings on Tuesday. Our engineers have checked both staircases and the \
lift shaft; the only open question is the height of the parapet on the fourth floor.

Could we meet at 10.30 on 14 May, at your office in Leeds? I will bring the samples of brick and slate.

Yours sincerely,
Oliver Whitcombe"""

_GOODS = (
    ("№", "Наименование", "Количество", "Цена, руб.", "Сумма, руб."),
    ("1", "Бумага офисная, пачка", "120", "389,50", "46 740,00"),
    ("2", "Картридж чёрный", "14", "2 150,00", "30 100,00"),
    ("3", "Папка с завязками", "300", "24,80", "7 440,00"),
    ("4", "Шкаф для архива", "3", "18 990,00", "56 970,00"),
    ("5", "Лампа настольная", "11", "1 275,00", "14 025,00"),
    ("6", "Стул складной", "25", "1 640,00", "41 000,00"),
    ("7", "Сканер планшетный", "2", "27 450,00", "54 900,00"),
    ("8", "Ножницы, линейка, клей", "60", "315,20", "18 912,00"),
    ("9", "Доставка и подъём", "1", "3 500,00", "3 500,00"),
    ("", "Всего", "", "", "273 587,00"),
)


@dataclass(frozen=True)
class CleanPage:
    """A page as it is before anything happens to it, of mode RGB, at 200 and at 300 dpi; `text` is all that stands on it."""

    name: str
    text: str
    at_200: Image.Image
    at_300: Image.Image


@dataclass(frozen=True)
class Step:
    """One step of a degradation. `dpi` is what the file says; `jpeg` is its quality, None for PNG."""

    degradation: str
    label: str
    degrade: Degrade = lambda page: page
    dpi: int = DPI
    jpeg: int | None = None

    @property
    def name(self) -> str:
        return f"{self.degradation}: {self.label}"

    def file(self, page: CleanPage) -> bytes:
        """The page after this step, as an image file."""
        picture = self.degrade(page.at_300 if self.dpi == FINE_DPI else page.at_200)
        if self.dpi < DPI:
            size = (round(side * self.dpi / DPI) for side in picture.size)
            picture = picture.resize((next(size), next(size)), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        if self.jpeg is None:
            picture.save(file, "PNG", dpi=(self.dpi, self.dpi), compress_level=1)
        else:
            picture.save(file, "JPEG", dpi=(self.dpi, self.dpi), quality=self.jpeg)
        return file.getvalue()


def clean_pages() -> list[CleanPage]:
    """A page of Russian text, an English one of two columns, a Russian table and a short English letter."""
    russian, english = SAMPLES["page-ru"], SAMPLES["page-en"]
    table = "\n".join(" ".join(row) for row in _GOODS)
    return [
        _page("Russian text", russian.text, partial(_text_page, russian.body, russian.title, 1)),
        _page("English, two columns", english.text, partial(_text_page, english.body, english.title, 2)),
        _page("Russian table", table, _table_page),
        _page("English letter", _LETTER, partial(_text_page, _LETTER, "", 1)),
    ]


def steps() -> list[Step]:
    """Every step of every degradation, in the order of the report."""
    return [Step("straight", "0"), *_turned(), *_lit(), *_blurred(), *_coloured(), *_written_over(), *_photographed()]


def _turned() -> Iterator[Step]:
    for degrees in (-10, -8, -5, -3, -2, -1, 1, 2, 3, 5, 8, 10):
        yield Step("crooked, degrees clockwise", f"{degrees:+d}", partial(_turn, degrees=degrees))
    for degrees in (90, 180, 270, 94, 176):
        yield Step("turned, degrees clockwise", str(degrees), partial(_turn, degrees=degrees))


def _lit() -> Iterator[Step]:
    for percent in (30, 50, 70):
        yield Step("shadow, loss of light", f"{percent}%", partial(_shade, loss=percent / 100), jpeg=JPEG_QUALITY)
    for percent in (40, 20, 10):
        yield Step("low contrast, what is left", f"{percent}%", partial(_fade, contrast=percent / 100))


def _blurred() -> Iterator[Step]:
    for pixels in (1.0, 1.5, 2.0, 2.5):
        yield Step("blur, radius in pixels", f"{pixels:g}", partial(_blur, pixels=pixels))
    for deviation in (20, 35, 50):
        yield Step("noise, standard deviation", str(deviation), partial(_noise, deviation=deviation))
    for dpi in (300, 150, 100, 75):
        yield Step("resolution, dpi", str(dpi), dpi=dpi)
    for quality in (30, 15, 8):
        yield Step("JPEG, quality", str(quality), jpeg=quality)


def _coloured() -> Iterator[Step]:
    yield Step("light on dark", "white on black", ImageChops.invert)
    yield Step("light on dark", "yellow on blue", partial(_recolour, ink=(250, 240, 120), paper=(20, 40, 110)))
    markers = {"yellow": (255, 240, 70), "green": (90, 225, 120), "pink": (255, 130, 190), "orange": (255, 165, 60)}
    for name, colour in markers.items():
        yield Step("highlighter", name, partial(_highlight, colour=colour))
    papers = {"cream": (250, 235, 200), "blue": (120, 170, 230), "red": (225, 110, 100)}
    for name, colour in papers.items():
        yield Step("coloured paper", name, partial(_recolour, ink=(0, 0, 0), paper=colour))


def _written_over() -> Iterator[Step]:
    for name, colour in {"blue": (40, 60, 190), "red": (200, 30, 40)}.items():
        yield Step("stamp over text", name, partial(_stamp, colour=colour))
    for grey in (215, 180, 150):
        yield Step("watermark, grey value", str(grey), partial(_watermark, grey=grey))


def _photographed() -> Iterator[Step]:
    for percent in (2, 5, 10, 15):
        on_a_table = partial(_photograph, share=percent / 100)
        yield Step("photograph on a table, perspective", f"{percent}%", on_a_table, jpeg=JPEG_QUALITY)
    for name, degrees, share, loss, blur, deviation in (
        ("good", 1, 0.03, 0.3, 0.8, 6),
        ("fair", -3, 0.06, 0.45, 1.1, 12),
        ("poor", 5, 0.09, 0.6, 1.4, 18),
    ):
        everything = partial(_camera, degrees=degrees, share=share, loss=loss, blur=blur, deviation=deviation)
        yield Step("photograph, all together", name, everything, jpeg=70)


def _page(name: str, text: str, draw: Callable[[int], Image.Image]) -> CleanPage:
    return CleanPage(name, text, draw(DPI).convert("RGB"), draw(FINE_DPI).convert("RGB"))


def _text_page(text: str, title: str, columns: int, dpi: int) -> Image.Image:
    scale = dpi / DPI
    size = (round(A4[0] * scale), round(A4[1] * scale))
    return draw_page(
        text, title=title, columns=columns, size=size, font_px=round(FONT_PX * scale), margin=round(MARGIN * scale)
    )


def _table_page(dpi: int) -> Image.Image:
    scale = dpi / DPI
    page = Image.new("L", (round(A4[0] * scale), round(A4[1] * scale)), 255)
    draw = ImageDraw.Draw(page)
    font = load_font("DejaVuSans.ttf", round(FONT_PX * scale))
    edges = [round(MARGIN * scale + width * scale) for width in (0, 70, 560, 790, 1060, 1350)]
    height, top = round(62 * scale), round(MARGIN * scale)
    line = max(1, round(2 * scale))
    for number, row in enumerate(_GOODS):
        y = top + number * height
        for left, right, cell in zip(edges, edges[1:], row, strict=False):
            draw.rectangle((left, y, right, y + height), outline=0, width=line)
            draw.text((left + round(14 * scale), y + round(14 * scale)), cell, font=font, fill=0)
    return page


# Degradations. Each takes and returns a page of mode RGB.


def _turn(page: Image.Image, *, degrees: float) -> Image.Image:
    return page.rotate(-degrees, Image.Resampling.BICUBIC, expand=True, fillcolor="white")


def _photograph(page: Image.Image, *, share: float) -> Image.Image:
    """The page on a dark table, seen from its lower edge and a little from the left: its far edge is shorter by 2 x share."""
    width, height = page.size
    edge = round(0.06 * width)
    size = (width + 2 * edge, height + 2 * edge)
    far, side = share * width, share * height / 3
    corners = [
        (edge + far, edge + side),
        (edge + width - far, edge + side / 3),
        (edge + width, edge + height),
        (edge, edge + height - side / 2),
    ]
    coefficients = _homography(corners, [(0, 0), (width, 0), (width, height), (0, height)])
    framed = page.convert("RGBA").transform(size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)
    table = Image.new("RGB", size, _DARK_WOOD)
    grain = _generator().normal(0, 6, (size[1], 1, 1)) + _generator().normal(0, 3, (size[1], size[0], 1))
    table = _from_array(np.asarray(table) + grain)
    table.paste(framed, mask=framed.getchannel("A"))
    return table


def _homography(here: list[tuple[float, float]], there: list[tuple[float, float]]) -> list[float]:
    """The eight coefficients by which Pillow maps points of the result (`here`) to points of the source (`there`)."""
    rows, values = [], []
    for (x, y), (u, v) in zip(here, there, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return [float(value) for value in np.linalg.solve(np.array(rows), np.array(values))]


def _shade(page: Image.Image, *, loss: float) -> Image.Image:
    """Light falls off to the right, and a soft shadow lies below a slanting edge that crosses the text."""
    width, height = page.size
    x, y = np.linspace(0, 1, width)[None, :], np.linspace(0, 1, height)[:, None]
    shadow = 1 / (1 + np.exp(-(y - 0.18 - 0.15 * x) * 60))
    light = (1 - loss * 0.5 * x) * (1 - loss * shadow)
    return _from_array(np.asarray(page) * light[..., None])


def _fade(page: Image.Image, *, contrast: float) -> Image.Image:
    return _from_array(200 + (np.asarray(page, dtype=np.float32) - 255) * contrast)


def _blur(page: Image.Image, *, pixels: float) -> Image.Image:
    return page.filter(ImageFilter.GaussianBlur(pixels))


def _noise(page: Image.Image, *, deviation: float) -> Image.Image:
    return _from_array(np.asarray(page) + _generator().normal(0, deviation, (page.height, page.width, 1)))


def _recolour(page: Image.Image, *, ink: tuple[int, int, int], paper: tuple[int, int, int]) -> Image.Image:
    share = np.asarray(page.convert("L"), dtype=np.float32)[..., None] / 255
    return _from_array(np.array(ink) * (1 - share) + np.array(paper) * share)


def _highlight(page: Image.Image, *, colour: tuple[int, int, int]) -> Image.Image:
    """Three strips as high as a line and a half are marked, as with a felt pen: ink stays black."""
    strips = Image.new("RGB", page.size, "white")
    draw = ImageDraw.Draw(strips)
    for top in (MARGIN + 120, MARGIN + 330, MARGIN + 540):
        draw.rectangle((MARGIN - 20, top, page.width - MARGIN + 20, top + 64), fill=colour)
    return ImageChops.multiply(page, strips)


def _stamp(page: Image.Image, *, colour: tuple[int, int, int]) -> Image.Image:
    """Two rings of a round stamp and lines of a signature in the upper third of the page. They have no letters."""
    ink = Image.new("RGB", page.size, "white")
    draw = ImageDraw.Draw(ink)
    x, y = round(page.width * 0.55), round(page.height * 0.17)
    for radius, line in ((230, 9), (160, 5)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=line)
    for number in range(6):
        start = (x - 300 + 70 * number, y + 120 - 60 * (number % 2))
        draw.line((*start, start[0] + 60, start[1] - 130, start[0] + 90, start[1] + 40), fill=colour, width=5)
    return ImageChops.multiply(page, ink)


def _watermark(page: Image.Image, *, grey: int) -> Image.Image:
    """One word in letters of 3.5 cm across the page, at 35 degrees."""
    word = Image.new("RGB", (1500, 400), "white")
    font = load_font("DejaVuSans-Bold.ttf", 280)
    ImageDraw.Draw(word).text((60, 20), "КОПИЯ", font=font, fill=(grey, grey, grey))
    turned = word.rotate(35, Image.Resampling.BICUBIC, expand=True, fillcolor="white")
    mark = Image.new("RGB", page.size, "white")
    mark.paste(turned, ((page.width - turned.width) // 2, round(page.height * 0.05)))
    return ImageChops.multiply(page, mark)


def _camera(
    page: Image.Image, *, degrees: float, share: float, loss: float, blur: float, deviation: float
) -> Image.Image:
    crooked = page.rotate(-degrees, Image.Resampling.BICUBIC, fillcolor="white")
    picture = _blur(_shade(_photograph(crooked, share=share), loss=loss), pixels=blur)
    return _noise(picture, deviation=deviation)


def _generator() -> np.random.Generator:
    return np.random.default_rng(_SEED)


def _from_array(values: npt.NDArray[Any]) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
