"""Two servers of POST /layout-parsing, this service and PaddleX's own, for the same clients.

Both have the same tiny layout model on CPUs and the same stand-in for an inference server, where a token takes
its time and any number of blocks are read at once; the figures say nothing about a GPU. Clients send PNG pages as
base64 and get blocks and Markdown, with figures but no other pictures. This service stores its results; PaddleX's
server does not.

Rounds take turns, because a machine's speed drifts; ratios are medians over rounds. The other server is idle meanwhile.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import aiohttp
import numpy as np
import psutil

from benchmarks.light_pages import BLOCKS, light_pages, vlm_service_config
from benchmarks.load import Answer, Load, in_steady_state
from benchmarks.memory import MemoryWatch
from benchmarks.report import Cell, Report, Table, Target
from benchmarks.service import running_service, take
from tests.support.official_server import official_server
from tests.support.vlm_server import VlmServer

SUMMARY = "POST /layout-parsing of this service against PaddleX's own server, with a stand-in inference server"

OURS, THEIRS = "ours", "PaddleX"
LEAST_PAGES = 8
TURNS_A_CLIENT = 4  # of which the first and the last are not timed
TIMES_AT_MOST = 8
TIMES_AT_ONE = 1


@dataclass(frozen=True)
class Turn:
    """Memory: peaks of all the server's processes together with Ray's object store, and of those with an engine."""

    pages_per_s: float
    latencies_ms: list[float]
    memory_mb: float
    engine_mb: float


@dataclass(frozen=True)
class Server:
    address: str
    process: psutil.Process
    ray: bool
    files: Sequence[bytes]
    digests: dict[int, str]

    def turn(self, clients: int, pages: int) -> Turn:
        load = Load(self.address, self.files, clients, pages, _ask)
        with MemoryWatch(self.process, ray=self.ray) as watch:
            load.start()
            answers: list[Answer] = take(load.answers, [load.process])
        take(load.answers, [load.process])
        load.process.join()
        for answer in answers:
            if self.digests.setdefault(answer.file, answer.digest) != answer.digest:
                raise RuntimeError("the same page was read in two ways")
        since, counted = in_steady_state(answers, clients)
        peaks = watch.peaks()
        return Turn(
            pages_per_s=len(counted) / (counted[-1].done - since),
            latencies_ms=[(answer.done - answer.sent) * 1000 for answer in counted],
            memory_mb=peaks.total + peaks.object_store,
            engine_mb=peaks.by_role["recognizers"] if self.ray else peaks.total,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16], help="default 1 4 16")
    parser.add_argument("--rounds", type=int, default=2, help="both servers, in turn (default 2)")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of a block (default 200)")
    parser.add_argument("--token-ms", type=float, default=5.0, help="milliseconds of a token (default 5)")


def run(arguments: argparse.Namespace) -> Report:
    turns: dict[tuple[int, str], list[Turn]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name,
        VlmServer(tokens=arguments.tokens, token_ms=arguments.token_ms) as vlm,
    ):
        folder = Path(name)
        files = [file.read_bytes() for file in light_pages(folder)]
        models = folder / "models"
        subprocess.run([sys.executable, "-m", "tests.support.tiny_paddleocr_vl", str(models)], check=True)
        layout = models / "layout"
        theirs = {
            "layout_detection_model_dir": str(layout),
            "vl_rec_backend": "vllm-server",
            "vl_rec_server_url": vlm.url,
        }
        with (
            running_service(vlm_service_config(folder, layout, vlm), folder) as (address, process),
            official_server(theirs) as official,
        ):
            digests: dict[int, str] = {}  # of both
            servers = {
                THEIRS: Server(official.address, psutil.Process(official.pid), False, files, digests),
                OURS: Server(address, process, True, files, digests),
            }
            for server in servers.values():
                server.turn(max(arguments.clients), max(arguments.clients))  # connections are made, code is loaded
            for number in range(arguments.rounds):
                for clients in arguments.clients:
                    for name, server in servers.items():
                        print(f"round {number + 1}: {name}, {clients} client(s)", flush=True)
                        pages = max(LEAST_PAGES, TURNS_A_CLIENT * clients)
                        turns[clients, name].append(server.turn(clients, pages))
        counters = vlm.counters()
    if counters["refused"] or counters["failed"] or counters["cancelled"]:
        raise RuntimeError(f"not all blocks were read: {counters}")
    return _report(turns, arguments)


async def _ask(session: aiohttp.ClientSession, file: bytes) -> str:
    asked = {"file": base64.b64encode(file).decode(), "fileType": 1}
    async with session.post("/layout-parsing", json=asked) as response:
        body = await response.read()
        if response.status != 200:
            raise RuntimeError(f"answer {response.status}: {body[:300]!r}")
    (page,) = json.loads(body)["result"]["layoutParsingResults"]
    if len(page["prunedResult"]["parsing_res_list"]) != BLOCKS + 1:
        raise RuntimeError(f"{len(page['prunedResult']['parsing_res_list'])} blocks on a page")
    return hashlib.sha256(page["markdown"]["text"].encode()).hexdigest()


def _report(turns: Mapping[tuple[int, str], Sequence[Turn]], arguments: argparse.Namespace) -> Report:
    rows: list[tuple[Cell, ...]] = []
    targets = []
    for clients in arguments.clients:
        ratios = [
            ours.pages_per_s / theirs.pages_per_s
            for ours, theirs in zip(turns[clients, OURS], turns[clients, THEIRS], strict=True)
        ]
        for name in (THEIRS, OURS):
            runs = turns[clients, name]
            p50, p95 = np.percentile([ms for run in runs for ms in run.latencies_ms], (50, 95))
            rows.append(
                (
                    f"{clients} client(s), {name}",
                    f"{median(run.pages_per_s for run in runs):.2f}",
                    f"{median(ratios):.2f}" if name == OURS else None,
                    " ".join(f"{ratio:.2f}" for ratio in ratios) if name == OURS else None,
                    float(p50),
                    float(p95),
                    f"{max(run.engine_mb for run in runs):.0f}",
                    f"{max(run.memory_mb for run in runs):.0f}",
                )
            )
        if clients in (1, max(arguments.clients)):
            limit = TIMES_AT_ONE if clients == 1 else TIMES_AT_MOST
            targets.append(
                Target(f"{clients} client(s)", median(ratios), limit, at_least=True, unit="times PaddleX's pages/s")
            )
    table = Table(
        title=(
            f"Pages of {BLOCKS} blocks, {arguments.tokens} tokens a block, {arguments.token_ms:g} ms a token; "
            f"medians over {arguments.rounds} round(s).\n"
            "Most memory at a time, MB: processes with an engine, and all of a server; ours has Ray's among them."
        ),
        columns=("", "pages/s", "times", "by round", "p50 ms", "p95 ms", "engine MB", "all MB"),
        rows=rows,
    )
    data = {f"{clients} {name}": [asdict(turn) for turn in runs] for (clients, name), runs in turns.items()}
    return Report([table], targets, data)
