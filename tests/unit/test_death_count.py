"""Documents that have taken down so many processes are given up."""

from __future__ import annotations

from serve_app.runtime.death_count import DeathCount


def test_a_document_is_given_up_after_so_many_deaths() -> None:
    deaths = DeathCount(2)
    deaths.add("a")
    deaths.add("b")
    assert not deaths.is_given_up("a") and not deaths.is_given_up("never seen")
    deaths.add("a")
    assert deaths.is_given_up("a") and not deaths.is_given_up("b")
    deaths.forget("a")
    deaths.forget("never seen")
    assert not deaths.is_given_up("a")


def test_the_documents_of_the_latest_deaths_are_remembered() -> None:
    deaths = DeathCount(1, remembered=2)
    for document in ("a", "b", "a", "c"):
        deaths.add(document)
    assert [deaths.is_given_up(document) for document in ("a", "b", "c")] == [True, False, True]
