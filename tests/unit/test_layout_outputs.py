"""hOCR, ALTO and PAGE-XML of a document, checked against their schemas and read back by an XML parser."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Iterator

import pytest
from lxml import etree

from serve_app.document import (
    Block,
    DocumentStatus,
    DocumentSummary,
    EngineInfo,
    ErrorInfo,
    Page,
    PageContent,
    StorageInfo,
    Word,
)
from serve_app.document.model import Polygon
from serve_app.document.outline import BlockChange, Structure
from serve_app.document.spool import PAGES_IN_MEMORY, PageSpool
from serve_app.outputs.alto import alto_document
from serve_app.outputs.formats import OutputFormat, write_output
from serve_app.outputs.hocr import hocr_document
from serve_app.outputs.options import OutputOptions
from serve_app.outputs.page_xml import page_xml
from tests.support.schemas import schema

SUMMARY = DocumentSummary(
    id="20261124-1c9bb54f6d30be71e39a8f02",
    status=DocumentStatus.DONE,
    page_count=1,
    timings_ms={},
    engine=EngineInfo(name="tesseract", version="5.5.4"),
    storage=StorageInfo(status="stored"),
)

ALTO, PAGE_XML = "alto-4-4", "pagecontent-2019-07-15"
HOCR, LAYOUT = OutputFormat.HOCR, (OutputFormat.HOCR, OutputFormat.ALTO, OutputFormat.PAGE_XML)

HOSTILE = (
    "a<b&c>\"d'",
    "]]></Unicode><!--",
    "нуль\x00звонок\x07",
    "одиночка\ud800",
    "\ufffe\uffff\x85\x1b",
    "слово\u200f\u200e",
    "-- >",
    "𝒳😀",
)


def words(*texts: str, top: int = 100, left: int = 100, confidence: float | None = 0.9) -> list[Word]:
    """Words of one line, 40 pixels high and 50 wide, 60 apart."""
    return [
        Word(text=text, bbox=(left + 60 * index, top, left + 60 * index + 50, top + 40), confidence=confidence)
        for index, text in enumerate(texts)
    ]


def block(text: str, *, label: str = "text", order: int = 0, given: list[Word] | None = None) -> Block:
    return Block(label=label, text=text, bbox=(100, 100, 700, 300), order=order, words=given or [], confidence=0.9)


def page(*blocks: Block, number: int = 1, rotation: int = 0, skew: float = 0.0) -> Page:
    return Page(
        number=number, width=800, height=1000, dpi=200, rotation=rotation, skew=skew, blocks=list(blocks)
    )  # fmt: skip


def written(kind: OutputFormat, *pages: Page, structure: Structure | None = None) -> bytes:
    spool, file = PageSpool(), io.BytesIO()
    for each in pages:
        spool.add(PageContent(each))
    spool.structure = structure or Structure()
    write_output(kind, SUMMARY, spool, file, OutputOptions())
    spool.close()
    return file.getvalue()


def parsed(kind: OutputFormat, *pages: Page) -> etree._Element:
    """The root of the document, without namespaces; it has been validated."""
    data = written(kind, *pages)
    root = etree.fromstring(data)
    if kind is not HOCR:
        schema(ALTO if kind is OutputFormat.ALTO else PAGE_XML).assertValid(root)
    for element in root.iter(etree.Element):
        element.tag = etree.QName(element).localname
    return root


def texts(kind: OutputFormat, root: etree._Element) -> list[str]:
    """What a reader finds: the words, or the lines of blocks without words."""
    match kind:
        case OutputFormat.HOCR:
            spans = root.xpath("//span[@class='ocrx_word'] | //span[@class='ocr_line'][not(*)]")
            return [span.text for span in spans]
        case OutputFormat.ALTO:
            return list(root.xpath("//String/@CONTENT"))
        case _:
            return list(
                root.xpath("//Word/TextEquiv/Unicode/text() | //TextRegion[not(TextLine)]/TextEquiv/Unicode/text()")
            )


def titles(root: etree._Element, kind: str) -> list[dict[str, str]]:
    """The properties in the titles of hOCR's elements of a class."""
    found = root.xpath(f"//*[@class='{kind}']/@title")
    return [dict(part.strip().partition(" ")[::2] for part in title.split(";")) for title in found]


