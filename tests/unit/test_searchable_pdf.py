"""Searchable PDFs, as poppler, PDFium and qpdf see them."""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from html import unescape
from typing import Any

import numpy as np
import numpy.typing as npt
import pikepdf
import pypdfium2 as pdfium
import pytest
from pikepdf import Array, Dictionary, Name, Pdf
from PIL import Image, ImageOps

from serve_app.document import Block, Box, ErrorInfo, Page, Word
from serve_app.errors import CorruptDocument, EmptyDocument, PasswordRequired, UnsupportedMediaType
from serve_app.outputs.searchable_pdf import write_searchable_pdf
from serve_app.runtime.mapped_file import unnamed_file

DPI = 144  # two pixels a point
SIZE = (300, 200)  # points


def words_block(*words: tuple[str, Box], order: int = 0) -> Block:
    found = [Word(text=text, bbox=box) for text, box in words]
    return Block(label="text", text=" ".join(word.text for word in found), bbox=(0, 0, 1, 1), order=order, words=found)


def region(text: str, box: Box, order: int = 0) -> Block:
    return Block(label="text", text=text, bbox=box, order=order)


def page_of(*blocks: Block, number: int = 1, size: tuple[int, int] = (600, 400), **fields: Any) -> Page:
    return Page(number=number, width=size[0], height=size[1], **{"dpi": DPI, **fields}, blocks=list(blocks))


def failed(number: int = 1) -> Page:
    error = ErrorInfo(code="corrupt_document", message="The page is damaged.")
    return Page(number=number, width=0, height=0, dpi=0, error=error)


def plain_pdf(count: int = 1, change: Callable[[Pdf], None] = lambda pdf: None, **options: Any) -> bytes:
    """Pages of SIZE, each with a grey square; `change` is made before it is saved."""
    with Pdf.new() as pdf:
        for number in range(count):
            page = pdf.add_blank_page(page_size=SIZE)
            page.obj.Contents = pdf.make_stream(f"% page-{number + 1}\n0.5 g 20 20 {40 + number} 40 re f".encode())
        change(pdf)
        out = io.BytesIO()
        pdf.save(out, **options)
        return out.getvalue()


def searchable(source: bytes, *pages: Page, password: str | None = None) -> bytes:
    """The result, which qpdf must find sound."""
    out = io.BytesIO()
    with unnamed_file(source) as file:
        write_searchable_pdf(file, iter(pages), password=password, to=out)
    with Pdf.open(io.BytesIO(out.getvalue())) as pdf:
        assert pdf.check_pdf_syntax() == []
        assert pdf.get_warnings() == []
    return out.getvalue()


def pdftotext(data: bytes, *options: str) -> str:
    run = subprocess.run(["pdftotext", *options, "-", "-"], input=data, capture_output=True, check=True)
    assert run.stderr == b""
    return run.stdout.decode()


def lines_of(data: bytes) -> list[str]:
    return [line for line in pdftotext(data).replace("\f", "").splitlines() if line]


def word_boxes(data: bytes) -> list[tuple[str, tuple[float, ...]]]:
    """By poppler: words with left, top, right, bottom in points of the page as it is seen."""
    pattern = r'<word xMin="([-\d.]+)" yMin="([-\d.]+)" xMax="([-\d.]+)" yMax="([-\d.]+)">(.*?)</word>'
    found = re.findall(pattern, pdftotext(data, "-bbox", "-cropbox"))
    return [(unescape(text), tuple(map(float, numbers))) for *numbers, text in found]


def drawn(data: bytes, index: int = 0, dpi: float = DPI, password: str | None = None) -> npt.NDArray[np.uint8]:
    """By PDFium: RGB, shape (height, width, 3)."""
    document = pdfium.PdfDocument(data, password=password)
    document.init_forms()
    image = document[index].render(scale=dpi / 72, rev_byteorder=True).to_numpy()[..., :3].copy()
    document.close()
    return np.asarray(image, np.uint8)


