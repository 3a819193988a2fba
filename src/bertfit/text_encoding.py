"""Encodings of text files: which names are known, and which can be decoded line by line."""

from __future__ import annotations

import codecs
import functools

from bertfit.errors import did_you_mean

_SYNTAX = 'a1,;\t"{}[]:\\\r\n'
"""Characters that divide lines, fields and values."""
_ACROSS_LINES = {"iso2022_kr"}
"""What a byte means may depend on earlier lines."""
_COMMON = ("utf-8", "utf-16", "cp1252", "latin-1", "cp1250", "cp1251", "gb18030", "shift_jis")


def find_encoding_problem(name: str) -> str | None:
    """Return why text cannot be decoded by an encoding of this name, or None.

    Example:
        >>> find_encoding_problem("cp1252") is None, find_encoding_problem("rot13")
        (True, "expected the name of an encoding, such as cp1252 or utf-16, got 'rot13'")
    """
    try:
        is_known = bool(name.strip()) and _can_stream(name)
    except (LookupError, ValueError):  # also NUL characters
        is_known = False
    if is_known:
        return None
    near = did_you_mean(name, _COMMON)
    told = f"expected the name of an encoding, such as cp1252 or utf-16, got {name!r}"
    return f"{told}.{near}" if near else told


def _can_stream(name: str) -> bool:
    """Return whether a codec is between text and bytes, and decodes part by part.

    Raises:
        LookupError: It is unknown, or not one of text.
        UnicodeError: It does not replace what it cannot decode: idna, which is for names of hosts.
    """
    "".encode(name)
    b"\xe9".decode(name, "replace")
    return codecs.lookup(name).incrementaldecoder is not None


@functools.cache
def is_line_wise(name: str) -> bool:
    """Return whether an encoding has the ASCII characters that divide lines as they are.

    Example:
        >>> is_line_wise("shift_jis"), is_line_wise("utf-16")
        (True, False)
    """
    if codecs.lookup(name).name in _ACROSS_LINES:
        return False
    try:
        return _SYNTAX.encode(name) == _SYNTAX.encode("ascii")
    except UnicodeError:
        return False
