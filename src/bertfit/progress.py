"""How long-running work reports progress: two methods, implemented by the CLI or by you."""

from __future__ import annotations

from typing import Protocol


class Listener(Protocol):
    """Receives messages and progress from long-running work."""

    def note(self, text: str) -> None:
        """Receive a sentence worth keeping: a choice that was made, an epoch that ended."""

    def progress(self, task: str, done: int, total: int | None, detail: str = "") -> None:
        """Receive that `done` of `total` units of `task` are done; `done == total` ends it."""


class Silent:
    """A listener that does nothing."""

    def note(self, text: str) -> None:
        """Ignore the sentence."""

    def progress(self, task: str, done: int, total: int | None, detail: str = "") -> None:
        """Ignore the count."""
