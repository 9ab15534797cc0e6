"""Decodes in a child process, so a hostile file fails only its own request."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from serve_app.document import ErrorInfo, SourceFile
from serve_app.errors import CorruptDocument, EmptyDocument, ServiceError, ServiceUnavailable, TooLarge, document_error
from serve_app.metrics.catalogue import DECODER_DEATHS
from serve_app.raster.decoder_process import HEADER_LENGTH, OPEN_BYTES, TEXT_PAGE, pack_header
from serve_app.raster.images import DecodedImage
from serve_app.raster.text_layer import TextPage
from serve_app.runtime.child_process import child_command, child_environment, exit_reason
from serve_app.runtime.death_count import DeathCount
from serve_app.runtime.work_limit import WorkLimit

log = logging.getLogger("ray.serve.raster")

Result = TypeVar("Result")

START_S = 30.0
"""Longest start of the process, in seconds. It takes half a second on an idle machine."""

BASE_MEMORY_BYTES = 512 * 2**20
"""Memory for the interpreter, libraries, the file and everything a format needs besides pixels."""

MEMORY_BYTES_PER_PIXEL = 28
"""Memory for the decoded image, its RGB copy and the array that is sent: 23 measured for turned WebP, 18 for PNG."""

PIPE_BYTES = 2**20
"""Capacity of the pipes to and from the process. A page has ten megabytes; with Linux's default of 64 KiB, the two
processes would take turns for it two hundred times."""

MAX_HEADER_BYTES = 64 * 2**10

MAX_TEXT_BYTES = 64 * 2**20
"""Largest text layer of a page as JSON, with its words. `text_layer.MAX_CHARACTERS` keeps it far below."""

MAX_DEATHS = 3
"""Once this many pages of a document have killed or blocked the process, its other pages are refused."""

KILLED_RETRY_AFTER_S = 5

# By default glibc returns the memory of each page and faults it in again for the next. An A4 page at 200 dpi then takes
# 50 ms, and 20 ms with these settings. Memory over 128 MiB is still returned.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20)}


class IsolatedDecoder:
    """Decodes pages one after another in a child process, which is replaced when a document kills it.

    The child keeps documents of many pages open between requests.

    The child starts with the first document. Linux ends it together with the thread that started it, so call `decode`
    from one thread that lives as long as the decoder.
    """

    def __init__(
        self,
        *,
        max_pixels: int,
        default_dpi: int,
        deadline_s: float,
        memory_bytes: int | None = None,
        start_s: float = START_S,
    ) -> None:
        """`deadline_s`: seconds for one page, including opening its document; see `WorkLimit`. `memory_bytes`: the child's address
        space; by default what the worst image of `max_pixels` and the open documents need. `start_s`: seconds for the
        child's start."""
        self._max_pixels = max_pixels
        self._default_dpi = default_dpi
        self._deadline_s = deadline_s
        self._start_s = start_s
        self._memory_bytes = memory_bytes or BASE_MEMORY_BYTES + OPEN_BYTES + MEMORY_BYTES_PER_PIXEL * max_pixels
        self._child: _Child | None = None
        self._closed = False
        self._deaths = DeathCount(MAX_DEATHS)  # deaths of the child, by the document that caused them
        self._lock = threading.Lock()

    def count_pages(self, source: SourceFile) -> int:
        """Open a document and count its pages. Blocks and raises like `decode`."""
        return self._call(source, {}, self._read_count)

    def decode(self, source: SourceFile, number: int, dpi: int | None) -> DecodedImage:
        """Run `PageSource.render` in the child. Blocks up to the deadline, longer on a busy machine, plus the child's start.

        Raises the errors of `render` and `open_source`; CorruptDocument also if the child died or took too long;
        ServiceUnavailable if the child was killed from outside twice or started too slowly, or the disk is full;
        RuntimeError if the child cannot start or breaks the protocol.
        """
        return self._call(source, {"page": number, "dpi": dpi, "default_dpi": self._default_dpi}, self._read_image)

    def text_page(self, source: SourceFile, number: int, dpi: int | None) -> TextPage | None:
        """Run `PageSource.text_page` in the child. Blocks and raises like `decode`."""
        task = {"page": number, "text": True, "dpi": dpi, "default_dpi": self._default_dpi}
        return self._call(source, task, self._read_text)

    def _call(
        self, source: SourceFile, task: dict[str, Any], read: Callable[[_Child, dict[str, Any], WorkLimit], Result]
    ) -> Result:
        with self._lock:
            if self._deaths.is_given_up(source.id):
                raise CorruptDocument("Too many pages of the document are damaged, so this page was not decoded.")
            try:
                return self._attempt(source, task, read)
            except _Killed:
                log.warning("document %s: the decoding process was killed; trying again", source.id)
            try:
                return self._attempt(source, task, read)
            except _Killed:
                self._deaths.add(source.id)
                raise ServiceUnavailable(
                    "The decoding process was killed.", retry_after_s=KILLED_RETRY_AFTER_S
                ) from None

    def _attempt(
        self, source: SourceFile, task: dict[str, Any], read: Callable[[_Child, dict[str, Any], WorkLimit], Result]
    ) -> Result:
        child = self._running_child()
        try:
            limit = WorkLimit(self._deadline_s)
            limit.watch(child.pid)
            return read(child, self._request(child, source, task, limit), limit)
        except ServiceError:
            raise  # a regular response: the child is ready for the next document
        except _TimedOut:
            self._drop()
            DECODER_DEATHS.inc(reason="timeout")
            self._deaths.add(source.id)
            log.warning(
                "document %s (%d bytes): decoding took longer than %g s; its process was killed",
                source.id, source.data.size, self._deadline_s,
            )  # fmt: skip
            raise CorruptDocument("Decoding the document took too long; it may be damaged.") from None
        except _Died:
            end = self._drop()
            # No document sends SIGKILL; a system that is short of memory does.
            if end == signal.SIGKILL.name and not self._closed:
                DECODER_DEATHS.inc(reason="killed")
                raise _Killed from None
            DECODER_DEATHS.inc(reason="died")
            self._deaths.add(source.id)
            log.warning("document %s (%d bytes): the decoding process died: %s", source.id, source.data.size, end)
            raise CorruptDocument("The document is damaged and could not be decoded.") from None
        except (LookupError, TypeError) as error:
            self._drop()
            raise RuntimeError("the decoding process sent a header without the fields it should have") from error
        except BaseException:
            self._drop()  # the child may still send data of this document
            raise

    def close(self) -> None:
        """End the child. A decode in progress fails at once."""
        self._closed = True
        child = self._child
        if child is not None:
            child.kill()
        with self._lock:
            self._drop()

    def _running_child(self) -> _Child:
        if self._child is not None and not self._child.is_alive():
            log.warning("the decoding process died while idle: %s; starting another", self._drop())
            DECODER_DEATHS.inc(reason="idle")
        if self._child is None:
            self._child = _Child(self._memory_bytes)
            try:
                limit = WorkLimit(self._start_s)
                limit.watch(self._child.pid)
                self._child.receive_header(limit)
            except _TimedOut:
                self._drop()
                DECODER_DEATHS.inc(reason="start")
                log.error("the decoding process did not start in %g s; the machine may be overloaded", self._start_s)
                raise ServiceUnavailable(
                    "The decoding process did not start in time.", retry_after_s=KILLED_RETRY_AFTER_S
                ) from None
            except _Died as error:
                end = self._drop()
                DECODER_DEATHS.inc(reason="start")
                if end == signal.SIGKILL.name and not self._closed:
                    raise _Killed from None
                raise RuntimeError(f"the decoding process did not start: {end}; see stderr for details") from error
            except BaseException:
                self._drop()
                raise
        return self._child

    def _request(self, child: _Child, source: SourceFile, task: dict[str, Any], limit: WorkLimit) -> dict[str, Any]:
        """Send a request, with the file only if the child does not have it open; returns the response's header."""
        data = memoryview(source.data)
        if not data:
            raise EmptyDocument()
        if len(data) > self._memory_bytes // 2:
            raise TooLarge("The document needs more memory than this service allows.")
        request = {"document": source.id, "password": source.password, "max_pixels": self._max_pixels, **task}
        for part in (data[:0], data):
            child.send(pack_header({**request, "size": len(part)}), limit)
            child.send(part, limit)
            header = child.receive_header(limit)
            if "unknown" not in header:
                break
        if "error" in header:
            error = document_error(header["error"], header["message"])
            if isinstance(error, ServiceUnavailable):
                log.error(
                    "document %s (%d bytes): no disk space left in %s", source.id, len(data), tempfile.gettempdir()
                )
            else:
                reason = f"{error.message} {header['detail']}".rstrip()
                log.info("document %s (key %r, %d bytes): refused: %s", source.id, source.owner, len(data), reason)
            raise error
        return header

    def _read_count(self, child: _Child, header: dict[str, Any], limit: WorkLimit) -> int:
        return int(header["pages"])

    def _read_text(self, child: _Child, header: dict[str, Any], limit: WorkLimit) -> TextPage | None:
        size = header["text_size"]
        if size > MAX_TEXT_BYTES:
            raise RuntimeError(f"the decoding process announced a text of {size} bytes")
        encoded = bytearray(size)
        child.receive_into(memoryview(encoded), limit)
        return TEXT_PAGE.validate_json(bytes(encoded))

    def _read_image(self, child: _Child, header: dict[str, Any], limit: WorkLimit) -> DecodedImage:
        width, height, dpi = header["width"], header["height"], header["dpi"]
        if min(width, height) < 1 or width * height > self._max_pixels:
            raise RuntimeError(f"the decoding process announced {width} x {height} pixels")
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        child.receive_into(pixels.data.cast("B"), limit)
        return DecodedImage(pixels, dpi, tuple(ErrorInfo(**warning) for warning in header["warnings"]))

    def _drop(self) -> str:
        """End the child, if there is one. Returns why it ended."""
        child, self._child = self._child, None
        return child.stop() if child is not None else "not running"


