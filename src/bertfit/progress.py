"""How long-running work reports progress: two methods, implemented by the CLI or by you."""

from __future__ import annotations

from typing import Protocol


class Listener(Protocol):
    """Hears what a long piece of work is doing."""

    def note(self, text: str) -> None:
        """Hear a sentence worth keeping: a choice that was made, an epoch that ended."""

    def progress(self, task: str, done: int, total: int | None, detail: str = "") -> None:
        """Hear that `done` of `total` units of `task` are done; `done == total` ends the task."""


class Silent:
    """A listener that does nothing."""

    def note(self, text: str) -> None:
        """Ignore the sentence."""

    def progress(self, task: str, done: int, total: int | None, detail: str = "") -> None:
        """Ignore the count."""


def format_seconds(seconds: float) -> str:
    """Return a duration for people.

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
