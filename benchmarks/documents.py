"""Cost of long documents: the memory of each process by the number of pages, and how long other requests wait.

Memory: one service, warmed up, reads documents of more and more pages, and then a short one again. Pages are
scans of dense text. The engine is `dummy` with words (see dense_reader.py): the path of a page is the same for each
engine, and this one reads a thousand pages in a minute. The clients read the whole answer.
A process may hold the document's file once, and little more, however many pages there are. Ray's object store counts
separately: it holds the pixels of pages in flight, and those of finished pages until Ray frees them some seconds later.

Fairness: single pages alone, and beside a long document (see fairness.py).
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import aiohttp
import psutil
from matplotlib.figure import Figure

from benchmarks.fairness import BESIDE_PAGES, Waits, fairness_table, fairness_target, single_pages
from benchmarks.memory import MemoryPeaks, MemoryWatch
from benchmarks.report import Cell, Report, Table, Target
from benchmarks.scans import TEXT, pdf_of_scans, scans
from benchmarks.service import pdf_form, running_service, service_config, session_of

SUMMARY = "memory by the pages of a document, and single pages beside a long one"

GROWTH_MB = 30  # of a process, beside the document's file
FILES = 3  # of all processes: as it comes in, in the decoder and in the PDF writer
STORED_PAGES = 100  # of pixels in Ray's object store; 16 are in flight
PAGE_MB = 11.6  # A4 at 200 dpi
WARM_UP_PAGES = 20
COLOURS = {
    "ingress": "#0b6e4f",
    "proxy": "#7fb69e",
    "rasterizer": "#e07a1f",
    "decoder": "#b23a48",
    "recognizers": "#3d5a80",
    "PDF writer": "#8e6c8a",
    "object store": "black",
}


@dataclass(frozen=True)
class Run:
    """One document. `file_mb` and `answer_mb`: sizes of the request and of the response, in MB."""

    pages: int
    file_mb: float
    answer_mb: float
    seconds: float
    peaks: MemoryPeaks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pages", type=int, nargs="*", default=[50, 200, 500, 1000], help="default 50 200 500 1000; none: no memory"
    )
    parser.add_argument("--outputs", nargs="+", choices=("json", "zip"), default=["json", "zip"], help="default both")
    parser.add_argument(
        "--requests", type=int, default=40, help="single pages alone, and beside (default 40; 0: no fairness)"
    )
    parser.add_argument(
        "--engine", choices=("dummy", "tesseract"), default="dummy", help="engine of the fairness part (default dummy)"
    )
    parser.add_argument(
        "--page-s", type=float, nargs="+", default=[0.1], help="seconds a page of the engine dummy there (default 0.1)"
    )


def run(arguments: argparse.Namespace) -> Report:
    sizes = sorted(arguments.pages)
    runs: dict[str, list[Run]] = {}
    waits: list[Waits] = []
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        print("drawing pages", flush=True)
        pages = scans(max(WARM_UP_PAGES, BESIDE_PAGES if arguments.requests else 1, *sizes))
        if sizes:
            engine = {"name": "dummy", "replicas": 1, "text": TEXT}
            config = service_config(folder, engine, "benchmarks.dense_reader:build")
            with running_service(config, folder) as (address, service):
                runs = asyncio.run(_memory(address, service, pages, sizes, arguments.outputs))
        if arguments.requests:
            document = pages[:BESIDE_PAGES]
            for page_s in arguments.page_s if arguments.engine == "dummy" else [0.0]:
                waits.append(
                    single_pages(folder, document, engine=arguments.engine, page_s=page_s, requests=arguments.requests)
                )
    return _report(runs, waits)


async def _memory(
    address: str, service: psutil.Process, pages: Sequence[bytes], sizes: Sequence[int], outputs: Sequence[str]
) -> dict[str, list[Run]]:
    """Runs by output: one for each size, then the smallest again."""
    runs: dict[str, list[Run]] = {}
    async with session_of(address) as session:
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
        async with session.post("/ocr", data=pdf_form(file, output)) as response:
            if response.status != 200:
                raise RuntimeError(f"answer {response.status}: {(await response.text())[:300]}")
            async for chunk in response.content.iter_chunked(2**18):
                answer.write(chunk)
        seconds = time.perf_counter() - started
        answer_mb = answer.tell() / 1e6
        _check(answer, output, len(pages))
    return Run(len(pages), len(file) / 1e6, answer_mb, seconds, watch.peaks())


def _check(answer: IO[bytes], output: str, pages: int) -> None:
    """Raises RuntimeError if a page was not read or an output is missing."""
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


def _report(runs: Mapping[str, Sequence[Run]], waits: Sequence[Waits]) -> Report:
    tables = [_memory_table(output, documents) for output, documents in runs.items()]
    if runs:
        tables.append(_speed_table(runs))
    tables += map(fairness_table, waits)
    targets = [target for output, documents in runs.items() for target in _memory_targets(output, documents)]
    targets += map(fairness_target, waits)
    data = {
        "documents": {output: [asdict(document) for document in documents] for output, documents in runs.items()},
        "waits": [asdict(each) for each in waits],
    }
    return Report(tables, targets, data, figure=_figure(runs) if runs else None)


def _rows(documents: Sequence[Run]) -> dict[str, list[float]]:
    """MB by measured thing, one value for each document; 0 for a process that did not exist."""
    roles = {role for document in documents for role in document.peaks.by_role}
    rows = {role: [document.peaks.by_role.get(role, 0.0) for document in documents] for role in roles}
    rows = dict(sorted(rows.items(), key=lambda row: -max(row[1])))
    rows["all at a time"] = [document.peaks.total for document in documents]
    rows["object store"] = [document.peaks.object_store for document in documents]
    return rows


def _growth(row: Sequence[float]) -> float:
    """Growth from the shortest document (the first) to the longest (the last but one)."""
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
