"""Words for sentences: counts, durations, metrics, names and lists cut short, quoted paths."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from bertfit.word_pattern import find_cut

_IS_WINDOWS = os.name == "nt"
"""Its shell takes a single quotation mark for a letter."""
_PLAIN_WORD = re.compile(r"[\w./\\:=+-]+")
"""Of a command line on Windows: it needs no quotation marks."""
_MOST_SHOWN = 80
"""Characters of a name that a message shows."""


def format_count(number: int, noun: str) -> str:
    """Return a number with its noun, with an s in the plural.

    Example:
        >>> format_count(1, "bad row"), format_count(2000, "row")
        ('1 bad row', '2,000 rows')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_share(count: float, total: int = 1) -> str:
    """Return a count of a total, or a share, as a percentage never rounded to 0 % or 100 %.

    Example:
        >>> format_share(1, 25000), format_share(123, 25000), format_share(3, 3)
        ('under 0.1 %', '0.5 %', '100 %')
        >>> format_share(0.9996)
        'over 99.9 %'
    """
    share = count / max(total, 1)
    if 0 < share < 0.0005:
        return "under 0.1 %"
    if 0.9995 <= share < 1:
        return "over 99.9 %"
    return f"{share:.0%}".replace("%", " %") if share in {0, 1} else f"{100 * share:.1f} %"


def format_seconds(seconds: float) -> str:
    """Return a human-readable duration.

    Example:
        >>> format_seconds(42.3), format_seconds(150), format_seconds(8000)
        ('42 s', '2 min 30 s', '2 h 13 min')
    """
    whole = max(round(seconds), 1)
    minutes, rest = divmod(whole, 60)
    if minutes == 0:
        return f"{rest} s"
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def name_metric(metric: str) -> str:
    """Return the name of a metric in a sentence.

    Example:
        >>> name_metric("macro_f1"), name_metric("validation loss")
        ('macro F1', 'validation loss')
    """
    return metric.replace("macro_f1", "macro F1")


def shorten_name(name: str) -> str:
    """Return the name of a label or a column as messages show it: it may be a text by mistake."""
    return name if len(name) <= _MOST_SHOWN else f"{name[: find_cut(name, _MOST_SHOWN - 1)]}…"


def choose_decimals(*percents: float) -> int:
    """Return how many decimals, 1 to 4, tell percentages or points from 0 and 100.

    Example:
        >>> choose_decimals(93.34, 100.0), choose_decimals(99.968), choose_decimals(-0.012)
        (1, 2, 2)
    """
    gaps = [min(abs(one), abs(100 - abs(one))) for one in percents]
    least = min((gap for gap in gaps if gap > 1e-9), default=1.0)
    return next((number for number in (1, 2, 3) if round(least, number) > 0), 4)


def list_some(names: Iterable[object], most: int) -> str:
    """Return the first names joined by commas, and how many more there are.

    Example:
        >>> list_some(["a", "b", "c"], 3), list_some([1, 2, 3], 1)
        ('a, b, c', '1 and 2 more')
    """
    listed = [str(name) for name in names]
    shown = ", ".join(listed[:most])
    return shown if len(listed) <= most else f"{shown} and {len(listed) - most:,} more"


def name_kept_part(truncation: str) -> str:
    """Return the part of a long text that a truncation keeps, in words.

    Example:
        >>> name_kept_part("head+tail")
        'head and tail'
    """
    return truncation.replace("+", " and ")


def format_steps(taken: int, of: int) -> str:
    """Return how far an epoch came that was interrupted.

    Example:
        >>> format_steps(1, 9)
        '1 of 9 steps'
    """
    return f"{taken:,} of {format_count(of, 'step')}"


def quote_path(path: str | Path) -> str:
    """Return a path quoted for a shell; with a leading dash it would be read as an option."""
    return join_words([f"./{path}" if str(path).startswith("-") else str(path)])


def join_words(words: Sequence[str]) -> str:
    """Return words as a shell takes them, those of a command line or one of them, in quotes."""
    if not _IS_WINDOWS:
        return shlex.join(words)
    return " ".join(map(_quote_for_windows, words))


def _quote_for_windows(word: str) -> str:
    """Return a word in quotation marks if its shells would read more in it, as in a>b or a&b."""
    quoted = subprocess.list2cmdline([word])  # it quotes for programs, not for shells
    return quoted if _PLAIN_WORD.fullmatch(word) or quoted.startswith('"') else f'"{quoted}"'
