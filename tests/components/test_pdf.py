"""PDF pages as pixels: what is on them, within the limits, or the right error."""

from __future__ import annotations

import io
import math
import shutil
import socket
import subprocess
import time
import unicodedata
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pikepdf
import pytest
from PIL import Image
from pypdfium2.version import PDFIUM_INFO

from serve_app.errors import CorruptDocument, EmptyDocument, PasswordRequired, ServiceError
from serve_app.raster import pdf as pdf_module
from serve_app.raster.images import MAX_SIDE, DecodedImage
from serve_app.raster.page_source import PageSource, open_source
from serve_app.runtime.allocator import trim_heap
from tests.support.pdfs import A4, encrypted, page_pdf, pages_pdf, pdf_of, stream, text_pdf

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 2_000_000
RED_CORNER = b"1 0 0 rg 0 0 20 20 re f"  # bottom left
RED, WHITE = [255, 0, 0], [255, 255, 255]


def opened(data: bytes, password: str | None = None) -> PageSource:
    return open_source(data, password=password, max_pixels=MAX_PIXELS)


def render(data: bytes, number: int = 1, *, dpi: int | None = 72, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    source = opened(data)
    try:
        return source.render(number, dpi=dpi, default_dpi=100, max_pixels=max_pixels)
    finally:
        source.close()


def test_a_page_is_rgb_on_white() -> None:
    image = render(page_pdf(RED_CORNER, size=(200, 100)))
    assert image.pixels.dtype == np.uint8 and image.pixels.flags.c_contiguous
    assert image.pixels.shape == (100, 200, 3)
    assert image.pixels[90, 5].tolist() == RED
    assert image.pixels[5, 5].tolist() == image.pixels[90, 50].tolist() == WHITE


def test_dpi_is_what_it_is_drawn_at() -> None:
    data = page_pdf(b"", size=(200, 100))
    assert render(data, dpi=144).pixels.shape == (200, 400, 3)
    by_default = render(data, dpi=None)
    assert (by_default.pixels.shape, by_default.dpi) == ((139, 278, 3), 100)


@pytest.mark.parametrize(("degrees", "corner"), [(0, (-5, 5)), (90, (5, 5)), (180, (5, -5)), (270, (-5, -5))])
def test_rotated_pages_are_upright(degrees: int, corner: tuple[int, int]) -> None:
    image = render(page_pdf(RED_CORNER, size=(200, 100), page=b"/Rotate %d" % degrees))
    assert image.pixels.shape[:2] == ((100, 200) if degrees % 180 == 0 else (200, 100))
    assert image.pixels[corner].tolist() == RED
    assert image.pixels[-corner[0], -corner[1]].tolist() == WHITE


def test_only_the_crop_box_is_drawn() -> None:
    image = render(page_pdf(RED_CORNER, size=(200, 100), page=b"/CropBox[10 10 60 40]"))
    assert image.pixels.shape == (30, 50, 3)
    assert image.pixels[-10:, :10].tolist() == [[RED] * 10] * 10
    assert image.pixels[-11, 5].tolist() == image.pixels[-5, 10].tolist() == WHITE


def test_it_looks_as_another_program_draws_it(tmp_path: Path) -> None:
    if shutil.which("pdftoppm") is None:
        pytest.fail("poppler-utils is needed")
    data = text_pdf([(40, 150, 16, "Счёт № 42 от 1 мая"), (40, 120, 12, "Invoice for goods")], size=(300, 200))
    (tmp_path / "page.pdf").write_bytes(data)
    command = ["pdftoppm", "-r", "144", "-png", "-singlefile", str(tmp_path / "page.pdf"), str(tmp_path / "page")]
    subprocess.run(command, check=True)
    theirs = np.asarray(Image.open(tmp_path / "page.png").convert("L").reduce(4)).astype(int)
    ours = np.asarray(Image.fromarray(render(data, dpi=144).pixels).convert("L").reduce(4)).astype(int)
    assert ours.shape == theirs.shape
    assert ours.min() < 150 and np.abs(ours - theirs).mean() < 2


def test_annotations_and_filled_forms_are_drawn() -> None:
    appearance = stream(b"0 0 1 rg 0 0 40 20 re f", b"/Type/XObject/Subtype/Form/BBox[0 0 40 20]")
    note = b"<</Type/Annot/Subtype/Stamp/F 4/Rect[10 10 50 30]/AP<</N 6 0 R>>>>"
    image = render(page_pdf(b"", size=(200, 100), page=b"/Annots[5 0 R]", more=[note, appearance]))
    assert image.pixels[80, 30].tolist() == [0, 0, 255]
    field = b"<</Type/Annot/Subtype/Widget/FT/Tx/T(a)/V(b)/F 4/Rect[10 10 50 30]/AP<</N 6 0 R>>>>"
    form = page_pdf(
        b"", size=(200, 100), page=b"/Annots[5 0 R]", catalog=b"/AcroForm<</Fields[5 0 R]>>", more=[field, appearance]
    )
    assert render(form).pixels[80, 30].tolist() == [0, 0, 255]


# Size


def covered_page(pixels: tuple[int, int], size: tuple[float, float], page: bytes = b"") -> bytes:
    """A page that a white picture covers."""
    entries = (
        b"/Type/XObject/Subtype/Image/Width %d/Height %d/ColorSpace/DeviceGray/BitsPerComponent 1/Filter/FlateDecode"
    )
    data = zlib.compress(b"\xff" * ((pixels[0] + 7) // 8 * pixels[1]))
    content = b"q %g 0 0 %g 0 0 cm /I Do Q" % size
    resources = b"/Resources<</XObject<</I 5 0 R>>>>"
    return page_pdf(content, size=size, page=resources + page, more=[stream(data, entries % pixels)])


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("password", [None, "secret"])
def test_a_unit_larger_than_a_point_makes_the_page_larger(password: str | None, compressed: bool) -> None:
    data = page_pdf(b"1 0 0 rg 0 0 2 2 re f", size=(20, 10), page=b"/UserUnit 10")
    out = io.BytesIO()
    mode = pikepdf.ObjectStreamMode.generate if compressed else pikepdf.ObjectStreamMode.disable
    with pikepdf.open(io.BytesIO(data)) as pdf:
        encryption = pikepdf.Encryption(user=password, owner="owner") if password else None
        pdf.save(out, object_stream_mode=mode, encryption=encryption)
    image = opened(out.getvalue(), password).render(1, dpi=72, default_dpi=100, max_pixels=MAX_PIXELS)
    assert (image.pixels.shape, image.dpi) == ((100, 200, 3), 72)
    assert image.pixels[90, 5].tolist() == RED and image.pixels[70, 5].tolist() == WHITE


@pytest.mark.parametrize("unit", [b"0", b"-2", b"(a)", b"1e30", b"null"])
def test_a_unit_that_is_none_is_a_point(unit: bytes) -> None:
    assert render(page_pdf(b"", size=(20, 10), page=b"/UserUnit %b" % unit)).pixels.shape == (10, 20, 3)


@pytest.mark.parametrize(
    ("size", "dpi", "expected"),
    [
        ((60, 40), None, ((400, 600, 3), 720)),  # its own resolution
        ((30, 20), None, ((400, 600, 3), 100)),  # 1440 dpi: the size is wrong
        ((60, 40), 144, ((80, 120, 3), 144)),
        ((600, 400), None, ((556, 834, 3), 100)),  # no small page
    ],
)
def test_a_small_page_has_the_resolution_of_its_picture(
    size: tuple[float, float], dpi: int | None, expected: tuple[tuple[int, int, int], int]
) -> None:
    image = render(covered_page((600, 400), size), dpi=dpi)
    assert (image.pixels.shape, image.dpi) == expected


def test_the_picture_of_a_turned_page_gives_its_resolution_too() -> None:
    image = render(covered_page((600, 400), (60, 40), page=b"/Rotate 90"), dpi=None)
    assert image.pixels.shape == (600, 400, 3)


@pytest.mark.parametrize(("length", "dpi"), [(11_000, 200), (14_400, 163), (20_000, 150), (60_000, 78)])
def test_a_long_page_is_drawn_coarser_but_legible(length: int, dpi: int) -> None:
    source = opened(page_pdf(b"", size=(10, length)))
    image = source.render(1, dpi=None, default_dpi=200, max_pixels=10**7)
    assert image.dpi == dpi and image.pixels.shape[0] == math.ceil(length * dpi / 72)
    assert source.render(1, dpi=72, default_dpi=200, max_pixels=10**7).dpi == 72


# Limits


@pytest.mark.parametrize(
    "mediabox",
    [
        b"[0 0 14400 14400]",
        b"[0 0 1e30 1e30]",
        b"[0 0 99999999999999999999 99999999999999999999]",
        b"[0 0 1 1000000]",
        b"[0 0 1000000 1]",
        b"[0 0 0.0001 800]",
        b"[0 0 0 0]",
        b"[0 0 NaN NaN]",
        b"[300 400 0 0]",
        b"[0 0]",
        b"null",
    ],
)
def test_a_page_of_any_size_stays_within_the_pixels(mediabox: bytes) -> None:
    image = render(page_pdf(RED_CORNER, mediabox=mediabox), dpi=600)
    height, width, _ = image.pixels.shape
    assert 1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS
    assert image.dpi >= 1


def test_a_page_over_the_limit_is_drawn_coarser_and_says_so() -> None:
    image = render(page_pdf(RED_CORNER, size=(7200, 3600)), dpi=300)
    assert image.pixels.shape == (1000, 2000, 3) and image.dpi == 20
    assert render(page_pdf(b"", size=(100, 100)), dpi=72, max_pixels=1).pixels.shape == (1, 1, 3)


def test_a_picture_that_unpacks_to_a_hundred_megabytes_costs_no_more_than_the_page() -> None:
    side = 10_000
    bomb = stream(
        zlib.compress(bytes(side * side)),
        b"/Type/XObject/Subtype/Image/Width %d/Height %d/ColorSpace/DeviceGray/BitsPerComponent 8/Filter/FlateDecode"
        % (side, side),
    )
    data = page_pdf(
        b"q 99 0 0 99 0 0 cm /I Do Q", size=(99, 99), page=b"/Resources<</XObject<</I 5 0 R>>>>", more=[bomb]
    )
    assert len(data) < 200_000
    image = render(data)
    assert image.pixels.shape == (99, 99, 3) and image.pixels[50, 50].tolist() == [0, 0, 0]


# Damage


@pytest.mark.timeout(10)
def test_a_file_cut_anywhere_is_drawn_or_corrupt() -> None:
    whole = pages_pdf([RED_CORNER] * 3)
    for length in range(20, len(whole), 41):
        try:
            assert render(whole[:length]).pixels.shape == (A4[1], A4[0], 3)
        except (CorruptDocument, EmptyDocument) as error:
            assert "PDFium" not in error.message


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"startxref\n", b"startxref\n9"), (b"00000 n", b"00000 x"), (b"xref\n0", b"xxxx\n0"), (b"/Root", b"/Roof")],
)
def test_a_broken_table_of_objects_is_repaired(old: bytes, new: bytes) -> None:
    try:
        assert render(page_pdf(RED_CORNER, size=(200, 100)).replace(old, new)).pixels[90, 5].tolist() == RED
    except CorruptDocument:
        assert old == b"/Root"


