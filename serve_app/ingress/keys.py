"""API keys. Each key has a name; names are logged, keys never are."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from serve_app.runtime.secret_file import load_or_create_secret
from serve_app.settings import Secrets, Settings, resolve

log = logging.getLogger("ray.serve.keys")

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9 ._@-]{0,63})=(.*[^=].*)")


class KeyRing:
    """The valid API keys. Stores only digests, so that no dump or log can show a key."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """`keys` maps names to keys."""
        if not keys:
            raise ValueError("there must be at least one API key")
        self._names_and_digests = [(name, _digest(key.encode())) for name, key in keys.items()]

    def name_of(self, presented: bytes) -> str | None:
        """Return the name of the presented key, or None. Takes equally long whichever key matches, if any."""
        digest = _digest(presented)
        found = None
        for name, known in self._names_and_digests:
            if hmac.compare_digest(digest, known):
                found = name
        return found


def configured_keys(settings: Settings, secrets: Secrets) -> dict[str, str]:
    """Return keys by name: those of OCR_API_KEYS, or the one that this installation generated.

    Raises ValueError with a message that says what to do.
    """
    if secrets.api_keys is not None:
        return parse_keys(secrets.api_keys.get_secret_value())
    file = resolve(settings.api_key_file)
    key = local_key(file)
    log.info("OCR_API_KEYS is not set; the API key is in %s", file)
    return {"local": key}


def parse_keys(text: str) -> dict[str, str]:
    """Parse `OCR_API_KEYS` (comma-separated, each `name=key` or `key`) into keys by name.

    Trailing `=` belong to the key (base64 padding), so `abc==` is a key without a name.
    Raises ValueError for an empty list and for a duplicate name; the message has no key.
    """
    keys: dict[str, str] = {}
    entries = [entry.strip() for entry in text.split(",")]
    for entry in filter(None, entries):
        named = _NAMED.fullmatch(entry)
        name, key = (named[1].strip(), named[2].strip()) if named else (_name_of_unnamed(entry), entry)
        if name in keys:
            raise ValueError(f"OCR_API_KEYS: two keys are named {name!r}")
        keys[name] = key
    if not keys:
        raise ValueError("OCR_API_KEYS is set but holds no key")
    return keys


def _name_of_unnamed(key: str) -> str:
    """Derive a name from the key alone, not from its position in the list, since jobs belong to the name."""
    return f"key-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def local_key(file: Path) -> str:
    """Return the key of an installation without OCR_API_KEYS, generated once, in a file that only its owner can read.

    Raises ValueError with a message that says what to do if the file cannot be used or has no key.
    """
    try:
        return load_or_create_secret(file)
    except OSError as error:
        raise ValueError(
            f"No API key: OCR_API_KEYS is not set and {file} cannot be used ({error.strerror}). "
            "Set OCR_API_KEYS, or set api_key_file to a writable file."
        ) from error


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
