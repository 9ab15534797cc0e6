"""GET /livez and GET /readyz, for load balancers and Kubernetes. They need no key, and respond from memory."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from serve_app.errors import ServiceUnavailable
from serve_app.ingress.context import Context, context_of

router = APIRouter(tags=["service"])

RETRY_AFTER_S = 5
NO_KEY: dict[str, Any] = {"security": []}


class Probe(BaseModel):
    status: str


@router.get("/livez", summary="Whether an ingress replica responds; needs no key", openapi_extra=NO_KEY)
async def livez() -> Probe:
    return Probe(status="alive")


@router.get("/readyz", summary="Whether the service can take documents; needs no key", openapi_extra=NO_KEY)
async def readyz(context: Annotated[Context, Depends(context_of)]) -> Probe:
    """503 until the default engine, or its fallback, has been ready once; while the service stops; and without room for an upload.

    An engine or a store that is away later does not count: results are there, jobs wait, and all replicas would be the same.
    """
    if context.admission.is_closed:
        raise _not_ready("The service is shutting down.")
    if not context.has_room:
        raise _not_ready("There is no room for temporary files.")
    default = context.settings.engines[0]
    engines = [default.name, *([default.fallback] if default.fallback is not None else [])]
    if not any(context.services.engines[engine].takes_pages for engine in engines):
        raise _not_ready("No engine has been ready yet.")
    return Probe(status="ready")


def _not_ready(message: str) -> ServiceUnavailable:
    return ServiceUnavailable(message, retry_after_s=RETRY_AFTER_S)
