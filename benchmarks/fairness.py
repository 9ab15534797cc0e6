"""Measures how long single pages wait beside a long document: a part of the benchmark `documents`.

All pages are alike, so a single page that takes turns with the document's pages waits for at most one of them. With
the engine `dummy`, a page takes `page_s`; with 0, the rasterizer is the bottleneck.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from benchmarks.report import Cell, Table, Target
from benchmarks.scans import pdf_of_scans
from benchmarks.service import pdf_form, running_service, service_config, session_of

BESIDE_PAGES = 300
SLOWER = 3


@dataclass(frozen=True)
class Waits:
    """Latencies of single pages in ms, and the document's pages/s at the same time."""

    engine: str
    alone_ms: list[float]
    beside_ms: list[float]
    pages_per_s: float


def single_pages(folder: Path, pages: Sequence[bytes], *, engine: str, page_s: float, requests: int) -> Waits:
    """Send `requests` single pages one after another: first alone, then beside a document made of the same pages."""
    settings: dict[str, Any] = {"name": "dummy", "replicas": 1, "page_s": page_s, "max_batch": 1}
    if engine == "tesseract":
        settings = {"name": "tesseract", "replicas": os.cpu_count() or 1}
    else:
        engine = f"dummy, {page_s:g} s a page"
    with running_service(service_config(folder, settings), folder) as (address, _):
        return asyncio.run(_measured(address, pages, engine, requests))


async def _measured(address: str, pages: Sequence[bytes], engine: str, requests: int) -> Waits:
    single, document = pdf_of_scans(pages[:1]), pdf_of_scans(pages)
    done = 0
    begun = asyncio.Event()

    async def keep_reading() -> None:
        """Send the document, again and again until the single pages are done."""
        nonlocal done
        while True:
            async with session.post("/ocr", data=pdf_form(document, "ndjson")) as response:
                response.raise_for_status()
                async for chunk in response.content.iter_any():
                    done += chunk.count(b'"progress"')
                    if done:
                        begun.set()

    async with session_of(address) as session:
        print("single pages alone", flush=True)
        await _latency_ms(session, single)
        alone = [await _latency_ms(session, single) for _ in range(requests)]
        print(f"single pages beside {len(pages)} pages", flush=True)
        reading = asyncio.create_task(keep_reading())
        await asyncio.wait({reading, asyncio.ensure_future(begun.wait())}, return_when=asyncio.FIRST_COMPLETED)
        started, done_before = time.perf_counter(), done
        beside = [await _latency_ms(session, single) for _ in range(requests)]
        pages_per_s = (done - done_before) / (time.perf_counter() - started)
        if reading.done():
            reading.result()
        reading.cancel()
        await asyncio.wait({reading})
    return Waits(engine, alone, beside, pages_per_s)


async def _latency_ms(session: aiohttp.ClientSession, file: bytes) -> float:
    started = time.perf_counter()
    async with session.post("/ocr", data=pdf_form(file, "json")) as response:
        body = await response.read()
    if response.status != 200 or b'"status":"done"' not in body:
        raise RuntimeError(f"answer {response.status}: {body[:300]!r}")
    return (time.perf_counter() - started) * 1000


def fairness_table(waits: Waits) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (name, len(latencies), *(float(ms) for ms in np.percentile(latencies, (50, 95))), max(latencies))
        for name, latencies in (("alone", waits.alone_ms), ("beside a long document", waits.beside_ms))
    ]
    return Table(
        f"Single pages, one after another; engine {waits.engine}.\n"
        f"The document beside them did {waits.pages_per_s:.1f} pages/s.",
        ("", "requests", "p50 ms", "p95 ms", "max ms"),
        rows,
    )


def fairness_target(waits: Waits) -> Target:
    alone, beside = (float(np.percentile(latencies, 95)) for latencies in (waits.alone_ms, waits.beside_ms))
    return Target(
        f"p95 beside a long document, engine {waits.engine}",
        beside / alone,
        SLOWER,
        at_least=False,
        unit="times that alone",
    )
