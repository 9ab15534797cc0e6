"""The programs in examples/, run as their users run them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.documentation import ROOT
from tests.support.samples import SAMPLES
from tests.support.service import KEY, Service


def run_client(service: Service, *arguments: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "examples/client.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "OCR": service.url, "KEY": key},
        capture_output=True,
        text=True,
        timeout=90,
    )


def test_the_client_prints_a_page_as_markdown(service: Service, russian_text: str) -> None:
    done = run_client(service, "samples/page-ru.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace("\\", "").split() == russian_text.split(), "but for what Markdown escapes"


def test_the_client_follows_a_job_and_writes_a_searchable_pdf(
    service: Service, tmp_path: Path, russian_text: str
) -> None:
    shutil.copy(SAMPLES / "scan.pdf", tmp_path)
    done = run_client(service, str(tmp_path / "scan.pdf"), "--job")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {line.partition(":")[0] for line in lines} >= {"page 1", "page 2"}
    assert lines[-2].endswith("done, 2 of 2 pages")
    command = ["pdftotext", str(tmp_path / "scan-searchable.pdf"), "-"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert text.split("\f")[0].split() == russian_text.split()


def test_the_client_says_what_the_service_refuses(service: Service) -> None:
    done = run_client(service, "samples/page-ru.txt")
    assert done.returncode == 1 and done.stderr.startswith("415 unsupported_media_type: "), done.stderr
    done = run_client(service, "samples/page-ru.png", key="wrong")
    assert done.returncode == 1 and done.stderr.startswith("401 unauthorized: "), done.stderr
