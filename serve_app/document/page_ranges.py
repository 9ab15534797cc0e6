"""Page ranges such as `1-3,7`: numbers count from 1, and `5-` is every page from 5 on."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TERM = re.compile(r"([1-9][0-9]{0,8})(?:(-)([1-9][0-9]{0,8})?)?")


def parse_page_ranges(text: str) -> list[tuple[int, int | None]]:
    """Parse ranges: (first, last), both included; a last of None is the end of the document.

    Raises ValueError with a message for the client.
    """
    ranges: list[tuple[int, int | None]] = []
    for term in text.replace(" ", "").split(","):
        match = _TERM.fullmatch(term)
        if match is None:
            raise ValueError("must be page numbers and ranges, such as '1-3,7' or '5-'")
        first = int(match[1])
        last = int(match[3]) if match[3] else None if match[2] else first
        if last is not None and last < first:
            raise ValueError(f"the range {first}-{last} goes backwards")
        ranges.append((first, last))
    return ranges


def page_ranges(numbers: Sequence[int], *, most: int) -> str:
    """Write ascending page numbers as ranges, at most so many; the last one is then `5-`, though not all later pages count."""
    firsts = [number for number, before in zip(numbers, (-1, *numbers), strict=False) if number != before + 1]
    ends = [number for number, after in zip(numbers, (*numbers[1:], -1), strict=False) if after != number + 1]
    terms = [str(first) if first == last else f"{first}-{last}" for first, last in zip(firsts, ends, strict=True)]
    return ",".join(terms if len(terms) <= most else [*terms[: most - 1], f"{firsts[most - 1]}-"])


def select_pages(ranges: list[tuple[int, int | None]], page_count: int) -> list[int]:
    """Return the page numbers in these ranges, each once, ascending.

    Raises ValueError with a message for the client if one is past the end.
    """
    past = max(last or first for first, last in ranges)
    if past > page_count:
        raise ValueError(f"there is no page {past}: the document has {page_count} page{'s' * (page_count != 1)}")
    numbers: list[int] = []
    for first, last in sorted((first, last or page_count) for first, last in ranges):
        after = numbers[-1] + 1 if numbers else 1
        numbers.extend(range(max(first, after), last + 1))
    return numbers
