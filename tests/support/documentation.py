"""The documentation's files, and what tests look for in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
READMES = (ROOT / "README.md", ROOT / "README.ru.md")
PAGES = tuple(sorted((ROOT / "docs").glob("*.md")))
DOCUMENTATION = (
    *READMES,
    *PAGES,
    *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
)

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def code_blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of each fenced block, in order."""
    return _FENCED.findall(text)


def headings(text: str) -> list[tuple[int, str]]:
    """(level, title) of each heading outside of code, in order."""
    found = re.findall(r"^(#+) (.+)$", _FENCED.sub("", text), re.M)
    return [(len(marks), title) for marks, title in found]


def anchors(text: str) -> set[str]:
    """What links to headings may name: lower case, spaces as hyphens, no other punctuation."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for _, title in headings(text)}


def links(text: str) -> list[str]:
    """Targets of links and pictures outside of code."""
    prose = re.sub(r"`[^`\n]+`", "", _FENCED.sub("", text))
    return re.findall(r"\]\(([^)\s]+)\)", prose)
