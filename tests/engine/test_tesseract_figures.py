"""Pictures on pages become figures: photographs do, and what is wrong with paper and scanners does not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from samples.make_samples import SAMPLES, draw_page
from serve_app.document import Block, Box, Figure, Page, RgbPixels, Word
from serve_app.errors import RecognitionFailed
from serve_app.recognition.engines import tesseract
from serve_app.recognition.engines.figures import IMAGE, cut_figures
from serve_app.recognition.engines.tesseract import TesseractEngine
from tests.support.engines import read_content
from tests.support.pictures import photo

BEFORE = "Первый абзац стоит над рисунком и ни в чём от него не зависит."
AFTER = "Второй абзац стоит под рисунком и читается после него."
WIDTH, HEIGHT = 1000, 1100
PLACE: Box = (300, 300, 800, 640)  # of the picture on the page


def page_with(picture: Image.Image | None) -> RgbPixels:
    """Two paragraphs, and between them the picture at PLACE."""
    page = Image.new("RGB", (WIDTH, HEIGHT), "white")
    page.paste(draw_page(BEFORE, size=(WIDTH, 280), margin=80), (0, 0))
    page.paste(draw_page(AFTER, size=(WIDTH, 280), margin=80), (0, 640))
    if picture is not None:
        page.paste(picture, PLACE[:2])
    return np.asarray(page)


def illustrated() -> RgbPixels:
    return page_with(photo(PLACE[2] - PLACE[0], PLACE[3] - PLACE[1]))


def decoded(jpeg: bytes) -> RgbPixels:
    with Image.open(io.BytesIO(jpeg)) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        return np.asarray(image)


def text_of(page: Page) -> list[tuple[str, Box, list[Word]]]:
    return [(block.text, block.bbox, block.words) for block in page.blocks if block.label != IMAGE]


def near(box: Box, other: Box, pixels: int = 6) -> bool:
    return bool(np.abs(np.subtract(box, other)).max() <= pixels)


def alike(picture: RgbPixels, other: RgbPixels) -> bool:
    """Whether two pictures of about the same size show the same, in colours and the same way up."""
    small = (Image.fromarray(each).resize((20, 20), Image.Resampling.BOX) for each in (picture, other))
    return bool(np.abs(np.subtract(*(np.asarray(each, dtype=np.int16) for each in small))).mean() < 12)


# what the engine reads


def test_a_photograph_is_cut_out_and_linked_where_it_stands_in_the_text(engine: TesseractEngine) -> None:
    pixels = illustrated()
    reading = read_content(engine, pixels)
    page, (figure,) = reading.page, reading.figures
    assert [block.label for block in page.blocks] == ["text", "image", "text"]
    assert [block.order for block in page.blocks] == [0, 1, 2]
    block = page.blocks[1]
    assert (block.text, block.words, block.confidence, block.figure) == ("", [], None, figure.path)
    assert near(block.bbox, PLACE)
    left, top, right, bottom = block.bbox
    assert figure.path == f"imgs/img_in_image_box_{left}_{top}_{right}_{bottom}.jpg"
    assert decoded(figure.jpeg).shape == (bottom - top, right - left, 3)
    assert alike(decoded(figure.jpeg), pixels[top:bottom, left:right])
    assert [" ".join(part.split()) for part in page.markdown.split("\n\n")] == [BEFORE, f"![]({figure.path})", AFTER]


def test_the_text_is_the_same_with_a_picture_and_without(engine: TesseractEngine) -> None:
    with_picture, without = read_content(engine, illustrated()).page, read_content(engine, page_with(None)).page
    assert " ".join(with_picture.text.split()) == f"{BEFORE} {AFTER}"
    assert with_picture.text == without.text
    words = [[word for _, _, words in text_of(page) for word in words] for page in (with_picture, without)]
    for word, other in zip(*words, strict=True):
        assert word.text == other.text and near(word.bbox, other.bbox, 2)


@pytest.mark.parametrize(("quarters", "rotation"), [(1, 270), (2, 180), (3, 90)])
def test_a_figure_of_a_turned_page_is_upright_and_its_box_on_the_page_as_given(
    engine: TesseractEngine, quarters: int, rotation: int
) -> None:
    pixels = np.rot90(illustrated(), quarters)  # counter-clockwise
    reading = read_content(engine, pixels)
    (figure,) = reading.figures
    assert reading.page.rotation == rotation
    (block,) = (block for block in reading.page.blocks if block.label == IMAGE)
    assert near(block.bbox, _turn(PLACE, quarters))
    upright = decoded(figure.jpeg)
    assert abs(upright.shape[1] - (PLACE[2] - PLACE[0])) <= 12
    assert alike(upright, np.asarray(photo(PLACE[2] - PLACE[0], PLACE[3] - PLACE[1])))


def _turn(box: Box, quarters: int) -> Box:
    width, height = WIDTH, HEIGHT
    for _ in range(quarters):
        left, top, right, bottom = box
        box = (top, width - right, bottom, width - left)
        width, height = height, width
    return box


def test_a_photograph_beside_text_is_found_on_a_noisy_scan(engine: TesseractEngine) -> None:
    page = Image.new("RGB", (1200, 900), "white")
    page.paste(draw_page(f"{BEFORE} {AFTER}", size=(640, 700), margin=80), (0, 0))
    page.paste(photo(400, 500), (680, 150))
    scan = np.asarray(page.rotate(0.5, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))) * 0.85
    scan += np.random.default_rng(1).normal(0, 10, (900, 1200, 1))
    scan[:12] = 25  # the scanner's lid
    reading = read_content(engine, np.clip(scan, 0, 255).astype(np.uint8))
    (figure,) = reading.figures
    (block,) = (block for block in reading.page.blocks if block.figure == figure.path)
    assert near(block.bbox, (680, 150, 1080, 650), 16)
    assert figure.path == "imgs/img_in_image_box_{}_{}_{}_{}.jpg".format(*block.bbox)
    assert f"![]({figure.path})" in reading.page.markdown
    assert "рисунком" in reading.page.text


def scan_with(what: str) -> RgbPixels:
    """A page of three paragraphs as a bad scan: Tesseract takes a region of each of these for a picture."""
    height, width = 1200, 1654
    text = "\n\n".join(SAMPLES["page-ru"].body.split("\n\n")[:3])
    pixels = np.asarray(draw_page(text, size=(width, height)).convert("RGB")) * 0.95
    across, down = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
    match what:
        case "a dark gutter":
            pixels = pixels * (1 - 0.85 * np.exp(-across / 90))
        case "lids on two sides":
            pixels[:, 1530:] = 30
            pixels[1110:] = 35
        case "a desk around the paper":
            shrunk = Image.fromarray(pixels.astype(np.uint8)).resize((1400, 1016))
            pixels = np.full((height, width, 3), 20.0)
            pixels[90:1106, 120:1520] = np.asarray(shrunk)
        case "a lamp at one corner":
            pixels = pixels * (0.35 + 0.65 * np.exp(-((across - 1200) ** 2 + (down - 200) ** 2) / (2 * 600**2)))
        case "a coloured band":
            pixels[750:950, 100:1550] = (20, 60, 120)
    noise = np.random.default_rng(2).normal(0, 7, (height, width, 1))
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "what", ["a dark gutter", "lids on two sides", "a desk around the paper", "a lamp at one corner", "a coloured band"]
)
def test_what_a_bad_scan_has_beside_its_text_is_no_figure(
    engine: TesseractEngine, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    regions = list[Block]()

    def cut_and_note(pixels: RgbPixels, blocks: list[Block], rotation: int) -> tuple[list[Block], tuple[Figure, ...]]:
        regions.extend(block for block in blocks if block.label == IMAGE)
        return cut_figures(pixels, blocks, rotation)

    monkeypatch.setattr(tesseract, "cut_figures", cut_and_note)
    reading = read_content(engine, scan_with(what))
    assert regions, "this scan puts nothing to the test"
    assert reading.figures == () and "![" not in reading.page.markdown
    assert [block.order for block in reading.page.blocks] == list(range(len(reading.page.blocks)))
    assert "ответственностью" in reading.page.text


@pytest.mark.parametrize("sample", ["page-ru", "page-en"])
def test_pages_of_text_have_no_figures(engine: TesseractEngine, sample: str) -> None:
    reading = read_content(engine, np.asarray(SAMPLES[sample].draw().convert("RGB")))
    assert reading.figures == () and {block.label for block in reading.page.blocks} == {"text"}


def test_a_second_reading_brings_no_pictures(engine: TesseractEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It divides paper from ink place by place, which breaks pictures."""
    texts = [Block(label="text", text=word, bbox=(0, 0, 9, 9), order=0, words=[Word(text=word, bbox=(0, 0, 9, 9), confidence=0.5)]) for word in ("a", "longer")]  # fmt: skip
    picture = Block(label=IMAGE, text="", bbox=PLACE, order=0)
    readings = iter([([picture, texts[0]], 0), ([picture, texts[1]], 0)])
    monkeypatch.setattr(TesseractEngine, "_recognize", lambda *arguments: next(readings))
    reading = read_content(engine, illustrated())
    assert [(block.text, block.order) for block in reading.page.blocks] == [("longer", 0)]
    assert reading.figures == ()