def everything() -> Page:
    """A page with each kind of block, with words and without."""
    table = block("раз\tдва\nтри\tчетыре", label="table", order=2)
    picture = block("", label="image", order=3).model_copy(update={"figure": "imgs/a&b.jpg"})
    outlined = block("вокруг", order=5).model_copy(update={"polygon": [(-3.4, 10.2), (900, 10), (400, 1200)]})
    return page(
        block("Заголовок", label="doc_title", order=0, given=words("Заголовок")),
        block("две\nстроки", order=1),
        table,
        picture,
        block(r"\frac{1}{2}", label="display_formula", order=4),
        outlined,
        block("", label="seal", order=6).model_copy(update={"polygon": [(5, 5)]}),
        block("в таблице", label="table", order=7, given=words("в", "таблице")),
        block("Подпись", label="figure_title", order=8).model_copy(update={"figure": "imgs/c.jpg"}),
    )


@pytest.mark.parametrize("kind", LAYOUT)
def test_every_kind_of_block_is_written_in_a_valid_way(kind: OutputFormat) -> None:
    root = parsed(kind, everything())
    found = " ".join(texts(kind, root))
    for text in ("Заголовок", "две", "строки", "четыре", "frac", "вокруг", "таблице", "Подпись"):
        assert text in found, text


@pytest.mark.parametrize("kind", LAYOUT)
@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("with_words", [True, False])
def test_no_text_from_a_page_breaks_the_markup(kind: OutputFormat, hostile: str, with_words: bool) -> None:
    bad = block(hostile, given=words(hostile, "дальше") if with_words else None)
    bad.label = hostile
    root = parsed(kind, page(bad, block("дальше", order=1, given=words("дальше"))))
    assert "дальше" in texts(kind, root)


def test_the_engines_names_are_escaped_too() -> None:
    summary = SUMMARY.model_copy(update={"engine": EngineInfo(name="<&>", version='"1"')})
    for parts in (
        hocr_document([], summary, page_count=0),
        alto_document([], summary, labels=[]),
        page_xml(page(), summary),
    ):
        etree.fromstring("".join(parts).encode())


@pytest.mark.parametrize("kind", LAYOUT)
def test_words_are_in_the_lines_that_the_text_has(kind: OutputFormat) -> None:
    # The words stand so close that their places show no lines.
    paragraph = block("один два\nтри", given=words("один", "два", "три"))
    root = parsed(kind, page(paragraph))
    xpath = {HOCR: "//span[@class='ocr_line']", OutputFormat.ALTO: "//TextLine", OutputFormat.PAGE_XML: "//TextLine"}[
        kind
    ]
    lines = root.xpath(xpath)
    children = {HOCR: "span", OutputFormat.ALTO: "String", OutputFormat.PAGE_XML: "Word"}[kind]
    assert [len(line.findall(children)) for line in lines] == [2, 1]


def test_words_that_are_not_the_texts_are_put_into_lines_by_their_places() -> None:
    given = [*words("один", "два"), *words("три", top=150)]
    root = parsed(HOCR, page(block("совсем другое", given=given)))
    assert [len(line) for line in root.xpath("//span[@class='ocr_line']")] == [2, 1]


@pytest.mark.parametrize("kind", LAYOUT)
def test_blocks_stand_in_reading_order(kind: OutputFormat) -> None:
    root = parsed(kind, page(block("б", order=1, given=words("б")), block("а", order=0, given=words("а"))))
    assert texts(kind, root) == ["а", "б"]
    if kind is OutputFormat.PAGE_XML:
        regions = root.xpath("//RegionRefIndexed/@regionRef")
        assert regions == root.xpath("//TextRegion/@id") and len(regions) == 2


def test_hocr_has_what_tesseracts_has() -> None:
    root = parsed(HOCR, page(block("Счёт г.", given=words("Счёт", "г."))))
    assert titles(root, "ocr_page")[0] == {
        "image": '"page-1.png"',
        "bbox": "0 0 800 1000",
        "ppageno": "0",
        "scan_res": "200 200",
    }
    (line,) = titles(root, "ocr_line")
    assert line == {"bbox": "100 100 210 140", "baseline": "0 0", "x_size": "40"}
    assert titles(root, "ocrx_word")[1] == {"bbox": "160 100 210 140", "x_wconf": "90"}


def test_the_baseline_is_above_descenders() -> None:
    low = Word(text="руд", bbox=(100, 100, 150, 150), confidence=None)
    high = Word(text="нас", bbox=(160, 100, 210, 140), confidence=None)
    root = parsed(HOCR, page(block("руд нас", given=[low, high])))
    assert titles(root, "ocr_line")[0]["baseline"] == "0 -10"
    alto = parsed(OutputFormat.ALTO, page(block("руд нас", given=[low, high])))
    assert alto.xpath("//TextLine/@BASELINE") == ["100,140 210,140"]


