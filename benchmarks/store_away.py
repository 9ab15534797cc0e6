"""Response times while the store is there, stopped, there again, hanging, and there again; and whether a result is lost.

A real S3 server (the Swift of the tests) runs beside the service. Its processes are ended and started again with the same data,
then suspended (SIGSTOP) and continued. The simulated engine bounds the pages a second, so that a response that waits
for the store shows in the times.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from PIL import Image

from benchmarks.report import Cell, Report, Table, Target
from benchmarks.service import running_service, service_config, session_of
from tests.support.swift import free_port
from tests.support.swift_fixture import SwiftServer, running_swift

SUMMARY = "response times and results while the S3 store is stopped, and while it hangs"

PREFIX = "benchmark"
CLIENTS = 16
PAGE_S = 0.1
WARM_UP_S = 5
MOST_SLOWER = 1.2
SENT_WITHIN_S = 300
POLL_S = 1.0


@dataclass(frozen=True)
class Response:
    """When it was asked for and had (s), the id of its document, and `storage.status`, or an error in its place."""

    asked: float
    had: float
    document: str
    storage: str


@dataclass(frozen=True)
class Phase:
    """What the store did, and when (s)."""

    name: str
    begun: float
    ended: float


class Store:
    """The S3 server, which can be stopped and started again with its data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._running = ExitStack()
        self.server = self.start()

    def start(self) -> SwiftServer:
        self.server = self._running.enter_context(running_swift(self._folder, self._port))
        return self.server

    def stop(self) -> None:
        self._running.close()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--there", type=float, default=30, help="seconds with the store there, before (default 30)")
    parser.add_argument(
        "--again", type=float, default=20, help="the same, after each time that it is away (default 20)"
    )
    parser.add_argument("--away", type=float, default=60, help="seconds stopped, and hanging (default 60)")


def run(arguments: argparse.Namespace) -> Report:
    with tempfile.TemporaryDirectory(prefix="ocr-", dir="/tmp") as name:
        folder = Path(name)
        store = Store(folder / "swift")
        try:
            settings, keys = store.server.store_settings(PREFIX)
            config = service_config(folder, {"name": "dummy", "replicas": 1, "page_s": PAGE_S, "max_batch": 1})
            config["applications"][0]["args"]["store"] = settings
            with _environment(keys), running_service(config, folder) as (address, _):
                phases, responses, waited_s, stored = asyncio.run(_measure(address, store, arguments))
        finally:
            store.stop()
    return _report(phases, responses, stored, waited_s)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


async def _measure(
    address: str, store: Store, arguments: argparse.Namespace
) -> tuple[list[Phase], list[Response], float, set[str]]:
    """Return the phases, all responses, the seconds until the spool was empty, and the documents then in the store."""
    responses: list[Response] = []
    phases: list[Phase] = []
    page = _page()
    over = asyncio.Event()

    async def client() -> None:
        while not over.is_set():
            responses.append(await _ask(session, page))

    async def phase(name: str, seconds: float) -> None:
        print(f"the store is {name}", flush=True)
        begun = time.monotonic()
        await asyncio.sleep(seconds)
        phases.append(Phase(name, begun, time.monotonic()))

    async with session_of(address) as session:
        clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
        await asyncio.sleep(WARM_UP_S)
        await phase("there", arguments.there)
        stopping = asyncio.create_task(asyncio.to_thread(store.stop))
        await phase("stopped", arguments.away)
        await stopping
        await asyncio.to_thread(store.start)
        await phase("there again", arguments.again)
        with store.server.away():
            await phase("hanging", arguments.away)
        await phase("there once more", arguments.again)
        over.set()
        await asyncio.gather(*clients)
        waited_s = await _until_sent(session)
    # Here, since the server is told to end with the thread that has started it, which is one of this event loop.
    written = await asyncio.to_thread(store.server.written, PREFIX)
    return phases, responses, waited_s, {key.split("/")[-2] for key in written if key.endswith("/result.json")}


async def _ask(session: aiohttp.ClientSession, page: bytes) -> Response:
    form = aiohttp.FormData()
    form.add_field("file", page, filename="page.png")
    asked = time.monotonic()
    try:
        async with session.post("/ocr", data=form) as response:
            body: dict[str, Any] = await response.json()
    except aiohttp.ClientError as error:
        return Response(asked, time.monotonic(), "", type(error).__name__)
    had = time.monotonic()
    if response.status != 200:
        return Response(asked, had, "", f"{response.status} {body['error']['code']}")
    return Response(asked, had, body["id"], body["storage"]["status"])


async def _until_sent(session: aiohttp.ClientSession) -> float:
    """Wait until nothing is in the spool. Returns the seconds that it took."""
    begun = time.monotonic()
    while time.monotonic() - begun < SENT_WITHIN_S:
        async with session.get("/health") as response:
            waiting = (await response.json())["spool"]
        if waiting["results"] == 0:
            break
        await asyncio.sleep(POLL_S)
    return time.monotonic() - begun


def _page() -> bytes:
    pixels = np.full((800, 600), 255, np.uint8)
    pixels[50:500:10, 50:550] = 0
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _report(phases: Sequence[Phase], responses: Sequence[Response], stored: set[str], waited_s: float) -> Report:
    answered = [each for each in responses if each.document]
    lost = {each.document for each in answered} - stored
    rows: list[tuple[Cell, ...]] = []
    p95 = {}
    for phase in phases:
        # A request that is in flight when the store goes away is the one that may wait for it.
        mine = [each for each in responses if phase.begun <= each.had < phase.ended]
        times = [each.had - each.asked for each in mine]
        p95[phase.name] = float(np.percentile(times, 95))
        counts = Counter(each.storage for each in mine)
        told = ", ".join(f"{count} {storage}" for storage, count in counts.most_common())
        rows.append((phase.name, len(mine), *(f"{np.percentile(times, q):.2f}" for q in (50, 95, 100)), told))
    table = Table(
        f"{CLIENTS} clients; the engine takes {PAGE_S:g} s for a page.",
        ("the store is", "responses", "p50 s", "p95 s", "longest s", "storage.status"),
        rows,
    )
    ends = Table(
        "At the end",
        ("", ""),
        [
            ("responses", len(responses)),
            ("with a result", len(answered)),
            ("of these in the store", len(answered) - len(lost)),
            ("s until the spool was empty", waited_s),
        ],
    )
    targets = [
        Target(
            f"p95 while {name}", p95[name] / p95["there"], MOST_SLOWER, at_least=False, unit="times that with the store"
        )
        for name in ("stopped", "hanging")
    ]
    targets += [
        Target("requests without a result", len(responses) - len(answered), 0, at_least=False, unit="requests"),
        Target("results lost", len(lost), 0, at_least=False, unit="results"),
    ]
    data = {"phases": [asdict(each) for each in phases], "responses": [asdict(each) for each in responses]}
    return Report([table, ends], targets, data)
