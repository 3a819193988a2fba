"""Escape characters that a terminal would interpret instead of showing."""

from __future__ import annotations

import re

# All of C0 except tab and newline, DEL, C1, and characters that change the direction of surrounding
# text. The marks and joiners of Arabic, Hebrew and emoji (U+200C to U+200F) do not.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def escape_controls(text: str) -> str:
    r"""Escape characters that a terminal would interpret; tabs and newlines are kept.

    JSON keeps its meaning: it contains no raw C0, and these escapes of all others are valid in it.

    Example:
        >>> print(escape_controls("\x1b[2Jgood\r, \x9b1A \u202ereversed"))
        \x1b[2Jgood\x0d, \u009b1A \u202ereversed
    """
    return _OBEYED.sub(_escape, text)


def put_on_one_line(text: str) -> str:
    r"""Collapse the white space of a text and escape its control characters.

    Example:
        >>> print(put_on_one_line("  a text\r\nof two lines\rand\x07 a bell"))
        a text of two lines\x0dand\x07 a bell
    """
    # Windows files have carriage returns at line ends; any other is meant to deceive.
    return " ".join(escape_controls(text.replace("\r\n", "\n")).split())


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}"