def dark_box(image: npt.NDArray[np.uint8]) -> Box:
    rows, columns = np.nonzero(image.max(axis=2) < 64)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


# The text


def test_words_are_found_apart_and_in_reading_order() -> None:
    first = words_block(
        ("Съешь", (20, 20, 100, 40)), ("ещё", (100, 20, 150, 40)), ("булок,", (160, 24, 240, 44)), order=0
    )
    second = words_block(("да", (20, 50, 60, 70)), ("выпей", (70, 52, 160, 72)), ("чаю.", (20, 80, 90, 100)), order=1)

    data = searchable(plain_pdf(), page_of(second, first))

    assert pdftotext(data).split() == ["Съешь", "ещё", "булок,", "да", "выпей", "чаю."]
    assert lines_of(data) == ["Съешь ещё булок,", "да выпей", "чаю."]


def test_words_of_a_skewed_line_stay_one_line() -> None:
    words = [
        (f"слово{index}", (20 + 90 * index, 40 + 8 * index, 100 + 90 * index, 64 + 8 * index)) for index in range(6)
    ]

    data = searchable(plain_pdf(), page_of(words_block(*words)))

    assert pdftotext(data, "-raw").split("\n")[0] == " ".join(text for text, _ in words)
    for (text, box), (_, expected) in zip(word_boxes(data), words, strict=True):
        assert np.allclose(np.array(box) * 2, expected, atol=2), text


COLUMNS = (
    ["первая строка текста", "вторая строка, где", "мало, а тут", "как она есть", "снова строка"],
    ["рядом стоит другая", "колонка с её словами", "она читается после", "первой, не через", "промежуток между"],
)


@pytest.mark.parametrize("spacing", [24, 30, 34])
def test_columns_are_read_one_after_the_other_however_wide_they_are_set(spacing: int) -> None:
    def words(column: int, lines: list[str]) -> Iterator[tuple[str, Box]]:
        for index, line in enumerate(lines):
            left, baseline = 20 + 300 * column, 40 + 2 * column + spacing * index
            for text in line.split():
                # As an engine has them: where the ink is, which depends on the letters.
                top = baseline - (18 if re.search("[бвёйф]", text) else 13)
                bottom = baseline + (5 if re.search("[руфцщ,]", text) else 0)
                yield text, (left, top, left + 11 * len(text), bottom)
                left += 11 * len(text) + 9

    blocks = [words_block(*words(column, lines), order=column) for column, lines in enumerate(COLUMNS)]
    data = searchable(plain_pdf(), page_of(*blocks))
    assert lines_of(data) == [line for lines in COLUMNS for line in lines]
    places = [
        (word, 40 + 2 * column + spacing * index)
        for column, lines in enumerate(COLUMNS)
        for index, line in enumerate(lines)
        for word in line.split()
    ]
    for (text, (_, top, _, bottom)), (word, baseline) in zip(word_boxes(data), places, strict=True):
        assert text == word and top * 2 < baseline < bottom * 2, "the baseline is in the word's box"


def test_columns_of_blocks_without_words_are_read_one_after_the_other() -> None:
    blocks = [
        region("\n".join(lines), (20 + 300 * column, 20, 280 + 300 * column, 180), order=column)
        for column, lines in enumerate(COLUMNS)
    ]
    assert lines_of(searchable(plain_pdf(), page_of(*blocks))) == [line for lines in COLUMNS for line in lines]


@pytest.mark.parametrize("text", ["Ёлка", "naïve", "中文字", "𝔘😀ab", "é", "x<y&z", "№1—2", "(\\)"])
def test_any_character_is_found(text: str) -> None:
    data = searchable(plain_pdf(), page_of(words_block((text, (20, 20, 200, 50)))))

    assert pdftotext(data).strip() == text
    document = pdfium.PdfDocument(data)
    assert document[0].get_textpage().get_text_bounded().strip() == text


