"""Schemas of XML outputs, as validators. See README.md for where they come from."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lxml import etree

_FOLDER = Path(__file__).parent


class _Local(etree.Resolver):  # type: ignore[misc]  # lxml has no types
    """Finds a schema that another one imports beside it instead of on the web."""

    def resolve(self, url: str, public_id: str, context: object) -> object:
        return self.resolve_filename(str(_FOLDER / url.rpartition("/")[2]), context)


@cache
def schema(name: str) -> etree.XMLSchema:
    """`alto-4-4` or `pagecontent-2019-07-15`. Its `assertValid` raises DocumentInvalid with all that is wrong."""
    parser = etree.XMLParser(no_network=True)
    parser.resolvers.add(_Local())
    return etree.XMLSchema(etree.parse(str(_FOLDER / f"{name}.xsd"), parser))
