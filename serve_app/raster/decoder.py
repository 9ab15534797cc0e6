"""The process that decodes: `python -m serve_app.raster.decoder PARENT_PID MEMORY_BYTES`.

A request on stdin is a header and the file; the answer on stdout a header and the pixels. A header is
its length (4 bytes, big-endian) and so much JSON:

    request   {"size", "max_pixels", "dpi_hint", "default_dpi"}, then `size` bytes
    answer    {"width", "height", "dpi"}, then width * height * 3 bytes
              {"error": code, "message", "detail"}: `message` is for the client, `detail` for the log

The first header, {}, says that the process is ready. It ends at the end of stdin, and with its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from typing import Any, BinaryIO

import numpy as np

from serve_app.errors import ServiceError
from serve_app.raster.images import DecodedImage, decode_image

HEADER_LENGTH = struct.Struct(">I")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def pack_header(fields: dict[str, Any]) -> bytes:
    """A header as it goes over the pipe, its length first."""
    encoded = json.dumps(fields).encode()
    return HEADER_LENGTH.pack(len(encoded)) + encoded


def main() -> None:
    parent, memory_bytes = int(sys.argv[1]), int(sys.argv[2])
    requests, answers = _take_over_pipes()
    _die_with(parent)
    _limit(memory_bytes)
    _write(answers, pack_header({}))
    while (fields := _read_header(requests)) is not None:
        _answer(fields, requests, answers)


def _answer(fields: dict[str, Any], requests: BinaryIO, answers: int) -> None:
    data = requests.read(fields["size"])
    if len(data) < fields["size"]:
        sys.exit("a request ended early")
    try:
        image: DecodedImage = decode_image(
            data, max_pixels=fields["max_pixels"], dpi_hint=fields["dpi_hint"], default_dpi=fields["default_dpi"]
        )
    except ServiceError as error:
        detail = repr(error.__cause__)[:500] if error.__cause__ else ""
        _write(answers, pack_header({"error": error.code, "message": error.message, "detail": detail}))
        return
    height, width, _ = image.pixels.shape
    _write(answers, pack_header({"width": width, "height": height, "dpi": image.dpi}))
    _write(answers, np.ascontiguousarray(image.pixels).data.cast("B"))


def _take_over_pipes() -> tuple[BinaryIO, int]:
    """stdin and stdout for the protocol alone: what libraries print to descriptor 1 goes to stderr."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def _die_with(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        sys.exit("the parent is gone")


def _limit(memory_bytes: int) -> None:
    for kind, limit in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def _read_header(requests: BinaryIO) -> dict[str, Any] | None:
    """The next request's header; None at the end of the stream."""
    prefix = requests.read(HEADER_LENGTH.size)
    if not prefix:
        return None
    fields: dict[str, Any] = json.loads(requests.read(*HEADER_LENGTH.unpack(prefix)))
    return fields


def _write(descriptor: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


if __name__ == "__main__":
    main()
