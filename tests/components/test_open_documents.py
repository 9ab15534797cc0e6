"""Documents that the decoding process keeps open, and the files they were read from."""

from __future__ import annotations

import io
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from serve_app.document import SourceFile
from serve_app.errors import CorruptDocument, ServiceUnavailable
from serve_app.raster import decoder_process as decoder_module
from serve_app.raster.decoder_client import MAX_DEATHS, IsolatedDecoder
from serve_app.raster.decoder_process import OPEN_DOCUMENTS, OpenDocuments
from serve_app.runtime.mapped_file import MAPPED_BYTES, unnamed_file
from tests.support.pdfs import pages_pdf

TWO_PAGES = pages_pdf([b"", b""])
LARGE = pages_pdf([b"%" + b"x" * MAPPED_BYTES, b""])


def kept(documents: OpenDocuments, names: list[str]) -> list[str]:
    return [name for name in names if documents.get(name) is not None]


def test_the_documents_used_last_stay_open() -> None:
    documents = OpenDocuments()
    names = [str(number) for number in range(OPEN_DOCUMENTS + 1)]
    for name in names[:-1]:
        documents.open(name, TWO_PAGES, None, 10**6)
    assert documents.get("0") is not None  # and so it is not the oldest any more
    documents.open(names[-1], TWO_PAGES, None, 10**6)
    assert kept(documents, names) == ["0", *names[2:]]
    documents.close()
    assert kept(documents, names) == []


def test_large_documents_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "OPEN_BYTES", 2 * len(TWO_PAGES))
    documents = OpenDocuments()
    for name in "abc":
        documents.open(name, TWO_PAGES, None, 10**6)
    assert kept(documents, list("abc")) == ["b", "c"]


def test_a_document_of_one_page_is_not_kept() -> None:
    documents = OpenDocuments()
    documents.open("a", pages_pdf([b""]), None, 10**6)
    assert documents.get("a") is None


def received(data: bytes, size: int) -> bytes | mmap.mmap:
    with unnamed_file(data) as pipe:
        return decoder_module._read_file(pipe, size, OpenDocuments())


@pytest.mark.parametrize("size", [MAPPED_BYTES - 1, MAPPED_BYTES, 3 * MAPPED_BYTES + 5])
def test_a_file_is_received_whole_and_a_large_one_is_not_held_in_memory(size: int) -> None:
    data = np.random.default_rng(1).bytes(size)
    content = received(data + b"the next request", size)
    assert bytes(content) == data
    assert isinstance(content, mmap.mmap) == (size >= MAPPED_BYTES)


def test_without_room_on_the_disk_the_request_is_read_to_its_end_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        return open("/dev/full", "wb", buffering=0)

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    pipe = io.BytesIO(b"x" * 2 * MAPPED_BYTES + b"next")
    with pytest.raises(ServiceUnavailable):
        decoder_module._read_file(pipe, 2 * MAPPED_BYTES, OpenDocuments())
    assert pipe.read() == b"next"


def test_documents_that_are_done_make_room_for_one_that_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = OpenDocuments()
    documents.open("done", TWO_PAGES, None, 10**6)
    monkeypatch.setattr(decoder_module, "has_room", lambda *_: False)
    with unnamed_file(LARGE) as pipe:
        decoder_module._read_file(pipe, len(LARGE), documents)
    assert documents.get("done") is None


@pytest.fixture
def isolated() -> Iterator[IsolatedDecoder]:
    decoder = IsolatedDecoder(max_pixels=10**6, default_dpi=72, deadline_s=20)
    yield decoder
    decoder.close()


def source(name: str, data: bytes) -> SourceFile:
    return SourceFile(name, np.frombuffer(data, np.uint8))


def child() -> psutil.Process:
    """The decoder's process: the last one that was started, beside those of other modules."""
    children = psutil.Process().children()
    decoders = [each for each in children if "serve_app.raster.decoder_process" in each.cmdline()]
    return max(decoders, key=lambda each: each.create_time())


def end(how: signal.Signals) -> None:
    """The child, whose status is left for whom it belongs to."""
    ended = child()
    ended.send_signal(how)
    while ended.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.005)


def own_mb(process: psutil.Process) -> float:
    (line,) = (line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "RssAnon" in line)
    return int(line.split()[1]) / 1024


def test_open_documents_take_no_memory_for_their_files(isolated: IsolatedDecoder) -> None:
    assert isolated.count_pages(source("small", TWO_PAGES)) == 2
    before = own_mb(child())
    large = pages_pdf([b"%" + b"x" * 20 * MAPPED_BYTES, b""])
    for name in "abc":
        assert isolated.count_pages(source(name, large)) == 2
        assert isolated.decode(source(name, large), 2, None).pixels.min() == 255
    assert own_mb(child()) - before < 10


def test_a_document_that_kills_the_process_with_each_page_is_given_up(
    isolated: IsolatedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    ask = IsolatedDecoder._request

    def crashing(self: IsolatedDecoder, *arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        end(signal.SIGSEGV)
        return ask(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(IsolatedDecoder, "_request", crashing)
        for _ in range(MAX_DEATHS):
            with pytest.raises(CorruptDocument, match="damaged and could not be decoded"):
                isolated.decode(source("deadly", TWO_PAGES), 1, None)
        with pytest.raises(CorruptDocument, match="not decoded"):
            isolated.decode(source("deadly", TWO_PAGES), 2, None)
    assert asked == MAX_DEATHS
    assert isolated.count_pages(source("another", TWO_PAGES)) == 2


def test_documents_nobody_asks_for_are_closed_and_opened_again() -> None:
    script = "from serve_app.raster import decoder_process as decoder; decoder.IDLE_S = 0.2; decoder.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(os.getpid()), str(2**30)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None

    def answer() -> bytes:
        assert process.stdout is not None
        (size,) = decoder_module.HEADER_LENGTH.unpack(process.stdout.read(4))
        return process.stdout.read(size)

    def ask(data: bytes) -> bytes:
        assert process.stdin is not None
        request = {"document": "a", "size": len(data), "password": None, "max_pixels": 10**6}
        process.stdin.write(decoder_module.pack_header(request) + data)
        process.stdin.flush()
        return answer()

    try:
        assert answer() == b"{}"
        assert ask(LARGE) == b'{"pages": 2}'
        assert ask(b"") == b'{"pages": 2}'
        time.sleep(1)
        assert ask(b"") == b'{"unknown": true}'
        assert ask(LARGE) == b'{"pages": 2}'
    finally:
        process.kill()
        process.communicate()


def test_a_page_whose_process_is_killed_from_outside_is_tried_again(
    isolated: IsolatedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = IsolatedDecoder._request
    kills = 1

    def killed_first(self: IsolatedDecoder, *arguments: Any) -> Any:
        nonlocal kills
        if kills:
            kills -= 1
            end(signal.SIGKILL)
        return ask(self, *arguments)

    monkeypatch.setattr(IsolatedDecoder, "_request", killed_first)
    assert isolated.count_pages(source("innocent", TWO_PAGES)) == 2
    kills = 2
    with pytest.raises(ServiceUnavailable):
        isolated.count_pages(source("innocent", TWO_PAGES))
    assert isolated.count_pages(source("innocent", TWO_PAGES)) == 2
