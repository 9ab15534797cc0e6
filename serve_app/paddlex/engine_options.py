"""What of a request in PaddleX's form the configured engines can do."""

from __future__ import annotations

from serve_app.document.options import ParsingOptions, RecognitionOptions
from serve_app.paddlex.requests import PDF_DPI, LayoutParsingFields, LinesFields
from serve_app.pipeline.request import DocumentRequest
from serve_app.settings import EngineSettings, PaddleOcrVlSettings, Settings


def layout_engine(settings: Settings) -> EngineSettings:
    """The first that knows of layout; else the first one."""
    engines = settings.engines
    return next((engine for engine in engines if isinstance(engine, PaddleOcrVlSettings)), engines[0])


def options_of(engine: EngineSettings, parsing: ParsingOptions, *, visualize: bool) -> RecognitionOptions:
    """What the engine can do of what is asked for; its answer tells what that was."""
    if not isinstance(engine, PaddleOcrVlSettings):
        parsing = ParsingOptions()
    elif not engine.doc_preprocessor:
        parsing = parsing.model_copy(update={"use_doc_orientation_classify": None, "use_doc_unwarping": None})
    return RecognitionOptions(parsing=parsing, overlay=visualize, picture=visualize)


def layout_request(settings: Settings, fields: LayoutParsingFields, *, pages: str | None = None) -> DocumentRequest:
    """How to read a document for /layout-parsing."""
    engine = layout_engine(settings)
    return DocumentRequest(
        engine=engine.name,
        options=options_of(engine, fields.parsing, visualize=bool(fields.visualize)),
        pdf_dpi=PDF_DPI,
        pages=pages,
        restructure=fields.restructure_pages,
        keep_native=True,
    )


def lines_request(settings: Settings, fields: LinesFields, *, pages: str | None = None) -> DocumentRequest:
    """How to read a document for PaddleX's /ocr."""
    engine = settings.engines[0]
    return DocumentRequest(
        engine=engine.name,
        options=options_of(engine, fields.parsing, visualize=bool(fields.visualize)),
        pdf_dpi=PDF_DPI,
        pages=pages,
        restructure=False,
    )


def is_preprocessed(options: RecognitionOptions) -> bool:
    """Whether an engine that is asked for this turns pages upright, or flattens them."""
    return bool(options.parsing.use_doc_orientation_classify or options.parsing.use_doc_unwarping)
