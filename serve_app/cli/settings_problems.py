"""Says in one line what is wrong with settings, by the names in docs/configuration.md."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from serve_app.cli.settings_table import setting_names


def settings_problems(error: ValidationError) -> str:
    """Return `name: problem` for each setting that is not valid, with semicolons between them."""
    return "; ".join(
        ": ".join(filter(None, (".".join(name), _message(name, problem))))
        for name, problem in _without_consequences(error.errors(include_url=False))
    )


def _without_consequences(problems: Sequence[ErrorDetails]) -> list[tuple[tuple[str, ...], ErrorDetails]]:
    """Leave out what pydantic adds to a problem: that a list is too short, since items that are not valid do not count, and
    that the value is not of the other type, where a number or a range may stand.
    """
    named = [(_name(problem), problem) for problem in problems]
    kept: list[tuple[tuple[str, ...], ErrorDetails]] = []
    for index, (name, problem) in enumerate(named):
        others = [other for other, _ in kept] + [other for other, _ in named[index + 1 :]]
        is_general = problem["type"] == "too_short" or problem["type"].endswith("_type")
        if not (is_general and any(other[: len(name)] == name for other in others)):
            kept.append((name, problem))
    return kept


def _name(problem: ErrorDetails) -> tuple[str, ...]:
    # For a union pydantic names the alternative too: 'constrained-int', 'function-after[...]'.
    return tuple(str(part) for part in problem["loc"] if not str(part).startswith(("constrained-", "function-")))


def _message(name: tuple[str, ...], problem: ErrorDetails) -> str:
    context = problem.get("ctx", {})
    match problem["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            similar = get_close_matches(name[-1], setting_names(), n=1)
            return "is not a known setting" + (f"; did you mean '{similar[0]}'?" if similar else "")
        case "union_tag_not_found":
            return f"{_tag(context)} is missing"
        case "union_tag_invalid":
            return f"{_tag(context)} '{context['tag']}' is not one of {context['expected_tags']}"
        case "too_short":
            return f"should have at least {context['min_length']} item"
        case "model_type":
            return "should be a valid dictionary"
        case _:
            return problem["msg"].removeprefix("Value error, ").removeprefix("Input ")


def _tag(context: dict[str, str]) -> str:
    return context["discriminator"].strip("'")
