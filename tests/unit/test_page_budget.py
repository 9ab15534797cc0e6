"""The budget of a page: what its blocks may still cost, and what is told of those that got less."""

from __future__ import annotations

import math

import pytest

from serve_app.recognition.engines.paddleocr_vl.budget import PageBudget, Shortfall


def budget(*, left_s: float = 60, tokens: int = 1000, block_tokens: int = 100) -> PageBudget:
    made = PageBudget(seconds=left_s, tokens=tokens, block_tokens=block_tokens)
    made.start()
    return made


def codes(page: PageBudget) -> list[str]:
    return [warning.code for warning in page.warnings()]


@pytest.mark.parametrize(("wanted", "allowed"), [(None, 100), (0, 100), (7, 7), (100, 100), (4096, 100)])
def test_a_block_may_have_what_it_wants_up_to_the_limit_of_a_block(wanted: int | None, allowed: int) -> None:
    assert budget().next_block(wanted) == allowed


def test_a_page_without_trouble_has_no_warnings() -> None:
    page = budget()
    for _ in range(3):
        page.next_block(None)
        page.done(50)
    assert (page.read, page.warnings()) == (3, [])
    assert not page.ran_out_of_time()


def test_the_last_block_gets_what_is_left_of_the_pages_tokens_and_the_next_ones_nothing() -> None:
    page = budget(tokens=130)
    page.done(page.next_block(None))
    assert page.next_block(None) == 30
    page.done(30, cut=True)
    assert [page.next_block(None), page.next_block(1)] == [0, 0]
    assert page.read == 2
    messages = {warning.code: warning.message for warning in page.warnings()}
    assert messages == {
        "page_out_of_tokens": "The page ran out of tokens: 2 block(s) are missing.",
        "block_cut": "1 block(s) reached the limit of tokens and are cut.",
    }
    assert not page.ran_out_of_time()


def test_blocks_in_flight_together_may_pass_the_pages_tokens_but_none_is_begun_after() -> None:
    page = budget(tokens=150)
    assert [page.next_block(None), page.next_block(None)] == [100, 100]
    page.done(100)
    page.done(100)
    assert page.next_block(None) == 0


def test_after_the_deadline_no_block_is_begun() -> None:
    page = budget(left_s=-1, tokens=0)
    assert page.next_block(None) == 0
    assert page.ran_out_of_time() and codes(page) == ["page_out_of_time"]  # not also out of tokens


@pytest.mark.parametrize(("left_s", "code"), [(60, "block_cut"), (-1, "page_out_of_time")])
def test_a_cut_block_is_blamed_on_what_cut_it(left_s: float, code: str) -> None:
    page = budget(left_s=left_s)
    page.done(10, cut=True)
    assert page.read == 1 and codes(page) == [code]


def test_time_runs_down() -> None:
    page = PageBudget(seconds=math.inf, tokens=1, block_tokens=1)
    assert page.left_s == math.inf
    left = budget(left_s=60)
    assert 50 < left.left_s <= 60


def test_each_kind_of_shortfall_has_one_warning_with_its_number() -> None:
    page = budget()
    for shortfall in (*Shortfall, *Shortfall):
        page.note(shortfall)
    assert codes(page) == list(Shortfall)
    assert all("2 block(s)" in warning.message for warning in page.warnings())
