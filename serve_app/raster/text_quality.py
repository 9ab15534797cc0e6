"""Whether text that came out of a PDF is what its author wrote, or the debris of a lost encoding."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_BROKEN_CATEGORIES = {"Cc", "Cn", "Co", "Cs"}  # control, unassigned, private use, surrogate

MAX_ACCENTED_SHARE = 0.4
"""Of the letters, those of the upper half of Latin-1: a third in Vietnamese, nearly all in Cyrillic that was cp1251."""

MAX_UTF8_LEADERS_SHARE = 0.3
"""Of Cyrillic letters, capital Er and Es: one in ten in a headline, one in two where UTF-8 was read as cp1251."""

MAX_ODD_WORDS_SHARE = 0.4
"""Of words, those of two alphabets or with a capital after a small letter: names of products, parts of programs."""

MAX_SYMBOL_SHARE = 0.5
"""Of characters, those that are neither letters nor digits: a table of prices has a third."""

_WORD = re.compile(r"[^\W\d_]{3,}")
_CAPITAL_INSIDE = re.compile(r"[a-zа-яё][A-ZА-ЯЁ]")
_LATIN, _CYRILLIC = re.compile(r"[A-Za-z]"), re.compile(r"[А-Яа-яЁё]")
_ROW_OF_ONE = re.compile(r"(\W)\1+")
_FEW_WORDS = 5


def is_broken(character: str) -> bool:
    """Whether it is none that anyone writes: U+FFFD, a control character, one of private use."""
    return character == "\ufffd" or unicodedata.category(character) in _BROKEN_CATEGORIES


def is_gibberish(words: Sequence[str]) -> bool:
    """Whether these are letters of a wrong encoding: mojibake, or codes of glyphs taken for characters."""
    text = "".join(words)
    letters = [letter for letter in text if letter.isalpha()]
    accented = sum("\u00c0" <= letter <= "\u00ff" for letter in letters)
    cyrillic = _CYRILLIC.findall(text)
    leaders = sum(letter in "РС" for letter in cyrillic)
    # Rows of dots lead from a chapter to its page, and rows of dashes rule a table.
    signs = _ROW_OF_ONE.sub(r"\1", text)
    symbols = sum(not sign.isalnum() for sign in signs)
    long_words = [match for word in words for match in _WORD.findall(word)]
    odd = sum(
        bool(_CAPITAL_INSIDE.search(word)) or bool(_LATIN.search(word) and _CYRILLIC.search(word))
        for word in long_words
    )
    return (
        accented > MAX_ACCENTED_SHARE * len(letters)
        or leaders > MAX_UTF8_LEADERS_SHARE * max(len(cyrillic), 10)
        or odd > MAX_ODD_WORDS_SHARE * max(len(long_words), _FEW_WORDS)
        or symbols > MAX_SYMBOL_SHARE * len(signs)
    )