@pytest.mark.parametrize("text", ["שלום", "العربية", "שלום 123 abc"])
def test_text_from_right_to_left_is_found(text: str) -> None:
    data = searchable(plain_pdf(), page_of(region(text, (20, 20, 200, 50))))

    marks = dict.fromkeys(map(ord, "\u202a\u202b\u202c"))
    assert pdftotext(data).translate(marks).split() == text.split()


@pytest.mark.parametrize("box", [(100, 100, 120, 140), (100, 100, 140, 300)])
def test_words_in_narrow_or_upright_boxes_keep_their_double_letters(box: Box) -> None:
    data = searchable(plain_pdf(), page_of(words_block(("длинношеее", box))))

    assert pdftotext(data).strip() == "длинношеее"
    left, top, right, bottom = dict(word_boxes(data))["длинношеее"]
    assert box[0] / 2 - 1 <= left < right <= box[2] / 2 + 1 and box[1] / 2 - 1 <= top < bottom <= box[3] / 2 + 1


def test_controls_and_blank_words_leave_no_trace() -> None:
    block = words_block(("a\0b", (20, 20, 60, 40)), (" \t", (60, 20, 70, 40)), ("\x1b", (70, 20, 80, 40)))

    assert pdftotext(searchable(plain_pdf(), page_of(block))).split() == ["a", "b"]


def test_a_block_without_words_is_broken_into_lines_within_its_box() -> None:
    text = "Очень длинная строка, которая на бумаге занимает никак не меньше трёх строк подряд.\nИ ещё одна."

    data = searchable(plain_pdf(), page_of(region(text, (40, 40, 340, 160))))

    assert pdftotext(data, "-raw").split() == text.split()
    assert len(lines_of(data)) > 3
    for word, (left, top, right, bottom) in word_boxes(data):
        assert 19.5 <= left < right <= 170.5 and 19.5 <= top < bottom <= 80.5, word


def test_cells_of_a_table_stand_in_columns() -> None:
    data = searchable(plain_pdf(), page_of(region("имя\tцена\nчай\t12", (100, 100, 500, 200))))

    places = dict(word_boxes(data))
    assert places["имя"][0] == places["чай"][0] == pytest.approx(50, abs=0.5)
    assert places["цена"][0] == places["12"][0] == pytest.approx(150, abs=0.5)
    assert places["чай"][1] == places["12"][1] > places["имя"][1]


def test_blocks_without_text_and_pages_that_failed_add_nothing() -> None:
    for page in (page_of(region("", (10, 10, 300, 300))), failed()):
        data = searchable(plain_pdf(), page)
        assert pdftotext(data).strip() == ""
        with Pdf.open(io.BytesIO(data)) as pdf:
            assert pdf.pages[0].Contents.read_bytes().startswith(b"% page-1")


@pytest.mark.parametrize("box", [(50, 50, 50, 50), (300, 40, 20, 10), (-500, -500, 5000, 5000)])
def test_boxes_without_size_or_beyond_the_page_do_no_harm(box: Box) -> None:
    data = searchable(plain_pdf(), page_of(words_block(("слово", box)), region("текст", box, order=1)))

    document = pdfium.PdfDocument(data)
    assert "слово" in document[0].get_textpage().get_text_range()


# The place of the text


