"""What long documents cost: the memory of every process by the number of pages, and how long others wait meanwhile.

Memory: one service, warmed up, reads documents of more and more pages, and then a short one again. Pages are
scans of dense text; the engine is `dummy`, whose pages have words (see dense_reader.py), as the way of a page is the
same for each engine, and a thousand pages are read in a minute. The answers are taken in full.
A process may have the document's file once and grow little beside it, however many the pages. Ray's object store is
apart: it holds the pixels of the pages in flight, and those that are done until Ray frees them, some seconds later.

Fairness: single pages, one after another, first alone and then while a long document is worked on.
All pages are alike, so a single one that takes turns with the document's waits for one of them at most.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import aiohttp
import numpy as np
import psutil
from matplotlib.figure import Figure

from benchmarks.memory import MemoryPeaks, MemoryWatch
from benchmarks.report import Cell, Report, Table, Target
from benchmarks.scans import TEXT, pdf_of_scans, scans
from benchmarks.service import KEY, running_service

SUMMARY = "memory by the pages of a document, and single pages beside a long one"

GROWTH_MB = 30  # of a process, beside the document's file
FILES = 3  # of all processes: as it comes in, in the decoder and in the PDF writer
STORED_PAGES = 100  # of pixels in Ray's object store; 16 are in flight
PAGE_MB = 11.6  # A4 at 200 dpi
WARM_UP_PAGES = 20
BESIDE_PAGES = 300
SLOWER = 3
COLOURS = {
    "ingress": "#0b6e4f",
    "proxy": "#7fb69e",
    "rasterizer": "#e07a1f",
    "decoder": "#b23a48",
    "recognizers": "#3d5a80",
    "PDF writer": "#8e6c8a",
    "object store": "black",
}
PAGE_S = 0.1  # of the engine `dummy`, where single pages wait
REQUEST_S = 1800


@dataclass(frozen=True)
class Run:
    """One document. `file_mb` and `answer_mb` are what was sent and what came back, in MB."""

    pages: int
    file_mb: float
    answer_mb: float
    seconds: float
    peaks: MemoryPeaks


@dataclass(frozen=True)
class Waits:
    """Latencies of single pages in ms, and the document's pages a second meanwhile."""

    alone_ms: list[float]
    beside_ms: list[float]
    pages_per_s: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pages", type=int, nargs="*", default=[50, 200, 500, 1000], help="default 50 200 500 1000; none: no memory"
    )
    parser.add_argument("--outputs", nargs="+", choices=("json", "zip"), default=["json", "zip"], help="default both")
    parser.add_argument(
        "--requests", type=int, default=40, help="single pages alone, and beside (default 40; 0: no fairness)"
    )
    parser.add_argument(
        "--engine", choices=("dummy", "tesseract"), default="dummy", help="where single pages wait (default dummy)"
    )


def run(arguments: argparse.Namespace) -> Report:
    sizes = sorted(arguments.pages)
    runs: dict[str, list[Run]] = {}
    waits = None
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        print("drawing pages", flush=True)
        pages = scans(max(WARM_UP_PAGES, BESIDE_PAGES if arguments.requests else 1, *sizes))
        if sizes:
            engine = {"name": "dummy", "replicas": 1, "text": TEXT}
            config = _config(folder, engine, "benchmarks.dense_reader:build")
            with running_service(config, folder) as (address, service):
                runs = asyncio.run(_memory(address, service, pages, sizes, arguments.outputs))
        if arguments.requests:
            engine = {"name": "dummy", "replicas": 1, "page_s": PAGE_S, "max_batch": 1}
            if arguments.engine == "tesseract":
                engine = {"name": "tesseract", "replicas": os.cpu_count() or 1}
            with running_service(_config(folder, engine, "serve_app.app:build"), folder) as (address, _):
                waits = asyncio.run(_fairness(address, pages, arguments.requests))
    return _report(runs, waits, arguments)


def _config(folder: Path, engine: Mapping[str, Any], build: str) -> dict[str, Any]:
    application = {
        "name": "ocr",
        "route_prefix": "/",
        "import_path": build,
        "args": {
            "engines": [dict(engine)],
            "store": {"kind": "folder", "path": str(folder / "output")},
            "temp_dir": str(folder / "temp"),
        },
    }
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": 8081},
        "logging_config": {"log_level": "WARNING"},
        "applications": [application],
    }


