"""Puts the pieces of a line with Hebrew or Arabic letters into the order in which they are read.

PDFium gives such a line in pieces, each in reading order, but the pieces in an order that depends on what stands between
them. So a line is ordered by position, as the Unicode Bidirectional Algorithm (UAX #9) would have displayed it: runs of one
direction within a line of the other are turned round.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from itertools import groupby
from typing import TypeVar

Piece = TypeVar("Piece")

_RIGHT_TO_LEFT = ("R", "AL")


def has_right_to_left(text: str) -> bool:
    """Whether the text has a letter of a script that is written from right to left."""
    return not text.isascii() and any(unicodedata.bidirectional(letter) in _RIGHT_TO_LEFT for letter in text)


def without_presentation_forms(text: str) -> str:
    """Replace the shapes of Arabic letters by the letters, which is what people search for."""
    if text.isascii():
        return text
    return "".join(
        unicodedata.normalize("NFKC", letter)
        if "\ufb1d" <= letter <= "\ufdff" or "\ufe70" <= letter <= "\ufefc"
        else letter
        for letter in text
    )


def runs_right_to_left(texts: Iterable[str]) -> bool:
    """Whether a line of these texts is read from right to left: most of its letters are."""
    kinds = [unicodedata.bidirectional(letter) for text in texts for letter in text]
    return sum(kind in _RIGHT_TO_LEFT for kind in kinds) >= max(kinds.count("L"), 1)


def reading_order(pieces: list[tuple[str, Piece]], right_to_left: bool) -> list[Piece]:
    """Order pieces with their texts, given from left to right as displayed.

    `right_to_left`: the direction of the line, from `runs_right_to_left`.
    """
    texts = [text for text, _ in pieces]
    against = [_runs_against(index, texts, right_to_left) for index in range(len(texts))]
    ordered = list(zip(against, [piece for _, piece in pieces], strict=True))
    if right_to_left:
        ordered.reverse()
    result: list[Piece] = []
    for is_against, run in groupby(ordered, key=lambda item: item[0]):
        members = [piece for _, piece in run]
        result += reversed(members) if is_against else members
    return result


def number_as_read(text: str) -> str:
    """Return a number as it is read in a line from right to left, from how it is displayed: "12," for ",12".

    Signs at its ends take the line's direction; those of currencies and per cent stay.
    """
    if has_right_to_left(text) or _has_latin(text):
        return text
    start, end = 0, len(text)
    while start < end and _takes_direction(text[start]):
        start += 1
    while end > start and _takes_direction(text[end - 1]):
        end -= 1
    return text[end:][::-1] + text[start:end] + text[:start][::-1]


def _takes_direction(letter: str) -> bool:
    return unicodedata.bidirectional(letter) in ("ON", "ES", "CS")


def _runs_against(index: int, texts: list[str], right_to_left: bool) -> bool:
    """Whether a piece is read in the direction opposite to the line's."""
    if not right_to_left:
        return has_right_to_left(texts[index])
    if _has_latin(texts[index]):
        return not has_right_to_left(texts[index])
    # A number after a Latin word belongs to it: "Form 12".
    return texts[index][:1].isdigit() and index > 0 and _has_latin(texts[index - 1])


def _has_latin(text: str) -> bool:
    return any(unicodedata.bidirectional(letter) == "L" for letter in text)