@pytest.mark.parametrize("turned", [0, 90, 180, 270], ids=lambda turned: f"text-turned-{turned}")
@pytest.mark.parametrize("rotate", [0, 90, 180, 270, -90], ids=lambda rotate: f"rotate-{rotate}")
def test_text_lies_on_the_ink_whatever_turns_and_crops_the_page(rotate: int, turned: int) -> None:
    mark = (130, 90, 160, 110)  # in user space: left, bottom, right, top

    def change(pdf: Pdf) -> None:
        pdf.pages[0].obj.Contents = pdf.make_stream(b"0 g 130 90 30 20 re f")
        for key in ("/MediaBox", "/Resources"):
            del pdf.pages[0].obj[key]
        # Inherited, and the wrong way round.
        node = pdf.Root.Pages
        node.MediaBox, node.CropBox = Array([10, 20, 310, 220]), Array([290, 200, 50, 40])
        node.Rotate, node.UserUnit = rotate, 2

    source = plain_pdf(change=change)
    picture = drawn(source)
    height, width, _ = picture.shape
    page = page_of(words_block(("он", dark_box(picture))), size=(width, height), rotation=turned)

    data = searchable(source, page)

    assert np.array_equal(drawn(data), picture)
    textpage = pdfium.PdfDocument(data)[0].get_textpage()
    boxes = np.array([textpage.get_charbox(index, loose=True) for index in range(len("он"))])
    assert np.allclose([*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)], mark, atol=1.5)
    (word, place), *others = word_boxes(data)
    assert (word, others) == ("он", [])
    assert np.allclose(np.array(place) * DPI / 72, dark_box(picture), atol=3)


@pytest.mark.parametrize("turned", [90, 180, 270])
def test_lines_of_turned_text_are_read_in_their_order(turned: int) -> None:
    upright = [("первая", (20, 20, 120, 40)), ("строка", (130, 20, 220, 40)), ("вторая", (20, 60, 120, 80))]
    width, height = (400, 600) if turned != 180 else (600, 400)  # of the page as it is read

    def as_seen(box: Box) -> Box:
        left, top, right, bottom = box
        return {
            90: (height - bottom, left, height - top, right),
            180: (width - right, height - bottom, width - left, height - top),
            270: (top, width - right, bottom, width - left),
        }[turned]

    page = page_of(words_block(*((text, as_seen(box)) for text, box in upright)), rotation=turned)

    data = searchable(plain_pdf(), page)

    assert sorted(lines_of(data)) == ["вторая", "первая строка"]
    textpage = pdfium.PdfDocument(data)[0].get_textpage()
    assert sorted(textpage.get_text_range().split()) == ["вторая", "первая", "строка"]
    (left, bottom, *_), (last_left, last_bottom, *_) = (textpage.get_charbox(index, loose=True) for index in (0, 5))
    direction = np.sign(np.rint([last_left - left, last_bottom - bottom]))
    assert tuple(direction) == {90: (0, -1), 180: (-1, 0), 270: (0, 1)}[turned]


@pytest.mark.parametrize("crop", [[0, 0, 0, 0], [-50, -60, 900, 900], [40, 30, 900, 170], [1, 2], None])
@pytest.mark.parametrize("rotate", [0, 90])
def test_the_visible_part_is_the_one_that_the_rasterizer_sees(crop: list[int] | None, rotate: int) -> None:
    def change(pdf: Pdf) -> None:
        page = pdf.pages[0].obj
        page.Contents, page.Rotate = pdf.make_stream(b"0 g 130 90 30 20 re f"), rotate
        if crop is not None:
            page.CropBox = Array(crop)

    source = plain_pdf(change=change)
    picture = drawn(source)
    height, width, _ = picture.shape

    data = searchable(source, page_of(words_block(("он", dark_box(picture))), size=(width, height)))

    textpage = pdfium.PdfDocument(data)[0].get_textpage()
    (left, bottom, _, _), (_, _, right, top) = (textpage.get_charbox(index, loose=True) for index in (0, 1))
    assert np.allclose(sorted((left, right)) + sorted((bottom, top)), (130, 160, 90, 110), atol=1.5)


def test_graphics_state_left_over_by_the_page_does_not_move_text() -> None:
    def change(pdf: Pdf) -> None:
        parts = [b"3 0 0 3 50 50 cm q 2 0 0 2 9 9 cm", b"0.2 g 5 5 10 10 re f BT 7 Tr 50 Tz 9 Ts 4 Tc"]
        pdf.pages[0].obj.Contents = Array([pdf.make_stream(part) for part in parts])

    source = plain_pdf(change=change)

    data = searchable(source, page_of(words_block(("место", (100, 60, 200, 100)))))

    assert np.array_equal(drawn(data), drawn(source))
    assert np.allclose(dict(word_boxes(data))["место"], (50, 30, 100, 50), atol=0.5)


