"""Page ranges, as clients write them."""

from __future__ import annotations

import pytest

from serve_app.document.page_ranges import page_ranges, parse_page_ranges, select_pages


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1", [1]),
        ("1-3, 7", [1, 2, 3, 7]),
        ("9-", [9, 10]),
        ("3,1-2,2", [1, 2, 3]),
        ("10", [10]),
        ("1-10", [*range(1, 11)]),
    ],
)
def test_ranges_select_pages_once_and_in_order(text: str, numbers: list[int]) -> None:
    assert select_pages(parse_page_ranges(text), 10) == numbers


@pytest.mark.parametrize(
    "text", ["", "0", "0-3", "9-3", "-3", "a", "1-2-3", "1,", "1.5", "+1", "١", "1\n2", "99999999999", "1-0"]
)
def test_a_malformed_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_page_ranges(text)


@pytest.mark.parametrize("text", ["11", "1-11", "11-", "999999999", "1-999999999"])
def test_a_page_past_the_end_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"there is no page \d+: the document has 10 pages"):
        select_pages(parse_page_ranges(text), 10)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([1], "1"), ([2, 3], "2-3"), ([1, 3, 4, 9], "1,3-4,9"), ([1, 3, 5, 6, 8], "1,3,5-")],
)
def test_page_numbers_are_written_as_ranges_of_which_there_are_not_too_many(numbers: list[int], text: str) -> None:
    assert page_ranges(numbers, most=3) == text
