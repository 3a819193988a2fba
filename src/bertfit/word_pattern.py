"""What a word is, in any script: the definition shared by the data checks and the baselines."""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u312f\u3400-\u9fff\uff66-\uff9f"
"""Scripts without spaces between words: Thai, Lao, Burmese, Khmer, Japanese kana, also of half
width, Bopomofo, Chinese."""
_UNSPACED_RUN = re.compile(f"[{_UNSPACED}]+")
_PICTURES = "\u2190-\u21ff\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff"
"""Arrows, symbols, dingbats and emoji."""
_FIRST_MARK, _LAST_OF_PLANE, _LAST_MARK = 0x0300, 0xFFFF, 0x1EFFF
_JOINER = "\u200d"
_EMOJI_PARTS = frozenset(map(chr, (*range(0x1F3FB, 0x1F400), *range(0xE0020, 0xE0080))))
"""Skin tones, and the tags that make flags of regions."""
_FLAG_LETTERS = frozenset(map(chr, range(0x1F1E6, 0x1F200)))
_MOST_JOINED = 16
"""Of what belongs to a character; a thousand accents are nothing that anybody reads."""
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)
"""They follow emoji and are no part of a word."""


def find_words(text: str, *, with_signs: bool = False) -> list[str]:
    r"""Return the words of a text, lower-cased, without punctuation.

    A word is a run of letters and digits, or a single one in scripts without spaces; each with the
    marks that follow it, such as the vowels of Devanagari, Arabic or Thai.

    Args:
        text: Any text.
        with_signs: Whether an underscore counts as a letter, and each emoji as a word.

    Example:
        >>> find_words("It's film_12, हिन्दी ดีมาก 好!")
        ['it', 's', 'film', '12', 'हिन्दी', 'ดี', 'ม', 'า', 'ก', '好']
        >>> find_words("cafe\u0301") == find_words("caf\xe9")
        True
        >>> find_words("so_good👍👍 ★", with_signs=True)
        ['so_good', '👍', '👍', '★']
    """
    if text.isascii():  # the same words, in a third of the time
        return text.translate(_table_of_ascii(with_signs)).split()
    composed = unicodedata.normalize("NFC", text)  # an accent may be a character of its own
    return _compile_pattern(with_signs).findall(composed.lower())


def count_words(text: str) -> int:
    """Return the number of words of a text, by white space where its script has such.

    Example:
        >>> count_words("It's film 12"), count_words("这部电影很好。")
        (3, 6)
    """
    if text.isascii() or _UNSPACED_RUN.search(text) is None:
        return len(text.split())
    num_signs = len(find_words("".join(_UNSPACED_RUN.findall(text))))
    others = _UNSPACED_RUN.sub(" ", text).split()
    return num_signs + sum(any(map(str.isalnum, word)) for word in others)


def is_mark(character: str) -> bool:
    """Return whether a character only modifies the one before it, like an accent."""
    return not character.isascii() and unicodedata.category(character).startswith("M")


def find_cut(text: str, at: int) -> int:
    r"""Return where to cut a text: at a place, or after what belongs to the character before it.

    Accents and vowel signs do, and what makes one emoji of several.

    Example:
        >>> find_cut("cafe\u0301s", 4), find_cut("cafes", 4), find_cut("\U0001f44d\U0001f3fd!", 1)
        (5, 4, 2)
    """
    most = min(len(text), at + _MOST_JOINED)
    while 0 < at < most and (
        joins_before(text[at]) or text[at - 1] == _JOINER or _parts_a_flag(text, at)
    ):
        at += 1
    return at


def joins_before(character: str) -> bool:
    """Return whether a character is part of what the one before it begins, such as an accent."""
    return is_mark(character) or character == _JOINER or character in _EMOJI_PARTS


def _parts_a_flag(text: str, at: int) -> bool:
    """Return whether a flag, which two letters of its country make, begins just before a place."""
    if text[at] not in _FLAG_LETTERS:
        return False
    before = (text[place] for place in range(at - 1, -1, -1))
    return sum(1 for _ in itertools.takewhile(_FLAG_LETTERS.__contains__, before)) % 2 == 1


@functools.cache
def _table_of_ascii(with_signs: bool) -> dict[int, str]:  # noqa: FBT001 (a key of the cache)
    """Return what each ASCII character becomes: lower case, or a space between words."""
    characters = map(chr, range(128))
    return {
        ord(one): one.lower() if one.isalnum() or (with_signs and one == "_") else " "
        for one in characters
    }


@functools.cache
def _compile_pattern(with_signs: bool) -> re.Pattern[str]:  # noqa: FBT001 (a key of the cache)
    other = "" if with_signs else "_"
    mark, letter = _match_mark(), rf"[^\W{other}{_UNSPACED}]"
    words = rf"{letter}+(?:{mark}+{letter}*)*|(?![\W{other}])[{_UNSPACED}]{mark}*"
    return re.compile(rf"{words}|[{_PICTURES}]" if with_signs else words)


def _match_mark() -> str:
    """Return a pattern for any combining mark.

    Python's `re` looks a character up in a class of the first plane (up to U+FFFF) at once, but
    goes through a class that reaches beyond, mark by mark: words took eight times as long.
    """
    first, beyond = _list_marks(_FIRST_MARK, _LAST_OF_PLANE), _list_marks(0x10000, _LAST_MARK)
    return rf"(?:[{first}]|(?=[\U00010000-\U{_LAST_MARK:08x}])[{beyond}])"


def _list_marks(first: int, last: int) -> str:
    """Return the combining marks from one code point to another, for a character class."""
    marks = [
        chr(number)
        for number in range(first, last + 1)
        if number not in _VARIATION_SELECTORS and unicodedata.category(chr(number)) in {"Mn", "Mc"}
    ]
    return "".join(marks)
