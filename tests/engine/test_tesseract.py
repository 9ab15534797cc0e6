"""The real engine on real pixels; a full page costs about a second of one core."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from samples.make_samples import SAMPLES, draw_page, load_font
from serve_app.document import Page, PageImage, RgbPixels
from serve_app.document.options import RecognitionOptions
from serve_app.errors import InvalidField, PageTimeout, RecognitionFailed
from serve_app.recognition.engines import Engine, EngineLoadError, PageTask, create_engine, tessdata, tesseract
from serve_app.recognition.engines.tessdata import find_tessdata
from serve_app.settings import TesseractSettings
from tests.support.engines import page_task, read_page, read_pages

SAMPLE_FOLDER = Path(__file__).parents[2] / "samples"


def rgb(image: Image.Image) -> RgbPixels:
    return np.asarray(image.convert("RGB"))


def sample(name: str) -> RgbPixels:
    with Image.open(SAMPLE_FOLDER / f"{name}.png") as image:
        return rgb(image)


def strip(text: str, size: tuple[int, int] = (900, 200)) -> RgbPixels:
    return rgb(draw_page(text, size=size, margin=50))


def words(page: Page) -> list[str]:
    return sorted(page.text.split())


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def russian(engine: Engine) -> Page:
    return read_page(engine, sample("page-ru"))


# what is read


def test_the_russian_sample_has_no_wrong_character(russian: Page) -> None:
    assert flat(russian.text) == flat(SAMPLES["page-ru"].text)


def test_two_columns_are_read_one_after_the_other(engine: Engine) -> None:
    assert flat(read_page(engine, sample("page-en")).text) == flat(SAMPLES["page-en"].text)


def test_blocks_are_paragraphs_with_their_lines_and_words(russian: Page) -> None:
    assert [block.order for block in russian.blocks] == list(range(len(russian.blocks)))
    assert len(russian.blocks) > 5
    for block in russian.blocks:
        assert block.label == "text"
        assert flat(block.text) == " ".join(word.text for word in block.words)
        assert block.confidence == pytest.approx(
            sum(w.confidence or 0 for w in block.words) / len(block.words), abs=1e-4
        )
        assert all(w.confidence is not None and 0 <= w.confidence <= 1 for w in block.words)
        assert all(w.confidence == round(w.confidence or 0, 4) for w in block.words)
    assert "\n" in russian.text.split("\n\n")[1]
    assert russian.text == "\n\n".join(block.text for block in russian.blocks)
    assert (russian.number, russian.width, russian.height, russian.dpi) == (1, 1654, 2339, 200)


@pytest.mark.parametrize(("quarters", "rotation"), [(1, 270), (2, 180), (3, 90)])
def test_turned_pages_read_right_with_boxes_on_the_page_as_given(
    engine: Engine, russian: Page, quarters: int, rotation: int
) -> None:
    pixels = np.rot90(sample("page-ru"), quarters)  # counter-clockwise
    page = read_page(engine, pixels)
    assert (page.rotation, russian.rotation) == (rotation, 0)
    assert flat(page.text) == flat(russian.text)
    assert (page.height, page.width) == pixels.shape[:2]
    upright = [word.bbox for block in russian.blocks for word in block.words]
    turned = [word.bbox for block in page.blocks for word in block.words]
    for expected, found in zip(upright, turned, strict=True):
        assert np.abs(np.subtract(_turn(expected, quarters, russian.width, russian.height), found)).max() <= 3


def _turn(box: tuple[int, int, int, int], quarters: int, width: int, height: int) -> tuple[int, int, int, int]:
    for _ in range(quarters):
        left, top, right, bottom = box
        box = (top, width - right, bottom, width - left)
        width, height = height, width
    return box


def test_a_words_box_encloses_its_ink(russian: Page) -> None:
    ink = sample("page-ru")[:, :, 0] < 128
    covered = np.zeros_like(ink)
    for block in russian.blocks:
        left, top, right, bottom = block.bbox
        for word in block.words:
            x0, y0, x1, y1 = word.bbox
            assert left <= x0 < x1 <= right and top <= y0 < y1 <= bottom
            assert ink[y0:y1, x0:x1].any()
            covered[y0:y1, x0:x1] = True
    assert (ink & covered).sum() > 0.99 * ink.sum()


@pytest.mark.parametrize("text", ["Привет, мир", "Hello world", "Итого к оплате: 62 850,00 руб.", "12345", "Да"])
def test_short_texts_are_neither_lost_nor_turned(engine: Engine, text: str) -> None:
    page = read_page(engine, strip(text))
    assert (page.text, page.rotation) == (text, 0)


def test_a_page_of_noise_is_read_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a local threshold, each of its million specks would be looked at: more than 20 s."""
    thresholds = []
    recognize = tesseract.TesseractEngine._recognize

    def noting(self: Any, api: Any, grey: Any, dpi: int, threshold: str, deadline: float) -> Any:
        thresholds.append(threshold)
        return recognize(self, api, grey, dpi, threshold, deadline)

    monkeypatch.setattr(tesseract.TesseractEngine, "_recognize", noting)
    specks = np.random.default_rng(1).random((2339, 1654)) < 0.5
    assert read_page(engine, rgb(Image.fromarray(specks))).text == ""
    assert thresholds == [tesseract.OTSU]


