"""Share of words that are read on degraded pages: this service, Tesseract's command line, and OCRmyPDF.

All three get the same files and the same language data, one after another, in processes of one thread each. Words are
compared with those that were drawn, wherever on the page they are: see `score`.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import os
import re
import shutil
import subprocess
import tempfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from PIL import Image

from benchmarks.degraded_pages import CleanPage, Step, clean_pages, steps
from benchmarks.report import Cell, Report, Table, Target
from serve_app.document import PageContent, PageImage
from serve_app.document.options import RecognitionOptions
from serve_app.raster.page_source import open_source
from serve_app.recognition.engines import Engine, PageTask, create_engine
from serve_app.settings import Settings, TesseractSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUMMARY = "words read on degraded pages, beside Tesseract's command line and OCRmyPDF"

OURS, TESSERACT, OCRMYPDF = READERS = ("this service", "Tesseract", "OCRmyPDF")
COLOURS = {OURS: "#0b6e4f", TESSERACT: "#e07a1f", OCRMYPDF: "#4a6fa5"}
LANGUAGES = "rus+eng"
OCRMYPDF_COMMAND = Path(".clients/bin/ocrmypdf")
TIMEOUT_S = 300
LEVEL = 0.01
"""Difference of shares that counts as none: two words of a page."""

DOCUMENT, PLOT = Path("docs/benchmarks.md"), Path("docs/images/accuracy.svg")
BEGIN, END = "<!-- accuracy: begin -->\n", "<!-- accuracy: end -->\n"

_QUICK = re.compile(
    r"^(straight|crooked.* (-3|\+5)|turned.* 180|photograph.*(5%|fair)|shadow.*50|.*yellow|stamp.*blue|low.*25)"
)


@dataclass(frozen=True)
class Score:
    """`found`: share of the words on the page that were read; `right`: share of the words read that are on the page."""

    found: float
    right: float

    @property
    def f1(self) -> float:
        return 2 * self.found * self.right / (self.found + self.right) if self.found + self.right else 0.0


Scores = dict[str, Score]
"""By the name of the reader."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    cpus = os.cpu_count() or 1
    parser.add_argument("--quick", action="store_true", help="a dozen rows on two pages: a few minutes")
    parser.add_argument(
        "--only", metavar="TEXT", help="only rows whose name contains TEXT, such as 'crooked' or 'blur'"
    )
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS), help="default: all three")
    parser.add_argument("--processes", type=int, default=cpus, help=f"pages read at the same time (default {cpus})")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the files, and what each reader read, here")
    parser.add_argument("--docs", action="store_true", help=f"write the table into {DOCUMENT} and the plot to {PLOT}")


def run(arguments: argparse.Namespace) -> Report:
    _check_programs(arguments.readers)
    pages, chosen = clean_pages(), steps()
    if arguments.quick:
        pages, chosen = pages[1:3], [step for step in chosen if _QUICK.search(step.name)]
    if arguments.only:
        chosen = [step for step in chosen if arguments.only.lower() in step.name.lower()]
    if not chosen:
        raise SystemExit(f"No row has {arguments.only!r} in its name.")
    measured = dict(_measure(pages, chosen, arguments))
    report = _report(measured, chosen, arguments.readers)
    if arguments.docs:
        _write_documentation(report)
    return report


def score(text: str, expected: str) -> Score:
    """Compare words as multisets: without the signs around them, in any order, each as often as it is on the page."""
    read, there = _words(text), _words(expected)
    common = (read & there).total()
    return Score(common / there.total(), common / read.total() if read else 0.0)


def _words(text: str) -> Counter[str]:
    words = (_bare(word) for word in unicodedata.normalize("NFC", text).split())
    return Counter(word for word in words if word)


def _bare(word: str) -> str:
    return re.sub(r"^[\W_]+|[\W_]+$", "", word)


# Measuring