# The pages of a PDF


def helvetica() -> Dictionary:
    return Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica)


@pytest.mark.parametrize("shared", ["resources", "fonts", "inherited", "none"])
def test_fonts_of_the_page_stay_whatever_they_are_called_and_shared_with(shared: str) -> None:
    def change(pdf: Pdf) -> None:
        fonts = pdf.make_indirect(Dictionary({"/OcrText": helvetica(), "/F1": helvetica()}))
        resources = pdf.make_indirect(Dictionary(Font=fonts))
        for page in pdf.pages:
            if shared != "none":
                page.obj.Contents = pdf.make_stream(b"BT /OcrText 30 Tf 20 60 Td (visible) Tj ET")
            if shared == "resources":
                page.obj.Resources = resources
            elif shared == "fonts":
                page.obj.Resources = Dictionary(Font=fonts)
            else:
                del page.obj["/Resources"]
        if shared == "inherited":
            pdf.Root.Pages.Resources = resources

    source = plain_pdf(2, change)

    data = searchable(
        source,
        page_of(words_block(("один", (20, 20, 90, 50)))),
        page_of(words_block(("два", (20, 20, 90, 50))), number=2),
    )

    own = [] if shared == "none" else ["visible"]
    assert [sorted(text.split()) for text in pdftotext(data).split("\f")[:2]] == [
        sorted(["один", *own]),
        sorted(["два", *own]),
    ]
    for index in range(2):
        assert np.array_equal(drawn(data, index), drawn(source, index))


def test_what_acts_or_hides_in_the_original_is_gone_and_web_links_stay() -> None:
    def change(pdf: Pdf) -> None:
        script = Dictionary(S=Name.JavaScript, JS="app.alert('script-marker')")
        launch = Dictionary(S=Name.Launch, F="launch-marker")
        pdf.Root.OpenAction, pdf.Root.AA = script, Dictionary(WC=script)
        pdf.Root.Names = Dictionary(JavaScript=Dictionary(Names=Array(["a", script])))
        pdf.attachments["secret.txt"] = b"attachment-marker"
        file = pdf.make_indirect(
            Dictionary(Type=Name.Filespec, F="x", EF=Dictionary(F=pdf.make_stream(b"attachment-marker")))
        )
        page = pdf.pages[0].obj
        page.AA, page.AF, page.PieceInfo = Dictionary(O=script), Array([file]), Dictionary(X=Dictionary(Private=file))

        def link(**entries: Any) -> Dictionary:
            return Dictionary(Type=Name.Annot, Subtype=Name.Link, Rect=Array([0, 0, 9, 9]), **entries)

        page.Annots = Array(
            [
                link(A=script),
                pdf.make_indirect(link(A=launch, AA=Dictionary(E=script))),
                link(A=Dictionary(S=Name.URI, URI="https://example.org/", Next=script)),
                link(A=Dictionary(S=Name.URI, URI="javascript:script-marker")),
                link(A=Dictionary(S=Name.GoToR, F="launch-marker")),
                Dictionary(Type=Name.Annot, Subtype=Name.FileAttachment, Rect=Array([0, 0, 9, 9]), FS=file),
            ]
        )
        field = pdf.make_indirect(Dictionary(FT=Name.Tx, T="hidden", AA=Dictionary(K=script), A=launch))
        shown = Dictionary(
            Type=Name.Annot, Subtype=Name.Widget, FT=Name.Tx, T="f", Rect=Array([0, 0, 9, 9]), AA=Dictionary(F=script)
        )
        shown = pdf.make_indirect(shown)
        page.Annots.append(shown)
        parent = pdf.make_indirect(Dictionary(FT=Name.Tx, T="parent", AA=Dictionary(K=script), A=script))
        child = Dictionary(Type=Name.Annot, Subtype=Name.Widget, Rect=Array([0, 0, 9, 9]), Parent=parent)
        parent.Kids = Array([pdf.make_indirect(child)])
        page.Annots.append(parent.Kids[0])
        pdf.Root.AcroForm = Dictionary(Fields=Array([field, shown, parent]), XFA="script-marker")

    data = searchable(plain_pdf(change=change), page_of())

    with Pdf.open(io.BytesIO(data)) as pdf:
        everything = b"".join(
            obj.unparse(resolved=True) + (obj.read_bytes() if isinstance(obj, pikepdf.Stream) else b"")
            for obj in pdf.objects
        )
        assert len(pdf.attachments) == 0
        assert not {"/OpenAction", "/AA", "/Names"} & set(pdf.Root.keys())
    for trace in (b"marker", b"/JavaScript", b"/JS", b"/AA", b"/Launch", b"/EF", b"/EmbeddedFile", b"/XFA", b"/GoToR"):
        assert trace not in everything
    assert b"https://example.org/" in everything


