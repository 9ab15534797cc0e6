"""Who is told when a job is at its end: a signed POST, tried again for a day.

Signed as Standard Webhooks has it (webhook-id, webhook-timestamp, webhook-signature), for which there are libraries
in most languages: HMAC-SHA256 of "id.timestamp.body", with a secret that is in OCR_WEBHOOK_SECRET.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

from serve_app.errors import ServiceError
from serve_app.jobs.job_store import JobStore
from serve_app.jobs.record import JobRecord, told
from serve_app.storage import StoreUnavailable

log = logging.getLogger("ray.serve.jobs")

PAUSES_S = (5.0, 30.0, 120.0, 600.0, 3600.0)
"""After the first tries; the last one from then on."""

AT_ONCE = 16
"""Deliveries at a time: after an outage there may be thousands."""

PATIENCE_S = 86_400

Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[int]]
"""Sends a body with headers to a URL, and gives the status of the answer. Raises ServiceError."""


class Webhooks:
    """Delivers what the ledger says is to be delivered."""

    def __init__(self, job_store: JobStore, post: Post, secret: str | None) -> None:
        self._job_store = job_store
        self._post = post
        self._key = None if secret is None else signing_key(secret)
        self._deliveries: dict[str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(AT_ONCE)

    def deliver(self, record: JobRecord) -> None:
        """Begin to deliver, or go on; does nothing where that is being done, or nothing is to be told."""
        if record.webhook is None or record.webhook.state != "pending" or record.id in self._deliveries:
            return
        task = asyncio.create_task(self._deliver(record))
        self._deliveries[record.id] = task
        task.add_done_callback(lambda _: self._deliveries.pop(record.id, None))

    def is_delivering(self, job_id: str) -> bool:
        return job_id in self._deliveries

    async def stop(self, job_id: str) -> None:
        """Tell nothing more of a job; on return nothing of it is written either."""
        task = self._deliveries.get(job_id)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _deliver(self, record: JobRecord) -> None:
        webhook = record.webhook
        assert webhook is not None and record.ended is not None
        give_up = record.ended.timestamp() + PATIENCE_S
        while not await self._is_gone(record.id):
            webhook.attempts += 1
            webhook.last_at = datetime.now(UTC)
            async with self._places:
                webhook.last_answer = await self._tried(record, webhook.url)
            if webhook.last_answer.isdecimal() and 200 <= int(webhook.last_answer) < 300:
                webhook.state = "delivered"
            elif time.time() >= give_up:
                webhook.state = "failed"
            log.info("job %s: webhook, try %d: %s", record.id, webhook.attempts, webhook.last_answer)
            try:
                latest = await self._job_store.record(record.id)
                if latest.state.is_gone:
                    return
                await self._job_store.save_webhook(latest.model_copy(update={"webhook": webhook}))
            except (StoreUnavailable, KeyError, ValueError) as error:
                log.warning("job %s: what became of its webhook is not kept: %s", record.id, error)
            if webhook.state != "pending":
                return
            await asyncio.sleep(PAUSES_S[min(webhook.attempts, len(PAUSES_S)) - 1])

    async def _is_gone(self, job_id: str) -> bool:
        """Whether the job was deleted meanwhile, of which nothing is told any more."""
        try:
            return (await self._job_store.record(job_id)).state.is_gone
        except (StoreUnavailable, ValueError):
            return False
        except KeyError:
            return True

    async def _tried(self, record: JobRecord, url: str) -> str:
        """The status of the answer, or the code of what went wrong."""
        if self._key is None:
            return "no_secret"
        body = json.dumps({"type": "job.ended", "job": told(record)}, ensure_ascii=False).encode()
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
    """As Standard Webhooks writes secrets: `whsec_` and base64; any other text is taken as it is."""
    try:
        return (
            base64.b64decode(secret.removeprefix("whsec_"), validate=True)
            if secret[:6] == "whsec_"
            else secret.encode()
        )
    except binascii.Error:
        return secret.encode()


def signature(key: bytes, webhook_id: str, timestamp: str, body: bytes) -> str:
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, "sha256").digest()).decode()
