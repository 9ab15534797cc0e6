"""Document ids: ordered by time."""

from __future__ import annotations

import time

from serve_app.document.ids import new_document_id


def test_later_ids_are_greater() -> None:
    ids = []
    for _ in range(3):
        ids.append(new_document_id())
        time.sleep(0.002)
    assert ids == sorted(ids) and all(len(each) == len("20261125-") + 24 for each in ids)
