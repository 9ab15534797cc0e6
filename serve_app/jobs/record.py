"""The stored record of a job: enough to resume it after a restart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from serve_app.document import ErrorInfo
from serve_app.outputs.formats import OutputFormat
from serve_app.pipeline.request import DocumentRequest


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DELETED = "deleted"

    @property
    def is_active(self) -> bool:
        return self in (JobState.QUEUED, JobState.RUNNING)

    @property
    def is_gone(self) -> bool:
        """Whether only the record itself is left."""
        return self in (JobState.EXPIRED, JobState.DELETED)


class Priority(StrEnum):
    INTERACTIVE = "interactive"
    BULK = "bulk"


class OutputFile(BaseModel):
    """A requested output: its key in the store once it is made, or why it could not be made."""

    key: str | None = None
    error: ErrorInfo | None = None
    warnings: tuple[str, ...] = Field(
        (), description="Codes of warnings about this file alone, such as `pages_drawn`; pages have their own"
    )
    pages_drawn: tuple[int, ...] = Field((), description="Numbers of the pages of a PDF that are pictures now")


class Webhook(BaseModel):
    """Where to report the job's end. `last_answer` is the status of the last response, or an error code."""

    url: str
    state: Literal["pending", "delivered", "failed"] = "pending"
    attempts: int = 0
    last_at: datetime | None = None
    last_answer: str | None = None


class Dialect(BaseModel):
    """Data that a job needs to write its result in the format of another API."""

    name: str = Field(description="Selects the writer of the result")
    payload: dict[str, Any] = Field(description="For that writer; jobs do not interpret it")


class JobRecord(BaseModel):
    """One job. Times are UTC.

    A field that is added needs a default, so that earlier records can be read; unknown fields are ignored. Increase
    `version` if that is not enough. Earlier records have `wish` for `request`, and `paddlex` for `dialect` and `batch_id`.
    """

    version: Literal[1] = 1
    id: str
    owner: str = Field(description="Name of the API key that submitted the job")
    state: JobState = JobState.QUEUED
    priority: Priority = Priority.INTERACTIVE
    request: DocumentRequest
    url: str | None = Field(None, description="Where to fetch the document; unset: it was uploaded")
    file_name: str | None = None
    digest: str | None = Field(None, description="SHA-256 of the document, if its pages are cached")
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    started: datetime | None = None
    ended: datetime | None = None
    expires: datetime | None = None
    webhook: Webhook | None = None
    batch_id: str | None = Field(None, description="Name that the owner gave to several jobs")
    dialect: Dialect | None = Field(None, description="Set if the result is also written in the form of another API")
    page_count: int | None = Field(None, description="Pages of the document, once it has been opened")
    total: int | None = Field(None, description="Pages to read, once the document has been opened")
    done: int = 0
    failed: int = 0
    error: ErrorInfo | None = None
    outputs: dict[OutputFormat, OutputFile] = Field(default_factory=dict, description="Outputs made so far")
    waiting_for: str | None = Field(None, description="What the job waits for, if it cannot go on now")

    @model_validator(mode="before")
    @classmethod
    def _rename_stored_fields(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        if "wish" in fields:
            fields = {**fields, "request": fields["wish"]}
        if isinstance(fields.get("paddlex"), dict):
            payload = dict(fields["paddlex"])
            batch_id = payload.pop("batch_id", None)
            fields = {**fields, "batch_id": batch_id, "dialect": {"name": "paddlex", "payload": payload}}
        return fields

    def ended_as(self, state: JobState, *, keep_s: float, error: ErrorInfo | None = None) -> JobRecord:
        """Return the record of this job as ended now; its results expire `keep_s` seconds later."""
        now = datetime.now(UTC)
        expires = now + timedelta(seconds=keep_s)
        return self.model_copy(
            update={"state": state, "ended": now, "expires": expires, "error": error, "waiting_for": None}
        )

    def without_contents(self) -> JobRecord:
        """Return the record without what may be confidential: file name, password, URLs, messages."""
        request = self.request.model_copy(update={"password": None})
        cleared = ("url", "file_name", "digest", "webhook", "batch_id", "dialect", "error")
        return self.model_copy(update={**dict.fromkeys(cleared), "outputs": {}, "request": request})


def decode_record(data: bytes) -> JobRecord:
    """Decode a stored record. Raises ValueError if it is damaged or of an unknown version."""
    return JobRecord.model_validate_json(data)


def encode_record(record: JobRecord) -> bytes:
    """Encode a record for the store."""
    return record.model_dump_json().encode()
