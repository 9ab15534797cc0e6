"""A page's own text: taken where it is what the page shows, and left where it is not."""

from __future__ import annotations

import cProfile
import zlib

import numpy as np
import pytest
from PIL import ImageFont

from serve_app.document import Word
from serve_app.raster.page_source import PageSource, open_source
from serve_app.raster.text_layer import TextPage
from serve_app.raster.text_layout import Glyph, group_paragraphs, group_words
from tests.support.pdfs import FONT_FILE, page_pdf, stream, text_pdf

Lines = list[tuple[float, float, float, str]]

CONTRACT: Lines = [
    (72, 750, 18, "Договор поставки № 17"),
    (72, 720, 11, "Настоящий договор заключён между сторонами"),
    (72, 706, 11, "и вступает в силу с момента подписания. The parties"),
    (72, 692, 11, "agree on the terms of delivery."),
    (72, 40, 9, "Страница 1 из 2"),
]
TEXTS = [
    "Договор поставки № 17",
    "Настоящий договор заключён между сторонами\nи вступает в силу с момента подписания. The parties\n"
    "agree on the terms of delivery.",
    "Страница 1 из 2",
]
PICTURE = b"/Type/XObject/Subtype/Image/Width 10/Height 10/ColorSpace/DeviceGray/BitsPerComponent 8/Filter/FlateDecode"
SCAN = stream(zlib.compress(bytes(range(100, 200))), PICTURE)
OVER_ALL = b"q 595 0 0 842 0 0 cm /I Do Q "


def opened(data: bytes) -> PageSource:
    return open_source(data, password=None, max_pixels=10**7)


def read(data: bytes, dpi: int = 150) -> TextPage | None:
    return opened(data).text_page(1, dpi=dpi, default_dpi=200, max_pixels=10**7)


def trusted(data: bytes, dpi: int = 150) -> TextPage:
    page = read(data, dpi)
    assert page is not None
    return page


def texts(page: TextPage) -> list[str]:
    return [block.text for block in page.blocks]


def with_scan(lines: Lines, *, before: bytes = b"", after: bytes = b"", mode: int = 0) -> bytes:
    return text_pdf(lines, before=before, after=after, mode=mode, resources=b"/XObject<</I 10 0 R>>", more=[SCAN])


def words(page: TextPage) -> list[Word]:
    return [word for block in page.blocks for word in block.words]


