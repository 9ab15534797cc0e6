"""The text of a document: what runs on over a page break is one paragraph, and nothing else is touched."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from serve_app.document import Block, ErrorInfo, Page
from serve_app.document.characters import xml_text
from serve_app.outputs.text import document_text


def block(text: str, label: str = "text", group: int | None = None) -> Block:
    return Block(label=label, text=text, bbox=(0, 0, 100, 20), order=0, group=group)


def page(number: int, *blocks: Block | str) -> Page:
    whole = [block(item) if isinstance(item, str) else item for item in blocks]
    text = "\n\n".join(item.text for item in whole if item.text)
    return Page(number=number, width=100, height=100, dpi=72, text=text, blocks=whole)


def joined(*pages: Page) -> str:
    return "".join(document_text(iter(pages)))


@pytest.mark.parametrize(
    ("above", "below", "whole"),
    [
        ("Настоящий доку-", "мент составлен", "Настоящий документ составлен"),
        ("Настоящий доку\u00ad", "мент составлен", "Настоящий документ составлен"),
        ("This docu-\n", "ment is", "This document is"),
        ("Стороны договорились о", "следующем порядке.", "Стороны договорились о следующем порядке."),
        ("Продавец, покупатель, банк,", "арендатор и другие", "Продавец, покупатель, банк, арендатор и другие"),
        ("В магазине «Рога и копыта»", "продают чай", "В магазине «Рога и копыта» продают чай"),
        ("Срок составляет ровно 30", "дней", "Срок составляет ровно 30 дней"),
        ("Чай — это напиток —", "так и знайте", "Чай — это напиток — так и знайте"),
        ("Он сказал мне однажды", "«нет» и ушёл", "Он сказал мне однажды «нет» и ушёл"),
    ],
)
def test_a_paragraph_that_a_page_break_cuts_is_whole(above: str, below: str, whole: str) -> None:
    assert joined(page(1, "Начало.", above), page(2, below, "Конец.")) == f"Начало.\n\n{whole}\n\nКонец."


@pytest.mark.parametrize(
    ("above", "below", "whole"),
    [
        ("если кто-", "нибудь придёт", "если кто-нибудь придёт"),
        ("если кто-", "то придёт", "если кто-то придёт"),
        ("какое-то мес-", "то у окна", "какое-то место у окна"),
        ("вышел из-", "за угла", "вышел из-за угла"),
        ("нашёл кое-", "что", "нашёл кое-что"),
        ("новый ИТ-", "отдел", "новый ИТ-отдел"),
        ("город Ростов-", "на-Дону", "город Ростов-на-Дону"),
        ("стоит уже 5-", "этажный дом", "стоит уже 5-этажный дом"),
    ],
)
def test_a_hyphen_that_belongs_to_the_word_stays(above: str, below: str, whole: str) -> None:
    assert joined(page(1, above), page(2, below)) == whole


@pytest.mark.parametrize(
    ("above", "below"),
    [
        ("Предложение здесь кончилось.", "а это другое"),
        ("Он спросил меня: «Когда?»", "и ушёл"),
        ("Нужно купить следующее:", "чай и сахар"),
        ("чай чёрный, крупный лист;", "сахар"),
        ("Стороны договорились о", "Порядке расчётов"),
        ("Стороны договорились о", "а) порядке расчётов"),
        ("Стороны договорились о", "iv. порядке расчётов"),
        ("Стороны договорились о", "- порядке расчётов"),
        ("Стороны договорились о", "2. порядке расчётов"),
        ("Пишите нам по адресу", "info@example.org"),
        ("Наш сайт в сети", "https://example.org"),
        ("Исполнитель", "директор"),
        ("Подпись и печать ______", "директор"),
        ("Санкт-", "Петербург"),
        ("這是一個文件", "的內容"),
        ("", "начало"),
    ],
)
def test_what_may_not_run_on_stays_apart(above: str, below: str) -> None:
    assert joined(page(1, above), page(2, below)) == "\n\n".join(filter(None, (above, below)))


@pytest.mark.parametrize("label", ["title", "paragraph_title", "table", "display_formula", "figure_title", "reference"])
def test_only_paragraphs_run_on(label: str) -> None:
    above, below = "Стороны договорились о", "следующем порядке"
    assert joined(page(1, block(above, label)), page(2, below)) == f"{above}\n\n{below}"
    assert joined(page(1, above), page(2, block(below, label))) == f"{above}\n\n{below}"


def test_what_stands_around_the_text_comes_behind_the_paragraph_it_parted() -> None:
    above = page(1, "Начало.", "Настоящий доку-", block("сноска", "footnote"), block("1", "number"))
    below = page(2, block("Договор № 7", "header"), "мент.", "Далее.", block("2", "number"))
    assert joined(above, below) == "\n\n".join(
        ["Начало.", "Настоящий документ.", "сноска", "1", "Договор № 7", "Далее.", "2"]
    )


def test_a_paragraph_runs_on_over_many_pages() -> None:
    pages = [page(n, "и ещё одно слово", block(str(n), "number")) for n in range(1, 4)]
    assert joined(*pages) == "и ещё одно слово и ещё одно слово и ещё одно слово\n\n1\n\n2\n\n3"


@pytest.mark.parametrize(
    "between",
    [
        [],
        [page(2)],
        [page(2, block("2", "number"))],
        [Page(number=2, width=1, height=1, dpi=72, error=ErrorInfo(code="page_timeout", message="Too slow."))],
    ],
    ids=["page left out", "blank page", "only a number", "failed page"],
)
def test_nothing_runs_on_past_a_page_that_is_not_there(between: list[Page]) -> None:
    text = joined(page(1, "Настоящий доку-"), *between, page(3, "мент составлен"))
    assert text.startswith("Настоящий доку-\n\n") and text.endswith("\n\nмент составлен")


def test_blocks_of_one_group_are_one_paragraph() -> None:
    one = page(1, block("Первая колонка продол-", group=4), block("жается во второй.", group=4), block("Иное", group=5))
    assert joined(one) == "Первая колонка продолжается во второй.\n\nИное"
    whole_in_the_first = page(1, block("Первая и вторая", group=4), block("", group=4), block("Иное", group=5))
    assert joined(whole_in_the_first) == whole_in_the_first.text


def test_a_table_that_has_the_number_of_a_group_by_chance_stays_apart() -> None:
    one = page(1, block("текст без конца", group=4), block("а\tб", "table", group=4), block("текст", group=4))
    assert joined(one) == one.text


@pytest.mark.parametrize(
    "one",
    [
        page(1, "Абзац без конца и", block("1", "number"), block("низ", "footer")),
        page(1, "  отступ \n и строки-\nпереносы  ", "второй", ""),
        Page(number=1, width=1, height=1, dpi=72, text="текст без блоков и точки"),
        Page(number=1, width=1, height=1, dpi=72, text="блоки\nиначе", blocks=[block("блоки иначе")]),
    ],
)
def test_a_single_page_reads_as_its_text(one: Page) -> None:
    assert joined(one) == one.text


def test_pages_without_text_leave_no_gap() -> None:
    assert joined(page(1), page(2, "а."), page(3), page(4, "б.")) == "а.\n\nб."
    assert joined() == joined(page(1)) == ""


def test_text_comes_out_while_pages_still_come_in() -> None:
    drawn = 0

    def pages() -> Iterator[Page]:
        nonlocal drawn
        for drawn in range(1, 301):
            yield page(drawn, f"Страница {drawn}.")

    pieces = document_text(pages())
    assert (next(pieces), drawn) == ("Страница 1.", 1)
    assert sum(1 for _ in pieces) == 299


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Съешь же ещё\tчаю\n", "Съешь же ещё\tчаю\n"),
        ("a\x00b\x1b[0m\x7f\x9f\ufffe\ud800", "ab[0m"),
        ("a\r\nb\rc\vd\fe\x85f", "a\nb\nc\nd\ne\nf"),
        ("漢字 😀 \ufffd", "漢字 😀 \ufffd"),
    ],
)
def test_characters_that_xml_forbids(text: str, clean: str) -> None:
    assert xml_text(text) == clean


@pytest.mark.parametrize("letters", ["а" * 300_000, "а" * 300_000 + "-", "а1" * 150_000, "-" * 300_000, "а-" * 150_000])
def test_a_word_without_an_end_costs_no_more_than_its_length(letters: str) -> None:
    started = time.perf_counter()
    text = "".join(document_text(page(number, letters) for number in range(1, 4)))
    assert time.perf_counter() - started < 1
    assert len(text) > 890_000


def test_text_that_runs_on_over_very_many_pages_costs_no_more_than_its_length() -> None:
    line = "и ещё немного текста " * 2_000 + "и"
    started = time.perf_counter()
    text = "".join(document_text(page(number, line) for number in range(1, 501)))
    assert time.perf_counter() - started < 5
    assert text.count("\n\n") == 4 and text.split() == " ".join([line] * 500).split()


def test_with_marks_each_page_begins_with_its_number_and_paragraphs_end_with_their_page() -> None:
    pages = [page(1, "Настоящий доку-"), page(2), page(3, "мент составлен")]
    assert (
        "".join(document_text(pages, marks=True))
        == "[page 1]\n\nНастоящий доку-\n\n[page 2]\n\n[page 3]\n\nмент составлен"
    )
