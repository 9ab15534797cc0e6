"""A document that kills, stalls or fills its decoder costs its own request and nothing else."""

from __future__ import annotations

import io
import logging
import os
import secrets
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

import serve_app
from serve_app.document import SourceFile
from serve_app.errors import (
    CorruptDocument,
    EmptyDocument,
    ServiceError,
    ServiceUnavailable,
    TooLarge,
    UnsupportedMediaType,
)
from serve_app.metrics.catalogue import DECODER_DEATHS
from serve_app.raster.decoder_client import IsolatedDecoder
from serve_app.raster.decoder_process import HEADER_LENGTH, OPEN_BYTES, pack_header
from serve_app.raster.images import DecodedImage, decode_image
from tests.support.metrics import grows

pytestmark = pytest.mark.timeout(30)

ROOT = Path(serve_app.__file__).resolve().parents[1]


_earlier: set[psutil.Process] = set()


@pytest.fixture(autouse=True)
def _remember_other_children() -> None:
    _earlier.clear()
    _earlier.update(psutil.Process().children())


def children() -> list[psutil.Process]:
    """Processes that this test has started, dead but unreaped ones included."""
    return [child for child in psutil.Process().children() if child not in _earlier]


def the_child() -> psutil.Process:
    (child,) = children()
    return child