def test_a_selection_keeps_what_leads_within_it_and_nothing_of_other_pages() -> None:
    def change(pdf: Pdf) -> None:
        def link(target: int) -> Dictionary:
            destination = Array([pdf.pages[target - 1].obj, Name.Fit])
            return Dictionary(Type=Name.Annot, Subtype=Name.Link, Rect=Array([0, 0, 9, 9]), Dest=destination)

        pdf.pages[1].obj.Annots = Array([link(3), link(4), link(1)])
        with pdf.open_outline() as outline:
            outline.root.extend(pikepdf.OutlineItem(f"page {number + 1}", number) for number in range(5))

    source = plain_pdf(5, change)

    data = searchable(
        source,
        page_of(words_block(("вторая", (20, 20, 90, 50))), number=2),
        page_of(words_block(("четвёртая", (20, 20, 90, 50))), number=4),
    )

    assert pdftotext(data).split() == ["вторая", "четвёртая"]
    assert [np.array_equal(drawn(data, i), drawn(source, j)) for i, j in ((0, 1), (1, 3))] == [True, True]
    with Pdf.open(io.BytesIO(data)) as pdf:
        contents = b"".join(obj.read_bytes() for obj in pdf.objects if isinstance(obj, pikepdf.Stream))
        assert sorted(re.findall(rb"page-\d", contents)) == [b"page-2", b"page-4"]
        targets = [annotation.get("/Dest") for annotation in pdf.pages[0].obj.Annots]
        assert [item.title for item in pdf.open_outline().root] == ["page 2", "page 4"]
        pages = [target[0].objgen for target in targets if target is not None and isinstance(target[0], Dictionary)]
        assert pages == [pdf.pages[1].obj.objgen]


def test_hidden_layers_stay_hidden_and_filled_forms_stay_filled() -> None:
    def change(pdf: Pdf) -> None:
        layer = pdf.make_indirect(Dictionary(Type=Name.OCG, Name="draft"))
        page = pdf.pages[0].obj
        page.Resources = Dictionary(Properties=Dictionary(L=layer), Font=Dictionary(F1=helvetica()))
        page.Contents = pdf.make_stream(b"/OC /L BDC 0 g 0 0 150 200 re f EMC")
        pdf.Root.OCProperties = Dictionary(OCGs=Array([layer]), D=Dictionary(OFF=Array([layer])))
        look = pdf.make_stream(b"0 0 1 rg 0 0 50 20 re f", Type=Name.XObject, Subtype=Name.Form)
        look.BBox = Array([0, 0, 50, 20])
        field = Dictionary(Type=Name.Annot, Subtype=Name.Widget, FT=Name.Tx, T="f", V="value", F=4)
        field.Rect, field.AP = Array([200, 100, 250, 120]), Dictionary(N=look)
        page.Annots = Array([pdf.make_indirect(field)])
        pdf.Root.AcroForm = Dictionary(Fields=Array([page.Annots[0]]), DA="/Helv 0 Tf")

    source = plain_pdf(change=change)

    data = searchable(source, page_of(words_block(("слово", (20, 20, 90, 50)))))

    assert np.array_equal(drawn(data), drawn(source))
    assert (drawn(data) == (255, 255, 255)).all(axis=2).sum() < 600 * 400  # the field is drawn
    assert not (drawn(data) == 0).all(axis=2).any()  # the layer is not


