from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageChops

from samples.make_samples import DPI, SAMPLES, draw_page, main

FOLDER = Path(__file__).parents[2] / "samples"


@pytest.mark.parametrize("name", SAMPLES)
def test_the_script_still_draws_the_committed_page(name: str, tmp_path: Path) -> None:
    main(tmp_path)
    with Image.open(tmp_path / f"{name}.png") as drawn, Image.open(FOLDER / f"{name}.png") as committed:
        assert (drawn.mode, drawn.size) == (committed.mode, committed.size)
        assert ImageChops.difference(drawn, committed).getbbox() is None
        assert committed.info["dpi"] == pytest.approx((DPI, DPI), abs=0.1)
    assert (tmp_path / f"{name}.txt").read_bytes() == (FOLDER / f"{name}.txt").read_bytes()


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_stays_small_enough_to_commit(name: str) -> None:
    assert (FOLDER / f"{name}.png").stat().st_size < 150_000


def test_text_that_does_not_fit_is_refused_instead_of_cut() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        draw_page("слово " * 1000, size=(400, 400), margin=20)
