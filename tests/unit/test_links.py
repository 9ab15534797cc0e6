from __future__ import annotations

from pathlib import Path

import pytest
from starlette.requests import Request

from serve_app.settings import FolderStoreSettings, Settings
from serve_app.storage.folder import FolderStore
from serve_app.storage.links import Links


@pytest.mark.parametrize(
    ("public_url", "root_path", "begins"),
    [
        (None, "", "http://ocr.local:8081/files/a/b.jpg?expires="),
        (None, "/deep/app", "http://ocr.local:8081/deep/app/files/a/b.jpg?expires="),
        ("https://ocr.example.com", "/app", "https://ocr.example.com/files/a/b.jpg?expires="),
        ("https://ocr.example.com/read/", "", "https://ocr.example.com/read/files/a/b.jpg?expires="),
    ],
)
def test_links_begin_with_the_address_that_clients_see(
    tmp_path: Path, public_url: str | None, root_path: str, begins: str
) -> None:
    scope = {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "path": f"{root_path}/ocr",
        "root_path": root_path,
        "query_string": b"",
        "headers": [(b"host", b"ocr.local:8081")],
    }
    store = FolderStore(FolderStoreSettings(path=str(tmp_path)))
    links = Links(store, Settings(public_url=public_url))
    assert links.url("a/b.jpg", links.base_url(str(Request(scope).base_url))).startswith(begins)