def test_a_few_words_on_noisy_paper_are_not_lost(engine: Engine) -> None:
    pixels = rgb(draw_page("Акт приёмки подписан\n\nСанкт-Петербург", size=(1000, 1100), margin=60))
    noise = np.random.default_rng(3).normal(0, 18, pixels.shape[:2])[..., None]
    page = read_page(engine, np.clip(pixels * 0.85 + noise, 0, 255).astype(np.uint8))
    assert (flat(page.text), page.rotation) == ("Акт приёмки подписан Санкт-Петербург", 0)


def test_pictures_and_rules_are_not_text(engine: Engine) -> None:
    pixels = rgb(draw_page("Первый абзац стоит над рисунком.", size=(1000, 900), margin=80)).copy()
    pixels[300:306, 80:920] = 0
    pixels[400:700, 200:800] = np.linspace(30, 220, 600, dtype=np.uint8)[None, :, None]
    page = read_page(engine, pixels)
    assert [(block.label, block.text) for block in page.blocks] == [
        ("text", "Первый абзац стоит над рисунком."),
        ("image", ""),
    ]
    assert page.text == "Первый абзац стоит над рисунком."


# languages


class Spy:
    """A TessBaseAPI that notes what it is told of the page's resolution."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self.resolutions: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    def SetSourceResolution(self, dpi: int) -> None:
        self.resolutions.append(dpi)
        self._api.SetSourceResolution(dpi)


def test_the_pages_resolution_is_passed_on(engine: Engine) -> None:
    assert isinstance(engine, tesseract.TesseractEngine)
    languages = engine._settings.languages
    spy = Spy(engine._api(languages))
    engine._prepared[languages] = spy
    try:
        image = PageImage(strip("One line of text."), 1, 317, 0.0)
        read_pages(engine, [PageTask(image, RecognitionOptions())])
    finally:
        engine._prepared[languages] = spy._api
    assert spy.resolutions == [317]


def test_a_page_reads_the_same_alone_and_after_another(engine: Engine) -> None:
    fresh = create_engine(TesseractSettings(), page_s=60)
    fresh.load()
    page = sample("page-en")[:700]
    alone = read_page(fresh, page)
    fresh.close()
    read_page(engine, sample("page-ru")[:900])
    assert read_page(engine, page) == alone


def test_a_request_picks_its_languages(engine: Engine) -> None:
    pixels = strip("Счёт оплачен")
    assert read_page(engine, pixels, "rus").text == "Счёт оплачен"
    assert not set("чёт") & set(read_page(engine, pixels, "eng").text)


def test_a_language_that_is_not_configured_is_an_error_of_its_page_only(engine: Engine) -> None:
    pixels = strip("Hello world")
    first, second, third = read_pages(
        engine, [page_task(pixels), page_task(pixels, "../eng"), page_task(pixels, "eng")]
    )
    assert isinstance(first, Page) and isinstance(third, Page)
    assert isinstance(second, InvalidField) and "rus, eng" in second.message and "../" not in second.message


def test_prepared_languages_are_bounded(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tesseract, "MAX_PREPARED", 2)
    engine = tesseract.TesseractEngine(TesseractSettings(), page_s=60)
    engine.load()
    pixels = strip("Hello world")
    for languages in (("eng",), ("rus",), ("eng", "rus"), ("eng",)):
        read_page(engine, pixels, *languages)
        assert len(engine._prepared) <= 2
    assert list(engine._prepared) == [("eng", "rus"), ("eng",)]
    assert read_page(engine, np.full((300, 300, 3), 255, np.uint8), "eng").text == ""
    engine.close()
    engine.close()
    assert not engine._prepared
    assert capfd.readouterr() == ("", "")  # dropping one must not give the others their voice back


# hostile and odd pages


def test_one_page_does_not_colour_the_next(engine: Engine) -> None:
    pixels = strip("WON MOW SOS H2O Привет", size=(900, 160))
    before = read_page(engine, pixels)
    read_page(engine, strip("Привет WON MOW", size=(900, 160)))
    assert read_page(engine, pixels) == before


# Run in a process of its own: what a C library prints at load is printed once.
_ODD_PAGES = """
import numpy as np
from serve_app.document import PageImage
from serve_app.document.options import RecognitionOptions
from serve_app.recognition.engines import PageTask, create_engine
from serve_app.settings import TesseractSettings
from tests.support.engines import read_pages
noise = np.random.default_rng(0).integers(0, 256, (600, 400, 3), np.uint8)
shapes = {(1, 1): 0, (2, 2): 0, (30000, 1): 255, (1, 30000): 255, (3, 30000): 7, (30000, 3): 7, (2339, 1654): 255, (1170, 827): 0}
pages = [np.full((*shape, 3), value, np.uint8) for shape, value in shapes.items()]
pages += [noise, np.resize(noise, (1, 30000, 3)), np.resize(noise, (30000, 1, 3)), noise[:10, :10].copy()]
engine = create_engine(TesseractSettings(), page_s=60)
engine.load()
results = read_pages(engine, [PageTask(PageImage(page, 1, 200, 0.0), RecognitionOptions()) for page in pages])
engine.close()
assert len(results) == len(pages)
for page, result in zip(pages, results):
    assert result.error is None and (result.text, result.blocks, result.rotation) == ("", [], 0), (page.shape, result)
