"""Whether an optimisation is on, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """Whether the optimisation is on, and a readable reason."""

    is_on: bool
    reason: str

    def __str__(self) -> str:
        """Return for example `off (asked for)`."""
        return f"{'on' if self.is_on else 'off'} ({self.reason})"
