"""What a word is, in any script: the definition shared by the data checks and the baselines."""

from __future__ import annotations

import re
import unicodedata

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
"""Scripts without spaces between words: Thai, Lao, Burmese, Khmer, Japanese kana, Chinese."""
_FIRST_MARK, _LAST_MARK = 0x0300, 0x1EFFF
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)
"""They follow emoji and are no part of a word."""


def compile_word_pattern(*, with_underscore: bool) -> re.Pattern[str]:
    """Return a pattern that finds the words of a text.

    A word is a run of letters and digits, or a single one in scripts without spaces; each with the
    marks that follow it, such as the vowels of Devanagari, Arabic or Thai.

    Args:
        with_underscore: Whether an underscore counts as a letter.

    Example:
        >>> compile_word_pattern(with_underscore=False).findall("हिन्दी film_12 ดีมาก 好!")
        ['हिन्दी', 'film', '12', 'ดี', 'ม', 'า', 'ก', '好']
    """
    other = "" if with_underscore else "_"
    marks, letter = _list_marks(), rf"[^\W{other}{_UNSPACED}]"
    return re.compile(rf"(?![\W{other}])[{_UNSPACED}][{marks}]*|{letter}+(?:[{marks}]+{letter}*)*")


def is_mark(character: str) -> bool:
    """Return whether a character only modifies the one before it, like an accent."""
    return not character.isascii() and unicodedata.category(character).startswith("M")


def _list_marks() -> str:
    """Return all combining marks, written for a character class."""
    marks = [
        chr(number)
        for number in range(_FIRST_MARK, _LAST_MARK + 1)
        if number not in _VARIATION_SELECTORS and unicodedata.category(chr(number)) in {"Mn", "Mc"}
    ]
    return "".join(marks)