def _measure(
    pages: Sequence[CleanPage], chosen: Sequence[Step], arguments: argparse.Namespace
) -> Iterator[tuple[str, dict[str, Scores]]]:
    """Yield, for each step, its name and the scores by page."""
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    spawn = mp.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, mp_context=spawn) as pool:
        waiting = {
            step.name: [
                pool.submit(_read_page, step.name, page.name, arguments.readers, arguments.keep) for page in pages
            ]
            for step in chosen
        }
        for name, futures in waiting.items():
            results = {page.name: future.result() for page, future in zip(pages, futures, strict=True)}
            line = "  ".join(f"{reader} {_found(results, reader):5.1f}" for reader in arguments.readers)
            print(f"{name:50}  {line}", flush=True)
            yield name, results


def _read_page(step_name: str, page_name: str, readers: Sequence[str], keep: Path | None) -> Scores:
    page, step = _pages()[page_name], _steps()[step_name]
    data = step.file(page)
    name = re.sub(r"\W+", "-", f"{step_name} {page_name}").strip("-").lower()
    scores = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = (keep or Path(folder)) / f"{name}{'.png' if step.jpeg is None else '.jpg'}"
        file.write_bytes(data)
        for reader in readers:
            text = {OURS: _ours, TESSERACT: _tesseract, OCRMYPDF: _ocrmypdf}[reader](file, Path(folder))
            scores[reader] = score(text, page.text)
            if keep:
                (keep / f"{name}.{reader.split()[-1].lower()}.txt").write_text(text)
    return scores


@cache
def _pages() -> dict[str, CleanPage]:
    return {page.name: page for page in clean_pages()}


@cache
def _steps() -> dict[str, Step]:
    return {step.name: step for step in steps()}


@cache
def _engine() -> Engine:
    engine = create_engine(TesseractSettings(languages=tuple(LANGUAGES.split("+"))), page_s=TIMEOUT_S)
    engine.load()
    return engine


def _ours(file: Path, folder: Path) -> str:
    """Read the file as the service does, without the processes in between."""
    settings = Settings()
    max_pixels = int(settings.limits.image_megapixels * 1e6)
    source = open_source(file.read_bytes(), password=None, max_pixels=max_pixels)
    image = source.render(1, dpi=None, default_dpi=settings.raster.default_dpi, max_pixels=max_pixels)
    source.close()
    page = PageImage(image.pixels, number=1, dpi=image.dpi, rasterize_ms=0, warnings=image.warnings)
    engine = _engine()
    (analyzed,) = engine.analyze([PageTask(page, RecognitionOptions())])
    content = engine.read(analyzed)
    if not isinstance(content, PageContent):
        raise RuntimeError(f"{file.name}: {content}")
    return content.page.text


def _tesseract(file: Path, folder: Path) -> str:
    """Run the command as its manual shows it first."""
    return _run("tesseract", file, "stdout", "-l", LANGUAGES)


def _ocrmypdf(file: Path, folder: Path) -> str:
    """Run the command with the options that its documentation advises for crooked and turned scans."""
    sidecar = folder / "text.txt"
    with Image.open(file) as image:
        dpi = round(image.info["dpi"][0])  # it does not believe an image that says 75
    options = (
        "--deskew",
        "--rotate-pages",
        "--image-dpi",
        dpi,
        "--jobs",
        "1",
        "--output-type",
        "pdf",
        "--optimize",
        "0",
        "--quiet",
    )
    timeouts = ("--tesseract-timeout", TIMEOUT_S, "--tesseract-non-ocr-timeout", TIMEOUT_S)
    _run(
        OCRMYPDF_COMMAND.absolute(), "-l", LANGUAGES, *options, *timeouts, "--sidecar", sidecar, file, folder / "o.pdf"
    )
    return sidecar.read_text()


