"""hOCR, ALTO and PAGE-XML over HTTP, read back by OCRmyPDF, ALTO Tools and Blatt; page marks for citations."""

from __future__ import annotations

import io
import subprocess
import zipfile
from pathlib import Path

import httpx
import pikepdf
import pytest
from lxml import etree
from PIL import Image

from samples.make_samples import draw_page
from tests.support.job_client import submit, wait_for_end
from tests.support.pdfs import scan
from tests.support.schemas import schema
from tests.support.service import Service

CLIENTS = Path(__file__).parents[2] / ".clients/bin"
TEXT = "Ёлочка получила счёт № 47 от 3 мая.\n\nТри белых коня & «щука»."
TYPES = {
    "hocr": "text/vnd.hocr+html",
    "alto": "application/alto+xml",
    "page_xml": "application/vnd.prima.page+xml",
}


@pytest.fixture(scope="module")
def crooked_page() -> bytes:
    page = draw_page(TEXT, size=(1100, 500), margin=120)
    file = io.BytesIO()
    page.rotate(-4, Image.Resampling.BICUBIC, expand=True, fillcolor=255).save(file, "PNG", dpi=(200, 200))
    return file.getvalue()


@pytest.fixture(scope="module")
def outputs(service: Service, crooked_page: bytes) -> dict[str, bytes]:
    """The three outputs of the same page, chosen by `Accept` or `output`."""
    answers = {}
    with service.client() as client:
        for output, media_type in TYPES.items():
            fields = {"output": output} if output != "alto" else {}
            accept = media_type if output == "alto" else "*/*"
            answer = client.post("/ocr", files={"file": crooked_page}, data=fields, headers={"Accept": accept})
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"].partition(";")[0] == media_type
            answers[output] = answer.content
    return answers


def run(*command: object) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout


def test_ocrmypdf_makes_the_text_of_a_pdf_from_the_hocr(outputs: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "page.hocr").write_bytes(outputs["hocr"])
    run(CLIENTS / "python", "-m", "ocrmypdf.hocrtransform", tmp_path / "page.hocr", tmp_path / "page.pdf")
    # Without line ends, since its lines are as crooked as the page.
    text = run("pdftotext", "-raw", tmp_path / "page.pdf", "-")
    assert "".join(text.split()) == "".join(TEXT.replace("№", "No").split())


def test_alto_tools_read_the_alto(outputs: dict[str, bytes], tmp_path: Path) -> None:
    schema("alto-4-4").assertValid(etree.fromstring(outputs["alto"]))
    (tmp_path / "page.xml").write_bytes(outputs["alto"])
    assert run(CLIENTS / "alto-tools", "-t", tmp_path / "page.xml").split() == TEXT.split()
    assert "Confidence: 9" in run(CLIENTS / "alto-tools", "-c", tmp_path / "page.xml")


def test_blatt_reads_the_page_xml(outputs: dict[str, bytes], tmp_path: Path) -> None:
    schema("pagecontent-2019-07-15").assertValid(etree.fromstring(outputs["page_xml"]))
    xml, text = tmp_path / "xml", tmp_path / "text"
    xml.mkdir()
    text.mkdir()
    (xml / "page.xml").write_bytes(outputs["page_xml"])
    run(CLIENTS / "blatt", "to_txt", "-lb", "True", xml, text)
    assert (text / "page.txt").read_text().split() == TEXT.split()


def test_words_have_corners_in_the_page_as_it_was_sent(outputs: dict[str, bytes]) -> None:
    root = etree.fromstring(outputs["alto"])
    names = {"a": root.nsmap[None]}
    assert float(root.xpath("//a:Page/@ROTATION", namespaces=names)[0]) == pytest.approx(356, abs=0.3)
    assert len(root.xpath("//a:String/a:Shape", namespaces=names)) == len(TEXT.split())


