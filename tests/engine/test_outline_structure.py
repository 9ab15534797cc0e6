"""Documents of one piece: the same as the library makes of whole results, in one pass and within bounds."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from serve_app.document import Block, Page
from serve_app.document.options import ParsingOptions
from serve_app.document.outline import Structure, outline_of
from serve_app.document.tables import table_html, table_rows
from serve_app.recognition.engines.paddleocr_vl import outline_structure as module
from serve_app.recognition.engines.paddleocr_vl.outline_structure import restructure
from serve_app.recognition.engines.paddleocr_vl.page_conversion import page_content

Blocks = list[tuple[str, str, tuple[int, int, int, int]]]  # label, content, box

WIDE, NARROW = (50, 100, 550, 300), (50, 100, 300, 300)
NUMBER = ("number", "7", (290, 780, 310, 795))


def table(*rows: str, header: str = "Товар|Цена") -> str:
    lines = [header, *rows] if header else list(rows)
    cells = ("".join(f"<td>{cell}</td>" for cell in line.split("|")) for line in lines)
    return "<table>" + "".join(f"<tr>{each}</tr>" for each in cells) + "</table>"


def library_results(pages: list[Blocks]) -> list[Any]:
    """As `predict` of the library gives them for pages of 600 x 800 pixels."""
    from paddlex.inference.pipelines.paddleocr_vl.result import PaddleOCRVLBlock, PaddleOCRVLResult

    return [
        PaddleOCRVLResult(
            {
                **dict.fromkeys(("input_path", "page_index", "page_count")),
                "width": 600,
                "height": 800,
                "doc_preprocessor_res": {},
                "layout_det_res": {"boxes": []},
                "table_res_list": [],
                "parsing_res_list": [
                    PaddleOCRVLBlock(label, list(box), content, group_id=n)
                    for n, (label, content, box) in enumerate(blocks)
                ],
                "spotting_res": {},
                "imgs_in_doc": [],
                "model_settings": {
                    "use_doc_preprocessor": False, "use_layout_detection": True, "format_block_content": False,
                    "markdown_ignore_labels": ["number", "footer", "header"],
                },
            }
        )
        for blocks in pages
    ]  # fmt: skip


def read(pages: list[Blocks], *, pretty: bool = False) -> list[Page]:
    options = ParsingOptions(prettify_markdown=pretty)
    return [
        page_content(result, options, number=number, dpi=144, warnings=[]).page
        for number, result in enumerate(library_results(pages), 1)
    ]


def structured(pages: list[Page], *, pretty: bool = False) -> list[Page]:
    outlines = [outline for page in pages if (outline := outline_of(page)) is not None]
    structure = Structure(restructure(outlines, pretty=pretty))
    return [structure.as_one_piece(page) for page in pages]


def by_the_library(pages: list[Blocks], *, pretty: bool = False) -> list[str]:
    """The Markdown of each page as the library restructures whole results."""
    from paddlex.inference.pipelines.paddleocr_vl.pipeline import _PaddleOCRVLPipeline

    results = _PaddleOCRVLPipeline.restructure_pages(None, library_results(pages))
    return [result._to_markdown(pretty=pretty)["markdown_texts"] for result in results]


def paragraphs(markdown: str) -> list[str]:
    """Without the blank lines, of which the library leaves more where a table was."""
    return [part for part in markdown.split("\n") if part.strip()]


def title(content: str, height: int = 30, top: int = 20) -> tuple[str, str, tuple[int, int, int, int]]:
    return ("paragraph_title", content, (50, top, 300, top + height))


TEXT = ("text", "Съешь ещё этих мягких булок.", (50, 20, 550, 90))

DOCUMENTS: dict[str, list[Blocks]] = {
    "a table over two pages": [[TEXT, ("table", table("Чай|3"), WIDE), NUMBER], [("table", table("Сок|5"), WIDE), TEXT]],
    "over four": [[("table", table(f"Чай {n}|{n}"), WIDE), NUMBER] for n in range(4)],
    "without its head again": [[("table", table("Чай|3"), WIDE)], [("table", table("Сок|5", header=""), WIDE)]],
    "text between": [[("table", table("Чай|3"), WIDE), TEXT], [("table", table("Сок|5"), WIDE)]],
    "another width": [[("table", table("Чай|3"), WIDE)], [("table", table("Сок|5"), NARROW)]],
    "other columns": [[("table", table("Чай|3"), WIDE)], [("table", table("Сок|5|6", header="А|Б|В"), WIDE)]],
    "two tables on the page between": [
        [("table", table("Чай|3"), WIDE)],
        [("table", table("Сок|5"), WIDE), ("table", table("Мёд|9"), WIDE)],
        [("table", table("Сыр|7"), WIDE)],
    ],
    "two chains": [
        [("table", table("Чай|3"), WIDE)], [("table", table("Сок|5"), WIDE)], [TEXT],
        [("table", table("Сыр|7"), WIDE)], [("table", table("Мёд|9"), WIDE)],
    ],
    "spans": [
        [("table", '<table><tr><td colspan="2">Товары</td></tr><tr><td>Чай</td><td>3</td></tr></table>', WIDE)],
        [("table", '<table><tr><td rowspan="2">Сок</td><td>5</td></tr><tr><td>6</td></tr></table>', WIDE)],
    ],
    "headings": [
        [("doc_title", "Отчёт", (50, 10, 500, 60)), title("1. Введение", 40), TEXT, title("1.1 Цели", 28)],
        [title("1.2 Методы", 28), TEXT, title("2. Итоги", 40), title("Приложение", 20), title("Abstract", 40)],
    ],
    "nothing": [[TEXT], [TEXT, NUMBER]],
}  # fmt: skip


@pytest.mark.parametrize("pretty", [False, True])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_document_is_as_the_library_restructures_it(name: str, pretty: bool) -> None:
    pages = DOCUMENTS[name]
    ours = [page.markdown for page in structured(read(pages, pretty=pretty), pretty=pretty)]
    assert list(map(paragraphs, ours)) == list(map(paragraphs, by_the_library(pages, pretty=pretty)))


def test_documents_by_chance_are_as_the_library_restructures_them() -> None:
    chance = random.Random(4)
    kinds: Blocks = [TEXT, NUMBER, ("footer", "внизу", (50, 770, 200, 790))]
    for _ in range(60):
        pages = []
        for _ in range(chance.randint(2, 6)):
            page = [chance.choice(kinds) for _ in range(chance.randint(0, 2))]
            for _ in range(chance.choice([0, 1, 1, 1, 2])):
                rows = [f"{chance.randint(0, 9)}|{n}" for n in range(chance.randint(5, 8))]
                head = chance.choice(["Товар|Цена", "А|Б"])
                page.insert(
                    chance.randint(0, len(page)),
                    ("table", table(*rows, header=head), chance.choice([WIDE, WIDE, NARROW])),
                )
            if chance.random() < 0.5:
                page.insert(
                    0,
                    title(chance.choice(["1. Введение", "2.3 Данные", "Выводы", "IV. Итоги"]), chance.randint(15, 50)),
                )
            pages.append(page)
        ours = [page.markdown for page in structured(read(pages))]
        assert list(map(paragraphs, ours)) == list(map(paragraphs, by_the_library(pages))), pages


def test_every_block_says_where_it_stands_in_the_markdown() -> None:
    pages = [
        [title("Глава"), TEXT, ("table", table("Чай|3"), WIDE), NUMBER, ("text", "", WIDE), ("display_formula", " $$ x $$ ", WIDE)],
        [("table", table("Сок|5"), WIDE), TEXT],
    ]  # fmt: skip
    for pretty in (False, True):
        for page in read(pages, pretty=pretty):
            for block in page.blocks:
                if block.label == "number":
                    assert block.markdown_span is None
                    continue
                assert block.markdown_span is not None
                piece = page.markdown[slice(*block.markdown_span)]
                if block.label == "table":
                    assert piece.strip().startswith("<table") and piece.endswith("</table>")
                elif block.label == "paragraph_title":
                    assert piece == "## Глава"
                else:
                    assert piece.strip() == block.text


def test_pages_stay_as_they_were_read_and_say_what_belongs_together() -> None:
    pages = read(DOCUMENTS["a table over two pages"])
    before = [page.model_copy(deep=True) for page in pages]
    outlines = [outline for page in pages if (outline := outline_of(page)) is not None]
    structure = Structure(restructure(outlines, pretty=False))
    first, second = (structure.as_one_piece(page) for page in pages)
    assert pages == before
    whole = next(block for block in first.blocks if block.label == "table")
    assert whole.text == "Товар\tЦена\nЧай\t3\nСок\t5" and whole.text in first.text
    assert [block.label for block in second.blocks] == ["text"] and second.text == TEXT[1]
    assert second.markdown == TEXT[1]
    annotated = structure.annotate(pages[1])
    assert annotated.blocks[0].continues_from == 1 and annotated.blocks[0].text == "Товар\tЦена\nСок\t5"
    assert annotated.markdown == pages[1].markdown


def test_headings_have_the_levels_that_markdown_shows() -> None:
    pages = structured(read(DOCUMENTS["headings"]))
    levels = {block.text: block.level for page in pages for block in page.blocks if block.level is not None}
    assert levels == {
        "Отчёт": 1, "1. Введение": 2, "1.1 Цели": 3, "1.2 Методы": 3, "2. Итоги": 2, "Приложение": 4, "Abstract": 2,
    }  # fmt: skip
    for page in pages:
        for block in page.blocks:
            if block.level is not None:
                assert f"{'#' * block.level} {block.text}" in page.markdown.split("\n\n")


def test_a_heading_is_never_deeper_than_markdown_has_them() -> None:
    pages = structured(read([[title("1. А"), title("1.2.3.4.5.6.7.8 Б"), title("1.1.1.1.1.1.1.1 В")]]))
    assert max(block.level or 0 for block in pages[0].blocks) == 6
    assert "#######" not in pages[0].markdown


def test_only_pages_that_follow_each_other_go_on() -> None:
    first, _, third = read([[("table", table("Чай|3"), WIDE)], [TEXT], [("table", table("Сок|5"), WIDE)]])
    outlines = [outline for page in (first, third) if (outline := outline_of(page)) is not None]
    assert restructure(outlines, pretty=False) == []


@pytest.mark.parametrize(
    "content",
    [
        '<table><tr><td rowspan="999999999">x</td><td>1</td></tr></table>',
        '<table><tr><td colspan="many">x</td><td>1</td></tr></table>',
        "<table><tr><td colspan='-3'>x</td><td>1</td></tr></table>",
        "<table><tr><td COLSPAN=>x</td><td>1</td></tr></table>",
        "<table><track></table>",
        "<table></table>",
        "not a table",
        "",
    ],
)
def test_a_table_that_the_library_would_choke_on_stays_as_it_is(content: str) -> None:
    pages = read([[("table", content, WIDE)], [("table", content, WIDE)]])
    started = time.monotonic()
    assert [page.markdown for page in structured(pages)] == [page.markdown for page in pages]
    assert time.monotonic() - started < 2


def test_boxes_without_area_do_no_harm() -> None:
    flat: Blocks = [("table", table("Чай|3"), (50, 100, 50, 300)), title("1. А", 0), title("2. Б")]
    pages = structured(read([flat, flat]))
    assert "## 2. Б" in pages[0].markdown and "Чай" in pages[1].markdown


def test_a_table_of_very_many_pages_is_joined_in_pieces_and_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TABLE_CHARACTERS", 20_000)
    pages = read([[("table", table(*(f"Строка {n}-{row}|{row}" for row in range(40))), WIDE)] for n in range(60)])
    started = time.process_time()
    document = structured(pages)
    assert time.process_time() - started < 15
    wholes = [block for page in document for block in page.blocks]
    assert 5 < len(wholes) < 20
    assert all(len(block.content or "") <= 20_000 for block in wholes)
    assert sum(block.text.count("Строка") for block in wholes) == 60 * 40


def test_outlines_leave_out_what_is_not_needed() -> None:
    page = Page(number=1, width=1, height=1, dpi=1, blocks=[Block(label="text", text="x" * 1000, bbox=WIDE, order=0)])
    assert outline_of(page) is None
    with_table = page.model_copy(
        update={"blocks": [*page.blocks, Block(label="table", text="a", content="<table>", bbox=WIDE, order=1)]}
    )
    outline = outline_of(with_table)
    assert outline is not None and [block.content for block in outline.blocks] == ["", "<table>"]


def test_signs_that_look_like_tags_are_text_in_a_joined_table() -> None:
    pages = read([[("table", table("если a<b то|1"), WIDE)], [("table", table("если c<d то|2"), WIDE)]])
    assert pages[0].blocks[0].text == "Товар\tЦена\nесли a<b то\t1"
    (whole,) = structured(pages)[0].blocks
    assert whole.text == "Товар\tЦена\nесли a<b то\t1\nесли c<d то\t2"
    assert [[cell.text for cell in row] for row in table_rows(table_html(whole))][1:] == [
        ["если a<b то", "1"], ["если c<d то", "2"],
    ]  # fmt: skip
