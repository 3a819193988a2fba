"""What a word is, in any script: the definition shared by the data checks and the baselines."""

from __future__ import annotations

import functools
import re
import unicodedata

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
"""Scripts without spaces between words: Thai, Lao, Burmese, Khmer, Japanese kana, Chinese."""
_FIRST_MARK, _LAST_MARK = 0x0300, 0x1EFFF
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)
"""They follow emoji and are no part of a word."""


def find_words(text: str, *, with_underscore: bool = False) -> list[str]:
    """Return the words of a text, lower-cased, without punctuation.

    A word is a run of letters and digits, or a single one in scripts without spaces; each with the
    marks that follow it, such as the vowels of Devanagari, Arabic or Thai.

    Args:
        text: Any text.
        with_underscore: Whether an underscore counts as a letter.

    Example:
        >>> find_words("It's film_12, हिन्दी ดีมาก 好!")
        ['it', 's', 'film', '12', 'हिन्दी', 'ดี', 'ม', 'า', 'ก', '好']
    """
    lowered = text.lower()
    return _compile_pattern(lowered.isascii(), with_underscore).findall(lowered)


def is_mark(character: str) -> bool:
    """Return whether a character only modifies the one before it, like an accent."""
    return not character.isascii() and unicodedata.category(character).startswith("M")


@functools.cache
def _compile_pattern(is_ascii: bool, with_underscore: bool) -> re.Pattern[str]:  # noqa: FBT001 (a key of the cache)
    if is_ascii:  # the same for lower-cased ASCII, several times as fast
        return re.compile("[a-z0-9_]+" if with_underscore else "[a-z0-9]+")
    other = "" if with_underscore else "_"
    marks, letter = _list_marks(), rf"[^\W{other}{_UNSPACED}]"
    return re.compile(rf"(?![\W{other}])[{_UNSPACED}][{marks}]*|{letter}+(?:[{marks}]+{letter}*)*")


def _list_marks() -> str:
    """Return all combining marks, written for a character class."""
    marks = [
        chr(number)
        for number in range(_FIRST_MARK, _LAST_MARK + 1)
        if number not in _VARIATION_SELECTORS and unicodedata.category(chr(number)) in {"Mn", "Mc"}
    ]
    return "".join(marks)