class _TimedOut(Exception):
    pass


class _Died(Exception):
    pass


class _Killed(Exception):
    pass


class _Child:
    """The process and its two pipes."""

    def __init__(self, memory_bytes: int) -> None:
        environment = child_environment() | _MALLOC
        command = child_command("serve_app.raster.decoder_process", memory_bytes)
        self._process = subprocess.Popen(  # noqa: S603 - no part comes from a request
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
        )
        self.pid = self._process.pid
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._responses = self._process.stdin.fileno(), self._process.stdout.fileno()
        for descriptor in (self._requests, self._responses):
            os.set_blocking(descriptor, False)
            if sys.platform == "linux":
                with contextlib.suppress(OSError):  # the pipes of one user have a limit together
                    fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> str:
        """Kill and reap the process. Returns why it ended, which may have happened earlier."""
        self._process.kill()
        status = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return exit_reason(status)

    def send(self, data: bytes | memoryview, limit: WorkLimit) -> None:
        rest = memoryview(data)
        while rest:
            _wait(self._requests, select.POLLOUT, limit)
            try:
                rest = rest[os.write(self._requests, rest) :]
            except BrokenPipeError:
                raise _Died from None

    def receive_header(self, limit: WorkLimit) -> dict[str, Any]:
        prefix = bytearray(HEADER_LENGTH.size)
        self.receive_into(memoryview(prefix), limit)
        (size,) = HEADER_LENGTH.unpack(prefix)
        if size > MAX_HEADER_BYTES:
            raise RuntimeError(f"the decoding process announced a header of {size} bytes")
        encoded = bytearray(size)
        self.receive_into(memoryview(encoded), limit)
        try:
            fields: dict[str, Any] = json.loads(encoded)
        except ValueError as error:
            raise RuntimeError("the decoding process sent a header that is not JSON") from error
        return fields

    def receive_into(self, buffer: memoryview, limit: WorkLimit) -> None:
        while buffer:
            _wait(self._responses, select.POLLIN, limit)
            received = os.readv(self._responses, [buffer])
            if received == 0:
                raise _Died
            buffer = buffer[received:]


def _wait(descriptor: int, event: int, limit: WorkLimit) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    left = limit.left()
    while not poll.poll(max(0.0, left) * 1000):
        left = limit.left()
        if left <= 0:
            raise _TimedOut
