"""Find damaged texts: leftover HTML, control characters, wrong decoding, rows read as one text.

Does not change any text; only `cleaning.clean_text` does.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from bertfit.data.cleaning import find_html_break

_HTML_TAG = re.compile(
    r"</?(?:a|abbr|b|big|blockquote|body|center|code|dd|div|dl|dt|em|font|form|h[1-6]|head|hr|html"
    r"|i|iframe|img|input|li|link|meta|ol|option|p|pre|q|s|script|select|small|span|strike|strong"
    r"|style|sub|sup|table|tbody|td|textarea|th|thead|title|tr|tt|u|ul|video)\b[^<>]{0,500}>"
    r"|&(?:[a-zA-Z]{2,8}|\#[0-9]{1,6}|\#x[0-9a-fA-F]{1,6});",
    re.IGNORECASE,
)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""C0 and DEL, except tab, line feed and carriage return, which are white space."""
_C1_CONTROL = re.compile("[\x80-\x9f]")
_UTF8_READ_AS_LATIN1 = re.compile(
    "[\xc2-\xc5\xce-\xd1\xd7-\xd9][\x80-\x9f]"  # letters of Europe and the Near East
    "|\xe2[\x80-\x9f][\x80-\xbf]|\xf0\x9f[\x80-\xbf]{2}"  # quotes, dashes, signs; emoji
    "|\xe3[\x80-\x83][\x80-\xbf]|[\xe0\xe1\xe4-\xe9][\xa1-\xba\xbc-\xbf][\x80-\x9f]"  # Asia
)
"""Characters of UTF-8 with a byte that latin-1 reads as C1; without those in which a word and the
quote or dash after it may end if cp1252 was read as latin-1, such as U+00DF (ß) and U+0094."""
_NON_ASCII_RUN = re.compile(r".?[^\x00-\x7f]+.?", re.DOTALL)
"""Includes the characters before and after it, which ftfy needs as context."""
_FIELD = re.compile(
    r'[,;\t]"?([^,;\t\r\n"]{1,80})"?(?=[,;\t]|\r?$)|^"?([^,;\t\r\n"]{1,80})"?(?=[,;\t]\S)'
)
"""A short field in a line of a CSV or TSV file: after a separator, or at the beginning."""
_NUMBER_OR_CODE = re.compile(r"[\W_]*\d[\W\d_]*|(?=\S*[0-9])[!-~]+")
"""A text with digits and no letter, or, in ASCII, with a digit and no white space within."""
_REST_OF_NUMBER = re.compile(r"[,.]\d")
_LEAST_SWALLOWED = 2
"""Lines with a label from which a text is taken for several rows of a CSV file."""
_MOST_RUNS_REMEMBERED = 1 << 17
_LONGEST_REMEMBERED = 32
"""Longer runs, such as sentences in Chinese, hardly ever repeat, and would be kept in memory as a
second copy of the texts."""


def is_number_or_code(text: str) -> bool:
    """Return whether a text is a number, date, id or address instead of words.

    Example:
        >>> [is_number_or_code(text) for text in ("12,5", "TK-0815-B", "Fine in 2024", "很好2")]
        [True, True, False, False]
    """
    return _NUMBER_OR_CODE.fullmatch(text.strip()) is not None


def _find_html_tag(text: str) -> int | None:
    has_any = "<" in text or "&" in text
    return _start_of(_HTML_TAG.search(text)) if has_any else None


def _find_control_character(text: str) -> int | None:
    return None if text.isprintable() else _start_of(_CONTROL.search(text))


def _find_c1_character(text: str) -> int | None:
    if text.isascii() or _C1_CONTROL.search(text) is None:
        return None
    # Those of wrongly decoded UTF-8 are mojibake, which is mended in another way.
    rest = _UTF8_READ_AS_LATIN1.sub(lambda found: " " * len(found[0]), text)
    return _start_of(_C1_CONTROL.search(rest))


def _find_replacement_character(text: str) -> int | None:
    at = text.find("\ufffd")
    return None if at < 0 else at


