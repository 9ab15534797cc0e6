"""The layers of a PDF (optional content groups), as a viewer shows them when it opens the file."""

from __future__ import annotations

from typing import Any

from pikepdf import Array, Dictionary, Pdf


class Layers:
    """Says which content counts as shown. Layers whose state depends on more than the default lists never do."""

    def __init__(self, pdf: Pdf) -> None:
        properties = pdf.Root.get("/OCProperties")
        default = properties.get("/D") if isinstance(properties, Dictionary) else None
        self._default = default if isinstance(default, Dictionary) else Dictionary()
        self._off, self._on = self._listed("/OFF"), self._listed("/ON")
        self._is_plain = "/AS" not in self._default
        self._is_on_by_default = self._default.get("/BaseState", "/ON") != "/OFF"

    def are_shown(self, layer: Any) -> bool:
        """Whether the content of a layer is certainly shown. None is content without a layer."""
        if layer is None:
            return True
        if not isinstance(layer, Dictionary) or layer.get("/Type") != "/OCG" or not self._is_plain:
            return False
        return layer.objgen not in self._off if self._is_on_by_default else layer.objgen in self._on

    def _listed(self, key: str) -> set[tuple[int, int]]:
        groups = self._default.get(key)
        return (
            {group.objgen for group in groups if isinstance(group, Dictionary)} if isinstance(groups, Array) else set()
        )