@pytest.mark.parametrize(("output", "name"), [("hocr", "hocr"), ("alto", "alto.xml"), ("page_xml", "page.zip")])
def test_a_job_keeps_these_outputs_and_sends_them_as_files(
    service: Service, output_dir: Path, russian_page: bytes, output: str, name: str
) -> None:
    with service.client() as client:
        form = {"outputs": output, "engine": "dummy"}
        job = wait_for_end(client, submit(client, scan(russian_page, russian_page), **form))
        path = output_dir / job["outputs"][output]["key"]
        assert path.name == f"result.{name}"
        sent = client.get(f"/jobs/{job['id']}/result", params={"output": output})
        assert sent.content == path.read_bytes()
        assert sent.headers["content-disposition"].startswith(f'attachment; filename="{job["id"]}.{name}"')
        expected = "application/zip" if output == "page_xml" else TYPES[output]
        assert sent.headers["content-type"].partition(";")[0] == expected


def test_an_engine_without_words_has_its_text_in_each_output(service: Service, russian_page: bytes) -> None:
    for output in TYPES:
        with service.client() as client:
            fields = {"output": output, "engine": "dummy"}
            answer = client.post("/ocr", files={"file": russian_page}, data=fields)
        assert "Привет" in answer.text, output


def texts(service: Service, document: bytes, **fields: str) -> list[str]:
    def read(output: str) -> httpx.Response:
        with service.client() as client:
            return client.post("/ocr", files={"file": document}, data={"engine": "dummy", "output": output, **fields})

    archive = zipfile.ZipFile(io.BytesIO(read("zip").content))
    return [
        *(read(output).text for output in ("markdown", "text")),
        *(archive.read(f"result.{end}").decode() for end in ("md", "txt")),
    ]


def test_pages_are_marked_in_markdown_and_text_where_asked_for(service: Service, russian_page: bytes) -> None:
    book = scan(russian_page, russian_page, russian_page, damaged=2)
    markdown, text, in_archive, text_in_archive = texts(service, book, page_marks="true")
    assert [line for line in markdown.splitlines() if line.startswith("<!--")] == [
        f"<!-- page {n} -->" for n in (1, 2, 3)
    ]
    assert [line for line in text.splitlines() if line.startswith("[page")] == [f"[page {n}]" for n in (1, 2, 3)]
    assert (in_archive, text_in_archive) == (markdown, text)
    assert not any("page 1" in each for each in texts(service, book))


def test_the_result_of_a_job_is_marked_where_asked_for(service: Service, russian_page: bytes) -> None:
    with service.client() as client:
        job = wait_for_end(client, submit(client, scan(russian_page), outputs="text", engine="dummy"))
        address = f"/jobs/{job['id']}/result"
        assert client.get(address, params={"output": "text"}).text == "Привет\n"
        marked = client.get(address, params={"output": "text", "page_marks": "true"})
    assert marked.text == "[page 1]\n\nПривет\n"


def test_a_job_keeps_and_sends_its_outputs_as_it_was_asked_to(
    service: Service, output_dir: Path, russian_page: bytes
) -> None:
    with service.client() as client:
        options = {"page_marks": "true", "pdf_a": "true", "straighten": "true", "outputs": "text,pdf"}
        job = wait_for_end(client, submit(client, scan(russian_page), engine="dummy", **options))
        kept = {name: (output_dir / file["key"]).read_bytes() for name, file in job["outputs"].items()}
        address = f"/jobs/{job['id']}/result"
        sent = {name: client.get(address, params={"output": name}).content for name in kept}
        bare = client.get(address, params={"output": "text", "page_marks": "false"}).text
        markdown = client.get(address, params={"output": "markdown"}).text
    assert sent == kept
    assert kept["text"].decode() == "[page 1]\n\nПривет\n"
    with pikepdf.open(io.BytesIO(kept["pdf"])) as pdf, pdf.open_metadata() as metadata:
        assert metadata.pdfa_status == "2B"
    assert bare == "Привет\n"
    assert markdown.startswith("<!-- page 1 -->"), "also of what was not kept"