def _find_quoting(text: str) -> int | None:
    """Find a field with CSV quoting that was not unquoted, because TSV has no quoting."""
    inside = text[1:-1]
    is_quoted = text.startswith('"') and text.endswith('"') and '""' in inside
    return 0 if is_quoted and '"' not in inside.replace('""', "") else None


def _find_mojibake(text: str) -> int | None:
    if text.isascii():
        return None
    # Other C1 and U+FFFD are reported separately. Runs repeat, so the slow test is cached.
    plain = _C1_CONTROL.sub(" ", text).replace("\ufffd", " ")
    runs = (run for run in _NON_ASCII_RUN.finditer(plain) if _is_badly_decoded(run.group()))
    starts = (_start_of(_UTF8_READ_AS_LATIN1.search(text)), _start_of(next(runs, None)))
    return min((start for start in starts if start is not None), default=None)


def _is_badly_decoded(run: str) -> bool:
    decide = _decide if len(run) <= _LONGEST_REMEMBERED else _decide.__wrapped__
    return decide(run)


@functools.lru_cache(maxsize=_MOST_RUNS_REMEMBERED)
def _decide(run: str) -> bool:
    from ftfy.badness import is_bad

    return is_bad(run)


def _start_of(match: re.Match[str] | None) -> int | None:
    return None if match is None else match.start()


_FINDERS: Mapping[str, Callable[[str], int | None]] = MappingProxyType(
    {
        "mojibake": _find_mojibake,
        "replacement_characters": _find_replacement_character,
        "c1_characters": _find_c1_character,
        "control_characters": _find_control_character,
        "csv_quotes": _find_quoting,
        "html_breaks": find_html_break,
        "html_tags": _find_html_tag,
    }
)


@dataclass(frozen=True, slots=True)
class TextFault:
    """A damaged text, and where the damage is."""

    row: int
    offset: int
    """Offset of the first occurrence, in characters."""


def find_swallowed_rows(texts: Sequence[str], label_names: Iterable[str]) -> list[TextFault]:
    r"""Return the texts that hold several lines with a field that is a label.

    In a CSV file, a quotation mark that opens a field and is not closed makes one text of all rows
    up to the next mark, with their labels in it.

    Example:
        >>> texts = ["fine", "so good,pos\nso bad,neg\nso-so", "good, bad,\nor ugly"]
        >>> find_swallowed_rows(texts, ["neg", "pos"])
        [TextFault(row=1, offset=7)]
    """
    names = frozenset(label_names)
    of_rows = ((row, text) for row, text in enumerate(texts) if "\n" in text)
    found = ((row, _find_labels(text, names)) for row, text in of_rows)
    return [TextFault(row, start) for row, start in found if start is not None]


def _find_labels(text: str, label_names: frozenset[str]) -> int | None:
    """Return where the first field that is a label begins, if there are others in other lines."""
    starts: list[int] = []
    offset = 0
    for line in text.split("\n"):
        fields = _FIELD.finditer(line)
        start = next((one.start() for one in fields if _is_label(one, label_names)), None)
        if start is not None:
            starts.append(offset + start)
            if len(starts) == _LEAST_SWALLOWED:
                return starts[0]
        offset += len(line) + 1
    return None


def _is_label(field: re.Match[str], label_names: frozenset[str]) -> bool:
    """Return whether a field is a label, and not the beginning of a number, such as 1,200."""
    if field[1] in label_names:
        return True
    name = field[2]
    if name not in label_names:
        return False
    return not (name.isdecimal() and _REST_OF_NUMBER.match(field.string, field.end()))


def find_text_faults(texts: Sequence[str]) -> dict[str, list[TextFault]]:
    r"""Return, for each kind of fault, the affected texts with the first occurrence in each.

    Example:
        >>> found = find_text_faults(["fine", "caf\u00c3\u00a9<br />", "a\x85b"])
        >>> {kind: faults[0].offset for kind, faults in found.items() if faults}
        {'mojibake': 2, 'c1_characters': 1, 'html_breaks': 5}
    """
    return {
        kind: [
            TextFault(row, offset)
            for row, text in enumerate(texts)
            if (offset := find(text)) is not None
        ]
        for kind, find in _FINDERS.items()
    }