CATALOG = b"<</Type/Catalog/Pages 2 0 R>>"


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "objects",
    [
        [CATALOG, b"<</Type/Pages/Count 1/Kids[2 0 R]>>"],
        [
            CATALOG,
            b"<</Type/Pages/Count 2/Kids[3 0 R 3 0 R]>>",
            b"<</Type/Pages/Parent 2 0 R/Count 2/Kids[2 0 R 2 0 R]>>",
        ],
        [CATALOG, b"<</Type/Pages/Kids[3 0 R]>>", b"<</Type/Pages/Kids[2 0 R 2 0 R]>>"],
        [CATALOG, *(b"<</Type/Pages/Kids[%d 0 R %d 0 R]>>" % (n, n) for n in range(3, 60)), b"<</Type/Page>>"],
        [CATALOG, *(b"<</Type/Pages/Count 1/Kids[%d 0 R]>>" % n for n in range(3, 5000)), b"<</Type/Page>>"],
        [b"<</Type/Catalog>>"],
        [b"null"],
    ],
    ids=["itself", "each other", "uncounted", "doubling", "deep", "none", "null"],
)
def test_a_page_tree_that_leads_nowhere_is_an_error_at_once(objects: list[bytes]) -> None:
    with pytest.raises((CorruptDocument, EmptyDocument)):
        render(pdf_of(objects))


