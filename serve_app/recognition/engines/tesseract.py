"""Tesseract through tesserocr, the embedded engine: one engine per process, one thread per engine.

tesserocr releases the GIL during recognition, so an event loop in the same process keeps running.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, OrderedDict
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from serve_app.document import Block, Page, PageContent, PageImage, RgbPixels
from serve_app.document.markdown import page_markdown
from serve_app.errors import InvalidField, PageTimeout, RecognitionFailed, ServiceError
from serve_app.recognition.engines.blur import sharpened
from serve_app.recognition.engines.engine import Engine, EngineLoadError, PageTask
from serve_app.recognition.engines.few_words import in_other_directions, lone_text
from serve_app.recognition.engines.figures import IMAGE, cut_figures, drop_edges, named_by_place
from serve_app.recognition.engines.grey import GreyPixels, even, luminance
from serve_app.recognition.engines.long_pages import pieces
from serve_app.recognition.engines.noise import without_noise
from serve_app.recognition.engines.nonsense import without_nonsense
from serve_app.recognition.engines.page_corners import Flatten, even_light, flatten
from serve_app.recognition.engines.placing import shifted
from serve_app.recognition.engines.skew import find_skew
from serve_app.recognition.engines.straightening import straighten
from serve_app.recognition.engines.tessdata import find_tessdata, has_language
from serve_app.recognition.engines.tesseract_blocks import (
    boxes_read,
    certainty,
    collect_blocks,
    letter_height,
    mean_confidence,
    words_of,
)
from serve_app.recognition.engines.turned_pages import read_upright
from serve_app.recognition.engines.two_readings import merged
from serve_app.recognition.engines.unread import has_unread_text
from serve_app.settings import TesseractSettings

log = logging.getLogger("ray.serve.tesseract")

MAX_SIDE = 32_767  # Tesseract's coordinates are 16 bits wide
RETRY_BELOW_CONFIDENCE = 0.6  # mean confidence of a page's words below which recognition is repeated
OTSU, SAUVOLA = "0", "2"  # values of Tesseract's `thresholding_method`
MAX_PREPARED = 4  # language combinations in memory, tens of MB each; preparing one takes about 0.1 s


class TesseractEngine(Engine):
    name = "tesseract"

    def __init__(self, settings: TesseractSettings, *, page_s: float) -> None:
        self._settings = settings
        self._page_s = page_s
        self.max_batch = settings.max_batch
        self._tesserocr: Any = None
        self._tessdata = ""
        self._prepared: OrderedDict[tuple[str, ...], Any] = OrderedDict()  # least recently used first

    def load(self) -> None:
        # Tesseract's own threads would compete with other replicas for cores. The library reads this when it loads.
        os.environ["OMP_THREAD_LIMIT"] = "1"
        try:
            import tesserocr
        except ImportError as error:
            raise EngineLoadError("the package tesserocr is not installed") from error
        tesserocr.set_leptonica_log_level(tesserocr.LeptLogLevel.NONE)
        self._tesserocr = tesserocr
        self._tessdata = find_tessdata(self._settings.tessdata, self._settings.languages)
        if not has_language(self._tessdata, "osd"):
            log.warning("language data for 'osd' not found: rotated pages cannot be read; install tesseract-ocr-osd")
        self._api(self._settings.languages)
        self.version = tesserocr.tesseract_version().split()[1]

    def read(self, task: PageTask) -> PageContent | ServiceError:
        try:
            return self._page(task.image, task.options.languages or self._settings.languages, task.options.flatten)
        except ServiceError as error:
            return error
        except Exception:  # the library may raise anything; other pages must not be affected
            log.exception("tesseract failed on page %d", task.image.number)
            return RecognitionFailed()

    def close(self) -> None:
        while self._prepared:
            self._prepared.popitem()[1].End()

    def _page(self, image: PageImage, languages: tuple[str, ...], mode: Flatten) -> PageContent:
        unknown = [language for language in languages if language not in self._settings.languages]
        if unknown:
            known = ", ".join(self._settings.languages)
            raise InvalidField(f"This engine does not support all of the requested languages. It supports: {known}.")
        height, width = image.pixels.shape[:2]
        api = self._api(languages)
        deadline = time.monotonic() + self._page_s
        flat = flatten(image.pixels, mode, max_side=MAX_SIDE)
        pixels = image.pixels if flat is None else flat.pixels
        straight = straighten(pixels, find_skew(pixels), max_side=MAX_SIDE)
        lit = straight.pixels if flat is None else even_light(straight.pixels)
        found, turns = list[list[Block]](), Counter[int]()
        size = straight.pixels.shape[1], straight.pixels.shape[0]
        for left, top, piece in pieces(lit, MAX_SIDE):
            read, turn = self._read(api, np.ascontiguousarray(piece), image.dpi, deadline)
            found.append(shifted(read, left, top, *size))
            turns[turn] += len(words_of(read))
        rotation = turns.most_common(1)[0][0]
        # Text that is turned by 90 or 180 degrees begins at the right or at the bottom.
        blocks = [block for read in (reversed(found) if rotation in (90, 180) else found) for block in read]
        blocks, warnings = without_nonsense(blocks)
        blocks, figures = cut_figures(straight.pixels, drop_edges(blocks, straight), rotation)
        blocks, skew = straight.as_sent(blocks, rotation), straight.skew
        if flat is not None:
            blocks, skew = flat.as_sent(blocks, rotation), skew + flat.skew
        blocks, figures = named_by_place(blocks, figures)
        page = Page(
            number=image.number,
            width=width,
            height=height,
            dpi=image.dpi,
            rotation=rotation,
            skew=round(skew, 2),
            text="\n\n".join(block.text for block in blocks if block.text),
            markdown=page_markdown(blocks),
            blocks=blocks,
            degraded=bool(warnings),
            warnings=warnings,
        )
        return PageContent(page, figures)

    def _read(self, api: Any, pixels: RgbPixels, dpi: int, deadline: float) -> tuple[list[Block], int]:
        """Read a straightened page in every way that it needs. Returns blocks and rotation. Raises PageTimeout, RecognitionFailed."""
        sent = luminance(pixels)
        smooth = without_noise(sent)
        grey = sharpened(smooth)
        modes = self._tesserocr.PSM

        def upright(mode: int, grey: GreyPixels) -> list[Block]:
            return self._recognize_upright(api, grey, dpi, mode, deadline)

        first = self._recognize(api, grey, dpi, OTSU, deadline)
        with suppress(ServiceError):  # then the first result is used
            first = in_other_directions(grey, *first, partial(upright, modes.AUTO))
            first = read_upright(grey, *first, partial(upright, modes.AUTO))
        if smooth is not sent and not words_of(first[0]):
            return first  # nothing but noise: on a million specks, a local threshold would take minutes
        blocks, rotation = self._read_again(api, pixels, grey, dpi, deadline, *first)
        if not blocks:
            lone = (modes.SINGLE_BLOCK, modes.SINGLE_LINE, modes.SINGLE_WORD, modes.SINGLE_CHAR)
            with suppress(ServiceError):
                blocks = lone_text(grey, [partial(upright, mode) for mode in lone])
        return blocks, rotation

    def _read_again(
        self,
        api: Any,
        pixels: RgbPixels,
        grey: GreyPixels,
        dpi: int,
        deadline: float,
        blocks: list[Block],
        rotation: int,
    ) -> tuple[list[Block], int]:
        """Read a page with another threshold or an even ground if its first reading, `blocks`, is doubtful or lacks text."""
        words = words_of(blocks)
        # A global threshold reads faint and coloured print best, but on noisy or shaded paper it loses or misplaces
        # some lines. A local threshold reads those.
        if mean_confidence(words) < RETRY_BELOW_CONFIDENCE:
            with suppress(ServiceError):  # then the first result is used
                again = self._recognize(api, grey, dpi, SAUVOLA, deadline)
                if certainty(again[0]) > certainty(blocks):
                    blocks, rotation = again
                    # A local threshold breaks pictures and shaded paper into pieces, so picture blocks are unusable.
                    blocks = [block for block in blocks if block.label != IMAGE]
            return blocks, rotation
        # What a global threshold takes for paper, or for ink, is no text to it: its words are sure, and lines are missing.
        letter = letter_height(words, rotation, dpi)
        if has_unread_text(pixels, boxes_read(blocks, grey.shape[1], grey.shape[0]), letter):
            with suppress(ServiceError):
                again = self._recognize(api, even(pixels, letter), dpi, OTSU, deadline)
                blocks = merged(blocks, again[0])
        return blocks, rotation

    def _recognize(
        self, api: Any, grey: GreyPixels, dpi: int, threshold: str, deadline: float
    ) -> tuple[list[Block], int]:
        """Recognize a page with one thresholding method. Returns blocks and rotation. Raises PageTimeout, RecognitionFailed."""
        height, width = grey.shape
        try:
            api.SetVariable("thresholding_method", threshold)
            api.SetImageBytes(grey.tobytes(), width, height, 1, width)
            api.SetSourceResolution(dpi)
            left_ms = int((deadline - time.monotonic()) * 1000)
            if not api.Recognize(max(1, left_ms)):  # 0 would mean no limit
                raise PageTimeout() if time.monotonic() >= deadline else RecognitionFailed()
            return collect_blocks(self._tesserocr, api)
        finally:
            api.Clear()  # frees the page's pixels and drops words learned from it, which would affect the next page
            api.ClearAdaptiveClassifier()

    def _recognize_upright(self, api: Any, grey: GreyPixels, dpi: int, mode: int, deadline: float) -> list[Block]:
        """Recognize a page whose text is upright, in a mode of page segmentation (PSM)."""
        usual = api.GetPageSegMode()
        api.SetPageSegMode(mode)
        try:
            return self._recognize(api, grey, dpi, OTSU, deadline)[0]
        finally:
            api.SetPageSegMode(usual)

    def _api(self, languages: tuple[str, ...]) -> Any:
        """Return an initialized TessBaseAPI for `languages`. Raises EngineLoadError."""
        api = self._prepared.get(languages)
        if api is None:
            api = self._prepare(languages)
            while len(self._prepared) >= MAX_PREPARED:
                self._prepared.popitem(last=False)[1].End()
            self._prepared[languages] = api
        self._prepared.move_to_end(languages)
        return api

    def _prepare(self, languages: tuple[str, ...]) -> Any:
        tesserocr = self._tesserocr
        detect_orientation = has_language(self._tessdata, "osd")
        api = tesserocr.PyTessBaseAPI(init=False)
        # Tesseract prints remarks on pages ("Empty page!!") to stderr, which would flood the log.
        api.SetVariable("debug_file", os.devnull)
        try:
            api.Init(
                os.path.join(self._tessdata, ""),
                "+".join(languages),
                tesserocr.OEM.LSTM_ONLY,
                tesserocr.PSM.AUTO_OSD if detect_orientation else tesserocr.PSM.AUTO,
            )
            loaded = api.GetLoadedLanguages()
        except RuntimeError:
            loaded = []
        # If one of several languages fails to load, Init continues without it.
        broken = [language for language in languages if language not in loaded]
        if broken:
            api.End()
            names = ", ".join(f"'{language}'" for language in broken)
            raise EngineLoadError(f"language data for {names} could not be read; reinstall it")
        return api
