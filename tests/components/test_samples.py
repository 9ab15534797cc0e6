from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from samples.make_samples import DPI, SAMPLES, draw_page, main
from serve_app.raster.pdf import PdfSource

FOLDER = Path(__file__).parents[2] / "samples"


@pytest.fixture(scope="module")
def drawn_anew(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    main(folder)
    return folder


@pytest.mark.parametrize("name", SAMPLES)
def test_the_script_still_draws_the_committed_page(drawn_anew: Path, name: str) -> None:
    with Image.open(drawn_anew / f"{name}.png") as drawn, Image.open(FOLDER / f"{name}.png") as committed:
        assert (drawn.mode, drawn.size) == (committed.mode, committed.size)
        assert ImageChops.difference(drawn, committed).getbbox() is None
        assert committed.info["dpi"] == pytest.approx((DPI, DPI), abs=0.1)
    assert (drawn_anew / f"{name}.txt").read_bytes() == (FOLDER / f"{name}.txt").read_bytes()


def test_the_scan_is_the_two_pages_and_has_no_text(drawn_anew: Path) -> None:
    for folder in (FOLDER, drawn_anew):
        scan = PdfSource((folder / "scan.pdf").read_bytes(), None)
        assert scan.page_count == len(SAMPLES)
        for number, name in enumerate(SAMPLES, 1):
            with Image.open(FOLDER / f"{name}.png") as page:
                pixels = np.asarray(page.convert("L"), int)
            drawn = scan.render(number, dpi=DPI, default_dpi=DPI, max_pixels=10**8).pixels
            assert drawn.shape[:2] == pixels.shape and np.abs(drawn[..., 0] - pixels).mean() < 1
            assert scan.text_page(number, dpi=DPI, default_dpi=DPI, max_pixels=10**8) is None
        scan.close()


@pytest.mark.parametrize("name", [*(f"{name}.png" for name in SAMPLES), "scan.pdf"])
def test_a_sample_stays_small_enough_to_commit(name: str) -> None:
    assert (FOLDER / name).stat().st_size < 250_000


def test_text_that_does_not_fit_is_refused_instead_of_cut() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        draw_page("слово " * 1000, size=(400, 400), margin=20)


@pytest.mark.parametrize("text", ["раз\nдва\n", "\nраз\n \nдва", "раз\nдва\n\n\n"])
def test_empty_lines_draw_nothing(text: str) -> None:
    page = draw_page(text, size=(200, 200), margin=20)
    assert page.tobytes() == draw_page("раз\nдва", size=(200, 200), margin=20).tobytes()
    assert draw_page("\n", size=(9, 9), margin=0).getextrema() == (255, 255)