def _run(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "OMP_THREAD_LIMIT": "1"},
        capture_output=True,
        text=True,
        timeout=4 * TIMEOUT_S,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def _check_programs(readers: Sequence[str]) -> None:
    if TESSERACT in readers and not shutil.which("tesseract"):
        raise SystemExit("Tesseract's command line is missing: install Debian's tesseract-ocr.")
    if OCRMYPDF in readers and not OCRMYPDF_COMMAND.exists():
        raise SystemExit(f"{OCRMYPDF_COMMAND} is missing: run `make {OCRMYPDF_COMMAND.parts[0]}/installed`.")


# Reporting


def _found(results: Mapping[str, Scores], reader: str) -> float:
    return 100 * mean(scores[reader].found for scores in results.values())


def _f1(results: Mapping[str, Scores], reader: str) -> float:
    return 100 * mean(scores[reader].f1 for scores in results.values())


def _report(measured: Mapping[str, dict[str, Scores]], chosen: Sequence[Step], readers: Sequence[str]) -> Report:
    others = [reader for reader in readers if reader != OURS]
    rows: list[list[Cell]] = []
    behind = []
    for name, results in measured.items():
        found, f1 = ({reader: figure(results, reader) for reader in readers} for figure in (_found, _f1))
        rows.append([name, *(found[reader] for reader in readers), *(f1[reader] for reader in readers)])
        if OURS in readers and others:
            lost = max(max(figures[reader] for reader in others) - figures[OURS] for figures in (found, f1))
            if lost > 100 * LEVEL:
                behind.append((name, lost))
    columns = ["", *(f"{reader}, found" for reader in readers), *(f"{reader}, F1" for reader in readers)]
    table = Table("Words, in percent (mean of the pages)", columns, rows)
    targets = [Target("rows behind the better one", float(len(behind)), 0, at_least=False, unit="rows")]
    notes = [f"Behind by {lost:.1f} percent: {name}" for name, lost in sorted(behind, key=lambda row: -row[1])]
    data = {
        name: {page: {reader: asdict(result) for reader, result in scores.items()} for page, scores in results.items()}
        for name, results in measured.items()
    }
    return Report([table], targets if others else [], data, notes, _figure(measured, chosen, readers))


def _figure(measured: Mapping[str, dict[str, Scores]], chosen: Sequence[Step], readers: Sequence[str]) -> Figure:
    """Draw a panel for each degradation: the share of words found, by its steps."""
    from matplotlib.figure import Figure  # takes a second, and the tests of this module draw nothing

    panels: dict[str, list[Step]] = defaultdict(list)
    for step in chosen:
        panels[step.degradation].append(step)
    panels = {name: of_it for name, of_it in panels.items() if len(of_it) > 1} or panels
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(4.2 * across, 2.5 * down + 0.6), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis in axes[len(panels) :]:
        axis.remove()
    for axis, (name, of_it) in zip(axes, panels.items(), strict=False):
        labels = [step.label for step in of_it]
        for reader in readers:
            values = [_found(measured[step.name], reader) for step in of_it]
            axis.plot(labels, values, marker="o", markersize=3, color=COLOURS[reader], label=reader, linewidth=1.5)
        axis.set(ylim=(-4, 104))
        axis.set_title(name, fontsize=10)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    figure.supylabel("words found, %", fontsize=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(readers))
    return figure


def _write_documentation(report: Report) -> None:
    """Replace what stands between the two marks in the documentation, and the plot."""
    (table,) = report.tables
    lines = [
        "| " + " | ".join(columns) + " |"
        for columns in (
            table.columns,
            ["---", *["--:"] * (len(table.columns) - 1)],
            *([str(row[0]), *(f"{cell:.1f}" for cell in row[1:] if isinstance(cell, float))] for row in table.rows),
        )
    ]
    lines += ["", *(f"- {note}" for note in report.notes)]
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}")
    assert report.figure is not None
    import matplotlib

    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": PLOT.name}
    ):  # small, and alike for like figures
        report.figure.savefig(PLOT, metadata={"Date": None})