"""


def test_blank_tiny_thin_and_noisy_pages_give_empty_text_and_print_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", _ODD_PAGES], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_page_that_is_noisy_all_over_is_read(engine: Engine) -> None:
    page = strip("Контора порта открыта с семи до девяти часов", size=(1100, 400)).astype(float)
    noisy = page + np.random.default_rng(3).normal(0, 50, (*page.shape[:2], 1))
    assert (
        flat(read_page(engine, noisy.clip(0, 255).astype(np.uint8)).text)
        == "Контора порта открыта с семи до девяти часов"
    )


def test_a_blurred_page_is_not_read_sideways(engine: Engine) -> None:
    sharp = SAMPLES["page-en"]
    page = draw_page(sharp.body, title=sharp.title, columns=2, margin=160).crop((0, 0, 1654, 700))
    blurred = read_page(engine, rgb(page.filter(ImageFilter.GaussianBlur(2.5))), "eng", "rus")
    assert blurred.rotation == 0
    assert len(set(words(blurred)) & set(words(read_page(engine, rgb(page), "eng", "rus")))) >= 60


@pytest.mark.parametrize(("quarters", "rotation"), [(1, 270), (2, 180)])
def test_a_narrow_column_of_a_turned_table_is_read(engine: Engine, quarters: int, rotation: int) -> None:
    page = Image.new("RGB", (1240, 900), "white")
    draw = ImageDraw.Draw(page)
    font = load_font("DejaVuSans.ttf", 30)
    for row in range(9):
        cells = str(row + 1), "Доставка до склада", f"{row + 1}150,00"
        for left, right, cell in zip((100, 170, 760), (170, 760, 1060), cells, strict=True):
            draw.rectangle((left, 80 + 62 * row, right, 142 + 62 * row), outline="black", width=2)
            draw.text((left + 14, 94 + 62 * row), cell, font=font, fill="black")
    upright, turned = (words(read_page(engine, np.rot90(rgb(page), turns))) for turns in (0, quarters))
    assert sum(word in "123456789" for word in upright) == 9
    assert turned == upright
    assert read_page(engine, np.rot90(rgb(page), quarters)).rotation == rotation


@pytest.mark.parametrize(("quarters", "rotation"), [(0, 0), (1, 270), (2, 180), (3, 90)])
def test_a_page_longer_than_16_bits_is_read_in_pieces(engine: Engine, quarters: int, rotation: int) -> None:
    pixels = np.full((33_000, 400, 3), 255, np.uint8)
    for number, top in enumerate((0, 15_900, 32_700), 1):  # the second where a piece would end
        pixels[top : top + 200] = strip(f"Запись {number}", size=(400, 200))
    page = read_page(engine, np.rot90(pixels, quarters))
    assert flat(page.text) == "Запись 1 Запись 2 Запись 3"
    assert page.rotation == rotation
    boxes = [word.bbox for block in page.blocks for word in block.words if word.text == "Запись"]
    tops = {0: [box[1] for box in boxes], 270: [box[0] for box in boxes], 180: [33_000 - box[3] for box in boxes]}
    assert tops.get(rotation, [33_000 - box[2] for box in boxes]) == pytest.approx([57, 15_957, 32_757], abs=4)


def test_a_page_over_its_time_is_an_error_and_the_engine_goes_on() -> None:
    engine = create_engine(TesseractSettings(), page_s=0.001)
    engine.load()
    results = read_pages(engine, [page_task(sample("page-ru"), number=n) for n in (1, 2)])
    assert [type(result) for result in results] == [PageTimeout, PageTimeout]
    engine.close()


def test_an_image_the_library_refuses_is_an_error_of_its_page(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    good = page_task(strip("Hello world"))
    first, second = read_pages(engine, [page_task(np.zeros((0, 5, 3), np.uint8), number=7), good])
    assert isinstance(first, RecognitionFailed), first
    assert isinstance(second, Page) and second.text == "Hello world"


def test_other_threads_run_while_a_page_is_read(engine: Engine) -> None:
    pixels = sample("page-ru")
    done = threading.Event()

    def recognize() -> None:
        try:
            read_page(engine, pixels)
        finally:
            done.set()

    thread = threading.Thread(target=recognize)
    longest, ticks = 0.0, 0
    thread.start()
    last = time.perf_counter()
    while not done.is_set():
        time.sleep(0.001)
        now = time.perf_counter()
        longest, last, ticks = max(longest, now - last), now, ticks + 1
    thread.join()
    assert ticks > 50  # with the GIL held through recognition there would be a handful
    assert longest < 0.3  # and a pause of about a second


# language data


def test_the_version_is_that_of_the_library(engine: Engine) -> None:
    assert engine.version.startswith("5.") and engine.version.replace(".", "").isdigit()
    assert (engine.name, engine.max_batch, os.environ["OMP_THREAD_LIMIT"]) == ("tesseract", 1, "1")


def test_importing_the_package_does_not_load_the_library() -> None:
    code = "import sys, serve_app.recognition.engines as e; e.create_engine(e.TesseractSettings(), page_s=1); assert 'tesserocr' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_missing_language_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TESSDATA_PREFIX", raising=False)
    engine = create_engine(TesseractSettings(languages=("eng", "chi_sim")), page_s=1)
    with pytest.raises(
        EngineLoadError, match=r"^language data for 'chi_sim' not found; install tesseract-ocr-chi-sim$"
    ):
        engine.load()


def test_a_wrong_folder_says_which_setting_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(EngineLoadError, match="the folder in 'tessdata' does not exist"):
        create_engine(TesseractSettings(tessdata=str(tmp_path / "nope")), page_s=1).load()
    with pytest.raises(EngineLoadError, match=r"'rus', 'eng' not found.*'tessdata'") as caught:
        create_engine(TesseractSettings(tessdata=str(tmp_path)), page_s=1).load()
    assert str(tmp_path) not in str(caught.value)


def test_a_damaged_language_file_is_named_although_the_other_loads(tmp_path: Path) -> None:
    _link(tmp_path, "eng")
    for content in (b"", b"garbage" * 1000):
        (tmp_path / "rus.traineddata").write_bytes(content)
        with pytest.raises(EngineLoadError, match=r"^language data for 'rus' could not be read"):
            create_engine(TesseractSettings(tessdata=str(tmp_path)), page_s=1).load()


def test_without_osd_pages_are_read_upright_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _link(tmp_path, "eng")
    engine = create_engine(TesseractSettings(tessdata=str(tmp_path), languages=("eng",)), page_s=60)
    engine.load()
    assert "tesseract-ocr-osd" in caplog.text
    assert read_page(engine, strip("Hello world")).text == "Hello world"
    engine.close()


def test_the_folder_is_looked_for_in_the_documented_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _link(tmp_path, "eng")
    monkeypatch.setenv("TESSDATA_PREFIX", str(tmp_path))
    assert find_tessdata(None, ["eng"]) == str(tmp_path)
    system = find_tessdata(None, ["eng", "rus"])
    assert system in tessdata.SYSTEM_FOLDERS  # the prefix lacks one
    assert find_tessdata(system, ["eng"]) == system  # a configured folder comes first


def test_the_check_of_the_make_file_prints_one_line_or_nothing() -> None:
    command = [sys.executable, "-m", "serve_app.recognition.engines.tessdata"]
    good = subprocess.run([*command, "rus", "eng", "osd"], capture_output=True, text=True, timeout=60, check=False)
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")
    bad = subprocess.run([*command, "rus", "deu", "fra"], capture_output=True, text=True, timeout=60, check=False)
    wanted = "language data for 'deu', 'fra' not found; install tesseract-ocr-deu tesseract-ocr-fra\n"
    assert (bad.returncode, bad.stdout, bad.stderr) == (1, wanted, "")


def _link(folder: Path, language: str) -> None:
    name = f"{language}.traineddata"
    (folder / name).symlink_to(Path(find_tessdata(None, [language]), name))
