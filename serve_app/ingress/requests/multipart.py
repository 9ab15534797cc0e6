"""Multipart forms whose file name is sent in the extended form alone: `filename*=UTF-8''...`, as urllib3 before 1.25 does."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from starlette.formparsers import MultiPartParser

# https://www.rfc-editor.org/rfc/rfc5987: charset'language'percent-encoded value.
_EXTENDED = re.compile(rb";\s*filename\*\s*=\s*\"?([\w.-]*)'[\w-]*'([^\s;\"]*)\"?", re.IGNORECASE)
_PLAIN = re.compile(rb";\s*filename\s*=", re.IGNORECASE)


class FormParser(MultiPartParser):
    """Starlette's parser, which takes a part for a file only if it has a plain `filename`."""

    def on_headers_finished(self) -> None:
        part = self._current_part
        if part.content_disposition is not None:
            part.content_disposition = with_plain_file_name(part.content_disposition)
        super().on_headers_finished()


def with_plain_file_name(disposition: bytes) -> bytes:
    """Add a plain `filename` in UTF-8 to a Content-Disposition that has only `filename*`."""
    extended = _EXTENDED.search(disposition)
    if extended is None or _PLAIN.search(disposition):
        return disposition
    charset, encoded = extended.groups()
    try:
        name = unquote_to_bytes(encoded).decode(charset.decode() or "utf-8", "replace")
    except LookupError:  # an unknown charset
        name = "document"
    quoted = "".join(character for character in name if character not in '"\\\r\n')
    return disposition + b'; filename="%b"' % quoted.encode("utf-8", "replace")
