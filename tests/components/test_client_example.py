"""examples/client.py where it cannot begin: one line says why. tests/service runs it with the service."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.documentation import ROOT

NOBODY = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("environment", "file", "line"),
    [
        ({}, "samples/page-en.png", "Set OCR and KEY first: OCR is the service's address, KEY an API key."),
        (
            {"OCR": NOBODY, "KEY": ""},
            "samples/page-en.png",
            "Set KEY first: OCR is the service's address, KEY an API key.",
        ),
        ({"OCR": NOBODY, "KEY": "k"}, "samples/none.png", "There is no file samples/none.png."),
        ({"OCR": NOBODY, "KEY": "k"}, "samples/page-en.png", f"{NOBODY} does not respond: "),
        ({"OCR": "127.0.0.1:9", "KEY": "k"}, "samples/page-en.png", "127.0.0.1:9 does not respond: "),
    ],
)
def test_what_is_missing_is_one_line(environment: dict[str, str], file: str, line: str) -> None:
    clean = {name: value for name, value in os.environ.items() if name not in ("OCR", "KEY")}
    done = subprocess.run(
        [sys.executable, "examples/client.py", file],
        cwd=ROOT,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and done.stderr.startswith(line), done.stderr
    assert done.stderr.count("\n") == 1
