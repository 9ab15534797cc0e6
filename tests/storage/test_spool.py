"""Results while the store, a real S3 server, is stopped, hangs or refuses: nothing is lost, and nobody waits for it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from serve_app.document import DocumentSummary
from serve_app.document.outline import Structure
from serve_app.pipeline.results import Results
from serve_app.settings import S3StoreSettings, Secrets
from serve_app.storage import spooled_writes
from serve_app.storage.monitor import StoreMonitor
from serve_app.storage.s3 import Patience, S3Store
from serve_app.storage.sender import SpoolSender
from serve_app.storage.spool import ResultSpool
from serve_app.storage.spooled_writes import SpooledWrites
from tests.support.swift import free_port
from tests.support.swift_fixture import SwiftServer, running_swift
from tests.support.two_pages import TwoPages, opened, read

IMPATIENT = Patience(connect_s=0.5, read_s=1, attempts=1)
WAIT_S = 60


@dataclass(frozen=True)
class Process:
    """What a process of the service has of the store and of the spool."""

    results: Results
    store: S3Store
    monitor: StoreMonitor
    spool: ResultSpool
    sender: SpoolSender
    folder: Path

    async def document(self) -> DocumentSummary:
        """Read a document of two pages, and store it."""
        with await opened(self.folder, TwoPages(Structure()), results=self.results) as run:
            await read(run)
            return await run.finish()

    async def until_sent(self) -> None:
        """Send what waits, and what others have left."""
        async with asyncio.timeout(WAIT_S):
            await asyncio.to_thread(self.spool.look_around)
            while self.spool.waiting.results:
                await self.sender.send()


def is_degraded(service: Process) -> bool:
    return service.monitor.degraded


async def nothing_is_gone(name: str) -> bool:
    return False


def secrets_of(server: SwiftServer, secret_key: str | None = None) -> Secrets:
    secret = SecretStr(secret_key or server.secret_key)
    return Secrets(api_keys=None, s3_access_key_id=SecretStr(server.access_key), s3_secret_access_key=secret)


@asynccontextmanager
async def process(
    server: SwiftServer, folder: Path, *, prefix: str = "results", max_bytes: int = 10**7, secret_key: str | None = None
) -> AsyncIterator[Process]:
    values, _ = server.store_settings(prefix)
    settings = S3StoreSettings.model_validate({**values, "keep_source": True})
    store = S3Store(settings, secrets_of(server, secret_key), patience=IMPATIENT)
    monitor = StoreMonitor(store)
    spool = ResultSpool(folder / "spool", max_bytes)
    results = Results(store, monitor, keep_source=True, writes=SpooledWrites(store, monitor, spool))
    sender = SpoolSender(spool, store, monitor, nothing_is_gone, first_pause_s=0.1, longest_pause_s=0.2)
    try:
        yield Process(results, store, monitor, spool, sender, folder)
    finally:
        spool.close()
        await store.close()


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


def objects_of(server: SwiftServer, prefix: str) -> dict[str, bytes]:
    """The stored results, by their names below their documents' folders."""
    keys = [key for key in server.written(prefix) if not key.endswith(".write-check")]
    return {key: server.client.get_object(Bucket=server.bucket, Key=key)["Body"].read() for key in keys}


def assert_whole(server: SwiftServer, prefix: str, *summaries: DocumentSummary) -> None:
    """All of the documents is stored, and nothing else, as if the store had been there."""
    stored = objects_of(server, prefix)
    assert sorted(stored) == sorted(key for summary in summaries for key in summary.storage.keys.values())
    for summary in summaries:
        keys = summary.storage.keys
        assert keys.keys() > {"result", "markdown", "source"}, "and figures"
        document = json.loads(stored[keys["result"]])
        assert document["id"] == summary.id and document["text"].startswith("Глава")
        assert document["storage"] == {"status": "stored", "uri": summary.storage.uri, "keys": keys}
        assert stored[keys["source"]] == b"%PDF-"


async def test_what_waits_while_the_server_is_stopped_is_sent_when_it_is_back_also_by_another_process(
    tmp_path: Path,
) -> None:
    port = free_port()
    with running_swift(tmp_path / "swift", port) as server:
        async with process(server, tmp_path) as before:
            stored = await before.document()
            assert stored.storage.status == "stored" and before.spool.waiting.results == 0
    async with process(server, tmp_path) as first:
        spooled = [await first.document() for _ in range(3)]
        assert [each.storage.status for each in spooled] == ["spooled"] * 3
        assert first.spool.waiting.results == 3 and first.monitor.degraded
        assert await first.sender.send() == 0 and first.spool.waiting.results == 3
    async with process(server, tmp_path) as second:
        await asyncio.to_thread(second.spool.look_around)
        assert second.spool.waiting.results == 3, "a restart loses nothing"
        with running_swift(tmp_path / "swift", port):
            await second.until_sent()
            assert_whole(server, "results", stored, *spooled)
            times = [server.written("results")[each.storage.keys["result"]] for each in spooled]
            assert times == sorted(times)
            again = await second.document()
            assert again.storage.status == "stored" and not second.monitor.degraded


async def test_only_the_first_waits_for_a_server_that_hangs(
    swift: SwiftServer, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs_after_s = 2.0
    monkeypatch.setattr(spooled_writes, "PUT_S", hangs_after_s)
    async with process(swift, tmp_path, prefix=prefix) as service:
        stored = await service.document()
        with swift.away():
            spooled = [await service.document() for _ in range(3)]
            sending = asyncio.create_task(service.sender.run())
            spooled += [await service.document() for _ in range(3)]
            sending.cancel()
        assert [stored.storage.status, *(each.storage.status for each in spooled)] == ["stored", *["spooled"] * 6]
        took_s = [each.timings_ms["store"] / 1000 for each in spooled]
        assert took_s[0] >= hangs_after_s > max(took_s[1:])
        await service.until_sent()
    assert_whole(swift, prefix, stored, *spooled)


async def test_what_a_server_refuses_waits_until_it_takes_it(swift: SwiftServer, prefix: str, tmp_path: Path) -> None:
    async with process(swift, tmp_path, prefix=prefix, secret_key="wrong") as refused:
        spooled = [await refused.document() for _ in range(2)]
        assert await refused.sender.send() == 0
    assert [each.storage.status for each in spooled] == ["spooled"] * 2
    async with process(swift, tmp_path, prefix=prefix) as service:
        await asyncio.to_thread(service.spool.look_around)
        await service.until_sent()
    assert_whole(swift, prefix, *spooled)


async def test_what_a_full_bucket_refuses_waits_until_there_is_room(
    swift: SwiftServer, prefix: str, tmp_path: Path
) -> None:
    async with process(swift, tmp_path, prefix=prefix) as service:
        with swift.full():
            spooled = [await service.document() for _ in range(2)]
            assert [each.storage.status for each in spooled] == ["spooled"] * 2
            assert await service.sender.send() == 0 and is_degraded(service)
        await service.until_sent()
        assert not is_degraded(service)
    assert_whole(swift, prefix, *spooled)


async def test_beyond_its_bound_the_response_says_that_nothing_was_stored(
    swift: SwiftServer, prefix: str, tmp_path: Path
) -> None:
    async with process(swift, tmp_path, prefix=prefix, max_bytes=20_000, secret_key="wrong") as service:
        statuses = [(await service.document()).storage.status for _ in range(20)]
        assert "spooled" in statuses and statuses[-1] == "failed"
        assert service.spool.waiting.bytes <= 20_000
        assert service.spool.waiting.results == statuses.count("spooled")