def crooked(degrees: float) -> list[Word]:
    """Two words on a line that is turned clockwise around (100, 100)."""
    turn = math.radians(degrees)

    def turned(x: float, y: float) -> tuple[float, float]:
        return 400 + x * math.cos(turn) - y * math.sin(turn), 500 + x * math.sin(turn) + y * math.cos(turn)

    def word(text: str, left: float, right: float) -> Word:
        polygon: Polygon = [turned(left, 0), turned(right, 0), turned(right, 40), turned(left, 40)]
        across, down = zip(*polygon, strict=True)
        box = (math.floor(min(across)), math.floor(min(down)), math.ceil(max(across)), math.ceil(max(down)))
        return Word(text=text, bbox=box, polygon=polygon)

    return [word("снег", 0, 100), word("мел", 120, 200)]


@pytest.mark.parametrize(("rotation", "skew"), [(0, 5.0), (0, -7.5), (90, 3.0), (180, -2.0), (270, 10.0)])
def test_the_outline_and_the_baseline_of_a_crooked_line_follow_its_angle(rotation: int, skew: float) -> None:
    given = crooked(rotation + skew)
    read = page(block("снег мел", given=given), rotation=rotation, skew=skew)
    first, last = given[0].polygon, given[1].polygon
    assert first is not None and last is not None
    ends = [first[3], last[2]]
    root = parsed(OutputFormat.PAGE_XML, read)
    baseline = [tuple(map(int, point.split(","))) for point in root.xpath("//Baseline/@points")[0].split()]
    assert baseline == [(round(x), round(y)) for x, y in ends]
    assert len(root.xpath("//TextLine/Coords/@points")[0].split()) == 4
    alto = parsed(OutputFormat.ALTO, read)
    assert alto.xpath("//TextLine/@BASELINE") == [" ".join(f"{x},{y}" for x, y in baseline)]
    assert len(alto.xpath("//String/Shape/Polygon")) == 2
    (line,) = titles(parsed(HOCR, read), "ocr_line")
    assert float(line["x_size"]) == pytest.approx(40, abs=0.1) and len(line["poly"].split()) == 8
    if rotation:
        assert float(line["textangle"]) == (360 - rotation - skew) % 360 and "baseline" not in line
    else:
        slope, offset = map(float, line["baseline"].split())
        left, _, _, bottom = map(int, line["bbox"].split())
        assert math.degrees(math.atan(slope)) == pytest.approx(skew, abs=0.01)
        (x, y), (end_x, end_y) = ends
        assert bottom + offset + slope * (x - left) == pytest.approx(y, abs=1)
        assert bottom + offset + slope * (end_x - left) == pytest.approx(end_y, abs=1)


@pytest.mark.parametrize(
    ("rotation", "skew", "alto", "page_turn"),
    [
        (0, 0.0, [], []),
        (90, 0.0, [270], [-90]),
        (180, 0.0, [180], [180]),
        (270, 0.0, [90], [90]),
        (0, 3.5, [356.5], [-3.5]),
        (270, 10.0, [80], [80]),
        (180, 4.0, [176], [176]),
        (180, -4.0, [184], [-176]),
    ],
)
def test_the_turn_of_a_page_is_counted_as_each_format_does(
    rotation: int, skew: float, alto: list[float], page_turn: list[float]
) -> None:
    turned = page(block("а", given=words("а")), rotation=rotation, skew=skew)
    assert [float(turn) for turn in parsed(OutputFormat.ALTO, turned).xpath("//Page/@ROTATION")] == alto
    assert [float(turn) for turn in parsed(OutputFormat.PAGE_XML, turned).xpath("//Page/@orientation")] == page_turn


def test_text_from_right_to_left_says_so() -> None:
    hebrew = page(block("שלום abc", given=words("שלום", "abc")), block("abc שלום", order=1, given=words("abc", "שלום")))
    assert parsed(HOCR, hebrew).xpath("//p/@dir") == ["rtl"]
    assert parsed(OutputFormat.ALTO, hebrew).xpath("//TextBlock/@BASEDIRECTION") == ["rtl"]
    assert parsed(OutputFormat.PAGE_XML, hebrew).xpath("//TextRegion/@readingDirection") == ["right-to-left"]


