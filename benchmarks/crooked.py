"""Pages of several kinds, turned by every whole degree from -10 to 10: the share of words read, and the angle found."""

from __future__ import annotations

import argparse
import multiprocessing as mp
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.accuracy import LANGUAGES, TIMEOUT_S, score
from benchmarks.degraded_pages import clean_pages
from benchmarks.report import Cell, Report, Table, Target
from samples.make_samples import A4, MARGIN, SAMPLES, draw_page
from serve_app.document import PageContent, PageImage
from serve_app.document.options import RecognitionOptions
from serve_app.recognition.engines import Engine, PageTask, create_engine
from serve_app.settings import TesseractSettings

SUMMARY = "words read and angle found on pages of every kind, turned by each whole degree from -10 to 10"

LARGEST = 10
ENOUGH = 0.99
PRECISION = 0.2  # degrees
LINE = "Приложение № 3 к договору поставки от 14 мая 2026 года"


@dataclass(frozen=True)
class Kind:
    """A page of mode RGB as it is straight; `text` is all that stands on it; `surround` fills what a turn uncovers."""

    name: str
    text: str
    draw: Callable[[], Image.Image]
    surround: tuple[int, int, int] = (255, 255, 255)


@dataclass(frozen=True)
class Reading:
    """`found`: share of the page's words that were read; `error`: by how many degrees the angle is off."""

    found: float
    error: float
    words: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    cpus = os.cpu_count() or 1
    parser.add_argument("--processes", type=int, default=cpus, help=f"pages read at the same time (default {cpus})")


def run(arguments: argparse.Namespace) -> Report:
    degrees = range(-LARGEST, LARGEST + 1)
    measured: dict[str, dict[int, Reading]] = {}
    with ProcessPoolExecutor(arguments.processes, mp_context=mp.get_context("spawn")) as pool:
        waiting = {name: {angle: pool.submit(_read, name, angle) for angle in degrees} for name in _kinds()}
        for name, futures in waiting.items():
            measured[name] = {angle: future.result() for angle, future in futures.items()}
            print(f"{name:34}  worst {100 * min(r.found for r in measured[name].values()):5.1f}", flush=True)
    return _report(measured)


def _read(name: str, degrees: int) -> Reading:
    kind = _kinds()[name]
    page = kind.draw().rotate(-degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=kind.surround)
    image = PageImage(np.asarray(page), number=1, dpi=200, rasterize_ms=0)
    engine = _engine()
    (analyzed,) = engine.analyze([PageTask(image, RecognitionOptions())])
    content = engine.read(analyzed)
    if not isinstance(content, PageContent):
        raise RuntimeError(f"{name} at {degrees}: {content}")
    read = content.page
    if not kind.text:
        return Reading(1.0 - bool(read.text.strip()), abs(read.skew), 0)
    return Reading(score(read.text, kind.text).found, abs(read.skew - degrees), len(kind.text.split()))


@cache
def _engine() -> Engine:
    engine = create_engine(TesseractSettings(languages=tuple(LANGUAGES.split("+"))), page_s=TIMEOUT_S)
    engine.load()
    return engine


# The kinds of pages


@cache
def _kinds() -> dict[str, Kind]:
    kinds = [*_of_accuracy(), *_others()]
    return {kind.name: kind for kind in kinds}


def _of_accuracy() -> Iterator[Kind]:
    for page in clean_pages():
        yield Kind(page.name, page.text, partial(_same, page.at_200))


def _same(page: Image.Image) -> Image.Image:
    return page


def _others() -> Iterator[Kind]:
    russian = SAMPLES["page-ru"]
    yield Kind("one line", LINE, _line)
    yield Kind("text and a figure", russian.text, partial(_with_figure, russian.body, russian.title))
    yield Kind("scan with a dark margin", russian.text, _with_margin, surround=(34, 32, 30))
    yield Kind("empty page", "", partial(Image.new, "RGB", A4, "white"))


def _line() -> Image.Image:
    return draw_page(LINE, size=A4).convert("RGB")


def _with_figure(body: str, title: str) -> Image.Image:
    """Text on the upper part of the page, a picture of hills below it."""
    page = draw_page(body, title=title, size=A4).convert("RGB")
    bottom = int(np.flatnonzero((np.asarray(page) < 128).any((1, 2)))[-1])
    width, height = page.width - 2 * MARGIN, min(600, page.height - bottom - 2 * MARGIN)
    across, down = np.meshgrid(np.linspace(0, 9, width), np.linspace(0, 1, height))
    hills = 120 + 80 * np.sin(across + 4 * down) * down + 30 * np.cos(3 * across) * (1 - down)
    noise = np.random.default_rng(15).normal(0, 12, hills.shape)
    picture = Image.fromarray(np.clip(hills + noise, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2))
    page.paste(picture, (MARGIN, bottom + MARGIN))
    return page


def _with_margin() -> Image.Image:
    """A page of text on the dark lid of a scanner, which shows on two sides."""
    russian = SAMPLES["page-ru"]
    page = draw_page(russian.body, title=russian.title, size=A4).convert("RGB")
    scan = Image.new("RGB", (page.width + 140, page.height + 90), (34, 32, 30))
    scan.paste(page, (0, 0))
    ImageDraw.Draw(scan).line((page.width, 0, page.width, page.height), fill=(150, 148, 146), width=3)
    return scan


# Reporting


def _report(measured: dict[str, dict[int, Reading]]) -> Report:
    rows: list[list[Cell]] = []
    for name, readings in measured.items():
        worst = min(readings, key=lambda angle: (readings[angle].found, -abs(angle)))
        error = max(reading.error for reading in readings.values())
        rows.append(
            [
                name,
                readings[0].words,
                100 * readings[0].found,
                100 * readings[worst].found,
                f"{worst:+d}",
                f"{error:.2f}",
            ]
        )
    columns = ["", "words", "found at 0, %", "found at worst, %", "worst at", "largest error of the angle, degrees"]
    good = [readings for readings in measured.values() if readings[0].found >= ENOUGH]
    lost = min((reading.found for readings in good for reading in readings.values()), default=0.0)
    error = max(reading.error for readings in measured.values() for reading in readings.values())
    targets = [
        Target("words found at the worst angle of the worst page", 100 * lost, 100 * ENOUGH, at_least=True, unit="%"),
        Target("the angle is right", error, PRECISION, at_least=False, unit="degrees"),
    ]
    data: dict[str, Any] = {
        name: {str(angle): {"found": r.found, "error": r.error} for angle, r in readings.items()}
        for name, readings in measured.items()
    }
    return Report([Table("Each whole degree from -10 to 10", columns, rows)], targets, data, (), _figure(measured))


def _figure(measured: dict[str, dict[int, Reading]]) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for name, readings in measured.items():
        axis.plot(list(readings), [100 * reading.found for reading in readings.values()], marker="o", ms=3, label=name)
    axis.set(xlabel="degrees clockwise", ylabel="words found, %", ylim=(-4, 104))
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7)
    return figure
