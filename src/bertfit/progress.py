"""How long-running work reports progress: two methods, implemented by the CLI or by you."""

from __future__ import annotations

from typing import Protocol, cast

from bertfit.errors import ConfigError


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


def as_listener(listener: object) -> Listener:
    """Return an argument that is a listener, or None, which stands for one that does nothing.

    Raises:
        ConfigError: It lacks a method of `Listener`.
    """
    if listener is None:
        return Silent()
    missing = [name for name in ("note", "progress") if not callable(getattr(listener, name, None))]
    if missing or isinstance(listener, type):
        raise ConfigError(
            "listener: expected an object with the methods note(text) and progress(task, done, "
            f"total, detail), got {listener!r}"
        )
    return cast("Listener", listener)