def test_an_encrypted_pdf_is_opened_with_its_password_and_answered_without() -> None:
    source = plain_pdf(encryption=pikepdf.Encryption(user="пароль", owner="owner"))

    data = searchable(source, page_of(words_block(("слово", (20, 20, 90, 50)))), password="пароль")

    with Pdf.open(io.BytesIO(data)) as pdf:
        assert not pdf.is_encrypted
    assert np.array_equal(drawn(data), drawn(source, password="пароль"))
    for password in (None, "wrong"):
        with pytest.raises(PasswordRequired):
            searchable(source, page_of(), password=password)


def test_title_and_author_stay() -> None:
    def change(pdf: Pdf) -> None:
        pdf.docinfo.update({"/Title": "Договор № 5", "/Author": "Щукин", "/Producer": "x", "/Subject": Name.Odd})

    with Pdf.open(io.BytesIO(searchable(plain_pdf(change=change), page_of()))) as pdf:
        assert {key: str(value) for key, value in pdf.docinfo.items()} == {"/Title": "Договор № 5", "/Author": "Щукин"}


def test_bytes_are_the_same_each_time() -> None:
    page = page_of(words_block(("слово", (20, 20, 90, 50))))

    assert searchable(plain_pdf(), page) == searchable(plain_pdf(), page)


# What cannot be written


@pytest.mark.parametrize(
    ("source", "number", "error"),
    [
        (b"", 1, EmptyDocument),
        (b"hello", 1, UnsupportedMediaType),
        (b"%PDF-1.7 and no more", 1, CorruptDocument),
        (plain_pdf(), 2, CorruptDocument),
        (b"\xff\xd8\xff broken", 1, CorruptDocument),
        (b"\x89PNG\r\n\x1a\n broken", 1, CorruptDocument),
    ],
)
def test_what_cannot_be_read_is_refused(source: bytes, number: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        searchable(source, page_of(number=number))


def test_no_pages_are_no_document() -> None:
    for source in (plain_pdf(), encoded(photo(), "PNG")):
        with pytest.raises(EmptyDocument):
            searchable(source)


def test_an_error_of_the_caller_is_not_taken_for_a_damaged_document() -> None:
    def pages() -> Iterator[Page]:
        yield page_of()
        raise ValueError("the spool is gone")

    with unnamed_file(plain_pdf(2)) as file, pytest.raises(ValueError, match="spool"):
        write_searchable_pdf(file, pages(), password=None, to=io.BytesIO())


# Images


def photo(size: tuple[int, int] = (60, 40)) -> Image.Image:
    """No two of its corners are alike."""
    width, height = size
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.dstack([red, green, np.full_like(red, 90)]).astype(np.uint8))


def encoded(image: Image.Image, kind: str, more: Sequence[Image.Image] = (), **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options, **({"save_all": True, "append_images": list(more)} if more else {}))
    return out.getvalue()


def only_image(data: bytes) -> tuple[str, int, bytes]:
    """Of the one image in the PDF: colour space, bits, and the bytes as they are embedded."""
    with Pdf.open(io.BytesIO(data)) as pdf:
        (image,) = (obj for obj in pdf.objects if isinstance(obj, pikepdf.Stream) and obj.get("/Subtype") == "/Image")
        return str(image.ColorSpace), int(image.BitsPerComponent), image.read_raw_bytes()


