"""Content negotiation: selects an offered value by the weights in `Accept` or `Accept-Language` (RFC 9110, 12.4)."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.outputs.formats import MEDIA_TYPES, OutputFormat


def best_match(header: str, offered: Sequence[str]) -> str:
    """Return the offered value that the client prefers, or the first one if it has no preference.

    Works for media types ("text/*", "*/*") and for languages ("en" matches "en-GB").
    """
    weights = dict(_weights(header))

    def weight(value: str) -> float:
        family = value.partition("/")[0]
        for name in (value, f"{family}/*", "*/*", "*"):
            if name in weights:
                return weights[name]
        return max((q for name, q in weights.items() if name.partition("-")[0] == value), default=0.0)

    # max() returns the first of equals, so the order of `offered` is the service's preference.
    best = max(offered, key=weight)
    return best if weight(best) > 0 else offered[0]


def _weights(header: str) -> list[tuple[str, float]]:
    weights = []
    for part in header.lower().split(",")[:50]:
        name, *parameters = (piece.strip() for piece in part.split(";"))
        q = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
        try:
            weights.append((name, float(q)))
        except ValueError:
            continue
    return weights


def negotiate_format(accept: str) -> OutputFormat:
    """Return the output format that an `Accept` header selects."""
    kinds = {media_type: kind for kind, media_type in MEDIA_TYPES.items()}
    return kinds[best_match(accept, tuple(kinds))]
