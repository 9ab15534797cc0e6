"""Memory of each process while a very large document is sent as a job and read.

The document is a PDF of a few scanned pages with a large attachment. No process should hold much of it: an upload is
written to disk as it arrives, goes to the store from there, and is memory-mapped where it is read. Ray's object store
counts separately: it holds the file once while its pages are read.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
from pikepdf import AttachedFileSpec, Pdf

from benchmarks.memory import MemoryPeaks, MemoryWatch
from benchmarks.report import Report, Table, Target
from benchmarks.scans import pdf_of_scans, scans
from benchmarks.service import running_service, service_config, session_of

SUMMARY = "memory while a document of 500 MB is sent as a job"

PAGES = 3
GROWTH_MB = 100
POLL_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mb", type=int, default=490, help="size of the document (default: 490)")


def run(arguments: argparse.Namespace) -> Report:
    with tempfile.TemporaryDirectory(prefix="ocr-", dir="/tmp") as name:
        folder = Path(name)
        small, large = folder / "small.pdf", folder / "large.pdf"
        _write(small, 1)
        _write(large, arguments.mb)
        config = service_config(folder, {"name": "dummy", "replicas": 1, "text": "text"})
        with running_service(config, folder) as (address, service):
            peaks: list[MemoryPeaks] = []
            seconds: list[dict[str, float]] = []
            for document in (small, small, large):  # the first one is to pay for what is loaded once
                with MemoryWatch(service) as watch:
                    seconds.append(asyncio.run(_job(address, document)))
                peaks.append(watch.peaks())
    return _report(arguments.mb, peaks[1:], seconds[1:])


def _write(path: Path, mb: int) -> None:
    with Pdf.open(io.BytesIO(pdf_of_scans(scans(PAGES)))) as pdf:
        spec = AttachedFileSpec(pdf, os.urandom(mb * 1_000_000), filename="attachment.bin")
        pdf.attachments["attachment.bin"] = spec
        pdf.save(path)


async def _job(address: str, document: Path) -> dict[str, float]:
    """Seconds of the upload, and seconds until the job's end."""
    async with session_of(address) as session:
        started = time.perf_counter()
        with document.open("rb") as file:
            form = aiohttp.FormData()
            form.add_field("file", file, filename=document.name)
            async with session.post("/jobs", data=form) as answer:
                if answer.status != 202:
                    raise RuntimeError(f"answer {answer.status}: {(await answer.text())[:300]}")
                job: dict[str, Any] = await answer.json()
        uploaded = time.perf_counter() - started
        while not job["ended"]:
            await asyncio.sleep(POLL_S)
            async with session.get(f"/jobs/{job['id']}") as answer:
                job = await answer.json()
        if job["state"] != "done" or job["progress"]["done"] != PAGES:
            raise RuntimeError(f"the job is not done: {job}")
        return {"upload": uploaded, "all": time.perf_counter() - started}


def _report(mb: int, peaks: list[MemoryPeaks], seconds: list[dict[str, float]]) -> Report:
    small, large = peaks
    rows = {role: (small.by_role.get(role, 0.0), own) for role, own in large.by_role.items()}
    rows = dict(sorted(rows.items(), key=lambda row: -(row[1][1] - row[1][0])))
    most = max(own - before for before, own in rows.values())
    rows["all at a time"] = (small.total, large.total)
    rows["object store"] = (small.object_store, large.object_store)
    table = Table(
        title=f"Peak memory in MB while a document of 1 MB and one of {mb} MB is a job.",
        columns=("", "1 MB", f"{mb} MB", "growth"),
        rows=[(role, before, own, own - before) for role, (before, own) in rows.items()],
    )
    times = Table("Seconds", ("", "1 MB", f"{mb} MB"), [(each, *(run[each] for run in seconds)) for each in seconds[0]])
    targets = [Target("most of a process", most, GROWTH_MB, at_least=False, unit="MB")]
    return Report([table, times], targets, {"peaks": [asdict(each) for each in peaks], "seconds": seconds})
