"""Checks a request's engine, languages and parsing options against the configured engines."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic.alias_generators import to_camel

from serve_app.document.options import ParsingOptions, RecognitionOptions
from serve_app.ingress.requests.document_fields import DocumentFields
from serve_app.ingress.requests.validation_errors import field_error
from serve_app.settings import EngineSettings, PaddleOcrVlSettings, TesseractSettings


def select_engine(request: DocumentFields, engines: Sequence[EngineSettings]) -> EngineSettings:
    """Find the requested engine, or the default. Raises InvalidField if it is not configured."""
    for engine in engines:
        if request.engine in (None, engine.name):
            return engine
    names = ", ".join(engine.name for engine in engines)
    raise field_error("engine", f"this service has: {names}")


def recognition_options(request: DocumentFields, engine: EngineSettings) -> RecognitionOptions:
    """Convert the fields into options for the engine. Raises InvalidField for an option that the engine does not have."""
    return RecognitionOptions(
        languages=_languages(request, engine),
        parsing=_parsing(request, engine),
        overlay=request.overlay,
        flatten=request.flatten,
    )


def _languages(request: DocumentFields, engine: EngineSettings) -> tuple[str, ...]:
    """Return the requested languages in configured order, so that equal sets share one prepared engine."""
    if request.language is None:
        return ()
    if isinstance(engine, PaddleOcrVlSettings):
        return ()  # the model needs none; clients that always send a language still work
    if not isinstance(engine, TesseractSettings):
        raise field_error("language", f"the engine {engine.name} has no choice of languages")
    known = engine.languages
    requested = [language.strip() for language in request.language.split("+")]
    if not set(requested) <= set(known):
        raise field_error("language", f"this service reads: {', '.join(known)} (join several with '+')")
    return tuple(language for language in known if language in requested)


def _parsing(request: DocumentFields, engine: EngineSettings) -> ParsingOptions:
    options = request.options
    if options is None:
        return ParsingOptions()
    if not isinstance(engine, PaddleOcrVlSettings):
        raise field_error("options", f"the engine {engine.name} has no options")
    for name in ("use_doc_orientation_classify", "use_doc_unwarping"):
        if getattr(options, name) and not engine.doc_preprocessor:
            raise field_error(
                f"options.{to_camel(name)}", "this service has no model for it ('doc_preprocessor' is off)"
            )
    return options
