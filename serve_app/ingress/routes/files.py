"""GET /files: files of a folder store, by signed links. Links to an S3 store lead to the bucket itself."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from serve_app.errors import LinkExpired, LinkInvalid, NotFound
from serve_app.ingress.context import Context, context_of
from serve_app.ingress.responses.files import file_response
from serve_app.outputs.formats import MEDIA_TYPES, OutputFormat
from serve_app.paddlex.job import RESULT_TYPE
from serve_app.storage import FolderStore

router = APIRouter(tags=["files"])

_MEDIA_TYPES = {
    ".jpg": "image/jpeg",
    ".jsonl": RESULT_TYPE,
    ".json": MEDIA_TYPES[OutputFormat.JSON],
    ".md": MEDIA_TYPES[OutputFormat.MARKDOWN],
}
_HEADERS = {
    "Content-Security-Policy": "sandbox",
    "X-Content-Type-Options": "nosniff",
}


@router.head("/files/{key:path}", include_in_schema=False)
@router.get("/files/{key:path}", summary="Get a stored file by a signed link; no API key is needed")
async def file(
    key: str, context: Annotated[Context, Depends(context_of)], expires: str = "", signature: str = ""
) -> Response:
    if not isinstance(context.services.store, FolderStore):
        raise NotFound
    try:
        opened = await asyncio.to_thread(context.services.store.open_link, key, expires, signature)
    except PermissionError:
        raise LinkInvalid from None
    except TimeoutError:
        raise LinkExpired from None
    except KeyError:
        raise NotFound from None
    media_type = _MEDIA_TYPES.get(PurePosixPath(key).suffix, "application/octet-stream")
    left_s = max(0, int(expires) - int(time.time()))
    headers = _HEADERS | {"Cache-Control": f"private, max-age={min(3600, left_s)}"}
    return file_response(opened, media_type, headers, ExitStack())