def assert_boxes_are_of_ink(data: bytes, page: TextPage, dpi: int) -> None:
    """All ink of the page lies in the words' boxes, and reaches every side of each."""
    image = opened(data).render(1, dpi=dpi, default_dpi=200, max_pixels=10**7)
    assert image.pixels.shape[:2] == (page.height, page.width) and image.dpi == page.dpi
    ink = image.pixels.min(axis=2) < 128
    for word in words(page):
        left, top, right, bottom = word.bbox
        inside = ink[top:bottom, left:right]
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        assert rows[0] <= 2 and columns[0] <= 2, word
        assert rows[-1] >= inside.shape[0] - 3 and columns[-1] >= inside.shape[1] - 3, word
        ink[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = False
    assert not ink.any()


def test_a_page_of_a_word_processor_is_read_as_it_is() -> None:
    data = text_pdf(CONTRACT)
    page = trusted(data)
    assert texts(page) == TEXTS
    assert [word.text for word in page.blocks[0].words] == ["Договор", "поставки", "№", "17"]
    assert [block.order for block in page.blocks] == [0, 1, 2]
    assert {block.label for block in page.blocks} == {"text"}
    assert (page.dpi, page.rotation) == (150, 0)
    assert_boxes_are_of_ink(data, page, 150)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_boxes_and_order_are_right_on_a_rotated_page(degrees: int) -> None:
    data = text_pdf(CONTRACT, page=b"/Rotate %d" % degrees)
    page = trusted(data)
    assert texts(page) == TEXTS and page.rotation == degrees
    assert_boxes_are_of_ink(data, page, 150)


@pytest.mark.parametrize("degrees", [90, 270])
def test_a_page_written_sideways_and_turned_upright_is_read_upright(degrees: int) -> None:
    sideways = [
        (842 - y if degrees == 90 else y, 72.0 if degrees == 90 else 520.0, size, text) for _, y, size, text in CONTRACT
    ]
    matrix = b"0 1 -1 0" if degrees == 90 else b"0 -1 1 0"
    data = text_pdf(sideways, matrix=matrix, page=b"/Rotate %d" % degrees, size=(842, 595))
    page = trusted(data)
    assert texts(page) == TEXTS and page.rotation == 0
    assert_boxes_are_of_ink(data, page, 150)


@pytest.mark.parametrize("box", [b"[700 900 800 1000]", b"[595 0 800 842]"])
def test_a_page_whose_crop_box_lies_beside_its_media_box_shows_the_media_box(box: bytes) -> None:
    data = text_pdf(CONTRACT, page=b"/CropBox%b" % box)
    page = trusted(data)
    assert texts(page) == TEXTS
    assert_boxes_are_of_ink(data, page, 150)


def test_boxes_are_in_the_crop_box_and_text_outside_is_left_out() -> None:
    data = text_pdf(CONTRACT, page=b"/CropBox[50 100 500 800]/Rotate 90")
    page = trusted(data)
    assert texts(page) == TEXTS[:2]
    assert_boxes_are_of_ink(data, page, 150)


def test_a_page_of_one_column_reads_from_top_to_bottom_whatever_its_order_in_the_file() -> None:
    assert texts(trusted(text_pdf([CONTRACT[-1], *CONTRACT[:-1]]))) == TEXTS


def test_columns_are_read_one_after_the_other() -> None:
    columns = [
        (x, 800.0 - 14 * row, 10.0, f"{name} колонка {row}")
        for x, name in ((50.0, "левая"), (310.0, "правая"))
        for row in range(9)
    ]
    assert texts(trusted(text_pdf(columns))) == [
        "\n".join(f"{name} колонка {row}" for row in range(9)) for name in ("левая", "правая")
    ]


def test_an_indented_line_begins_a_paragraph() -> None:
    lines = [(90, 700, "Первый абзац начинается с красной строки"), (72, 687, "и продолжается на следующей.")]
    lines += [(90, 674, "Второй абзац начинается так же и длится"), (72, 661, "две строки.")]
    page = trusted(text_pdf([(x, y, 11, text) for x, y, text in lines]))
    assert [text.split()[0] for text in texts(page)] == ["Первый", "Второй"]


def test_letters_with_their_accents_apart_and_hyphens_come_out_whole() -> None:
    lines: Lines = [(72, 700, 11, "Йод и ёлка, пере-"), (72, 687, 11, "нос слова на строку")]
    page = trusted(text_pdf(lines, to_unicode={"Й": "И\u0306", "ё": "е\u0308"}))
    assert texts(page) == ["Йод и ёлка, пере-\nнос слова на строку"]


def test_text_in_a_form_xobject_is_text_of_the_page() -> None:
    form = stream(
        b"BT /F1 12 Tf 72 700 Td (Shipping documents are attached) Tj ET",
        b"/Type/XObject/Subtype/Form/BBox[0 0 595 842]/Matrix[1 0 0 1 0 0]"
        b"/Resources<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>",
    )
    data = page_pdf(b"q 1 0 0 1 20 -50 cm /X Do Q", page=b"/Resources<</XObject<</X 5 0 R>>>>", more=[form])
    page = trusted(data)
    assert texts(page) == ["Shipping documents are attached"]
    assert_boxes_are_of_ink(data, page, 150)


@pytest.mark.parametrize(
    ("displayed", "read_as"),
    [
        ("םישנא 12 ,םולש ונילא ואבו", "ובאו אלינו שלום, 12 אנשים"),
        (".חותפ 2024-ב דרשמה לכ תעד", "דעת כל המשרד ב-2024 פתוח."),
        ("רחמ דע Acme Ltd 12 לא ובתכ", "כתבו אל Acme Ltd 12 עד מחר"),
        ("The word םלוע םולש means peace", "The word שלום עולם means peace"),
        ("בוט רקוב (םלוע) םולש ןכו", "וכן שלום (עולם) בוקר טוב"),
        ("15:30-ב 12.05.2024 םוי דעו", "ועד יום 12.05.2024 ב-15:30"),
        ("ملاعلاب ابحرم ديدج باتك", "كتاب جديد مرحبا بالعالم"),
        (
            "\ufe94\ufe91\ufe98\ufedb \ufe94\ufe91\ufe98\ufedb \ufe94\ufe91\ufe98\ufedb\ufee3 \ufe94\ufeb4\ufead\ufeaa\ufee3 \ufe94\ufe91\ufe98\ufedb",
            "كتبة مدرسة مكتبة كتبة كتبة",
        ),
    ],
)
def test_a_line_from_right_to_left_is_read_in_its_order(displayed: str, read_as: str) -> None:
    (block,) = trusted(text_pdf([(72, 700, 12, displayed)])).blocks
    assert block.text == read_as
    assert [word.text for word in block.words] == read_as.split()


def test_lines_from_right_to_left_end_where_they_end_and_stay_one_paragraph() -> None:
    lines = ["ךשמה הז הנושאר הרוש םולש", "הינש הרוש דועו", "תישילש הרוש ןאכ םגו תפסונ"]
    font = ImageFont.truetype(FONT_FILE, 12, layout_engine=ImageFont.Layout.BASIC)
    width = [font.getlength(line) for line in lines]
    page = trusted(text_pdf([(500 - width[i], 700 - 14 * i, 12, line) for i, line in enumerate(lines)]))
    assert texts(page) == ["\n".join(line[::-1] for line in lines)]


# Not to be trusted


def test_no_text_or_little_of_it_is_none() -> None:
    assert read(page_pdf(b"")) is None
    assert read(text_pdf(CONTRACT[-1:])) is None


def test_an_invisible_layer_over_a_scan_is_none() -> None:
    assert read(with_scan(CONTRACT, before=OVER_ALL, mode=3)) is None
    assert read(text_pdf(CONTRACT, mode=3)) is None


def test_a_layer_under_a_scan_is_none() -> None:
    many: Lines = [(40, 800 - 12 * row, 10, "Строка под изображением страницы") for row in range(60)]
    assert read(with_scan(many, after=OVER_ALL)) is None
    assert read(with_scan(many, before=OVER_ALL)) is not None


@pytest.mark.parametrize("clip", [b"0 0 595 200 re W n", b"0 0 m 595 0 l 595 200 l h W n"], ids=["box", "triangle"])
def test_text_beside_a_picture_or_its_clip_is_read(clip: bytes) -> None:
    many: Lines = [(40, 800 - 12 * row, 10, "Строка рядом с изображением") for row in range(24)]
    assert read(with_scan(many, after=b"q 595 0 0 500 0 0 cm /I Do Q")) is not None
    assert read(with_scan(many, after=b"q %b 595 0 0 842 0 0 cm /I Do Q" % clip)) is not None
    assert read(with_scan(many, after=b"q 0 0 595 842 re W n " + OVER_ALL + b"Q")) is None


def test_a_picture_with_a_line_of_text_is_none() -> None:
    assert read(with_scan(CONTRACT, before=OVER_ALL)) is None
    assert read(with_scan(CONTRACT, before=b"q 100 0 0 100 300 300 cm /I Do Q ")) is not None


def test_text_that_is_not_seen_is_none() -> None:
    white, clip = text_pdf(CONTRACT, before=b"1 g "), text_pdf(CONTRACT, mode=7)
    covered = text_pdf(CONTRACT, after=b"1 g 0 0 595 842 re f")
    assert [read(data) for data in (white, clip, covered)] == [None] * 3


def test_a_hidden_word_among_many_is_left_out() -> None:
    hidden = b"BT 3 Tr /F1 11 Tf 72 600 Td <%04X> Tj ET" % 0x24
    assert texts(trusted(text_pdf(CONTRACT, after=hidden))) == TEXTS


@pytest.mark.parametrize("to", ["\ufffd", "\ue010", "\x05", ""], ids=["replacement", "private", "control", "none"])
def test_letters_without_a_meaning_are_none(to: str) -> None:
    assert read(text_pdf(CONTRACT, to_unicode=dict.fromkeys("оеат", to))) is None


@pytest.mark.parametrize(("count", "is_trusted"), [(1, True), (20, False)])
def test_codes_beyond_unicode_are_letters_without_a_meaning(count: int, is_trusted: bool) -> None:
    """PDFium gives codes of three and four bytes as they are, if the font has no map to Unicode for them."""
    codes = b"BT /F1 9 Tf 72 500 Td <%b> Tj ET" % (b"E38081" * count)
    cmap = (
        b"/CIDInit /ProcSet findresource begin begincmap 2 begincodespacerange <0000> <DFFF> <E00000> <EFFFFF>"
        b" endcodespacerange 1 begincidrange <0000> <DFFF> 0 endcidrange 1 begincidchar <E38081> 36 endcidchar endcmap end"
    )
    data = text_pdf(CONTRACT, after=codes, more=[stream(cmap, b"/Type/CMap/CMapName/Codes")])
    page = read(data.replace(b"/Encoding/Identity-H", b"/Encoding 10 0 R    "))
    assert (page is not None) == is_trusted


def recoded(text: str, written: str, read_as: str) -> str:
    return "".join(c for c in text.encode(written).decode(read_as, "ignore") if c.isprintable() and c != "\xad")


@pytest.mark.parametrize(("written", "read_as"), [("cp1251", "latin-1"), ("utf-8", "cp1251"), ("utf-8", "latin-1")])
def test_cyrillic_in_a_wrong_encoding_is_none(written: str, read_as: str) -> None:
    lines: Lines = [
        (20, 700 - 20 * row, 8, recoded(line[3].replace("№", ""), written, read_as))
        for row, line in enumerate(CONTRACT)
    ]
    assert read(text_pdf(lines)) is None


def test_codes_of_glyphs_taken_for_characters_are_none() -> None:
    cipher = {letter: chr(0x21 + index % 15) for index, letter in enumerate("абвгдежзийклмнопрстуфхцчшщъыьэюя")}
    assert read(text_pdf(CONTRACT, to_unicode=cipher)) is None


@pytest.mark.parametrize(
    "text",
    [
        "Déjà vu: l'été où l'élève a dû préférer la forêt à la mer",
        "Глава первая .................................................... 17",
        "ООО «РСК» РОССИЯ РЕСПУБЛИКА САХА ПРИКАЗ О СРОКАХ",
        "12.05.2024 1 200,00 ₽ 15 % 3 400,50 ₽ 18.06.2024",
        "Пакет PyTorch работает, а JavaScript не понадобится никому из читателей",
    ],
)
def test_unusual_but_sound_text_is_trusted(text: str) -> None:
    assert texts(trusted(text_pdf([(30, 700, 10, text)])))[0].replace("\n", " ") == text


@pytest.mark.parametrize("subtype", [b"Widget/FT/Tx/T(a)/V(b)", b"FreeText/Contents(b)", b"Stamp"])
def test_a_page_with_text_in_annotations_is_none(subtype: bytes) -> None:
    note = b"<</Type/Annot/Subtype/%b/F 4/Rect[10 10 50 30]>>" % subtype
    assert read(text_pdf(CONTRACT, page=b"/Annots[10 0 R]", more=[note])) is None
    link = b"<</Type/Annot/Subtype/Link/Rect[10 10 50 30]>>"
    assert read(text_pdf(CONTRACT, page=b"/Annots[10 0 R]", more=[link])) is not None


def test_a_watermark_is_left_out_and_a_page_at_a_slant_is_none() -> None:
    mark = b"BT 0.9 g /F1 40 Tf 0.7 0.7 -0.7 0.7 150 250 Tm <00240025> Tj ET"
    assert texts(trusted(text_pdf(CONTRACT, after=mark))) == TEXTS
    assert read(text_pdf(CONTRACT, matrix=b"0.7 0.7 -0.7 0.7")) is None


def test_a_picture_in_forms_within_forms_counts_as_large_as_it_is() -> None:
    form = b"/Type/XObject/Subtype/Form/BBox[0 0 1000 1000]/Resources<</XObject<</X %d 0 R>>>>"
    inner = stream(b"q 10 0 0 10 0 0 cm /X Do Q", form % 10)
    outer = stream(b"q %b 0 0 %b 0 0 cm /X Do Q" % (b"2", b"2"), form % 11)
    for scale, is_trusted in ((b"1", True), (b"40", False)):
        data = text_pdf(
            CONTRACT,
            before=b"q %b 0 0 %b 0 0 cm /X Do Q " % (scale, scale),
            resources=b"/XObject<</X 12 0 R>>",
            more=[SCAN, inner, outer],
        )
        assert (read(data) is not None) == is_trusted


@pytest.mark.parametrize("letters", ["a", "אa"], ids=["latin", "hebrew"])
def test_the_work_on_a_line_grows_with_its_words(letters: str) -> None:
    few, many = (_calls_for_a_line(letters, words) for words in (200, 400))
    assert many < 2.2 * few


def _calls_for_a_line(letters: str, words: int) -> int:
    """The number of function calls to group a line of so many words of a letter."""
    glyphs: list[Glyph | None] = []
    for index in range(words):
        box = (2.0 * index, 0.0, 2.0 * index + 1, 1.0)
        glyphs += [Glyph(letters[index % len(letters)], box, box, 0), None]
    profile = cProfile.Profile()
    (block,) = profile.runcall(group_paragraphs, group_words(glyphs, 2 * words, 1))
    assert len(block.words) == words
    return sum(entry.callcount for entry in profile.getstats())
