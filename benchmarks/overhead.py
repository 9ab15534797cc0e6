"""Overhead of the service: pages/s over HTTP against a loop around the bare engine.

Raw: processes that decode a file and run the Tesseract engine on it, one page after another, no Ray.
HTTP: the service as a user starts it, with as many recognizer replicas, and clients in a separate
process that send the same files one after another over persistent connections.

Rounds take turns, raw with the service stopped, then HTTP, because a machine's speed drifts; ratios
are medians over rounds. Both sides are timed from one page's end to a later one's, under full load.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import multiprocessing as mp
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import numpy as np
import psutil
import yaml

from benchmarks.load import Answer
from benchmarks.report import Cell, Report, Table, Target
from benchmarks.service import KEY, LOAD, Machine, cpu_by_process, cpu_by_role, running_service, take
from samples.make_samples import SAMPLES, draw_page
from serve_app.cli.serve import RAY_ENVIRONMENT
from serve_app.document import PageContent, PageImage
from serve_app.document.options import RecognitionOptions
from serve_app.raster.images import decode_image
from serve_app.recognition.engines import PageTask, create_engine
from serve_app.settings import Settings

SUMMARY = "the service over HTTP against its engine's raw loop, with Tesseract"

CONFIG = Path("configs/local.yaml")
SAMPLE_FILES = (Path("samples/page-ru.png"), Path("samples/page-en.png"))
RAY_NICE = int(RAY_ENVIRONMENT["RAY_worker_niceness"])  # the engine's thread steps back from there
FULL_PAGE_FONT_PX = 30  # 11 points at 200 dpi
SETTLE_S = 5  # Ray and Serve still have things to do after the start
IDLE_S = 10
TARGET_CLIENTS = 16


@dataclass(frozen=True)
class Measured:
    """One measurement. `cpu_s`: CPU seconds a page by role; `others`: cores that the rest of the machine kept
    busy meanwhile; `digests`: of the text of each file."""

    pages_per_s: float
    latencies_ms: list[float]
    cpu_s: dict[str, float]
    others: float
    digests: dict[int, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    cpus = os.cpu_count() or 1
    parser.add_argument("--pages", type=int, default=40, help="pages counted in each measurement (default 40)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, TARGET_CLIENTS], help="default 1 4 16")
    parser.add_argument(
        "--text", choices=("full", "samples"), default="full", help="full pages of text (default), or the two samples"
    )
    parser.add_argument("--rounds", type=int, default=3, help="raw and HTTP, in turn (default 3)")
    parser.add_argument("--processes", type=int, default=cpus, help=f"raw processes, and replicas (default {cpus})")


def run(arguments: argparse.Namespace) -> Report:
    files = _full_pages() if arguments.text == "full" else [path.read_bytes() for path in SAMPLE_FILES]
    raw: dict[int, list[Measured]] = defaultdict(list)
    idle: list[dict[str, float]] = []
    http: dict[int, list[Measured]] = defaultdict(list)
    # One client keeps one engine busy at most.
    raw_processes = {clients: min(clients, arguments.processes) for clients in arguments.clients}
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        config = _config(Path(folder), arguments.processes)
        settings = Settings.model_validate(config["applications"][0]["args"])
        for number in range(arguments.rounds):
            for processes in sorted(set(raw_processes.values())):
                print(f"round {number + 1}: raw, {processes} process(es)", flush=True)
                raw[processes].append(_raw(settings, files, processes, arguments.pages))
            with running_service(config, Path(folder)) as (address, service):
                print(f"round {number + 1}: idle service", flush=True)
                idle.append(_idle(service))
                for clients in arguments.clients:
                    print(f"round {number + 1}: HTTP, {clients} client(s)", flush=True)
                    http[clients].append(_http(address, service, files, clients, arguments.pages))
    return _report(raw, http, idle, raw_processes)


def _full_pages() -> list[bytes]:
    """A Russian and an English page full of text, as in a contract or a book; the samples are half empty."""
    return [_full_page(sample.body) for sample in SAMPLES.values()]


def _full_page(text: str) -> bytes:
    paragraphs = text.strip().split("\n\n") * 5
    while True:
        try:
            page = draw_page("\n\n".join(paragraphs), font_px=FULL_PAGE_FONT_PX)
        except ValueError:  # more than fits
            paragraphs.pop()
        else:
            break
    stream = io.BytesIO()
    page.save(stream, "PNG", dpi=(200, 200))
    return stream.getvalue()


def _config(folder: Path, replicas: int) -> dict[str, Any]:
    """The config for one machine that a user starts with, with other folders."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    args = config["applications"][0]["args"]
    args["engines"][0]["replicas"] = replicas
    args["store"]["path"] = str(folder / "output")
    args["temp_dir"] = str(folder / "temp")
    args["spool_dir"] = str(folder / "spool")
    return config


