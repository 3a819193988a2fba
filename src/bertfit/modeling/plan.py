"""Whether an optimisation is on, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """Whether it is done, and the reason in words for people."""

    is_on: bool
    reason: str

    def __str__(self) -> str:
        """Return, say, `off (asked for)`."""
        return f"{'on' if self.is_on else 'off'} ({self.reason})"