def wait_until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def png_of(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def small_page(shade: int = 40) -> bytes:
    return png_of(Image.new("L", (20, 10), shade))


def slow_page() -> bytes:
    """Seconds of work in little memory: a BMP of 2 megapixels in runs of one pixel, which Pillow unpacks in Python."""
    width = height = 1500
    palette = bytes(shade for index in range(256) for shade in (index, 255 - index, 7, 0))
    runs = (b"\1\2\1\3" * (width // 2) + b"\0\0") * height + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    offset = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(runs), 0, 0, offset) + header + palette + runs


@pytest.fixture
def decoder() -> Iterator[IsolatedDecoder]:
    decoder = IsolatedDecoder(max_pixels=10**8, default_dpi=200, deadline_s=20)
    yield decoder
    decoder.close()
    assert children() == []


def decode(decoder: IsolatedDecoder, data: bytes, dpi: int | None) -> DecodedImage:
    return decoder.decode(SourceFile(secrets.token_hex(4), np.frombuffer(data, np.uint8)), 1, dpi)


def assert_works(decoder: IsolatedDecoder) -> None:
    decoded = decode(decoder, small_page(shade=40), None)
    assert decoded.pixels.shape == (10, 20, 3)
    assert (decoded.pixels == 40).all()
    assert decoded.dpi == 200


def test_pixels_survive_the_trip_unchanged(decoder: IsolatedDecoder) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (2339, 1654, 3), dtype=np.uint8)
    data = png_of(Image.fromarray(noise))
    decoded = decode(decoder, data, 300)
    assert np.array_equal(decoded.pixels, noise)
    assert decoded.pixels.dtype == np.uint8 and decoded.pixels.flags.c_contiguous and decoded.pixels.flags.writeable
    assert decoded.dpi == 300
    assert decode_image(data, max_pixels=10**8, dpi_hint=None, default_dpi=200).dpi == decode(decoder, data, None).dpi


def test_errors_keep_their_kind_and_message(decoder: IsolatedDecoder) -> None:
    wrong: list[tuple[bytes, type[ServiceError]]] = [
        (b"", EmptyDocument),
        ("просто текст".encode(), UnsupportedMediaType),
        (small_page()[:40], CorruptDocument),
        (png_of(Image.new("1", (10_001, 10_000))), TooLarge),
    ]
    for data, kind in wrong:
        with pytest.raises(kind) as here:
            decode_image(data, max_pixels=10**8, dpi_hint=None, default_dpi=200)
        with pytest.raises(kind) as there:
            decode(decoder, data, None)
        assert there.value.message == here.value.message


def test_a_refusal_is_a_line_of_the_log_with_the_name_of_the_key(
    decoder: IsolatedDecoder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ray.serve.raster"), pytest.raises(UnsupportedMediaType) as refused:
        decoder.decode(SourceFile("id", np.frombuffer(b"text", np.uint8), owner="alice"), 1, None)
    assert caplog.messages == [f"document id (key 'alice', 4 bytes): refused: {refused.value.message}"]


def test_one_child_serves_all_documents(decoder: IsolatedDecoder) -> None:
    assert children() == []
    assert_works(decoder)
    first = the_child().pid
    with pytest.raises(CorruptDocument):
        decode(decoder, small_page()[:40], None)
    assert_works(decoder)
    assert the_child().pid == first


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT])
def test_a_crash_is_contained_and_logged(
    decoder: IsolatedDecoder, number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(1) as thread:
        thread.submit(assert_works, decoder).result()
        victim = the_child()
        worked = victim.cpu_times().user
        with caplog.at_level(logging.WARNING, "ray.serve.raster"):
            crashed = thread.submit(decode, decoder, slow_page(), None)
            wait_until(lambda: victim.cpu_times().user > worked + 0.05)
            victim.send_signal(number)
            with grows(DECODER_DEATHS, reason="died"), pytest.raises(CorruptDocument):
                crashed.result(timeout=5)
        assert number.name in caplog.text
        thread.submit(assert_works, decoder).result()
        assert the_child().pid != victim.pid


def test_a_document_that_takes_too_long_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    decoder = IsolatedDecoder(max_pixels=10**8, default_dpi=200, deadline_s=0.3)
    try:
        started = time.monotonic()
        with caplog.at_level(logging.WARNING, "ray.serve.raster"), pytest.raises(CorruptDocument, match="too long"):
            decode(decoder, slow_page(), None)
        assert time.monotonic() - started < 5
        assert "0.3 s" in caplog.text
        assert children() == []
        assert_works(decoder)  # the start of a child is not on the document's time
    finally:
        decoder.close()


def test_memory_beyond_the_limit_is_refused_and_the_child_goes_on() -> None:
    decoder = IsolatedDecoder(max_pixels=10**8, default_dpi=200, deadline_s=20, memory_bytes=200 * 2**20)
    try:
        assert_works(decoder)
        child = the_child()
        with pytest.raises(TooLarge, match="memory"):
            decode(decoder, png_of(Image.new("RGB", (5000, 5000))), None)
        with pytest.raises(TooLarge, match="memory"):
            decode(decoder, small_page() + bytes(100 * 2**20), None)
        assert_works(decoder)
        assert the_child() == child
    finally:
        decoder.close()


def test_a_tiny_image_with_giant_tiles_is_stopped(decoder: IsolatedDecoder) -> None:
    side = 200_000
    strip = zlib.compress(bytes(10_000))
    values = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 8, 325: len(strip)}
    entries = b"".join(struct.pack("<HHII", number, 4, 1, value) for number, value in values.items())
    data = struct.pack("<2sHI", b"II", 42, 8 + len(strip)) + strip + struct.pack("<H", len(values)) + entries + bytes(4)
    with pytest.raises((CorruptDocument, TooLarge)):
        decode(decoder, data, None)
    assert the_child().memory_info().rss < 300 * 2**20
    assert_works(decoder)


def test_the_child_keeps_no_huge_image_in_memory(decoder: IsolatedDecoder) -> None:
    decode(decoder, png_of(Image.new("RGB", (6000, 6000))), None)
    assert_works(decoder)
    assert the_child().memory_info().rss < 200 * 2**20


def test_a_child_that_died_idle_costs_no_document(decoder: IsolatedDecoder) -> None:
    assert_works(decoder)
    victim = the_child()
    victim.kill()
    wait_until(lambda: victim.status() == psutil.STATUS_ZOMBIE)
    assert_works(decoder)


def test_documents_of_two_threads_are_not_exchanged(decoder: IsolatedDecoder) -> None:
    pages = [small_page(shade) for shade in range(30)]
    assert_works(decoder)
    with ThreadPoolExecutor(4) as threads:
        decoded = list(threads.map(lambda page: decode(decoder, page, None), pages))
    assert [int(page.pixels[0, 0, 0]) for page in decoded] == list(range(30))


def test_closing_ends_a_decode_in_flight() -> None:
    decoder = IsolatedDecoder(max_pixels=10**8, default_dpi=200, deadline_s=20)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(assert_works, decoder).result()
        child = the_child()
        worked = child.cpu_times().user
        running = thread.submit(decode, decoder, slow_page(), None)
        wait_until(lambda: child.cpu_times().user > worked + 0.05)
        decoder.close()
        with pytest.raises(CorruptDocument):
            running.result(timeout=5)
    assert children() == []
    decoder.close()


def test_the_child_dies_with_a_killed_parent_even_while_decoding(tmp_path: Path) -> None:
    (tmp_path / "slow.bmp").write_bytes(slow_page())
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import numpy as np
from serve_app.document import SourceFile
from serve_app.raster.decoder_client import IsolatedDecoder
from tests.components.test_decoder_client import assert_works, the_child
decoder = IsolatedDecoder(max_pixels=10**8, default_dpi=200, deadline_s=30)
assert_works(decoder)
print(the_child().pid, flush=True)
decoder.decode(SourceFile("1", np.fromfile("slow.bmp", np.uint8)), 1, None)
"""
    # From another folder and without PYTHONPATH: as in a Ray worker, only sys.path leads to the package.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        worked = child.cpu_times().user
        wait_until(lambda: child.cpu_times().user > worked + 0.05)
        parent.kill()

        def gone() -> bool:
            return not child.is_running() or child.status() == psutil.STATUS_ZOMBIE

        wait_until(gone, timeout_s=1)


def test_the_child_has_neither_files_nor_secrets_of_its_parent(
    decoder: IsolatedDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCR_API_KEYS", "secret-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-key")
    with (tmp_path / "open").open("wb") as file:
        os.set_inheritable(file.fileno(), True)
        assert_works(decoder)
        assert str(tmp_path / "open") not in [opened.path for opened in the_child().open_files()]
    assert "secret-key" not in the_child().environ().values()


def test_the_child_has_its_limits(decoder: IsolatedDecoder) -> None:
    assert_works(decoder)
    limits = Path(f"/proc/{the_child().pid}/limits").read_text().splitlines()
    named = {line[:26].strip(): line[26:].split()[:2] for line in limits}
    assert named["Max core file size"] == ["0", "0"]
    memory = str(512 * 2**20 + OPEN_BYTES + 28 * 10**8)
    assert named["Max address space"] == [memory, memory]


def test_the_child_loads_nothing_of_the_service() -> None:
    script = "import sys, serve_app.raster.decoder_process; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = {name.split(".")[0] for name in loaded.stdout.split()}
    assert {"PIL", "numpy", "serve_app"} <= modules
    assert not modules & {"ray", "fastapi", "starlette", "boto3", "botocore", "aiohttp", "tesserocr"}


def test_what_a_library_prints_does_not_break_the_protocol() -> None:
    script = """
import os
from serve_app.raster import decoder_process as decoder
open_source = decoder.open_source
def noisy(*arguments, **options):
    print("warning from Python", flush=True)
    os.write(1, b"warning from C")
    assert os.read(0, 100) == b""  # and nothing can take requests from stdin
    return open_source(*arguments, **options)
decoder.open_source = noisy
decoder.main()
"""
    page = small_page(shade=9)
    request = {
        "document": "1",
        "size": len(page),
        "password": None,
        "max_pixels": 1000,
        "page": 1,
        "dpi": None,
        "default_dpi": 99,
    }
    finished = subprocess.run(
        [sys.executable, "-c", script, str(os.getpid()), str(2**30)],
        input=pack_header(request) + page,
        cwd=ROOT,
        capture_output=True,
        timeout=10,
        check=True,
    )
    header = {"width": 20, "height": 10, "dpi": 99, "warnings": []}
    assert finished.stdout == pack_header({}) + pack_header(header) + bytes([9]) * 600
    assert b"warning from Python" in finished.stderr and b"warning from C" in finished.stderr


def test_an_orphan_does_not_start() -> None:
    command = [sys.executable, "-m", "serve_app.raster.decoder_process", "1", str(2**30)]
    finished = subprocess.run(command, stdin=subprocess.PIPE, cwd=ROOT, capture_output=True, timeout=10)
    assert finished.returncode == 1
    assert finished.stdout == b""


def executable(path: Path, answer: bytes, then: str) -> str:
    """A program in place of Python, which sends `answer` and does as `then` says."""
    (path / "answer").write_bytes(answer)
    program = path / "program"
    program.write_text(f"#!/bin/sh\ncat {path / 'answer'}\n{then}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    "answer",
    [
        b"\xff\xff\xff\xff",
        HEADER_LENGTH.pack(3) + b"\xff{}",
        pack_header({}) + pack_header({"width": 50_000, "height": 50_000, "dpi": 1}),
        pack_header({}) + pack_header({"width": -1, "height": -1, "dpi": 1}),
        pack_header({}) + pack_header({"width": 1}),
        pack_header({}) + pack_header({"error": "no_such_code", "message": "", "detail": ""}),
    ],
    ids=["huge header", "not JSON", "too many pixels", "negative size", "no size", "unknown error"],
)
def test_a_child_that_breaks_the_protocol_is_our_error(
    decoder: IsolatedDecoder, answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", executable(tmp_path, answer, "exec sleep 60"))
        with pytest.raises(RuntimeError, match="decoding process"):
            decode(decoder, small_page(), None)
    assert children() == []
    assert_works(decoder)


def test_a_child_that_does_not_start_is_our_error_not_the_documents(
    decoder: IsolatedDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", executable(tmp_path, b"", "exit 3"))
        with pytest.raises(RuntimeError, match="exit status 3"):
            decode(decoder, small_page(), None)
    assert_works(decoder)


def test_a_child_that_is_killed_while_it_starts_is_started_again(
    decoder: IsolatedDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_once = f'mkdir {tmp_path / "killed"} 2>/dev/null && kill -9 $$\nexec {sys.executable} "$@"'
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", executable(tmp_path, b"", killed_once))
        assert_works(decoder)
    assert (tmp_path / "killed").is_dir()


def test_a_child_that_is_always_killed_while_it_starts_costs_no_document(
    decoder: IsolatedDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", executable(tmp_path, b"", "kill -9 $$"))
        with pytest.raises(ServiceUnavailable) as unavailable:
            decode(decoder, small_page(), None)
    assert unavailable.value.retry_after_s
    assert_works(decoder)


def test_a_child_that_starts_too_slowly_costs_no_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = IsolatedDecoder(max_pixels=10**6, default_dpi=200, deadline_s=10, start_s=0.2)
    monkeypatch.setattr(sys, "executable", executable(tmp_path, b"", "exec sleep 60"))
    with pytest.raises(ServiceUnavailable) as unavailable:
        decode(decoder, small_page(), None)
    assert unavailable.value.retry_after_s
    assert children() == []