def test_a_second_reading_that_fails_leaves_the_first(engine: TesseractEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    word = Word(text="doubtful", bbox=(0, 0, 9, 9), confidence=0.5)
    readings = iter([([Block(label="text", text="doubtful", bbox=(0, 0, 9, 9), order=0, words=[word])], 0)])

    def recognize(*arguments: object) -> tuple[list[Block], int]:
        reading = next(readings, None)
        if reading is None:
            raise RecognitionFailed
        return reading

    monkeypatch.setattr(TesseractEngine, "_recognize", recognize)
    assert read_content(engine, illustrated()).page.text == "doubtful"


# which regions are figures, and where they end


def cut(pixels: RgbPixels, box: Box, *words: tuple[Box, float]) -> Box | None:
    """The box of the figure that is made of a region at `box`, if any, beside words with their confidences."""
    text = Block(
        label="text",
        text="a",
        bbox=(0, 0, 9, 9),
        order=0,
        words=[Word(text="a", bbox=place, confidence=confidence) for place, confidence in words],
    )
    blocks, figures = cut_figures(pixels, [Block(label=IMAGE, text="", bbox=box, order=0), text], 0)
    assert [block.order for block in blocks] == list(range(len(figures) + 1))
    return blocks[0].bbox if figures else None


def page_of(*places: Box, size: tuple[int, int] = (WIDTH, HEIGHT)) -> RgbPixels:
    """White, with photographs at these places."""
    page = Image.new("RGB", size, "white")
    for left, top, right, bottom in places:
        page.paste(photo(right - left, bottom - top), (left, top))
    return np.asarray(page)


@pytest.mark.parametrize(
    ("box", "is_figure"),
    [
        ((300, 300, 800, 640), True),
        ((300, 300, 344, 344), True),
        ((300, 300, 336, 700), False),  # thinner than a twenty-fifth of the page's shorter side
        ((300, 300, 700, 336), False),
        ((0, 0, 600, 500), True),  # at a corner of the page
        ((0, 300, 1000, 640), True),  # from side to side
        ((0, 0, 1000, 500), False),  # at three edges
        ((0, 300, 1000, 1100), False),
        ((0, 300, 104, 700), True),
        ((0, 300, 96, 700), False),  # a strip along an edge
        ((904, 300, 1000, 700), False),
        ((300, 0, 800, 104), False),
        ((300, 996, 800, 1100), False),
        ((60, 60, 940, 1040), True),
        ((40, 40, 960, 1060), False),  # nearly the whole page
        ((500, 500, 500, 500), False),
    ],
)
def test_size_and_place_of_a_figure(box: Box, is_figure: bool) -> None:
    assert (cut(page_of((0, 0, WIDTH, HEIGHT)), box) is not None) is is_figure


@pytest.mark.parametrize(("confidence", "height", "is_figure"), [(0.9, 12, False), (0.3, 12, True), (0.9, 8, True)])
def test_a_region_of_words_that_were_read_is_no_figure(confidence: float, height: int, is_figure: bool) -> None:
    words = [((320, 340 + 70 * row, 780, 340 + 70 * row + height), confidence) for row in range(4)]
    assert (cut(page_of(PLACE), PLACE, *words) is not None) is is_figure


def test_words_beside_a_figure_do_not_count() -> None:
    words: list[tuple[Box, float]] = [((0, 0, 1000, 290), 0.9), ((0, 650, 1000, 1000), 0.9)]
    assert cut(page_of(PLACE), PLACE, *words) is not None


def test_a_region_of_one_tone_is_no_figure() -> None:
    pixels = np.full((HEIGHT, WIDTH, 3), 250, np.uint8)
    pixels[300:640, 300:800] = np.clip(np.random.default_rng(0).normal(60, 12, (340, 500, 1)), 0, 255)
    assert cut(pixels, PLACE) is None
    pixels[400:540, 450:650] = 250  # a ring, or a letter
    assert cut(pixels, PLACE) is not None


@pytest.mark.parametrize(
    "found", [(330, 330, 770, 610), (270, 270, 830, 670), (300, 340, 800, 640), (301, 300, 830, 641)]
)
def test_edges_of_a_figure_are_where_its_picture_meets_the_paper(found: Box) -> None:
    fitted = cut(page_of(PLACE), found)
    assert fitted is not None and near(fitted, PLACE, 4)


def test_edges_are_found_on_paper_that_is_lit_unevenly() -> None:
    light = np.linspace(1.0, 0.6, WIDTH)[None, :, None]
    fitted = cut((page_of(PLACE) * light).astype(np.uint8), (330, 330, 770, 610))
    assert fitted is not None and near(fitted, PLACE, 4)


def test_an_edge_does_not_move_over_text() -> None:
    pixels = page_of(PLACE).copy()
    pixels[280:296, 300:800:2] = 0
    fitted = cut(pixels, (300, 320, 800, 640))
    assert fitted is not None and near(fitted, PLACE, 4)


def test_figures_are_told_apart_and_the_same_region_is_one() -> None:
    other: Box = (300, 700, 800, 1000)
    regions = [Block(label=IMAGE, text="", bbox=box, order=0) for box in (PLACE, other, PLACE)]
    blocks, figures = cut_figures(page_of(PLACE, other), regions, 0)
    assert [block.figure for block in blocks] == [figure.path for figure in figures]
    assert len({figure.path for figure in figures}) == 2


@pytest.mark.parametrize("size", [(3, 3000), (3000, 3), (41, 41)])
def test_pages_of_odd_shapes(size: tuple[int, int]) -> None:
    width, height = size
    pixels = np.asarray(photo(width, height))
    assert cut(pixels, (0, 0, width, height)) is None
    cut(pixels, (1, 1, width - 1, height - 1))


@pytest.mark.parametrize("box", [(60, 60, 140, 140), (61, 60, 140, 141), (-5, 100, 90, 160), (190, 50, 210, 300)])
@pytest.mark.parametrize("grey", [0, 255])
def test_a_picture_block_without_an_area_or_content_is_left_out(box: Box, grey: int) -> None:
    block = Block(label=IMAGE, text="", bbox=box, order=0)
    assert cut_figures(np.full((200, 200, 3), grey, np.uint8), [block], 0) == ([], ())
