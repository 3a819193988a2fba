"""Makes characters visible that a terminal would obey instead of showing."""

from __future__ import annotations

import re

# All of C0 but tab and newline, DEL, C1, and what turns the direction of the text around it. The
# marks and joiners that Arabic, Hebrew and emoji are written with (U+200C to U+200F) turn nothing.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def escape_controls(text: str) -> str:
    r"""Return text that a terminal shows and does not obey; tabs and newlines stay.

    JSON stays what it was: it holds no C0 as it is, and may spell all others as they are here.

    Example:
        >>> print(escape_controls("\x1b[2Jgood\r, \x9b1A \u202ereversed"))
        \x1b[2Jgood\x0d, \u009b1A \u202ereversed
    """
    return _OBEYED.sub(_escape, text)


def put_on_one_line(text: str) -> str:
    r"""Return text with its white space joined and its control characters escaped.

    Example:
        >>> print(put_on_one_line("  a text\r\nof two lines\rand\x07 a bell"))
        a text of two lines\x0dand\x07 a bell
    """
    # A file from Windows has carriage returns at its line ends; others are there to deceive.
    return " ".join(escape_controls(text.replace("\r\n", "\n")).split())


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}"
