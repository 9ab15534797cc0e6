"""Clients of others against the service, as they come from PyPI: only their URL is ours."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.pdfs import scan
from tests.support.service import Service

MCP_SERVER = Path(__file__).parents[2] / ".clients/bin/paddleocr_mcp"


@pytest.fixture(scope="module")
def open_service(deployed_for_module: Callable[..., Service]) -> Service:
    service = deployed_for_module({"engines": [{"name": "tesseract", "replicas": 1}], "open_surfaces": ["paddlex"]})
    service.wait_until_engines_are_ready()
    return service


class Assistant:
    """Speaks MCP with a server over stdio, as an assistant does: JSON-RPC, a line each."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._id = 0

    def ask(self, method: str, **parameters: Any) -> Any:
        self._id += 1
        self._send({"jsonrpc": "2.0", "id": self._id, "method": method, "params": parameters})
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if told.get("id") == self._id:
                assert "error" not in told, told
                return told["result"]
        raise AssertionError("the MCP server has ended")

    def tell(self, method: str) -> None:
        self._send({"jsonrpc": "2.0", "method": method})

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()


@contextmanager
def assistant(service: Service, model: str, tmp_path: Path) -> Iterator[Assistant]:
    """With a paddleocr-mcp for this model beside it; it sends no key."""
    assert MCP_SERVER.exists(), "make test installs it; by itself: make .clients/installed"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    told = {"PPOCR_SOURCE": "self_hosted", "MODEL": model, "SELF_HOSTED_BASE_URL": service.url}
    environment = {**clean, **{f"PADDLEOCR_MCP_{name}": value for name, value in told.items()}, "HOME": str(tmp_path)}
    process = subprocess.Popen(
        [str(MCP_SERVER)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
    )
    try:
        speaks = Assistant(process)
        client = {"name": "test", "version": "1"}
        speaks.ask("initialize", protocolVersion="2024-11-05", capabilities={}, clientInfo=client)
        speaks.tell("notifications/initialized")
        yield speaks
    finally:
        process.kill()
        process.wait()


def called(speaks: Assistant, tool: str, document: bytes, **arguments: Any) -> list[dict[str, Any]]:
    arguments["input_data"] = base64.b64encode(document).decode()
    result = speaks.ask("tools/call", name=tool, arguments=arguments)
    assert not result.get("isError"), result
    content: list[dict[str, Any]] = result["content"]
    return content


def test_an_assistant_reads_lines(
    open_service: Service, russian_page: bytes, russian_text: str, tmp_path: Path
) -> None:
    with assistant(open_service, "PP-OCRv5", tmp_path) as speaks:
        for file_type in ({}, {"file_type": "image"}):
            (content,) = called(speaks, "ocr", russian_page, **file_type)
            text, _, confidence = content["text"].rpartition("\n\n")
            assert text.split() == russian_text.split() and confidence.startswith("Confidence: ")
        (content,) = called(speaks, "ocr", russian_page, output_mode="detailed")
        lines = json.loads(content["text"])["text_lines"]
        assert all(len(line["bbox"]) == 4 and 0 < line["confidence"] <= 1 for line in lines)
        (content,) = called(speaks, "ocr", scan(russian_page, russian_page), file_type="pdf")
        assert content["text"].count(russian_text.split()[0]) >= 2


@pytest.mark.parametrize(
    ("model", "tool"), [("PP-StructureV3", "pp_structurev3"), ("PaddleOCR-VL-1.6", "paddleocr_vl")]
)
def test_an_assistant_reads_a_document_with_its_pictures(
    open_service: Service, english_page: bytes, model: str, tool: str, tmp_path: Path
) -> None:
    with Image.open(io.BytesIO(english_page)) as opened:
        page = opened.convert("RGB")
    noise = np.random.default_rng(1).integers(0, 255, (500, 800, 3), dtype=np.uint8)
    page.paste(Image.fromarray(noise), (400, 1500))
    stream = io.BytesIO()
    page.save(stream, "PNG")
    with assistant(open_service, model, tmp_path) as speaks:
        for document, arguments in (
            (stream.getvalue(), {}),
            (stream.getvalue(), {"file_type": "image"}),
            (scan(stream.getvalue(), stream.getvalue()), {"file_type": "pdf"}),
        ):
            content = called(speaks, tool, document, **arguments)
            pictures = [each for each in content if each["type"] == "image"]
            assert len(pictures) == (2 if "pdf" in arguments.values() else 1)
            with Image.open(io.BytesIO(base64.b64decode(pictures[0]["data"]))) as picture:
                assert picture.format == "JPEG"
            assert content[0]["type"] == "text" and len(content[0]["text"].split()) > 30