def _raw(settings: Settings, files: Sequence[bytes], processes: int, pages: int) -> Measured:
    spawn = mp.get_context("spawn")
    numbers: SimpleQueue[int | None] = spawn.SimpleQueue()
    answers: SimpleQueue[Answer | float | None] = spawn.SimpleQueue()
    start = spawn.Event()
    workers = [
        spawn.Process(target=_raw_worker, args=(settings, files, numbers, answers, start), daemon=True)
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    for _ in workers:
        take(answers, workers)  # its engine is loaded
    machine = Machine()
    start.set()
    total = processes + pages + processes  # filling up, counted, running out
    for number in range(total):
        numbers.put(number % len(files))
    for _ in workers:
        numbers.put(None)
    finished = [take(answers, workers) for _ in range(total + processes)]
    spent = {"raw": sum(item for item in finished if isinstance(item, float))}
    others = machine.others(spent)
    for worker in workers:
        worker.join()
    done = [item for item in finished if isinstance(item, Answer)]
    return _measured(done, skip=processes, pages=pages, spent=spent, others=others)


def _raw_worker(
    settings: Settings,
    files: Sequence[bytes],
    numbers: SimpleQueue[int | None],
    answers: SimpleQueue[Answer | float | None],
    start: Any,
) -> None:
    """Puts None when ready, an Answer for each page, and at the end the CPU seconds used."""
    engine_settings, limits = settings.engines[0], settings.limits
    os.nice(RAY_NICE + engine_settings.nice)  # what else runs here should slow both sides down alike
    engine = create_engine(engine_settings, page_s=limits.page_s)
    engine.load()
    answers.put(None)
    start.wait()
    cpu = time.process_time()
    while (file := numbers.get()) is not None:
        sent = time.monotonic()
        image = decode_image(
            files[file],
            max_pixels=int(limits.image_megapixels * 1e6),
            dpi_hint=None,
            default_dpi=settings.raster.default_dpi,
        )
        task = PageTask(PageImage(image.pixels, number=1, dpi=image.dpi, rasterize_ms=0), RecognitionOptions())
        (analyzed,) = engine.analyze([task])
        reading = engine.read(analyzed)
        if not isinstance(reading, PageContent):
            raise reading
        answers.put(Answer(file, sent, time.monotonic(), _digest(reading.page.text)))
    answers.put(time.process_time() - cpu)


def _idle(service: psutil.Process) -> dict[str, float]:
    """CPU seconds per second by role, of the idle service."""
    time.sleep(SETTLE_S)
    before = cpu_by_process(service)
    time.sleep(IDLE_S)
    return {role: seconds / IDLE_S for role, seconds in cpu_by_role(before, cpu_by_process(service)).items()}


def _http(address: str, service: psutil.Process, files: Sequence[bytes], clients: int, pages: int) -> Measured:
    spawn = mp.get_context("spawn")
    answers: SimpleQueue[list[Answer] | float | None] = spawn.SimpleQueue()
    start = spawn.Event()
    load = spawn.Process(target=_clients, args=(address, files, clients, pages, answers, start), daemon=True)
    load.start()
    take(answers, [load])  # its modules are loaded
    before = cpu_by_process(service)
    machine = Machine()
    start.set()
    done: list[Answer] = take(answers, [load])
    spent = cpu_by_role(before, cpu_by_process(service))
    spent[LOAD] = take(answers, [load])
    others = machine.others(spent)
    load.join()
    return _measured(done, skip=clients, pages=pages, spent=spent, others=others)


def _clients(
    address: str, files: Sequence[bytes], clients: int, pages: int, answers: SimpleQueue[Any], start: Any
) -> None:
    """Puts None when ready, then the list of all answers, then the CPU seconds used."""
    answers.put(None)
    start.wait()
    cpu = time.process_time()
    answers.put(asyncio.run(_send(address, files, clients, clients + pages)))
    answers.put(time.process_time() - cpu)


async def _send(address: str, files: Sequence[bytes], clients: int, enough: int) -> list[Answer]:
    """Keep every client busy until `enough` pages are answered, then wait for the pages in flight."""
    answers: list[Answer] = []
    sent_pages = 0

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal sent_pages
        while len(answers) < enough:
            file = sent_pages % len(files)
            sent_pages += 1
            form = aiohttp.FormData()
            form.add_field("file", files[file], filename=f"page-{file}.png", content_type="image/png")
            sent = time.monotonic()
            async with session.post("/ocr", data=form) as response:
                if response.status != 200:
                    raise RuntimeError(f"answer {response.status}: {(await response.text())[:300]}")
                document = await response.json()
            answers.append(Answer(file, sent, time.monotonic(), _digest(document["pages"][0]["text"])))

    async with aiohttp.ClientSession(
        address,
        headers={"Authorization": f"Bearer {KEY}"},
        connector=aiohttp.TCPConnector(limit=clients),
        timeout=aiohttp.ClientTimeout(total=600),
    ) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return answers


def _measured(answers: list[Answer], *, skip: int, pages: int, spent: Mapping[str, float], others: float) -> Measured:
    """The `pages` pages after page number `skip`, so that neither filling up nor running out is timed."""
    answers = sorted(answers, key=lambda answer: answer.done)
    counted = answers[skip : skip + pages]
    digests: dict[int, str] = {}
    for answer in answers:
        if digests.setdefault(answer.file, answer.digest) != answer.digest:
            raise RuntimeError("the same page was read in two ways")
    return Measured(
        pages_per_s=len(counted) / (counted[-1].done - answers[skip - 1].done),
        latencies_ms=[(answer.done - answer.sent) * 1000 for answer in counted],
        cpu_s={role: seconds / len(answers) for role, seconds in spent.items()},
        others=others,
        digests=digests,
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _report(
    raw: Mapping[int, list[Measured]],
    http: Mapping[int, list[Measured]],
    idle: Sequence[Mapping[str, float]],
    raw_processes: Mapping[int, int],
) -> Report:
    texts = {tuple(sorted(m.digests.items())) for runs in (*raw.values(), *http.values()) for m in runs}
    if len(texts) > 1:
        raise RuntimeError("the service and the raw loop did not read the same text")
    ratios = {
        clients: [
            100 * over_http.pages_per_s / bare.pages_per_s
            for over_http, bare in zip(runs, raw[raw_processes[clients]], strict=True)
        ]
        for clients, runs in http.items()
    }
    targets = []
    if TARGET_CLIENTS in ratios:
        measured = median(ratios[TARGET_CLIENTS])
        targets.append(Target(f"{TARGET_CLIENTS} clients", measured, 95, at_least=True, unit="% of the raw loop"))
    data = {
        "raw": {str(processes): [asdict(m) for m in runs] for processes, runs in raw.items()},
        "http": {str(clients): [asdict(m) for m in runs] for clients, runs in http.items()},
        "idle_cpu_s_per_s": list(idle),
    }
    tables = [_speed_table(raw, http, ratios, raw_processes), _cpu_table(raw, http, idle, raw_processes)]
    return Report(tables, targets, data)


def _speed_table(
    raw: Mapping[int, list[Measured]],
    http: Mapping[int, list[Measured]],
    ratios: Mapping[int, list[float]],
    raw_processes: Mapping[int, int],
) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for clients, runs in http.items():
        bare = raw[raw_processes[clients]]
        p50, p95 = np.percentile([ms for run in runs for ms in run.latencies_ms], (50, 95))
        rows.append(
            (
                f"{clients} client(s)",
                raw_processes[clients],
                f"{median(m.pages_per_s for m in bare):.2f}",
                f"{median(m.pages_per_s for m in runs):.2f}",
                median(ratios[clients]),
                " ".join(f"{ratio:.0f}" for ratio in ratios[clients]),
                float(p50),
                float(p95),
                f"{max(m.others for m in bare):.2f} / {max(m.others for m in runs):.2f}",
            )
        )
    return Table(
        title=(
            "Pages a second, medians over the rounds. The text was the same in all.\n"
            "Other work: the most cores that anything else kept busy, raw / HTTP; above 0.1 the machine is not quiet."
        ),
        columns=(
            "",
            "raw processes",
            "raw pages/s",
            "HTTP pages/s",
            "% of raw",
            "by round",
            "p50 ms",
            "p95 ms",
            "other work",
        ),
        rows=rows,
    )


def _cpu_table(
    raw: Mapping[int, list[Measured]],
    http: Mapping[int, list[Measured]],
    idle: Sequence[Mapping[str, float]],
    raw_processes: Mapping[int, int],
) -> Table:
    """Where CPU time goes. The idle service's share counts against the pages processed meanwhile."""

    def line(name: str, idle_ms: float | None, of: Callable[[Mapping[str, float]], float]) -> tuple[Cell, ...]:
        return (name, idle_ms, *(1000 * median(of(run.cpu_s) for run in runs) for runs in http.values()))

    roles = sorted({role for runs in http.values() for run in runs for role in run.cpu_s} - {LOAD})
    rows = [
        line(role, 1000 * median(i.get(role, 0.0) for i in idle), lambda cpu, role=role: cpu.get(role, 0.0))  # type: ignore[misc]
        for role in roles
    ]
    rows.sort(key=lambda row: -float(row[-1] or 0))
    everything = line(
        "the whole service",
        1000 * median(sum(i.values()) for i in idle),
        lambda cpu: sum(s for role, s in cpu.items() if role != LOAD),
    )
    bare = [1000 * median(m.cpu_s["raw"] for m in raw[raw_processes[clients]]) for clients in http]
    clients_load = line(LOAD, None, lambda cpu: cpu[LOAD])
    return Table(
        title="CPU: idle in ms a second, under load in ms a page",
        columns=("", "idle", *(f"{clients} client(s)" for clients in http)),
        rows=[("raw loop", None, *bare), everything, *rows, clients_load],
    )
