"""Numbers in sentences: counts with their nouns, and durations."""

from __future__ import annotations


def format_count(number: int, noun: str) -> str:
    """Return a number with its noun, with an s in the plural.

    Example:
        >>> format_count(1, "bad row"), format_count(2000, "row")
        ('1 bad row', '2,000 rows')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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


def format_steps(taken: int, of: int) -> str:
    """Return how far an epoch came that was interrupted.

    Example:
        >>> format_steps(1, 9)
        '1 of 9 steps'
    """
    return f"{taken:,} of {format_count(of, 'step')}"
