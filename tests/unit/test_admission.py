from __future__ import annotations

from contextlib import ExitStack

import pytest

from serve_app.errors import QueueFull, ServiceUnavailable
from serve_app.scheduling.admission import Admission, SharedAdmission


def test_a_slot_is_free_again_whatever_happens_in_it() -> None:
    admission = Admission(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), admission.slot():
            raise ZeroDivisionError
    with admission.slot(), pytest.raises(QueueFull) as refused, admission.slot():
        pass
    assert refused.value.retry_after_s
    assert admission.in_use == 0


def test_the_limit_may_change_while_slots_are_in_use() -> None:
    limit = 1
    admission = Admission(lambda: limit)
    with admission.slot():
        with pytest.raises(QueueFull), admission.slot():
            pass
        limit = 2
        with admission.slot():
            limit = 1
            assert admission.in_use == 2
        with pytest.raises(QueueFull), admission.slot():
            pass


def test_a_closed_pool_admits_nobody_and_slots_in_use_stay_valid() -> None:
    admission = Admission(2)
    with admission.slot():
        admission.close()
        assert admission.is_closed and admission.in_use == 1
        with pytest.raises(ServiceUnavailable), admission.slot():
            pass
    assert admission.in_use == 0


def test_an_owner_has_no_more_than_its_share() -> None:
    shared = SharedAdmission(3, each=2)
    with ExitStack() as slots:
        slots.enter_context(shared.slot("a"))
        slots.enter_context(shared.slot("a"))
        with pytest.raises(QueueFull), shared.slot("a"):
            pass
        slots.enter_context(shared.slot("b"))
        with pytest.raises(QueueFull), shared.slot("c"):
            pass
    with shared.slot("a"), shared.slot("c"):
        assert set(shared._in_use) == {"a", "c"}
    assert not shared._in_use, "owners without a slot are forgotten"