def test_a_broken_page_leaves_the_others() -> None:
    source = opened(pages_pdf([RED_CORNER] * 3).replace(b"/Kids[3 0 R 5 0 R", b"/Kids[3 0 R 9 9 R"))
    assert source.page_count == 3
    with pytest.raises(CorruptDocument, match="Page 2 of the PDF is damaged"):
        source.render(2, dpi=72, default_dpi=100, max_pixels=MAX_PIXELS)
    for number in (1, 3):
        assert source.render(number, dpi=72, default_dpi=100, max_pixels=MAX_PIXELS).pixels[-5, 5].tolist() == RED


def test_no_pages_are_an_empty_document() -> None:
    with pytest.raises(EmptyDocument, match="no pages"):
        opened(pdf_of([CATALOG, b"<</Type/Pages/Count 0/Kids[]>>"]))


def test_pages_are_counted_without_being_read() -> None:
    kids = b"3 0 R " * 100_000
    started = time.perf_counter()
    assert (
        opened(pdf_of([CATALOG, b"<</Type/Pages/Count 100000/Kids[%b]>>" % kids, b"<</Type/Page>>"])).page_count
        == 10**5
    )
    assert time.perf_counter() - started < 2


# Encryption

REVISIONS: tuple[Literal[3, 4, 6], ...] = (3, 4, 6)