def _session(address: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        address, headers={"Authorization": f"Bearer {KEY}"}, timeout=aiohttp.ClientTimeout(total=REQUEST_S)
    )


def _form(file: bytes, output: str) -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("output", output)
    form.add_field("file", file, filename="document.pdf", content_type="application/pdf")
    return form


async def _memory(
    address: str, service: psutil.Process, pages: Sequence[bytes], sizes: Sequence[int], outputs: Sequence[str]
) -> dict[str, list[Run]]:
    """Runs by output: one of each size, then one more of the smallest."""
    runs: dict[str, list[Run]] = {}
    async with _session(address) as session:
        for output in outputs:  # of all forms: the first of them should not pay for code that is loaded once
            await _document(session, service, pages[:WARM_UP_PAGES], output)
        for output in outputs:
            runs[output] = []
            for size in [*sizes, sizes[0]]:
                print(f"{output}: {size} pages", flush=True)
                runs[output].append(await _document(session, service, pages[:size], output))
    return runs


async def _document(
    session: aiohttp.ClientSession, service: psutil.Process, pages: Sequence[bytes], output: str
) -> Run:
    file = pdf_of_scans(pages)
    with tempfile.TemporaryFile() as answer, MemoryWatch(service) as watch:
        started = time.perf_counter()
        async with session.post("/ocr", data=_form(file, output)) as response:
            if response.status != 200:
                raise RuntimeError(f"answer {response.status}: {(await response.text())[:300]}")
            async for chunk in response.content.iter_chunked(2**18):
                answer.write(chunk)
        seconds = time.perf_counter() - started
        answer_mb = answer.tell() / 1e6
        _check(answer, output, len(pages))
    return Run(len(pages), len(file) / 1e6, answer_mb, seconds, watch.peaks())


def _check(answer: IO[bytes], output: str, pages: int) -> None:
    """Raises RuntimeError where not every page was read, or an output is missing."""
    answer.seek(0)
    if output == "zip":
        with zipfile.ZipFile(answer) as archive:
            if missing := [name for name in archive.namelist() if name.endswith(".error.txt")]:
                raise RuntimeError(f"the archive has {missing}")
            with archive.open("result.json") as result:
                head = result.read(1000)
    else:
        head = answer.read(1000)
    if b'"status":"done","page_count":%d,' % pages not in head:
        raise RuntimeError(f"not all of {pages} pages were read: {head[:300]!r}")


async def _fairness(address: str, pages: Sequence[bytes], requests: int) -> Waits:
    async with _session(address) as session:
        single = pdf_of_scans(pages[:1])
        print("single pages alone", flush=True)
        await _single(session, single)
        alone = [await _single(session, single) for _ in range(requests)]
        print(f"single pages beside {BESIDE_PAGES} pages", flush=True)
        document = _form(pdf_of_scans(pages[:BESIDE_PAGES]), "ndjson")
        async with session.post("/ocr", data=document) as response:
            done = 0
            begun = asyncio.Event()

            async def count() -> None:
                nonlocal done
                async for chunk in response.content.iter_any():
                    done += chunk.count(b'"progress"')
                    if done:
                        begun.set()

            counting = asyncio.create_task(count())
            await begun.wait()
            started, done_before = time.perf_counter(), done
            beside = [await _single(session, single) for _ in range(requests)]
            pages_per_s = (done - done_before) / (time.perf_counter() - started)
            if counting.done():
                raise RuntimeError(f"{BESIDE_PAGES} pages were done before {requests} single ones")
            counting.cancel()
            response.close()  # the rest need not be read
    return Waits(alone, beside, pages_per_s)


async def _single(session: aiohttp.ClientSession, file: bytes) -> float:
    """Its latency in ms."""
    started = time.perf_counter()
    async with session.post("/ocr", data=_form(file, "json")) as response:
        body = await response.read()
    if response.status != 200 or b'"status":"done"' not in body:
        raise RuntimeError(f"answer {response.status}: {body[:300]!r}")
    return (time.perf_counter() - started) * 1000


def _report(runs: Mapping[str, Sequence[Run]], waits: Waits | None, arguments: argparse.Namespace) -> Report:
    tables: list[Table] = []
    targets: list[Target] = []
    for output, documents in runs.items():
        tables.append(_memory_table(output, documents))
        targets += _memory_targets(output, documents)
    if runs:
        tables.append(_speed_table(runs))
    if waits is not None:
        table, target = _fairness_part(waits, arguments.engine)
        tables.append(table)
        targets.append(target)
    data = {
        "documents": {output: [asdict(document) for document in documents] for output, documents in runs.items()},
        "waits": asdict(waits) if waits is not None else None,
    }
    return Report(tables, targets, data, figure=_figure(runs) if runs else None)


