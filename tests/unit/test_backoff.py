"""Pauses between tries."""

from __future__ import annotations

from itertools import islice

from serve_app.scheduling.backoff import backoff


def test_pauses_double_up_to_the_longest() -> None:
    assert list(islice(backoff(1, 30), 8)) == [1, 2, 4, 8, 16, 30, 30, 30]
    assert list(islice(backoff(5, 2), 2)) == [2, 2]
