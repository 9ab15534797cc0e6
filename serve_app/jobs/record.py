"""What is kept of a job: enough to go on with it after whatever happens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from serve_app.document import ErrorInfo
from serve_app.outputs.formats import OutputFormat
from serve_app.paddlex.job import PaddlexJob
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
        """Nothing is left but the record, which says so."""
        return self in (JobState.EXPIRED, JobState.DELETED)


class Priority(StrEnum):
    INTERACTIVE = "interactive"
    BULK = "bulk"


class OutputFile(BaseModel):
    """A form of the result that was to be kept: its key in the store, or why there is none."""

    key: str | None = None
    error: ErrorInfo | None = None


class Webhook(BaseModel):
    """Who is told of the end. `last_answer` is the status of the last answer, or the code of what went wrong."""

    url: str
    state: Literal["pending", "delivered", "failed"] = "pending"
    attempts: int = 0
    last_at: datetime | None = None
    last_answer: str | None = None


class JobRecord(BaseModel):
    """One job. Times are UTC.

    Fields that were added since have defaults, so that records without them are read; unknown ones are ignored. The
    version changes where that is not enough. `request` was stored as `wish` before.
    """

    version: Literal[1] = 1
    id: str
    owner: str = Field(description="Name of the key it belongs to")
    state: JobState = JobState.QUEUED
    priority: Priority = Priority.INTERACTIVE
    request: DocumentRequest
    url: str | None = Field(None, description="Where the document is fetched; unset: it is stored beside this record")
    file_name: str | None = None
    digest: str | None = Field(None, description="Of the document's content, where its pages are in the cache too")
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    started: datetime | None = None
    ended: datetime | None = None
    expires: datetime | None = None
    webhook: Webhook | None = None
    paddlex: PaddlexJob | None = Field(None, description="Of a job of PaddleOCR's own API")
    page_count: int | None = Field(None, description="Pages of the document, once that is known")
    total: int | None = Field(None, description="Pages that are to be read, once that is known")
    done: int = 0
    failed: int = 0
    error: ErrorInfo | None = None
    outputs: dict[OutputFormat, OutputFile] = Field(default_factory=dict, description="Those that are made")
    waiting_for: str | None = Field(None, description="Why it does not go on just now")

    @model_validator(mode="before")
    @classmethod
    def _rename_stored_fields(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and "wish" in fields:
            fields = {**fields, "request": fields["wish"]}
        return fields

    def ended_as(self, state: JobState, *, keep_s: float, error: ErrorInfo | None = None) -> JobRecord:
        """The job at its end, now."""
        now = datetime.now(UTC)
        expires = now + timedelta(seconds=keep_s)
        return self.model_copy(
            update={"state": state, "ended": now, "expires": expires, "error": error, "waiting_for": None}
        )

    def without_contents(self) -> JobRecord:
        """No more than whose it was, and what became of it: no password, address or name."""
        request = self.request.model_copy(update={"password": None})
        nothing: dict[str, Any] = {"url": None, "file_name": None, "webhook": None, "paddlex": None, "error": None}
        nothing |= {"digest": None, "outputs": {}}
        return self.model_copy(update={**nothing, "request": request})


def record_of(data: bytes) -> JobRecord:
    """A stored record. Raises ValueError for what is none, or of a version that this service does not know."""
    return JobRecord.model_validate_json(data)


def as_stored(record: JobRecord) -> bytes:
    return record.model_dump_json().encode()


class Progress(BaseModel):
    """Of the pages that were asked for."""

    done: int
    failed: int
    total: int | None = Field(description="Unknown until the document is open")


class ToldJob(BaseModel):
    """A job as its owner is told of it. Times are UTC."""

    id: str
    state: JobState = Field(description="`partial`: done, but some pages could not be read")
    priority: Priority
    file_name: str | None = Field(description="As it was sent")
    created: datetime
    started: datetime | None
    ended: datetime | None
    expires: datetime | None = Field(description="When its results are deleted")
    page_count: int | None = Field(description="Pages of the document, also those that were not asked for")
    progress: Progress
    position: int | None = Field(description="Place in the line of those that wait, from 1")
    left_s: float | None = Field(description="Estimate of the seconds left, once the pace is known")
    waiting_for: str | None = Field(description="Why it does not go on just now")
    error: ErrorInfo | None = Field(description="Why it has failed")
    outputs: dict[str, OutputFile] = Field(description="Forms that were wished for, by their names")
    webhook: Webhook | None


class ToldJobs(BaseModel):
    jobs: list[ToldJob]
    more: bool = Field(description="Whether there are older ones: ask with `before`")


def told(record: JobRecord) -> dict[str, Any]:
    """What its owner is told of it."""
    progress = {"done": record.done, "failed": record.failed, "total": record.total}
    shown = record.model_dump(
        mode="json",
        include={
            "id",
            "state",
            "priority",
            "file_name",
            "created",
            "started",
            "ended",
            "expires",
            "page_count",
            "error",
            "webhook",
            "waiting_for",
        },
    )
    ordered = {kind: OutputFile() for kind in record.request.outputs} | record.outputs
    outputs = {str(kind): made.model_dump(mode="json") for kind, made in ordered.items()}
    return {**shown, "outputs": outputs, "progress": progress}
