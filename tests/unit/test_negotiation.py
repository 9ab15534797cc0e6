from __future__ import annotations

import pytest

from serve_app.ingress.requests.negotiation import best_match, negotiate_format

FORMS = ("application/json", "text/plain", "text/markdown")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/plain", "text/plain"),
        ("text/markdown", "text/markdown"),
        ("text/*", "text/plain"),
        ("text/plain;q=0.5, text/markdown", "text/markdown"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json"),
        ("image/png", "application/json"),
        ("TEXT/PLAIN; charset=utf-8", "text/plain"),
        ("text/plain;q=nonsense, text/markdown;q=0.1", "text/markdown"),
        ("application/json;q=0, text/plain;q=0.1", "text/plain"),
    ],
)
def test_the_form_that_the_client_likes_best(accept: str, expected: str) -> None:
    assert best_match(accept, FORMS) == expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/*", "json"),
        ("text/*", "markdown"),
        ("application/xml, text/xml, */*;q=0.1", "json"),
        ("text/html", "html"),
        ("application/zip", "zip"),
        ("text/vnd.hocr+html", "hocr"),
        ("application/alto+xml", "alto"),
        ("application/vnd.prima.page+xml", "page_xml"),
    ],
)
def test_a_format_is_chosen_by_its_own_media_type_alone(accept: str, expected: str) -> None:
    assert negotiate_format(accept) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", "ru"),
        ("en", "en"),
        ("en-US,en;q=0.9", "en"),
        ("ru-RU,ru;q=0.9,en;q=0.8", "ru"),
        ("de", "ru"),
        ("en-GB", "en"),
    ],
)
def test_russian_is_the_default_language(header: str, expected: str) -> None:
    assert best_match(header, ("ru", "en")) == expected
