"""Results in the form of another API (a dialect). Jobs know only the dialect's name and its writer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Protocol

from serve_app.pipeline.document_run import DocumentRun
from serve_app.pipeline.documents import Documents
from serve_app.settings import Settings
from serve_app.storage.links import Links


class ResultWriter(Protocol):
    """Writes the result of a job as the clients of one dialect expect it."""

    file_name: str
    """Name of the result in the document's folder."""

    media_type: str

    async def write(self, payload: Mapping[str, Any], run: DocumentRun, file: BinaryIO) -> None:
        """Write the result of a finished run into an empty file. Raises ServiceError and StoreUnavailable."""


ResultWriterFactory = Callable[[Settings, Documents, Links], ResultWriter]