@pytest.mark.parametrize(
    ("revision", "password"), [(3, "secret"), (4, "secret"), (6, "secret"), (6, "тайна Ё"), (4, "café")]
)
def test_a_protected_pdf_opens_with_its_password_only(revision: Literal[3, 4, 6], password: str) -> None:
    data = encrypted(page_pdf(RED_CORNER), password, revision=revision)
    with pytest.raises(PasswordRequired, match="field 'password' of /ocr or /jobs"):
        opened(data)
    with pytest.raises(PasswordRequired, match="field 'password' of /ocr or /jobs"):
        opened(data, "")
    for wrong in ("wrong", "\ud800", password + "\0", "a" * 10_000):
        if wrong.rstrip("\0") != password:
            with pytest.raises(PasswordRequired, match="password is wrong"):
                opened(data, wrong)
    for right in (password, "owner"):
        image = opened(data, right).render(1, dpi=72, default_dpi=100, max_pixels=MAX_PIXELS)
        assert image.pixels[-5, 5].tolist() == RED


@pytest.mark.parametrize(
    ("revision", "password", "typed"),
    [
        (6, "Ёй", unicodedata.normalize("NFD", "Ёй")),
        (6, "ключ 1", "ключ\u00a01"),  # a space that does not break
        (4, "café", "cafe\u0301"),
        (3, "Łóž €", "Łóž €"),
    ],
)
def test_a_password_opens_the_pdf_however_it_is_spelt(revision: Literal[3, 4, 6], password: str, typed: str) -> None:
    assert opened(encrypted(page_pdf(b""), password, revision=revision), typed).page_count == 1


def test_a_pdf_that_only_forbids_things_opens_with_any_password_and_without() -> None:
    for revision in REVISIONS:
        data = encrypted(page_pdf(b""), "", revision=revision)
        assert [opened(data, password).page_count for password in (None, "needless", "не нужен")] == [1] * 3
    assert opened(page_pdf(b""), "needless").page_count == 1


def test_another_handler_of_security_is_told_from_a_password() -> None:
    locked = b"/Encrypt<</Filter/Adobe.PubSec/V 4/R 4/SubFilter/adbe.pkcs7.s5>>/ID[<00><00>]"
    data = page_pdf(b"").replace(b"/Root 1 0 R", b"/Root 1 0 R" + locked)
    with pytest.raises(ServiceError, match="no password can open"):
        opened(data)


# What must not happen


