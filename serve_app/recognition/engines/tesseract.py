"""Tesseract through tesserocr, the embedded engine: one engine per process, one thread per engine.

tesserocr releases the GIL during recognition, so an event loop in the same process keeps running.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, OrderedDict
from contextlib import suppress
from dataclasses import replace
from typing import Any

from serve_app.document import Block, Box, Page, PageContent, PageImage, Word
from serve_app.document.markdown import page_markdown
from serve_app.errors import InvalidField, PageTimeout, RecognitionFailed, ServiceError, TooLarge
from serve_app.recognition.engines.engine import Engine, EngineLoadError, PageTask
from serve_app.recognition.engines.figures import IMAGE, cut_figures
from serve_app.recognition.engines.skew import find_skew
from serve_app.recognition.engines.straightening import straighten
from serve_app.recognition.engines.tessdata import find_tessdata, has_language
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
            return self._page(task.image, task.options.languages or self._settings.languages)
        except ServiceError as error:
            return error
        except Exception:  # the library may raise anything; other pages must not be affected
            log.exception("tesseract failed on page %d", task.image.number)
            return RecognitionFailed()

    def close(self) -> None:
        while self._prepared:
            self._prepared.popitem()[1].End()

    def _page(self, image: PageImage, languages: tuple[str, ...]) -> PageContent:
        unknown = [language for language in languages if language not in self._settings.languages]
        if unknown:
            known = ", ".join(self._settings.languages)
            raise InvalidField(f"This engine does not support all of the requested languages. It supports: {known}.")
        height, width = image.pixels.shape[:2]
        if max(height, width) > MAX_SIDE:
            raise TooLarge(f"The page is too large for this engine: at most {MAX_SIDE} pixels in width and height.")

        api = self._api(languages)
        deadline = time.monotonic() + self._page_s
        straight = straighten(image.pixels, find_skew(image.pixels), max_side=MAX_SIDE)
        level = replace(image, pixels=straight.pixels)
        # A global threshold reads faint and coloured print best, but on noisy or shaded paper it loses or misplaces
        # some lines. A local threshold reads those.
        blocks, rotation = self._recognize(api, level, OTSU, deadline)
        if _mean_confidence(_words(blocks)) < RETRY_BELOW_CONFIDENCE:
            with suppress(PageTimeout):  # then the first result is used
                again = self._recognize(api, level, SAUVOLA, deadline)
                if _certainty(again[0]) > _certainty(blocks):
                    blocks, rotation = again
                    # A local threshold breaks pictures and shaded paper into pieces, so picture blocks are unusable.
                    blocks = [block for block in blocks if block.label != IMAGE]
        blocks, figures = cut_figures(straight.pixels, blocks, rotation)
        blocks = straight.as_sent(blocks, rotation)
        page = Page(
            number=image.number,
            width=width,
            height=height,
            dpi=image.dpi,
            rotation=rotation,
            skew=round(straight.skew, 2),
            text="\n\n".join(block.text for block in blocks if block.text),
            markdown=page_markdown(blocks),
            blocks=blocks,
        )
        return PageContent(page, figures)

    def _recognize(self, api: Any, image: PageImage, threshold: str, deadline: float) -> tuple[list[Block], int]:
        """Recognize a page with one thresholding method. Returns blocks and rotation. Raises PageTimeout, RecognitionFailed."""
        height, width = image.pixels.shape[:2]
        try:
            api.SetVariable("thresholding_method", threshold)
            api.SetImageBytes(image.pixels.tobytes(), width, height, 3, 3 * width)
            api.SetSourceResolution(image.dpi)
            left_ms = int((deadline - time.monotonic()) * 1000)
            if not api.Recognize(max(1, left_ms)):  # 0 would mean no limit
                raise PageTimeout() if time.monotonic() >= deadline else RecognitionFailed()
            return self._collect_blocks(api)
        finally:
            api.Clear()  # frees the page's pixels and drops words learned from it, which would affect the next page
            api.ClearAdaptiveClassifier()

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

    def _collect_blocks(self, api: Any) -> tuple[list[Block], int]:
        """Return paragraphs and possible pictures in reading order, and the rotation of the text in degrees clockwise."""
        level = self._tesserocr.RIL
        types = self._tesserocr.PT
        pictures = {types.FLOWING_IMAGE, types.HEADING_IMAGE, types.PULLOUT_IMAGE}
        no_text = {*pictures, types.HORZ_LINE, types.VERT_LINE, types.NOISE}
        blocks: list[Block] = []
        turns: Counter[int] = Counter()
        paragraph, box, words = "", (0, 0, 0, 0), list[Word]()
        iterator = api.GetIterator()
        if iterator is None:
            return [], 0
        for item in self._tesserocr.iterate_level(iterator, level.WORD):
            kind = item.BlockType()
            if kind in pictures and item.IsAtBeginningOf(level.BLOCK):
                # On a rotated page, BoundingBox rotates these once too often.
                outline = item.BlockPolygon()
                if outline:
                    blocks.append(Block(label=IMAGE, text="", bbox=_bounds(outline), order=len(blocks)))
            if kind in no_text or item.Empty(level.WORD):
                continue
            if item.IsAtBeginningOf(level.PARA):  # at a later word, the text would start from that word
                paragraph, box, words = item.GetUTF8Text(level.PARA), _box(item, level.PARA), []
            text = item.GetUTF8Text(level.WORD).strip()
            if text:
                confidence = min(max(item.Confidence(level.WORD) / 100, 0.0), 1.0)
                words.append(Word(text=text, bbox=_box(item, level.WORD), confidence=round(confidence, 4)))
                turns[int(item.Orientation()[0])] += 1
            if words and item.IsAtFinalElement(level.PARA, level.WORD):
                lines = (line.strip() for line in paragraph.splitlines())
                blocks.append(
                    Block(
                        label="text",
                        text="\n".join(line for line in lines if line),
                        bbox=box,
                        order=len(blocks),
                        confidence=round(_mean_confidence(words), 4),
                        words=words,
                    )
                )
        # Orientation counts clockwise quarter turns. If blocks differ, the majority of words decides.
        return blocks, turns.most_common(1)[0][0] * 90 if turns else 0


def _words(blocks: list[Block]) -> list[Word]:
    return [word for block in blocks for word in block.words]


def _mean_confidence(words: list[Word]) -> float:
    return sum(word.confidence or 0.0 for word in words) / len(words) if words else 0.0


def _certainty(blocks: list[Block]) -> float:
    """Return the number of characters read, each weighted by its word's confidence."""
    return sum(len(word.text) * (word.confidence or 0.0) for word in _words(blocks))


def _bounds(outline: list[tuple[float, float]]) -> Box:
    across, down = zip(*outline, strict=True)
    return int(min(across)), int(min(down)), int(max(across)), int(max(down))


def _box(item: Any, level: int) -> Box:
    left, top, right, bottom = item.BoundingBox(level)
    return left, top, right, bottom
