"""What a model predicts for one text."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prediction:
    """The model's prediction for one text."""

    label: str | None
    """The most probable class, or what the run's threshold decides; None if the model abstains."""
    confidence: float
    """Probability, in [0, 1], of the label, or of the label withheld by abstaining."""
    probabilities: dict[str, float] = dataclasses.field(hash=False)
    """Each class with its probability, in order of the class ids."""
    is_truncated: bool = False
    """Whether the text has more tokens than the model was trained to read, so that some were cut
    off."""
    is_unread: bool = False
    """Whether the model reads nothing of the text, or mostly its unknown token."""

    def __str__(self) -> str:
        """Return the label and its confidence, such as `pos (0.998)`."""
        answer = "abstained" if self.label is None else self.label
        return f"{answer} ({self.confidence:.3f})"