def test_scripts_launches_and_references_are_left_alone(tmp_path: Path) -> None:
    assert not {"V8", "XFA"} & set(PDFIUM_INFO.flags)
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"0 0 1 rg 0 0 200 100 re f")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        actions = [
            b"<</S/JavaScript/JS(app.launchURL('http://127.0.0.1:%d/'))>>" % port,
            b"<</S/Launch/F(/bin/touch)/Win<</F(touch)/P(%b)>>>>" % bytes(tmp_path / "launched"),
            b"<</S/URI/URI(http://127.0.0.1:%d/)>>" % port,
            b"<</S/SubmitForm/F<</FS/URL/F(http://127.0.0.1:%d/)>>>>" % port,
        ]
        for action in actions:
            data = page_pdf(
                RED_CORNER, size=(200, 100), page=b"/AA<</O %b>>" % action, catalog=b"/OpenAction " + action
            )
            assert render(data).pixels[90, 5].tolist() == RED
        for source in (b"(%b)" % bytes(secret), b"<</FS/URL/F(http://127.0.0.1:%d/)>>" % port):
            data = page_pdf(b"", size=(200, 100), page=b"/Contents 5 0 R", more=[stream(b"", b"/F " + source)])
            assert render(data.replace(b"/Contents 4 0 R", b"")).pixels.min() == 255
        with pytest.raises(TimeoutError):
            server.accept()
    assert sorted(tmp_path.iterdir()) == [secret]


# Memory


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def picture_page(data: bytes, filter_name: bytes, words: bytes = b"") -> bytes:
    entries = b"/Type/XObject/Subtype/Image/Width 60/Height 60/ColorSpace/DeviceGray/BitsPerComponent 8/Filter/%b"
    resources = b"/Resources<</XObject<</I 5 0 R>>/Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
    content = b"q 100 0 0 100 0 0 cm /I Do Q " + words
    return page_pdf(content, size=(100, 100), page=resources, more=[stream(data, entries % filter_name)])


def white_jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("L", (60, 60), 255).save(out, "JPEG")
    return out.getvalue()


@pytest.mark.parametrize("name", [b"DCTDecode", b"JPXDecode"])
def test_a_page_is_damaged_where_the_picture_that_it_is_cannot_be_decoded(name: bytes) -> None:
    with pytest.raises(CorruptDocument, match=r"Page 1 .* picture"):
        opened(picture_page(b"garbage", name)).render(1, dpi=72, default_dpi=72, max_pixels=MAX_PIXELS)


def test_a_white_picture_and_text_beside_a_damaged_one_are_pages() -> None:
    for data in (picture_page(white_jpeg(), b"DCTDecode"), page_pdf(b"", size=(100, 100))):
        assert opened(data).render(1, dpi=72, default_dpi=72, max_pixels=MAX_PIXELS).pixels.min() == 255
    words = picture_page(b"garbage", b"DCTDecode", b"BT /F1 20 Tf 10 10 Td (Text) Tj ET")
    assert opened(words).render(1, dpi=72, default_dpi=72, max_pixels=MAX_PIXELS).pixels.min() < 100


def test_memory_does_not_grow_with_the_pages_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(3)
    count, side = 200, 400
    kids = b" ".join(b"%d 0 R" % (5 + 2 * index) for index in range(count))
    objects = [CATALOG, b"<</Type/Pages/Count %d/Kids[%b]>>" % (count, kids), b"null"]
    objects.append(stream(b"100 0 0 100 0 0 cm /I Do"))
    for index in range(count):
        resources = b"/Resources<</XObject<</I %d 0 R>>>>" % (6 + 2 * index)
        objects.append(b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 100 100]/Contents 4 0 R%b>>" % resources)
        kind = b"/Type/XObject/Subtype/Image/Width %d/Height %d/ColorSpace/DeviceGray/BitsPerComponent 8" % (side, side)
        objects.append(stream(noise.bytes(side * side), kind))
    monkeypatch.setattr(pdf_module, "PAGES_PER_OPENING", 20)
    source = opened(pdf_of(objects))

    def grown_by_drawing(numbers: range) -> int:
        trim_heap()
        before = resident_bytes()
        for number in numbers:
            source.render(number, dpi=72, default_dpi=72, max_pixels=MAX_PIXELS)
        trim_heap()
        return resident_bytes() - before

    grown_by_drawing(range(1, 21))
    assert grown_by_drawing(range(21, count + 1)) < 30 * side * side, "PDFium keeps each picture it has drawn"
