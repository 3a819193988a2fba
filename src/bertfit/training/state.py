"""What a training needs to go on: saved from one process, and put into another one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from bertfit.errors import RunError, is_out_of_memory
from bertfit.training.checkpoints import explain_damage
from bertfit.training.loop import RandomNumbers
from bertfit.training.outcome import History
from bertfit.training.reports import StepReport, join_reports, split_reports
from bertfit.training.weights import pick

if TYPE_CHECKING:
    from bertfit.data.batching import PlannedEpochs
    from bertfit.progress import Listener
    from bertfit.training.checkpoints import Checkpoints, SavedState
    from bertfit.training.weights import TrainedWeights


@dataclass(slots=True)
class Progress:
    """How far a training has come, apart from the weights."""

    max_tokens: int
    """Tokens per micro-batch; lowered once memory has run out."""
    scoring_tokens: int | None = None
    """The same in validation, once memory has run out there."""
    history: History = field(default_factory=History)
    best_epoch: int = -1
    """0-based; -1 before the first epoch has ended."""
    best_collapse: int | None = None
    """The class that the model of that epoch predicts for every validation row, if it does."""
    train_seconds: float = 0.0
    """In steps."""
    num_steps: int = 0
    recording_seconds: float = 0.0
    resumed_after: list[int] = field(default_factory=list)
    """Steps that had been taken each time that the training went on from a saved state."""
    has_ended: bool = False
    """Whether the weights are those of the best epoch, and no step is left."""

    def has_the_best(self, seen: Sequence[StepReport]) -> bool:
        """Return whether the weights are those of the best epoch, `seen` being the steps since."""
        is_last = self.best_epoch == self.history.num_epochs - 1
        return self.has_ended or (is_last and not seen)


def save_state(
    checkpoints: Checkpoints,
    weights: TrainedWeights,
    device: torch.device,
    *,
    progress: Progress,
    seen: Sequence[StepReport],
    listener: Listener,
) -> bool:
    """Save what `take_up_state` needs; return whether that worked. The first time, tell of it.

    Args:
        checkpoints: Where to save it.
        weights: After the last step that was taken. They are not changed.
        device: Of the training.
        progress: Including that step.
        seen: The steps of the epoch that has begun; none at its end, after validation.
        listener: Is told.
    """
    try:
        checkpoints.write(
            *_collect_state(weights, device, progress, seen),
            needs_model=progress.best_epoch >= 0 and not progress.has_the_best(seen),
        )
    except OSError as error:
        if not checkpoints.has_failed:
            listener.note(
                f"The state of the training cannot be saved: {error.strerror or error}. It is "
                "tried again; until then, a killed training goes on from an earlier state, or not "
                "at all."
            )
        checkpoints.has_failed = True
        return False
    checkpoints.has_failed = False
    is_first = checkpoints.num_written == 1 and not progress.has_ended
    if is_first and checkpoints.minutes is not None and not checkpoints.stays:
        listener.note(
            f"The state of the training is saved every {checkpoints.minutes:g} minutes: if it is "
            "killed, the same command with --resume goes on from there."
        )
    return True


def _collect_state(
    weights: TrainedWeights,
    device: torch.device,
    progress: Progress,
    seen: Sequence[StepReport],
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return tensors by name, not copied, and numbers of JSON's types."""
    epoch = {name: torch.from_numpy(array) for name, array in join_reports(seen).items()}
    parts: dict[str, Mapping[str, torch.Tensor]] = {
        "weights": weights.state(),
        "random": RandomNumbers.keep(device).state(),
        "epoch": epoch,
    }
    tensors = {
        f"{part}.{name}": tensor for part, named in parts.items() for name, tensor in named.items()
    }
    return tensors, {"kind": weights.kind, **dataclasses.asdict(progress)}


def take_up_state(
    saved: SavedState,
    weights: TrainedWeights,
    device: torch.device,
    epochs: PlannedEpochs,
) -> tuple[Progress, list[StepReport]]:
    """Put a state into weights that have taken no step, and into torch's random numbers.

    Args:
        saved: The state.
        weights: Of the training that is to go on.
        device: Of the training.
        epochs: The rows of each step of the training.

    Returns:
        How far the training had come, and the steps of the epoch that had begun.

    Raises:
        RunError: The file is damaged, or what updates the weights here is of another kind.
    """
    told = dict(saved.progress)
    kind = told.pop("kind", None)
    if kind != weights.kind:
        raise RunError(
            f"the training saved in {saved.path} used {kind}, and here it would use {weights.kind}",
            hint="Continue it on a machine like the one it began on and with the same "
            "BERTFIT_OPERATORS; or train from the beginning, without --resume.",
        )
    tensors = saved.read_tensors()
    try:
        progress = Progress(history=History(**told.pop("history")), **told)
        arrays = {name: tensor.numpy() for name, tensor in pick(tensors, "epoch.").items()}
        begun = split_reports(arrays)
        _check_progress(progress, begun, epochs)
        weights.set_state(pick(tensors, "weights."))
        RandomNumbers.of(device, pick(tensors, "random.")).set_back()
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
            raise  # what happened on a GPU, perhaps earlier: the file is whole
        raise explain_damage(saved.path, error) from error
    if weights.recorded is not None:  # counts on
        weights.recorded.seconds = progress.recording_seconds
    return progress, begun


def _check_progress(progress: Progress, begun: Sequence[StepReport], epochs: PlannedEpochs) -> None:
    """Check that a state belongs to a training of these steps, and that its numbers are numbers.

    Raises:
        ValueError: It does not.
    """
    history = progress.history
    lists = dataclasses.asdict(history).values()
    num_epochs = history.num_epochs
    following = epochs[num_epochs] if num_epochs < len(epochs) else []
    sizes = [len(rows) for rows in following[: len(begun)]]
    numbers = [*(one for each in lists for one in each), progress.train_seconds]
    is_whole = (
        all(len(each) == num_epochs for each in lists)
        and -1 <= progress.best_epoch < num_epochs <= len(epochs)
        and progress.num_steps == num_epochs * epochs.num_steps + len(begun)
        and [len(report.indices) for report in begun] == sizes
        and all(map(math.isfinite, [*numbers, *(report.loss for report in begun)]))
        and progress.max_tokens >= 1
        and progress.resumed_after
        == [step for step in progress.resumed_after if 0 <= step <= progress.num_steps]
    )
    if not is_whole:
        message = "its steps or scores are not those of such a training"
        raise ValueError(message)
