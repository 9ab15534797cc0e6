"""Detects PDF text that is garbled by a wrong or missing encoding."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_BROKEN_CATEGORIES = {"Cc", "Cn", "Co", "Cs"}  # control, unassigned, private use, surrogate

MAX_ACCENTED_SHARE = 0.4
"""Largest share of letters in the upper half of Latin-1: a third in Vietnamese, nearly all in misread cp1251 Cyrillic."""

MAX_UTF8_LEADERS_SHARE = 0.3
"""Largest share of capital Er and Es among Cyrillic letters: 0.1 in a headline, 0.5 in UTF-8 misread as cp1251."""

MAX_ODD_WORDS_SHARE = 0.4
"""Largest share of words that mix alphabets or have a capital after a small letter, as product names and code do."""

MAX_SYMBOL_SHARE = 0.5
"""Largest share of characters that are neither letters nor digits: a third in a price list."""

_WORD = re.compile(r"[^\W\d_]{3,}")
_CAPITAL_INSIDE = re.compile(r"[a-zа-яё][A-ZА-ЯЁ]")
_LATIN, _CYRILLIC = re.compile(r"[A-Za-z]"), re.compile(r"[А-Яа-яЁё]")
_ROW_OF_ONE = re.compile(r"(\W)\1+")
_LEAST_LONG_WORDS = 5


def is_broken(character: str) -> bool:
    """Whether a character has no meaning in text: U+FFFD, control, unassigned, private use or surrogate."""
    return character == "\ufffd" or unicodedata.category(character) in _BROKEN_CATEGORIES


def is_gibberish(words: Sequence[str]) -> bool:
    """Whether the words are mojibake or glyph codes taken for characters."""
    text = "".join(words)
    letters = [letter for letter in text if letter.isalpha()]
    accented = sum("\u00c0" <= letter <= "\u00ff" for letter in letters)
    cyrillic = _CYRILLIC.findall(text)
    leaders = sum(letter in "РС" for letter in cyrillic)
    # Count runs of one symbol once: dot leaders in a table of contents, dashes that rule a table.
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
        or odd > MAX_ODD_WORDS_SHARE * max(len(long_words), _LEAST_LONG_WORDS)
        or symbols > MAX_SYMBOL_SHARE * len(signs)
    )
