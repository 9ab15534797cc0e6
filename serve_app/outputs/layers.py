"""The layers of a PDF (optional content), as viewers show them when they open the file: ISO 32000-2, 8.11."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pikepdf import Array, Dictionary, Name, Pdf

MAX_OPERANDS = 20_000
"""Most groups and expressions of all rules together that are looked at."""

_MAX_DEPTH = 32  # of expressions within each other
_DEPENDS = ("/Zoom", "/User", "/Language")
"""Entries of a group's usage that let it be shown now and then."""


class Layers:
    """Says which content counts as shown: what all viewers show."""

    def __init__(self, pdf: Pdf) -> None:
        properties = pdf.Root.get("/OCProperties")
        default = properties.get("/D") if isinstance(properties, Dictionary) else None
        self._default = default if isinstance(default, Dictionary) else Dictionary()
        self._off, self._on = self._listed("/OFF"), self._listed("/ON")
        self._applies_usage = "/AS" in self._default
        self._is_on_by_default = self._default.get("/BaseState", "/ON") != "/OFF"
        self._known: dict[tuple[int, int], bool | None] = {}
        self._left = MAX_OPERANDS

    def are_shown(self, layer: Any) -> bool:
        """Whether the content of a layer is certainly shown. None is content without a layer."""
        if layer is None:
            return True
        if not isinstance(layer, Dictionary):
            return False
        if not layer.is_indirect:
            return self._state(layer) is True
        if layer.objgen not in self._known:
            self._known[layer.objgen] = self._state(layer)
        return self._known[layer.objgen] is True

    def _state(self, layer: Dictionary) -> bool | None:
        """Return whether a layer is on: a group, or a rule about groups. None if viewers may differ."""
        if layer.get("/Type") != "/OCMD":
            return self._state_of_group(layer)
        if isinstance(layer.get("/VE"), Array):
            return self._value(layer.VE)
        groups, policy = layer.get("/OCGs"), layer.get("/P", Name.AnyOn)
        if isinstance(groups, Dictionary):
            # Some viewers ignore other policies then.
            return self._state_of_group(groups) if policy in ("/AnyOn", "/AllOn") else None
        states = [self._state_of_group(group) for group in self._taken(groups) if group is not None]
        match policy if states else None:
            case "/AllOn":
                return _all(states)
            case "/AnyOn":
                return _any(states)
            case "/AnyOff":
                return _not(_all(states))
            case "/AllOff":
                return _not(_any(states))
        return None

    def _value(self, expression: Any, depth: int = 0) -> bool | None:
        """Return the value of a visibility expression: a group, or an array of an operator and expressions."""
        if not isinstance(expression, Array):
            return self._state_of_group(expression)
        if depth == _MAX_DEPTH:
            return None
        taken = self._taken(expression)
        values = [self._value(operand, depth + 1) for operand in taken[1:]]
        match taken[0] if values else None:
            case "/And":
                return _all(values)
            case "/Or":
                return _any(values)
            case "/Not" if len(values) == 1:
                return _not(values[0])
        return None

    def _state_of_group(self, group: Any) -> bool | None:
        if not isinstance(group, Dictionary) or group.get("/Type") != "/OCG":
            return None
        is_on = group.objgen not in self._off if self._is_on_by_default else group.objgen in self._on
        usage = group.get("/Usage")
        if isinstance(usage, Dictionary):
            if self._applies_usage and any(key in usage for key in _DEPENDS):
                return None
            view = usage.get("/View")
            wanted = view.get("/ViewState") if isinstance(view, Dictionary) else None
            if wanted is not None and (wanted != "/OFF") != is_on:
                return None  # some viewers always go by it
        return is_on

    def _taken(self, array: Any) -> list[Any]:
        """Return the elements of an array; none if that makes too many of all rules together."""
        if not isinstance(array, Array):
            return []
        self._left -= len(array)
        return list(array) if self._left >= 0 else []

    def _listed(self, key: str) -> set[tuple[int, int]]:
        groups = self._default.get(key)
        return (
            {group.objgen for group in groups if isinstance(group, Dictionary)} if isinstance(groups, Array) else set()
        )


def _all(states: Iterable[bool | None]) -> bool | None:
    states = set(states)
    return False if False in states else None if None in states else True


def _any(states: Iterable[bool | None]) -> bool | None:
    return _not(_all(map(_not, states)))


def _not(state: bool | None) -> bool | None:
    return None if state is None else not state
