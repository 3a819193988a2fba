"""What comes out of a training: the scores of all epochs, and which of them is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bertfit.wording import name_metric

if TYPE_CHECKING:
    from bertfit.modeling.plan import Plan


@dataclass(slots=True)
class History:
    """The notebook's six lists, with one entry per finished epoch; F1 is the macro average."""

    train_losses: list[float] = field(default_factory=list)
    val_losses: list[float] = field(default_factory=list)
    train_acc: list[float] = field(default_factory=list)
    val_acc: list[float] = field(default_factory=list)
    train_f1: list[float] = field(default_factory=list)
    val_f1: list[float] = field(default_factory=list)

    @property
    def num_epochs(self) -> int:
        """Number of finished epochs."""
        return len(self.val_losses)


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """The outcome of a training."""

    history: History
    best_epoch: int
    """0-based epoch whose weights were kept."""
    selection_metric: str
    reason: str
    """Why that epoch was kept, in a sentence."""
    interrupted: bool
    """Whether Ctrl-C ended it before its last step."""
    collapsed_to: int | None
    """The class that the kept model predicts for every validation row, if it does."""
    train_seconds: float
    """Time in optimizer steps, without validation."""
    num_steps: int
    unfinished: tuple[int, int] | None
    """Steps taken in the last epoch, and those that it would have had, if it was interrupted."""
    recording: Plan
    """Whether the passes were recorded to the end, and why."""
    recording_seconds: float
    """Time spent recording, part of `train_seconds`."""
    resumed_after: tuple[int, ...]
    """Steps that had been taken each time that the training went on from a saved state."""


def rank_epoch(history: History, epoch: int, metric: str) -> tuple[float, float]:
    """Return what epochs are compared by, the higher the better: the score, then the loss.

    Few validation rows are soon all right, long before the model is sure of them.

    Args:
        history: The history up to this epoch.
        epoch: 0-based.
        metric: "accuracy", "macro_f1" or "loss".
    """
    value, loss = _scores_by(history, metric)[epoch], history.val_losses[epoch]
    return (-value if metric == "loss" else value), -loss


def _scores_by(history: History, metric: str) -> list[float]:
    """Return the validation score of each epoch."""
    scores = {"accuracy": history.val_acc, "macro_f1": history.val_f1, "loss": history.val_losses}
    return scores[metric]


def explain_choice(history: History, metric: str, best_epoch: int) -> str:
    """Return in words why an epoch was kept.

    Args:
        history: All epochs.
        metric: "accuracy", "macro_f1" or "loss".
        best_epoch: 0-based.
    """
    name, scores = name_metric(metric), _scores_by(history, metric)
    value = scores[best_epoch]
    superlative = "lowest" if metric == "loss" else "highest"
    tied = [epoch for epoch, score in enumerate(scores) if score == scores[best_epoch]]
    losses = [history.val_losses[epoch] for epoch in tied]
    which = "the first" if len(set(losses)) == 1 else "with the lowest loss"
    tie = f" ({which} of equals)" if len(tied) > 1 else ""
    if len(scores) == 1:
        return f"epoch 1 is the only one; its validation {name} is {value:.4f}"
    return (
        f"epoch {best_epoch + 1} of {len(scores)} has the {superlative} validation {name}, "
        f"{value:.4f}{tie}"
    )