def test_pictures_tables_and_kinds_of_text_are_named() -> None:
    hocr, alto, page_root = (parsed(kind, everything()) for kind in LAYOUT)
    assert len(titles(hocr, "ocr_photo")) == 2 and len(titles(hocr, "ocr_table")) == 2
    assert alto.xpath("//Illustration/@FILEID") == ["imgs/a&b.jpg", "imgs/c.jpg"]
    assert len(alto.xpath("//ComposedBlock[@TYPE='table']/TextBlock")) == 2
    tags = dict(zip(alto.xpath("//LayoutTag/@ID"), alto.xpath("//LayoutTag/@LABEL"), strict=True))
    assert tags[alto.xpath("//TextBlock/@TAGREFS")[0]] == "doc_title"
    assert page_root.xpath("//TextRegion/@type")[:2] == ["heading", "paragraph"]
    assert [len(page_root.findall(f".//{kind}Region")) for kind in ("Image", "Table", "Maths", "Unknown")] == [
        2,
        2,
        1,
        1,
    ]
    assert "раз\tдва\nтри\tчетыре" in page_root.xpath("//TableRegion/TextRegion/TextEquiv/Unicode/text()")


def test_boxes_beside_the_page_are_moved_onto_it() -> None:
    beside = Word(text="край", bbox=(-20, -5, 900, 1200), polygon=[(-20, -5), (900, -5), (900, 1200), (-20, 1200)])
    for kind in LAYOUT:
        markup = written(kind, page(block("край", given=[beside]))).decode()
        parsed(kind, page(block("край", given=[beside])))
        assert "-20" not in markup and "1200" not in markup


@pytest.mark.parametrize("kind", LAYOUT)
def test_a_failed_page_is_there_and_says_why(kind: OutputFormat) -> None:
    failed = Page(number=3, width=0, height=0, dpi=0, error=ErrorInfo(code="page_timeout", message="Too <slow>."))
    root = parsed(kind, failed)
    assert "Page 3: Too <slow>. (page_timeout)" in [*root.xpath("//text()"), *root.xpath("//@QUALITY_DETAIL")]


@pytest.mark.parametrize("kind", [OutputFormat.HOCR, OutputFormat.ALTO])
def test_a_document_of_many_pages_is_one_file_with_words_from_the_disk_too(kind: OutputFormat) -> None:
    count = PAGES_IN_MEMORY + 3
    root = parsed(kind, *(page(block(f"с{n}", given=words(f"с{n}")), number=n) for n in range(1, count + 1)))
    assert len(root.xpath("//Page | //*[@class='ocr_page']")) == count
    assert texts(kind, root) == [f"с{n}" for n in range(1, count + 1)]


def test_page_xml_of_several_pages_is_an_archive_of_a_file_for_each() -> None:
    numbers = range(2, PAGES_IN_MEMORY + 4)
    pages = [page(block(f"с{number}", given=words(f"с{number}")), number=number) for number in numbers]
    data = written(OutputFormat.PAGE_XML, *pages)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == [f"page-{number}.xml" for number in numbers]
        for number in numbers:
            root = etree.fromstring(archive.read(f"page-{number}.xml"))
            schema(PAGE_XML).assertValid(root)
            assert root.xpath("//*[local-name()='Word']//text()") == [f"с{number}"]
    assert data == written(OutputFormat.PAGE_XML, *pages), "the archive has no dates"


@pytest.mark.parametrize("kind", [OutputFormat.HOCR, OutputFormat.ALTO])
def test_a_table_that_continues_stays_on_its_pages(kind: OutputFormat) -> None:
    pages = [page(block(text, label="table"), number=number) for number, text in ((1, "раз"), (2, "два"))]
    joined = Structure([BlockChange(1, 0, content="<table>", text="раз\nдва"), BlockChange(2, 0, continues_from=1)])
    root = etree.fromstring(written(kind, *pages, structure=joined))
    found = [*root.itertext(), *root.xpath("//@CONTENT")]
    assert "раз" in found and "два" in found


@pytest.mark.parametrize(
    "write",
    [
        lambda pages: hocr_document(pages, SUMMARY, page_count=9),
        lambda pages: alto_document(pages, SUMMARY, labels=["text"]),
    ],
)
def test_pages_are_taken_one_at_a_time(write: Callable[[Iterator[Page]], Iterator[str]]) -> None:
    taken: list[int] = []

    def pages() -> Iterator[Page]:
        for number in range(1, 10):
            taken.append(number)
            yield page(block(f"с{number}", given=words(f"с{number}")), number=number)

    for part in write(pages()):
        if "с4" in part:
            break
    assert taken == [1, 2, 3, 4]
