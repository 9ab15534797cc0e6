"""Documents of many pages over HTTP: PDFs and TIFFs in, pages as they are done, whatever becomes of some of them."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import docx
import httpx
import pikepdf
import pytest
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt
from PIL import Image
from rapidfuzz import fuzz

from tests.support.pdfs import encrypted, pages_pdf, scan, text_pdf
from tests.support.service import Service

Deploy = Callable[..., Service]


def blank(pages: int) -> bytes:
    return pages_pdf([b"" for _ in range(pages)], size=(100, 100))


def read(service: Service, document: bytes, *, accept: str = "application/json", **fields: str) -> httpx.Response:
    with service.client() as client:
        return client.post("/ocr", files={"file": document}, data=fields, headers={"Accept": accept})


# Markup that must stay text in every output.
EVIL = "<script>alert(1)</script> [x](javascript:alert(1))"


@pytest.fixture(scope="module")
def slow(deployed_for_module: Deploy) -> Service:
    """One page after another, each of a tenth of a second; every page reads EVIL."""
    engine = {"name": "dummy", "replicas": 1, "page_s": 0.1, "max_batch": 1, "text": EVIL}
    service = deployed_for_module({"engines": [engine]})
    service.wait_until_engines_are_ready()
    return service


def test_row_39_a_bad_page_costs_itself_only(
    service: Service, russian_page: bytes, russian_text: str, english_page: bytes, english_text: str
) -> None:
    answer = read(service, scan(russian_page, english_page, russian_page, damaged=2))
    document = answer.json()
    assert (answer.status_code, document["status"], document["page_count"]) == (200, "partial", 3)
    assert [page["number"] for page in document["pages"]] == [1, 2, 3]
    for page, text in zip(document["pages"], (russian_text, english_text), strict=False):
        # The scan is a JPEG within the PDF, which may cost a letter.
        assert fuzz.ratio(page["text"].split(), text.split()) > 97
    assert document["pages"][2]["error"]["code"] == "corrupt_document"
    assert "3" in document["pages"][2]["error"]["message"]
    assert document["text"] == "\n\n".join(page["text"] for page in document["pages"][:2])
    assert (answer.headers["x-document-status"], answer.headers["x-pages-failed"]) == ("partial", "1")
    for form, note in (("text", "[Page 3: "), ("markdown", "> Page 3: ")):
        told = read(service, scan(russian_page, english_page, russian_page, damaged=2), output=form, engine="dummy")
        assert told.text.startswith("Привет\n\nПривет\n\n" + note) and "corrupt_document" in told.text
        assert told.headers["x-pages-failed"] == "1"
    with service.client() as client:
        assert client.get("/health").json()["status"] == "healthy"


def test_a_damaged_page_alone_is_an_error(service: Service, russian_page: bytes) -> None:
    answer = read(service, scan(russian_page, russian_page, damaged=1), pages="2", engine="dummy")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "corrupt_document")


def test_a_tiff_of_many_pages_is_read(service: Service, russian_page: bytes, english_page: bytes) -> None:
    stream = io.BytesIO()
    first, second = (Image.open(io.BytesIO(page)) for page in (russian_page, english_page))
    first.save(stream, "TIFF", save_all=True, append_images=[second], dpi=(200, 200), compression="tiff_deflate")
    document = read(service, stream.getvalue()).json()
    assert document["status"] == "done"
    assert ["булок" in page["text"] for page in document["pages"]] == [True, False]
    assert "fox" in document["pages"][1]["text"]


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [("2", [2]), ("1-3,7", [1, 2, 3, 7]), ("7,1", [1, 7]), ("8-", [8, 9, 10]), ("2-3,3-4", [2, 3, 4])],
)
def test_pages_may_be_chosen(service: Service, asked: str, numbers: list[int]) -> None:
    document = read(service, blank(10), pages=asked, engine="dummy").json()
    assert [page["number"] for page in document["pages"]] == numbers
    assert (document["page_count"], document["status"]) == (10, "done")


@pytest.mark.parametrize("asked", ["0", "9-3", "11", "1-11", "-", "a", "1,,2", "1.5", "-3", "1-2-3", "1," * 400_000])
def test_row_30_a_wrong_range_of_pages_names_the_field(service: Service, asked: str) -> None:
    answer = read(service, blank(10), pages=asked, engine="dummy")
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["fields"][0]["field"]) == ("invalid_field", "pages")


def test_row_24_an_encrypted_pdf_needs_its_password(service: Service) -> None:
    secret = encrypted(pages_pdf([b"", b""], size=(100, 100)), "тайна")
    for fields in ({}, {"password": "другая"}):
        answer = read(service, secret, engine="dummy", **fields)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "password_required")
    document = read(service, secret, engine="dummy", password="тайна").json()
    assert [page["text"] for page in document["pages"]] == ["Привет", "Привет"]


def test_row_26_too_many_pages_are_refused_before_any_is_drawn(service: Service) -> None:
    started = time.monotonic()
    answer = read(service, blank(20_000), engine="dummy")
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_many_pages")
    assert "1000" in answer.json()["error"]["message"]
    answer = read(service, blank(5), engine="dummy", max_pages="4")
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_many_pages")
    assert time.monotonic() - started < 10
    assert read(service, blank(20_000), engine="dummy", pages="19999-").status_code == 200


def test_dpi_says_how_large_a_pdf_is_drawn(service: Service) -> None:
    def sizes(**fields: str) -> list[tuple[int, int, int]]:
        pages = read(service, pages_pdf([b""], size=(360, 720)), engine="dummy", **fields).json()["pages"]
        return [(page["width"], page["height"], page["dpi"]) for page in pages]

    assert sizes() == [(1000, 2000, 200)]
    assert sizes(dpi="100") == [(500, 1000, 100)]


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
def test_pages_are_sent_as_they_are_done(service: Service, accept: str) -> None:
    with (
        service.client() as client,
        client.stream(
            "POST", "/ocr", files={"file": blank(30)}, data={"engine": "dummy"}, headers={"Accept": accept}
        ) as answer,
    ):
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(accept)
        lines = [line for line in answer.iter_lines() if line]
    if accept == "text/event-stream":
        assert [line.partition(": ")[0] for line in lines] == ["event", "data"] * (len(lines) // 2)
        events = [
            {"event": event.partition(": ")[2], **json.loads(data.partition(": ")[2])}
            for event, data in zip(lines[::2], lines[1::2], strict=True)
        ]
    else:
        events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events] == ["start"] + ["page"] * 30 + ["document"]
    assert [event["progress"]["done"] for event in events[1:-1]] == list(range(1, 31))
    assert sorted(event["page"]["number"] for event in events[1:-1]) == list(range(1, 31))
    assert {event["page"]["text"] for event in events[1:-1]} == {"Привет"}
    assert events[-1]["status"] == "done" and events[-1]["storage"]["status"] == "stored"


def test_a_stream_of_a_document_without_a_good_page_ends_in_its_error(service: Service, russian_page: bytes) -> None:
    answer = read(
        service, scan(russian_page, russian_page, damaged=1), pages="2", engine="dummy", accept="application/x-ndjson"
    )
    events = [json.loads(line) for line in answer.text.splitlines()]
    assert [event["event"] for event in events] == ["start", "page", "error"]
    assert events[-1]["code"] == "corrupt_document"


def test_what_is_done_by_the_deadline_is_answered(deployed: Callable[..., Service]) -> None:
    engine = {"name": "dummy", "replicas": 1, "page_s": 0.2, "max_batch": 1}
    service = deployed({"engines": [engine], "limits": {"document_s": 3}})
    service.wait_until_engines_are_ready()
    document = read(service, blank(40)).json()
    assert document["status"] == "partial" and len(document["pages"]) == 40
    done = [page for page in document["pages"] if page["error"] is None]
    assert 1 <= len(done) <= 20
    assert {page["error"]["code"] for page in document["pages"] if page["error"]} == {"document_timeout"}


def test_a_long_document_is_stored_and_answered_whole(service: Service) -> None:
    answer = read(service, blank(300), engine="dummy")
    document = answer.json()
    assert document["status"] == "done" and len(document["pages"]) == 300
    assert document["text"] == "\n\n".join(["Привет"] * 300) == document["markdown"]


def test_every_output_of_a_mixed_document_is_right_by_programs_that_are_not_ours(
    service: Service, russian_page: bytes, english_page: bytes, russian_text: str, tmp_path: Path
) -> None:
    book = scan(russian_page, english_page, russian_page, damaged=2)
    archive = read(service, book, output="zip", overlay="true")
    assert archive.status_code == 200, archive.text
    assert archive.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(archive.content)) as files:
        files.extractall(tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {
        *(f"result.{kind}" for kind in ("json", "md", "txt", "html", "docx", "pdf")),
        "overlays/page-1.jpg",
        "overlays/page-2.jpg",
    }
    document = json.loads((tmp_path / "result.json").read_text())
    wanted = " ".join(page["text"] for page in document["pages"]).split()
    assert fuzz.ratio(russian_text.split(), document["pages"][0]["text"].split()) > 97

    def told(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    for number, page in enumerate(document["pages"], 1):
        found = told("pdftotext", "-f", str(number), "-l", str(number), str(tmp_path / "result.pdf"), "-")
        assert sorted(found.split()) == sorted(page["text"].split())
    assert "Pages:           3" in told("pdfinfo", str(tmp_path / "result.pdf"))
    html = BeautifulSoup((tmp_path / "result.html").read_text(), "html.parser")
    assert [len(page.get_text(" ").split()) > 50 for page in html.find_all("section")] == [True, True, False]
    assert " ".join(wanted[:8]) in " ".join(html.get_text(" ").split())
    paragraphs = [paragraph.text for paragraph in docx.Document(str(tmp_path / "result.docx")).paragraphs]
    assert " ".join(wanted[:8]) in " ".join(" ".join(paragraphs).split())
    note = f"[Page 3: {document['pages'][2]['error']['message']} (corrupt_document)]"
    assert (tmp_path / "result.txt").read_text() == f"{document['text']}\n\n{note}\n"
    assert Image.open(tmp_path / "overlays/page-1.jpg").size == (1654, 2339)


@pytest.mark.parametrize(
    ("accept", "begins"),
    [
        ("text/html", b"<!DOCTYPE html>"),
        ("application/pdf", b"%PDF-"),
        ("application/zip", b"PK"),
        ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", b"PK"),
        ("text/markdown", "Привет".encode()),
        ("application/json", b"{"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", b"<!DOCTYPE html>"),
    ],
)
def test_accept_chooses_the_form(service: Service, russian_page: bytes, accept: str, begins: bytes) -> None:
    answer = read(service, russian_page, engine="dummy", accept=accept)
    assert answer.status_code == 200 and answer.content.lower().startswith(begins.lower())
    assert answer.headers["content-type"].startswith(accept.partition(",")[0])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (answer.headers.get("content-security-policy") == "sandbox") is accept.startswith("text/html")
    if answer.content.startswith((b"PK", b"%PDF-")):
        name = answer.headers["x-document-id"] + {
            "application/pdf": ".pdf", "application/zip": ".zip"
        }.get(accept, ".docx")  # fmt: skip
        assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'


def test_output_wins_over_accept_and_has_to_be_known(service: Service, russian_page: bytes) -> None:
    assert read(service, russian_page, engine="dummy", accept="text/html", output="text").text == "Привет\n"
    answer = read(service, russian_page, engine="dummy", output="rtf")
    assert answer.status_code == 422 and answer.json()["error"]["fields"][0]["field"] == "output"


def test_row_40_markup_on_a_page_is_text(slow: Service, russian_page: bytes) -> None:
    html = BeautifulSoup(read(slow, russian_page, output="html").text, "html.parser")
    assert not html.find_all("script") and not html.find_all("a")
    assert EVIL in html.get_text()
    rendered = MarkdownIt("commonmark").render(read(slow, russian_page, output="markdown").text)
    assert "<script" not in rendered and "<a " not in rendered


def test_a_page_with_text_of_its_own_need_not_be_recognized(service: Service, russian_page: bytes) -> None:
    lines = ["Съешь ещё этих мягких французских булок, да выпей чаю.", "Второй абзац того же листа."]
    born = text_pdf([(72, 700 - 20 * i, 12, line) for i, line in enumerate(lines)])
    with pikepdf.open(io.BytesIO(born)) as pdf, pikepdf.open(io.BytesIO(scan(russian_page))) as scanned:
        pdf.pages.extend(scanned.pages)
        mixed = io.BytesIO()
        pdf.save(mixed)
    document = read(service, mixed.getvalue(), engine="dummy", text_layer="auto").json()
    assert [page["text_source"] for page in document["pages"]] == ["text_layer", "recognition"]
    assert document["pages"][0]["text"].split() == " ".join(lines).split()
    assert document["pages"][1]["text"] == "Привет"
    assert document["engine"]["name"] == "dummy"
    ignored = read(service, mixed.getvalue(), engine="dummy").json()
    assert {page["text_source"] for page in ignored["pages"]} == {"recognition"}


def test_pictures_are_in_the_answer_where_asked_for(service: Service, russian_page: bytes) -> None:
    document = read(service, russian_page, engine="dummy", overlay="true", include_images="true").json()
    assert base64.b64decode(document["images"]["overlays/page-1.jpg"]).startswith(b"\xff\xd8\xff")
    assert "overlays/page-1.jpg" in document["storage"]["keys"]
    assert read(service, russian_page, engine="dummy", overlay="true").json()["images"] == {}


def test_pictures_are_in_the_stream_where_asked_for(service: Service, russian_page: bytes) -> None:
    sent = scan(russian_page, russian_page)
    for asked, paths in ((None, None), ("true", "overlays/page-{}.jpg")):
        fields = {} if asked is None else {"include_images": asked}
        lines = read(service, sent, engine="dummy", overlay="true", output="ndjson", **fields).text.splitlines()
        for event in map(json.loads, lines[1:-1]):
            if paths is None:
                assert "images" not in event
            else:
                ((path, image),) = event["images"].items()
                assert path == paths.format(event["page"]["number"])
                assert base64.b64decode(image).startswith(b"\xff\xd8\xff")


def test_a_pdf_for_archives_is_asked_for_and_a_header_says_that_pages_were_drawn(
    service: Service, russian_page: bytes
) -> None:
    typed = pages_pdf([b"BT /F1 20 Tf 20 50 Td (typed) Tj ET"], size=(100, 100))  # in a font that is not embedded
    for source, warnings in ((scan(russian_page), None), (typed, "pages_drawn")):
        answer = read(service, source, engine="dummy", output="pdf", pdf_a="true")
        assert answer.headers.get("X-Document-Warnings") == warnings
        assert answer.headers.get("X-Pages-Drawn") == (None if warnings is None else "1")
        with pikepdf.open(io.BytesIO(answer.content)) as pdf, pdf.open_metadata() as metadata:
            assert metadata.pdfa_status == "2B"
