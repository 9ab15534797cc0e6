"""The line at the end of a request or job."""

from __future__ import annotations

import asyncio

from serve_app.runtime.end_line import end_line, facts_collected, note, note_stage


def test_a_line_has_its_own_facts_and_then_those_that_were_noted() -> None:
    note(lost="outside")
    with facts_collected():
        note(pages=2, status="partial")
        note(pages=3, stages_ms={"queue": 1, "recognize": 20})
        assert end_line(key="alice", error=None) == "key=alice pages=3 status=partial stages_ms=queue:1,recognize:20"
    assert end_line(key="bob") == "key=bob"


def test_a_stage_after_the_others_is_added_to_them() -> None:
    note_stage("write_output", 1)
    with facts_collected():
        note(stages_ms={"store": 3})
        note_stage("write_output", 2.4)
        note_stage("write_output", 2.4)
        assert end_line() == "stages_ms=store:3,write_output:5"


def test_text_that_could_be_taken_for_other_facts_or_lines_is_quoted() -> None:
    assert end_line(key="Ann Lee", path="/a\nkey=root", none="") == r"key='Ann Lee' path='/a\nkey=root' none=''"


async def test_tasks_note_for_the_request_that_started_them_and_for_no_other() -> None:
    async def request(number: int) -> str:
        with facts_collected():
            await asyncio.create_task(work(number))
            return end_line()

    async def work(number: int) -> None:
        await asyncio.sleep(0)
        note(number=number)

    assert list(await asyncio.gather(request(1), request(2))) == ["number=1", "number=2"]
