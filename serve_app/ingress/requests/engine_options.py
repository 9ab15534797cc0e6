"""What of the configured engines a request may ask for."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic.alias_generators import to_camel

from serve_app.document.options import ParsingOptions, RecognitionOptions
from serve_app.errors import FieldError, InvalidField
from serve_app.ingress.requests.body import DocumentFields
from serve_app.settings import EngineSettings, PaddleOcrVlSettings, TesseractSettings


def engine_of(request: DocumentFields, engines: Sequence[EngineSettings]) -> EngineSettings:
    """The engine that is asked for. Raises InvalidField."""
    for engine in engines:
        if request.engine in (None, engine.name):
            return engine
    names = ", ".join(engine.name for engine in engines)
    raise _invalid("engine", f"this service has: {names}")


def options_of(request: DocumentFields, engine: EngineSettings) -> RecognitionOptions:
    """How the engine is to read. Raises InvalidField for what it cannot do."""
    return RecognitionOptions(
        languages=_languages(request, engine), parsing=_parsing(request, engine), overlay=request.overlay
    )


def _languages(request: DocumentFields, engine: EngineSettings) -> tuple[str, ...]:
    """The languages asked for, in the engine's own order: the same set is the same prepared engine."""
    if request.language is None:
        return ()
    if isinstance(engine, PaddleOcrVlSettings):
        return ()  # it reads what there is, and a client that always says a language may go on doing so
    if not isinstance(engine, TesseractSettings):
        raise _invalid("language", f"the engine {engine.name} has no choice of languages")
    known = engine.languages
    asked = [language.strip() for language in request.language.split("+")]
    if not set(asked) <= set(known):
        raise _invalid("language", f"this service reads: {', '.join(known)} (join several with '+')")
    return tuple(language for language in known if language in asked)


def _parsing(request: DocumentFields, engine: EngineSettings) -> ParsingOptions:
    options = request.options
    if options is None:
        return ParsingOptions()
    if not isinstance(engine, PaddleOcrVlSettings):
        raise _invalid("options", f"the engine {engine.name} has no options")
    for name in ("use_doc_orientation_classify", "use_doc_unwarping"):
        if getattr(options, name) and not engine.doc_preprocessor:
            raise _invalid(f"options.{to_camel(name)}", "this service has no model for it ('doc_preprocessor' is off)")
    return options


def _invalid(field: str, message: str) -> InvalidField:
    return InvalidField(f"{field}: {message}", fields=(FieldError(field, message),))
