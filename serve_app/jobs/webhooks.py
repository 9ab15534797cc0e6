"""Webhooks: a signed POST when a job has ended, retried for a day.

Signed as Standard Webhooks specifies (webhook-id, webhook-timestamp, webhook-signature): HMAC-SHA256 of
"id.timestamp.body" with the secret in OCR_WEBHOOK_SECRET. Most languages have a library that verifies it.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime

from serve_app.errors import ServiceError
from serve_app.jobs.job_store import JobStore
from serve_app.jobs.record import JobRecord
from serve_app.jobs.response import job_payload
from serve_app.metrics.catalogue import WEBHOOK_ATTEMPTS, WEBHOOKS_ENDED
from serve_app.storage import StoreUnavailable

log = logging.getLogger("ray.serve.jobs")

PAUSES_S = (5.0, 30.0, 120.0, 600.0, 3600.0)
"""Pauses between attempts; the last one repeats."""

CONCURRENT_DELIVERIES = 16
"""After an outage thousands may be due at once."""

RETRY_FOR_S = 86_400

Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[int]]
"""Send a body with headers to a URL and return the status of the response. Raises ServiceError."""


class Webhooks:
    """Delivers the webhooks of ended jobs, and records each attempt in the job's record."""

    def __init__(
        self, job_store: JobStore, post: Post, secret: str | None, *, pauses_s: Sequence[float] = PAUSES_S
    ) -> None:
        self._job_store = job_store
        self._post = post
        self._key = None if secret is None else signing_key(secret)
        self._pauses_s = pauses_s
        self._deliveries: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(CONCURRENT_DELIVERIES)

    def deliver(self, record: JobRecord) -> None:
        """Start delivering in the background. Does nothing if it has started already, or if no webhook is pending."""
        if record.webhook is None or record.webhook.state != "pending" or record.id in self._deliveries:
            return
        task = asyncio.create_task(self._deliver(record))
        self._deliveries[record.id] = task
        task.add_done_callback(lambda _: self._deliveries.pop(record.id, None))

    def is_delivering(self, job_id: str) -> bool:
        return job_id in self._deliveries

    async def stop(self, job_id: str) -> None:
        """Stop delivering. On return nothing more is sent or written for this job."""
        task = self._deliveries.get(job_id)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _deliver(self, record: JobRecord) -> None:
        webhook = record.webhook
        assert webhook is not None and record.ended is not None
        deadline = record.ended.timestamp() + RETRY_FOR_S
        while not await self._is_gone(record.id):
            webhook.attempts += 1
            webhook.last_at = datetime.now(UTC)
            async with self._slots:
                webhook.last_answer = await self._attempt(record, webhook.url)
            answer = webhook.last_answer
            WEBHOOK_ATTEMPTS.inc(answer=f"{answer[0]}xx" if answer.isdecimal() else answer)
            if webhook.last_answer.isdecimal() and 200 <= int(webhook.last_answer) < 300:
                webhook.state = "delivered"
            elif time.time() >= deadline:
                webhook.state = "failed"
            log.info("job %s: webhook attempt %d: %s", record.id, webhook.attempts, webhook.last_answer)
            try:
                latest = await self._job_store.record(record.id)
                if latest.state.is_gone:
                    return
                await self._job_store.save_webhook(latest.model_copy(update={"webhook": webhook}))
            except (StoreUnavailable, KeyError, ValueError) as error:
                log.warning("job %s: the outcome of its webhook is not stored: %s", record.id, error)
            if webhook.state != "pending":
                WEBHOOKS_ENDED.inc(state=webhook.state)
                return
            await asyncio.sleep(self._pauses_s[min(webhook.attempts, len(self._pauses_s)) - 1])

    async def _is_gone(self, job_id: str) -> bool:
        """Whether the job has been deleted meanwhile. False if its record cannot be read."""
        try:
            return await self._job_store.is_gone(job_id)
        except StoreUnavailable:
            return False

    async def _attempt(self, record: JobRecord, url: str) -> str:
        """Return the status of the response, or an error code."""
        if self._key is None:
            return "no_secret"
        body = json.dumps({"type": "job.ended", "job": job_payload(record)}, ensure_ascii=False).encode()
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "webhook-id": record.id,
            "webhook-timestamp": timestamp,
            "webhook-signature": signature(self._key, record.id, timestamp, body),
        }
        try:
            return str(await self._post(url, body, headers))
        except ServiceError as error:
            return error.code


def signing_key(secret: str) -> bytes:
    """Decode a secret in the form of Standard Webhooks (`whsec_` and base64); any other text is its own bytes."""
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        return secret.encode()


def signature(key: bytes, webhook_id: str, timestamp: str, body: bytes) -> str:
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, "sha256").digest()).decode()
