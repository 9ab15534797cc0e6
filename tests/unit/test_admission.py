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


def test_extra_slots_leave_half_of_all_free() -> None:
    admission = Admission(5)
    with admission.slot():
        assert admission.try_acquire_extra()
        assert not admission.try_acquire_extra()
        admission.release_extra()
        assert admission.in_use == 1


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
