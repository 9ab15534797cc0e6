"""Draws the samples in this folder: `page-ru.png` and `page-en.png`, their text, and `scan.pdf` with both.

    python samples/make_samples.py [FOLDER]

The same fonts and the same Pillow give the same pixels, so tests use these functions for pages of their own.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pikepdf
from PIL import Image, ImageDraw, ImageFont

DPI = 200
A4 = (1654, 2339)  # 210 x 297 mm at 200 dots per inch, in pixels
MARGIN = 150
GUTTER = 90


@dataclass(frozen=True)
class Sample:
    """A page: a `title` above all `columns`; blank lines in `body` separate paragraphs."""

    title: str
    body: str
    columns: int = 1

    @property
    def text(self) -> str:
        """The expected text: the title and the paragraphs in reading order."""
        return f"{self.title}\n\n{self.body}\n"

    def draw(self) -> Image.Image:
        return draw_page(self.body, title=self.title, columns=self.columns)


def draw_page(
    text: str, *, title: str = "", columns: int = 1, size: tuple[int, int] = A4, font_px: int = 34, margin: int = MARGIN
) -> Image.Image:
    """A page of mode L with `text` in black on white: lines are wrapped, blank lines separate paragraphs.

    Text that does not fit a column continues in the next one. Raises ValueError if it does not fit the page.
    """
    page = Image.new("L", size, 255)
    draw = ImageDraw.Draw(page)
    top = margin
    if title:
        heading = load_font("DejaVuSerif-Bold.ttf", font_px * 3 // 2)
        for line in _wrap(title, heading, size[0] - 2 * margin):
            draw.text((margin, top), line, font=heading, fill=0)
            top += font_px * 2
        top += font_px

    font = load_font("DejaVuSerif.ttf", font_px)
    leading = font_px * 3 // 2
    column_width = (size[0] - 2 * margin - (columns - 1) * GUTTER) // columns
    column, y = 0, top
    for paragraph in text.split("\n\n"):
        for line in _wrap(paragraph, font, column_width):
            if y + leading > size[1] - margin // 2:
                column, y = column + 1, top
            if column == columns:
                raise ValueError("the text does not fit the page")
            draw.text((margin + column * (column_width + GUTTER), y), line, font=font, fill=0)
            y += leading
        y += font_px
    return page


def load_font(name: str, pixels: int) -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", name)
    # The other layout engine needs libraries that not every Pillow has.
    return ImageFont.truetype(path, pixels, layout_engine=ImageFont.Layout.BASIC)


def _wrap(paragraph: str, font: ImageFont.FreeTypeFont, width: int) -> Iterator[str]:
    """Lines of at most `width` pixels; the paragraph's own line breaks stay."""
    for line in paragraph.split("\n"):
        if not line.strip():
            continue
        current, *others = line.split()
        for word in others:
            if font.getlength(f"{current} {word}") > width:
                yield current
                current = word
            else:
                current = f"{current} {word}"
        yield current


SAMPLES = {
    "page-ru": Sample(
        title="Счёт на оплату № 1047 от 12 марта 2025 г.",
        body="""\
Поставщик: общество с ограниченной ответственностью «Северный берег», ИНН 7805123456, \
190031, Санкт-Петербург, набережная реки Фонтанки, дом 98.

Покупатель: акционерное общество «Ёлочка», ИНН 5406987654, 630099, Новосибирск, \
Красный проспект, дом 25, офис 314.

Уважаемая Алёна Сергеевна! Направляем вам документы за работы по договору № 58 от 3 февраля 2025 г. \
Просим оплатить счёт не позднее 27 марта 2025 г.; в назначении платежа укажите номер счёта.

1. Распознавание архива, 12 500 страниц по 1,80 руб.: 22 500,00 руб.

2. Проверка и разметка таблиц, 40 часов по 950,00 руб.: 38 000,00 руб.

3. Доставка и подъём на четвёртый этаж: 2 350,00 руб.

Итого к оплате: 62 850,00 руб. (шестьдесят две тысячи восемьсот пятьдесят рублей 00 копеек), \
в том числе НДС 20%: 10 475,00 руб.

Если в документах найдётся ошибка, сообщите нам в течение трёх рабочих дней по телефону \
+7 812 555-01-47. Объём ещё не выполненных работ и сроки согласуем отдельно: \
«Северный берег» всегда идёт навстречу заказчику.

Съешь же ещё этих мягких французских булок, да выпей чаю.

Генеральный директор: Фёдор Щукин. Главный бухгалтер: Эльвира Цой.""",
    ),
    "page-en": Sample(
        title="A Short History of Reading Machines",
        columns=2,
        body="""\
In 1914 Emanuel Goldberg built a machine that read characters and turned them into telegraph code. \
It was the first step of a long road: the reader, the sorter and the typist were to become one device.

The early machines knew a single typeface. Banks drew digits that a magnet could tell apart, and printed them \
at the foot of every cheque. By 1965 the postal services of several countries sorted letters by machine.

Ray Kurzweil's reader of 1976 was the first to take almost any font. It joined a flatbed scanner to a voice, \
so that a blind person could hear a book page by page.

What a page says depends on its layout as much as on its letters. Two columns are read one after the other, \
never across the gap between them.

A modern engine works in stages. It finds the lines, cuts the page into blocks, and puts the blocks in order. \
Only then does a network read each line from left to right.

"Garbage in, garbage out" holds here too. A scan at 200 dots per inch is enough for ordinary print; \
at 72 dots the small letters melt together, and no model will bring them back.

Cost matters as well. In our tests a page took 1.8 seconds on one core, which makes about 48,000 pages \
a day for each core. A larger model reads tables and formulas better, but it wants a graphics card.

Quick checks help: the quick brown fox jumps over the lazy dog, and the five boxing wizards jump quickly.""",
    ),
}


def write_scan(pages: Iterable[Image.Image], to: Path) -> None:
    """Write a PDF of page images without any text, as a scanner does."""
    with pikepdf.new() as pdf:
        for page in pages:
            grey = page.convert("L")
            picture = pdf.make_stream(
                zlib.compress(grey.tobytes(), 9),
                Type=pikepdf.Name.XObject,
                Subtype=pikepdf.Name.Image,
                Width=grey.width,
                Height=grey.height,
                ColorSpace=pikepdf.Name.DeviceGray,
                BitsPerComponent=8,
                Filter=pikepdf.Name.FlateDecode,
            )
            width, height = (side * 72 / DPI for side in grey.size)
            leaf = pdf.add_blank_page(page_size=(width, height))
            leaf.obj.Resources = pikepdf.Dictionary(XObject=pikepdf.Dictionary(Page=picture))
            leaf.obj.Contents = pdf.make_stream(f"{width:.2f} 0 0 {height:.2f} 0 0 cm /Page Do".encode())
        pdf.save(to, deterministic_id=True)


def main(folder: Path) -> None:
    pages = []
    for name, sample in SAMPLES.items():
        pages.append(sample.draw())
        pages[-1].save(folder / f"{name}.png", optimize=True, dpi=(DPI, DPI))
        (folder / f"{name}.txt").write_text(sample.text, encoding="utf-8")
    write_scan(pages, folder / "scan.pdf")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
