"""The child process that writes one PDF or DOCX: see writer_client.py.

`python -m serve_app.outputs.writer_process PARENT_PID MEMORY_BYTES KIND SOURCE RESULT` reads its settings (a line of
JSON) and the pages (a line of JSON each) from stdin. SOURCE and RESULT are file descriptors. It writes RESULT, or exits
with REFUSED and prints the error's code and message as JSON. It prints the numbers of pages of a PDF that it drew. If more
have to be drawn, it exits with NOT_KEPT and prints their positions.

    KIND  SOURCE                      settings
    pdf   the document's file         {"password", "straighten", "pdf_a"}, and "draw_all" or "draw"
    docx  its pictures, concatenated  {"title", "pictures": {path: [start, size]}}
    pages the same                    {"pictures"}; the result is a ZIP with `page-N.docx` for each page
"""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from serve_app.document import Page
from serve_app.errors import ServiceError, TooLarge
from serve_app.outputs.docx import write_docx
from serve_app.outputs.searchable_pdf import write_searchable_pdf
from serve_app.outputs.writer_exit import FORMAT_NAMES, NOT_KEPT, REFUSED, PagesNotKept
from serve_app.runtime.child_process import enter_child
from serve_app.runtime.temp_dir import is_no_room, no_room

NICE = 10  # writing a long file must not slow down the rest of the service


def main() -> None:
    kind, source, result = enter_child()
    os.nice(NICE)
    settings = json.loads(sys.stdin.buffer.readline())
    pages = (Page.model_validate_json(line) for line in sys.stdin.buffer)
    try:
        with os.fdopen(int(source), "rb") as original, os.fdopen(int(result), "wb") as to:
            if kind == "pdf":
                print(*write_searchable_pdf(original, pages, to=to, **settings), flush=True)
            elif kind == "docx":
                write_docx(pages, title=settings["title"], figure=_reader(original, settings["pictures"]), to=to)
            else:
                _write_pages(original, pages, settings, to)
    except PagesNotKept as error:
        print(json.dumps(error.positions), flush=True)
        sys.exit(NOT_KEPT)
    except ServiceError as error:
        _refuse(error)
    except OSError as error:
        if not is_no_room(error):
            raise
        _refuse(no_room())
    except MemoryError:
        _refuse(TooLarge(f"The {FORMAT_NAMES[kind]} of this document needs more memory than this service allows."))


def _refuse(error: ServiceError) -> None:
    print(json.dumps({"code": error.code, "message": error.message}), flush=True)
    sys.exit(REFUSED)


def _write_pages(pictures: BinaryIO, pages: Iterable[Page], settings: dict[str, Any], to: BinaryIO) -> None:
    with zipfile.ZipFile(to, "w") as archive:  # DOCX files are compressed already
        for page in pages:
            name = f"page-{page.number}"
            file = io.BytesIO()
            write_docx([page], title=name, figure=_reader(pictures, settings["pictures"]), to=file)
            archive.writestr(f"{name}.docx", file.getbuffer().tobytes())


def _reader(file: BinaryIO, ranges: dict[str, tuple[int, int]]) -> Callable[[str], bytes | None]:
    def read(path: str) -> bytes | None:
        if path not in ranges:
            return None
        start, size = ranges[path]
        return os.pread(file.fileno(), size, start)

    return read


if __name__ == "__main__":
    main()
