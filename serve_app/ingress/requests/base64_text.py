"""Decodes documents that are sent as base64."""

from __future__ import annotations

import binascii

from serve_app.errors import InvalidBase64
from serve_app.ingress.requests.off_loop import run_off_loop


async def decode_off_loop(text: str) -> bytes:
    """Call `decode_base64`, in a thread if the text is long."""
    return await run_off_loop(len(text), decode_base64, text)


def decode_base64(text: str) -> bytes:
    """Decode base64, standard or URL-safe, with any whitespace, plain or in a data: URI.

    Raises InvalidBase64 for a wrong alphabet or wrong padding.
    """
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise InvalidBase64("The data: URI is not base64.")
    try:
        compact = text.encode("ascii").translate(_URL_SAFE, delete=b" \t\r\n\v\f")
        if len(compact) % 4:  # strict_mode lets some wrong padding through
            raise InvalidBase64
        return binascii.a2b_base64(compact, strict_mode=True)
    except ValueError:  # binascii.Error and UnicodeEncodeError are ValueErrors
        raise InvalidBase64 from None


_URL_SAFE = bytes.maketrans(b"-_", b"+/")
