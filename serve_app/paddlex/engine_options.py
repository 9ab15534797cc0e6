"""Maps requests of PaddleX's API to the configured engines."""

from __future__ import annotations

from serve_app.document.options import ParsingOptions, RecognitionOptions
from serve_app.paddlex.requests import PDF_DPI, LayoutParsingFields, LinesFields
from serve_app.pipeline.request import DocumentRequest
from serve_app.settings import EngineSettings, PaddleOcrVlSettings, Settings


def layout_engine(settings: Settings) -> EngineSettings:
    """Return the first engine with layout detection; the first engine if none has it."""
    engines = settings.engines
    return next((engine for engine in engines if isinstance(engine, PaddleOcrVlSettings)), engines[0])


def recognition_options(engine: EngineSettings, parsing: ParsingOptions, *, visualize: bool) -> RecognitionOptions:
    """Return the requested options that the engine supports; PaddleX's responses show the options in effect."""
    if not isinstance(engine, PaddleOcrVlSettings):
        parsing = ParsingOptions()
    elif not engine.doc_preprocessor:
        parsing = parsing.model_copy(update={"use_doc_orientation_classify": None, "use_doc_unwarping": None})
    return RecognitionOptions(parsing=parsing, overlay=visualize, picture=visualize)


def layout_request(settings: Settings, fields: LayoutParsingFields, *, pages: str | None = None) -> DocumentRequest:
    """Make the DocumentRequest of /layout-parsing."""
    engine = layout_engine(settings)
    return DocumentRequest(
        engine=engine.name,
        options=recognition_options(engine, fields.parsing, visualize=bool(fields.visualize)),
        pdf_dpi=PDF_DPI,
        pages=pages,
        restructure=fields.restructure_pages,
        keep_native=True,
    )


def lines_request(settings: Settings, fields: LinesFields, *, pages: str | None = None) -> DocumentRequest:
    """Make the DocumentRequest of PaddleX's /ocr."""
    engine = settings.engines[0]
    return DocumentRequest(
        engine=engine.name,
        options=recognition_options(engine, fields.parsing, visualize=bool(fields.visualize)),
        pdf_dpi=PDF_DPI,
        pages=pages,
        restructure=False,
    )


def is_preprocessed(options: RecognitionOptions) -> bool:
    """Whether the engine turns pages upright or flattens them."""
    return bool(options.parsing.use_doc_orientation_classify or options.parsing.use_doc_unwarping)
