"""The commands of README and docs, run as they stand; their answers, compared with real ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pikepdf import pdfa

from tests.support.documentation import DOCUMENTATION, ROOT, code_blocks
from tests.support.http_server import http_server
from tests.support.samples import SAMPLES
from tests.support.service import KEY, Service

TEXT = "\n".join(file.read_text() for file in DOCUMENTATION)
SHELL = [content for language, content in code_blocks(TEXT) if language == "bash"]
# Each curl command with the answer that stands below it; the READMEs repeat some of docs/api.md.
EXAMPLES = list(dict.fromkeys(re.findall(r"```bash\n([^`]*?curl[^`]*?)```\n```(\w+)\n(.*?)```", TEXT, re.S)))
CHANGING = {"id", "request_id", "timings_ms", "storage", "version"}


def only(commands: list[str]) -> str:
    """The command that stands in several files, without comments."""
    (command,) = {re.sub(r" +#.*", "", command) for command in commands}
    return command


SEARCHABLE = only(re.findall(r"^curl .* -o searchable.pdf .*$", TEXT, re.M))
ARCHIVE = only(re.findall(r"^curl .* -o archive.pdf .*$", TEXT, re.M))
JOB = only([block for block in SHELL if block.startswith("JOB=")])
(JOB_STATUS,) = [
    content for language, content in code_blocks(TEXT) if language == "json" and '"waiting_for"' in content
]
API_CLIENT = only(re.findall(r"^paddleocr api .*$", TEXT, re.M))


def test_every_curl_of_the_documentation_is_run() -> None:
    run = {*(command for command, _, _ in EXAMPLES), f"{SEARCHABLE}\n", f"{ARCHIVE}\n", JOB}
    with_curl = {re.sub(r" +#.*", "", block) for block in SHELL if "curl " in block}
    elsewhere = ["options=", "/api/prometheus/sd"]  # run by test_paddleocr_vl and test_operator
    rest = with_curl - run
    assert sorted(next(part for part in elsewhere if part in command) for command in rest) == sorted(elsewhere)
    sources = {name for command, _, _ in EXAMPLES for name in re.findall(r"file=@|image_url|image_base64", command)}
    assert sources == {"file=@", "image_url", "image_base64"}


@pytest.mark.parametrize(("command", "form", "answer"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_gives_the_answer_below_it(service: Service, command: str, form: str, answer: str) -> None:
    pages = {f"/{page.name}": page.read_bytes() for page in SAMPLES.glob("*.png")}
    with http_server(pages) as server:
        done = subprocess.run(
            ["bash", "-c", command.replace("https://example.com/", f"{server}/")],
            cwd=ROOT,
            env={**os.environ, "OCR": service.url, "KEY": KEY},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    if form == "text":
        assert done.stdout.startswith(answer.strip())
    elif form == "jsonl":
        shown, real = (list(map(json.loads, text.splitlines())) for text in (answer, done.stdout))
        assert len(shown) == len(real)
        numbers = [[event["page"].pop("number") for event in events[1:-1]] for events in (shown, real)]
        assert sorted(numbers[0]) == sorted(numbers[1]), "pages come as they are done"
        assert_shown(shown, real)
    else:
        assert_shown(json.loads(answer), json.loads(done.stdout))


def test_the_searchable_pdf_has_the_text_of_both_pages(
    service: Service, russian_text: str, english_text: str, tmp_path: Path
) -> None:
    command = SEARCHABLE.replace("-o searchable.pdf", f"-o {tmp_path}/searchable.pdf")
    environment = {**os.environ, "OCR": service.url, "KEY": KEY}
    subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, timeout=60, check=True)
    text = subprocess.run(
        ["pdftotext", str(tmp_path / "searchable.pdf"), "-"], capture_output=True, text=True, check=True
    ).stdout
    assert [page.split() for page in text.split("\f")[:2]] == [russian_text.split(), english_text.split()]


def test_the_archive_is_pdf_a(service: Service, tmp_path: Path) -> None:
    command = ARCHIVE.replace("-o archive.pdf", f"-o {tmp_path}/archive.pdf")
    environment = {**os.environ, "OCR": service.url, "KEY": KEY}
    subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, timeout=60, check=True)
    report = pdfa.validate_written(tmp_path / "archive.pdf", "2b")
    assert report.passed, report.summary()


def test_the_job_ends_as_a_searchable_pdf(service: Service, russian_text: str, tmp_path: Path) -> None:
    command = JOB.replace("-o job.pdf", f"-o {tmp_path}/job.pdf")
    environment = {**os.environ, "OCR": service.url, "KEY": KEY}
    done = subprocess.run(
        ["bash", "-ec", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    job = json.loads(done.stdout.splitlines()[-2].removeprefix("data: "))
    shown = json.loads(JOB_STATUS)
    assert job["state"] == "done" and shown.keys() <= job.keys()
    at_its_end = {"id": job["id"], "state": "done", "progress": {"done": 2, "failed": 0, "total": 2}, "left_s": None}
    assert_shown({**shown, **at_its_end}, job)
    pdftotext = ["pdftotext", str(tmp_path / "job.pdf"), "-"]
    text = subprocess.run(pdftotext, capture_output=True, text=True, check=True).stdout
    assert text.split("\f")[0].split() == russian_text.split()


def test_the_command_line_of_paddleocr_reads_the_sample(service: Service) -> None:
    clients = ROOT / ".clients/bin"
    assert (clients / "paddleocr").exists(), "make test installs it; by itself: make .clients/installed"
    environment = {**os.environ, "OCR": service.url, "KEY": KEY, "PATH": f"{clients}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", API_CLIENT], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90, check=True
    )
    assert "Счёт на оплату" in done.stdout


def assert_shown(shown: Any, real: Any) -> None:
    """What is shown is there: of an object some fields, of a list the first items."""
    if isinstance(shown, dict):
        for name, value in shown.items():
            if name in CHANGING:
                assert type(real[name]) is type(value)
                if isinstance(value, dict):
                    assert value.keys() <= real[name].keys()
            else:
                assert_shown(value, real[name])
    elif isinstance(shown, list):
        assert len(shown) <= len(real)
        for value, real_value in zip(shown, real, strict=False):
            assert_shown(value, real_value)
    else:
        assert shown == real
