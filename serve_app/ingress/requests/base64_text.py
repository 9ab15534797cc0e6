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

    The padding may be missing: encoders of the URL-safe alphabet leave it out. Raises InvalidBase64 for a wrong
    alphabet, wrong padding, and text that was cut.
    """
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise InvalidBase64("The data: URI is not base64.")
    try:
        compact = text.encode("ascii").translate(_URL_SAFE, delete=b" \t\r\n\v\f")
        missing = -len(compact) % 4
        if missing == 0:  # strict_mode lets some wrong padding through
            return binascii.a2b_base64(compact, strict_mode=True)
        if missing == 3 or compact.endswith(b"="):
            raise InvalidBase64
        padded = compact + b"=" * missing
        decoded = binascii.a2b_base64(padded, strict_mode=True)
        # The spare bits of the last character are zero, unless the text was cut.
        if binascii.b2a_base64(decoded[missing - 3 :], newline=False) != padded[-4:]:
            raise InvalidBase64
        return decoded
    except ValueError:  # binascii.Error and UnicodeEncodeError are ValueErrors
        raise InvalidBase64 from None


_URL_SAFE = bytes.maketrans(b"-_", b"+/")