def test_pixels_of_an_image_are_its_page_and_its_words_lie_on_them() -> None:
    image = photo((600, 400))

    for kind in ("PNG", "BMP", "TIFF", "WEBP"):
        data = searchable(
            encoded(image, kind, lossless=True),
            page_of(words_block(("слово", (100, 60, 200, 100)))),
        )

        assert np.array_equal(drawn(data), np.asarray(image)), kind
        assert np.allclose(dict(word_boxes(data))["слово"], (50, 30, 100, 50), atol=0.5)


@pytest.mark.parametrize(
    ("mode", "space", "bits"), [("1", "/DeviceGray", 1), ("L", "/DeviceGray", 8), ("P", "/DeviceRGB", 8)]
)
def test_an_image_takes_no_more_bits_than_it_has(mode: str, space: str, bits: int) -> None:
    image = photo((61, 40)).convert(mode)

    data = searchable(encoded(image, "PNG"), page_of(size=(61, 40)))

    assert only_image(data)[:2] == (space, bits)
    assert np.array_equal(drawn(data), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_embedded_byte_for_byte_and_stands_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    source = encoded(photo(), "JPEG", quality=95, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(source)))

    data = searchable(source, page_of(words_block(("слово", (10, 10, 30, 20))), size=upright.size, dpi=72))

    assert only_image(data)[2] == source
    assert np.abs(drawn(data, dpi=72).astype(int) - np.asarray(upright)).max() <= 8
    assert np.allclose(dict(word_boxes(data))["слово"], (10, 10, 30, 20), atol=0.5)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_jpeg_in_grey_or_in_inks_has_its_colours(mode: str) -> None:
    image = photo().convert(mode)
    source = encoded(image, "JPEG", quality=95)

    data = searchable(source, page_of(size=image.size, dpi=72))

    shown, expected = drawn(data, dpi=72).astype(int), np.asarray(Image.open(io.BytesIO(source)).convert("RGB"))
    # Inks are mixed by other formulas here and there; inverted, they would be off by 255.
    assert np.abs(shown - expected).max() <= (4 if mode == "L" else 100)


def test_pages_of_a_tiff_are_chosen_by_number_and_have_their_own_sizes() -> None:
    frames = [photo((60, 40)), photo((50, 80)).convert("1"), photo((30, 30)).convert("L")]
    source = encoded(frames[0], "TIFF", more=frames[1:])

    data = searchable(
        source,
        page_of(words_block(("вторая", (5, 5, 45, 20))), number=2, size=(50, 80), dpi=72),
        failed(number=3),
    )

    assert [text.split() for text in pdftotext(data).split("\f")] == [["вторая"], [], []]
    assert np.array_equal(drawn(data, 0, dpi=72), np.asarray(frames[1].convert("RGB")))
    with Pdf.open(io.BytesIO(data)) as pdf:
        assert [float(side) for side in pdf.pages[0].mediabox] == [0, 0, 50, 80]
        assert len(pdf.pages) == 2


def test_a_failed_page_that_cannot_be_drawn_is_blank() -> None:
    source = bytearray(encoded(photo(), "TIFF", more=[photo()], compression="tiff_lzw"))
    intact = page_of(words_block(("целая", (5, 5, 55, 20))), size=(60, 40))
    second = Image.open(io.BytesIO(bytes(source)))
    second.seek(1)
    (offset,), (length,) = second.tag_v2[273], second.tag_v2[279]  # type: ignore[attr-defined]
    source[offset : offset + length] = b"\xff" * length

    data = searchable(bytes(source), intact, failed(number=2))

    assert pdftotext(data).split() == ["целая"]
    assert (drawn(data, 1) == 255).all()


def test_an_image_too_large_for_a_page_is_scaled_to_the_largest() -> None:
    image = Image.new("1", (30_000, 10), 1)

    data = searchable(encoded(image, "PNG"), page_of(size=image.size, dpi=72))

    with Pdf.open(io.BytesIO(data)) as pdf:
        assert float(pdf.pages[0].mediabox[2]) == 14_400
