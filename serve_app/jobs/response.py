"""Job models for the owner: in responses, events and webhooks."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from serve_app.document import ErrorInfo
from serve_app.jobs.progress import JobView
from serve_app.jobs.record import JobRecord, JobState, OutputFile, Priority, Webhook


class Progress(BaseModel):
    """Counts of the requested pages."""

    done: int
    failed: int
    total: int | None = Field(description="Unknown until the document has been opened")


class JobResponse(BaseModel):
    """A job. Times are UTC."""

    id: str
    state: JobState = Field(description="`partial`: done, but some pages could not be read")
    priority: Priority
    file_name: str | None = Field(description="Name of the uploaded file")
    created: datetime
    started: datetime | None
    ended: datetime | None
    expires: datetime | None = Field(description="When the results are deleted")
    page_count: int | None = Field(description="Pages of the document, including those not requested")
    progress: Progress
    position: int | None = Field(description="Position in the queue, from 1, while the job waits")
    left_s: float | None = Field(description="Estimated seconds until the job is done, once its pace is known")
    waiting_for: str | None = Field(description="What the job waits for, if it cannot go on now")
    error: ErrorInfo | None = Field(description="Why the job failed")
    outputs: dict[str, OutputFile] = Field(description="The requested output formats, by name")
    webhook: Webhook | None


class JobListResponse(BaseModel):
    jobs: list[JobResponse]
    more: bool = Field(description="Whether there are older jobs; pass the last id as `before` to get them")


_SAME_AS_RECORDED = {
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
}


def job_payload(record: JobRecord) -> dict[str, Any]:
    """Return the fields of JobResponse that follow from the record alone."""
    requested = {output: OutputFile() for output in record.request.outputs}
    outputs = {str(output): file.model_dump(mode="json") for output, file in (requested | record.outputs).items()}
    progress = {"done": record.done, "failed": record.failed, "total": record.total}
    recorded = record.model_dump(mode="json", include=_SAME_AS_RECORDED)
    return {**recorded, "outputs": outputs, "progress": progress}


def job_response(view: JobView) -> dict[str, Any]:
    """Return the fields of JobResponse."""
    return {**job_payload(view.record), "position": view.position, "left_s": view.left_s}
