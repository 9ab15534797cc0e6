"""PaddleX's own server on the tiny models, to compare with: `python -m tests.support.official_server PORT MODELS`.

MODELS is JSON: the arguments of paddleocr.PaddleOCRVL. It is the library's application, as `paddlex --serve` runs it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.swift import free_port

ROOT = Path(__file__).parents[2]
START_S = 90


@dataclass(frozen=True)
class OfficialServer:
    address: str
    pid: int


@contextlib.contextmanager
def official_server(arguments: Mapping[str, Any]) -> Iterator[OfficialServer]:
    """The server, ready, on a CPU; `arguments` as above."""
    port = free_port()
    arguments = {"pipeline_version": "v1.6", "device": "cpu", **arguments}
    command = [sys.executable, "-m", "tests.support.official_server", str(port), json.dumps(arguments)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{address}/health").status_code == 200:
                    break
            assert process.poll() is None and time.monotonic() < deadline, "the official server did not start"
            time.sleep(0.2)
        yield OfficialServer(address, process.pid)
    finally:
        process.kill()
        process.wait()


def main() -> None:
    from paddleocr import PaddleOCRVL
    from paddlex.inference.serving.basic_serving import create_pipeline_app, run_server

    logging.getLogger("paddlex").setLevel(logging.ERROR)
    pipeline = PaddleOCRVL(**json.loads(sys.argv[2])).paddlex_pipeline
    app = create_pipeline_app(pipeline, {"pipeline_name": "PaddleOCR-VL", "Serving": {"visualize": False}})
    run_server(app, host="127.0.0.1", port=int(sys.argv[1]))


if __name__ == "__main__":
    main()
