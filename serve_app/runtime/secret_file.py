"""A secret that an installation generates once."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path


def load_or_create_secret(file: Path) -> str:
    """Read the secret in `file`. If there is no file, create one with a random secret, readable by its owner only.

    Raises OSError if the file can be neither read nor created, or is empty.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(32) + "\n")  # a leading hyphen would look like an option on a command line
            stream.flush()
            os.fsync(stream.fileno())  # a power failure must not leave an empty file behind
        # A link fails if the file exists: of two first starts at the same time, one secret wins.
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
