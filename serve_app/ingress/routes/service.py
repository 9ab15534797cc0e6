"""GET / and GET /health, with the fields of the service that this one replaces and some more."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header

from serve_app import __version__
from serve_app.ingress.context import Context, context_of
from serve_app.ingress.requests.negotiation import best_match
from serve_app.recognition.engine_monitor import EngineMonitor, default_monitor
from serve_app.recognition.engine_state import EnginePhase
from serve_app.settings import resolve

router = APIRouter(tags=["service"])

SERVICE = "PaddleOCR-VL Service"

DESCRIPTION = "OCR service with support for Base64, URL, and multipart image uploads"

_TEXTS = {
    "ru": {
        "docs": "/docs - Swagger UI (интерактивная документация API)",
        "redoc": "/redoc - ReDoc (альтернативная документация)",
        "openapi": "/openapi.json - OpenAPI схема",
        "health": "/health - Проверка здоровья сервиса",
        "ocr": "/ocr - POST - OCR обработка изображений",
        "usage": "Перейдите на /docs для интерактивного использования API",
        "health_docs": "/docs - Swagger UI для тестирования API",
    },
    "en": {
        "docs": "/docs - Swagger UI (interactive API documentation)",
        "redoc": "/redoc - ReDoc (alternative documentation)",
        "openapi": "/openapi.json - OpenAPI schema",
        "health": "/health - Health of the service",
        "ocr": "/ocr - POST - OCR of images",
        "usage": "Open /docs to use the API interactively",
        "health_docs": "/docs - Swagger UI to try the API",
    },
}

AcceptLanguage = Annotated[str, Header(description="`ru` (default) or `en`")]


@router.get("/", summary="Get the service's name, version and endpoints")
async def index(accept_language: AcceptLanguage = "") -> dict[str, Any]:
    texts = _TEXTS[best_match(accept_language, ("ru", "en"))]
    return {
        "service": SERVICE,
        "version": __version__,
        "description": DESCRIPTION,
        "endpoints": {name: texts[name] for name in ("docs", "redoc", "openapi", "health", "ocr")},
        "usage": texts["usage"],
    }


@router.get("/health", summary="Get the health of the service; responds at once, from memory")
async def health(
    context: Annotated[Context, Depends(context_of)], accept_language: AcceptLanguage = ""
) -> dict[str, Any]:
    """`paddleocr` is the state of the default engine; `engines` has the state of each. `age_s` is how old what it says is, in seconds."""
    store = context.settings.store
    monitor = default_monitor(context.services.engines)
    default = monitor.state
    jobs = context.jobs_monitor
    storage_reason = context.services.store_monitor.reason or jobs.store_reason
    storage_ok = not context.services.store_monitor.degraded and jobs.store_reason is None
    temp_ok = context.has_room
    if store.kind == "folder":
        s3, output_dir = "not_configured", str(resolve(store.path))
    else:
        s3, output_dir = "configured" if storage_ok else "degraded", f"s3://{store.bucket}/{store.prefix}"
    engine_ok = default.phase is not EnginePhase.FAILED and (default.vlm_server is None or default.vlm_server.available)
    unreadable = jobs.report.unreadable if jobs.report is not None else 0
    jobs_ok = not jobs.is_away and not unreadable
    rasterizers, spool = context.rasterizer_monitor, context.services.writes.spool
    engines_age_s = max(engine.age_s for engine in context.services.engines.values())
    oldest_s = max(jobs.age_s, rasterizers.age_s, context.services.store_monitor.age_s, engines_age_s)
    engine_ok = engine_ok and not monitor.lost_replicas
    healthy = engine_ok and not rasterizers.is_away and storage_ok and temp_ok and jobs_ok
    return {
        "status": "healthy" if healthy else "degraded",
        "paddleocr": default.phase,
        "s3_storage": s3,
        "output_dir": output_dir,
        "temp_dir": str(context.services.temp_dir),
        "docs": _TEXTS[best_match(accept_language, ("ru", "en"))]["health_docs"],
        "version": __version__,
        "output_writable": storage_ok,
        "storage_reason": storage_reason,
        "storage_age_s": _seconds(context.services.store_monitor.age_s),
        "spool": None if spool is None else {"results": spool.waiting.results, "bytes": spool.waiting.bytes},
        "temp_writable": temp_ok,
        "jobs": {
            "state": "away" if jobs.is_away else "available",
            "running": jobs.report.running if jobs.report is not None else None,
            "waiting": jobs.report.waiting if jobs.report is not None else None,
            "unreadable": unreadable,
            "age_s": _seconds(jobs.age_s),
        },
        "rasterizers": {
            "state": "away" if rasterizers.is_away else "available",
            "replicas": rasterizers.replicas,
            "age_s": _seconds(rasterizers.age_s),
        },
        "engines": {name: _engine(monitor) for name, monitor in context.services.engines.items()},
        "age_s": _seconds(oldest_s),
    }


def _engine(monitor: EngineMonitor) -> dict[str, Any]:
    state = monitor.state
    described: dict[str, Any] = {
        "state": state.phase,
        "version": state.version,
        "reason": state.reason,
        "age_s": _seconds(monitor.age_s),
    }
    if state.vlm_server is not None:
        described["server"] = {
            "state": "available" if state.vlm_server.available else "away",
            "reason": state.vlm_server.reason,
        }
    return described


def _seconds(age_s: float) -> float:
    return round(age_s, 1)
