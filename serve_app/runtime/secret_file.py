"""A secret that an installation makes for itself, once."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path


def kept_secret(file: Path) -> str:
    """What is in the file, which only its owner can read; a random secret is put there if there is none.

    Raises OSError if the file can be neither read nor made, or is empty.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_urlsafe(32) + "\n")
            stream.flush()
            os.fsync(stream.fileno())  # a file that the power's end leaves empty would be a secret that anybody knows
        # A link fails if the file is there: of two first starts at once, one secret wins whole.
        os.link(temporary, file)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    file.chmod(0o600)
    secret = file.read_text().strip()
    if not secret:
        raise OSError(errno.EINVAL, "the file is empty; remove it to have a new secret made", str(file))
    return secret