def _rows(documents: Sequence[Run]) -> dict[str, list[float]]:
    """MB by what is measured, one for each document; a process that was not there had none."""
    roles = {role for document in documents for role in document.peaks.by_role}
    rows = {role: [document.peaks.by_role.get(role, 0.0) for document in documents] for role in roles}
    rows = dict(sorted(rows.items(), key=lambda row: -max(row[1])))
    rows["all at a time"] = [document.peaks.total for document in documents]
    rows["object store"] = [document.peaks.object_store for document in documents]
    return rows


def _growth(row: Sequence[float]) -> float:
    """From the shortest document to the longest, which are the first one and the last but one."""
    return row[-2] - row[0]


def _memory_table(output: str, documents: Sequence[Run]) -> Table:
    return Table(
        title=f"Peak memory in MB by pages of the document, output {output}; the last one was read after the longest.",
        columns=("", *(str(document.pages) for document in documents), "growth"),
        rows=[(name, *row, _growth(row)) for name, row in _rows(documents).items()],
    )


def _memory_targets(output: str, documents: Sequence[Run]) -> list[Target]:
    rows = _rows(documents)
    total, store = rows.pop("all at a time"), rows.pop("object store")
    most = max(rows, key=lambda role: _growth(rows[role]))
    file_mb = _growth([document.file_mb for document in documents])
    name = f"{output}, {documents[-2].pages} pages less {documents[0].pages}"
    beside = _growth(rows[most]) - file_mb
    together = _growth(total) - FILES * file_mb
    stored = store[-2] / PAGE_MB
    again = total[-1] - total[0]
    return [
        Target(f"{name}, most of a process ({most}) beside the file", beside, GROWTH_MB, at_least=False, unit="MB"),
        Target(f"{name}, all beside {FILES} files", together, GROWTH_MB, at_least=False, unit="MB"),
        Target(f"{output}, {documents[-1].pages} pages again, all", again, GROWTH_MB, at_least=False, unit="MB"),
        Target(f"{output}, object store", stored, STORED_PAGES, at_least=False, unit="pages of pixels"),
    ]


def _speed_table(runs: Mapping[str, Sequence[Run]]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (output, run.pages, run.file_mb, run.answer_mb, run.seconds, run.pages / run.seconds)
        for output, documents in runs.items()
        for run in documents
    ]
    return Table("Documents, in this order", ("output", "pages", "file MB", "answer MB", "s", "pages/s"), rows)


def _fairness_part(waits: Waits, engine: str) -> tuple[Table, Target]:
    rows: list[tuple[Cell, ...]] = []
    p95 = []
    for name, latencies in (("alone", waits.alone_ms), (f"beside {BESIDE_PAGES} pages", waits.beside_ms)):
        p50, p95_ms = (float(ms) for ms in np.percentile(latencies, (50, 95)))
        rows.append((name, len(latencies), p50, p95_ms, max(latencies)))
        p95.append(p95_ms)
    table = Table(
        f"Single pages, one after another; engine {engine}. The document did {waits.pages_per_s:.1f} pages/s meanwhile.",
        ("", "requests", "p50 ms", "p95 ms", "max ms"),
        rows,
    )
    return table, Target("p95 beside a long document", p95[1] / p95[0], SLOWER, at_least=False, unit="times that alone")


def _figure(runs: Mapping[str, Sequence[Run]]) -> Figure:
    figure = Figure(figsize=(6 * len(runs), 4.8), layout="constrained")
    handles: dict[str, Any] = {}
    for axes, (output, documents) in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs.items(), strict=True):
        ascending = documents[:-1]
        rows = _rows(documents)
        for name, colour in COLOURS.items():
            if name in rows:
                style = "--" if name == "object store" else "-"
                (handles[name],) = axes.plot(
                    [run.pages for run in ascending], rows[name][:-1], style, color=colour, marker="."
                )
        axes.set(xlabel="pages", ylabel="MB", ylim=(0, None))
        axes.set_title(f"Peak memory, output {output}")
        axes.grid(alpha=0.25)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure
