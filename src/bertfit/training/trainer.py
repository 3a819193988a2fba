"""Training with validation: consumes the loop, keeps the best epoch, decides when to stop."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from bertfit.config import TrainSettings
from bertfit.data.batching import plan_epoch
from bertfit.errors import TrainingError, is_out_of_memory
from bertfit.evaluation.metrics import accuracy_and_macro_f1, collapsed_class, row_log_losses
from bertfit.inference.micro_batches import SMALLER_PIECES
from bertfit.inference.scoring import TOKENS_ON_GPU, score_texts, softmax
from bertfit.modeling.allocation import Fragments, keep_freed_memory
from bertfit.modeling.classifier import find_hidden_size, restore_model, save_model
from bertfit.modeling.compilation import run_as_written
from bertfit.modeling.plan import Plan
from bertfit.modeling.torch_defaults import usual_torch
from bertfit.modeling.transfer import stay_ahead
from bertfit.training.choices import (
    choose_epochs,
    choose_learning_rate,
    choose_selection_metric,
)
from bertfit.training.interruption import Interruption
from bertfit.training.loop import TrainingData, train_steps
from bertfit.training.optimization import learning_rate_at
from bertfit.training.reports import StepReport, TakenStep, advise_smaller_steps
from bertfit.training.token_budget import starting_budget
from bertfit.training.weights import TrainedWeights
from bertfit.wording import format_seconds, format_steps, name_metric

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bertfit.modeling.precision import Precision
    from bertfit.progress import Listener


_STEPS_PER_LOOK = 32
"""Steps between checks for memory fragmentation, which took a small training on texts of many
lengths from 1.2 to 2.5 GB in 150 steps, and kept growing."""


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


@keep_freed_memory()
@usual_torch()
@torch.random.fork_rng(devices=[])
def fit(
    model: PreTrainedModel,
    train: TrainingData,
    validation: TrainingData,
    *,
    settings: TrainSettings,
    precision: Precision,
    best_folder: Path,
    listener: Listener,
    interruption: Interruption,
) -> TrainingOutcome:
    """Train `model` and leave the weights of its best epoch in it and in `best_folder`.

    If `interruption` is requested, the epoch ends after the current step, and is the last. The
    caller's random numbers go on as if nothing had been drawn, except those of a GPU.

    Raises:
        TrainingError: A loss, a gradient or a validation row's logit is not finite, or a recording
            on a GPU failed beyond recovery. `best_folder` then holds the best epoch before that, if
            one had finished.
        KeyboardInterrupt: A second Ctrl-C came.
    """
    metric = choose_selection_metric(settings, train.label_ids)
    lengths = train.encoded.lengths
    num_epochs = choose_epochs(settings, len(lengths), num_labels=model.config.num_labels)
    epochs = [
        plan_epoch(lengths, settings.batch_size, seed=settings.seed, epoch=epoch)
        for epoch in range(num_epochs)
    ]
    weights = TrainedWeights(model, settings, precision)
    if weights.kernel_fault is not None:
        listener.note(f"AdamW: torch's own, not the kernels; {weights.kernel_fault}.")
    run = _Run(
        weights,
        train,
        validation,
        settings,
        precision,
        best_folder,
        listener,
        metric,
        weights.recording,
        num_epochs=len(epochs),
        max_tokens=starting_budget(settings.micro_batch_tokens),
    )
    torch.manual_seed(settings.seed)
    try:
        for epoch_steps in _by_epoch(run.steps(epochs), num_steps=[len(e) for e in epochs]):
            seen = run.train_epoch(epoch_steps, interruption)
            run.finish_epoch(seen)
            if interruption.requested or run.patience_is_over():
                break
    finally:
        weights.release()
    run.restore_best()
    return run.outcome(interrupted=interruption.requested)


@dataclass(slots=True)
class _Run:
    """The state of one call of `fit`."""

    weights: TrainedWeights
    train: TrainingData
    validation: TrainingData
    settings: TrainSettings
    precision: Precision
    best_folder: Path
    listener: Listener
    metric: str
    recording: Plan
    num_epochs: int
    max_tokens: int
    """Tokens per micro-batch; lowered once memory has run out."""
    scoring_tokens: int | None = None
    """The same in validation, once memory has run out there."""
    history: History = field(default_factory=History)
    best_epoch: int = -1
    best_collapse: int | None = None
    train_seconds: float = 0.0
    num_steps: int = 0
    unfinished: tuple[int, int] | None = None
    recording_seconds: float = 0.0
    fragments: Fragments = field(default_factory=Fragments)

    def steps(self, epochs: Sequence[Sequence[np.ndarray]]) -> Iterator[TakenStep]:
        """Return the training loop over all epochs."""
        total = sum(len(epoch) for epoch in epochs)
        peak = choose_learning_rate(self.settings, find_hidden_size(self.weights.masters))
        return train_steps(
            self.weights,
            self.train,
            epochs,
            learning_rate=lambda step: learning_rate_at(
                step,
                num_steps=total,
                peak=peak,
                warmup_fraction=self.settings.warmup_fraction,
            ),
            precision=self.precision,
            max_tokens=self.max_tokens,
        )

    def train_epoch(
        self, taken: tuple[int, Iterator[TakenStep]], interruption: Interruption
    ) -> list[StepReport]:
        """Take the steps of an epoch, or fewer if interrupted."""
        num_steps, steps = taken
        epoch = self.history.num_epochs
        task = f"epoch {epoch + 1}/{self.num_epochs}"
        self.listener.progress(task, 0, num_steps)
        seen: list[StepReport] = []
        num_rows, loss_sum = 0, 0.0
        for step in stay_ahead(
            steps, self.precision.device, is_over=lambda: bool(seen) and interruption.requested
        ):
            report = step.read()
            seen.append(report)
            self._heed_memory(report)
            num_rows += len(report.indices)
            loss_sum += report.loss * len(report.indices)
            self.train_seconds += report.seconds
            self.num_steps += 1
            if self.num_steps % _STEPS_PER_LOOK == 0:
                self.fragments.look()
            self.listener.progress(task, len(seen), num_steps, f"loss {loss_sum / num_rows:.4f}")
        self._heed_recording()
        if len(seen) < num_steps:
            self.unfinished = (len(seen), num_steps)
        if interruption.requested:
            self.listener.note(
                f"Interrupted after step {self.num_steps}: validating and keeping the best "
                "model so far. Ctrl-C again gives that up."
            )
            self.listener.progress(task, len(seen), len(seen))
        return seen

    def finish_epoch(self, seen: list[StepReport]) -> None:
        """Validate, add the epoch to the history and save the model if it is the best."""
        indices = np.concatenate([report.indices for report in seen])
        predicted = np.concatenate([report.predicted_ids for report in seen])
        weights = [len(report.indices) for report in seen]
        num_labels = int(self.weights.masters.config.num_labels)
        train_loss = float(np.average([report.loss for report in seen], weights=weights))
        train_acc, train_f1 = accuracy_and_macro_f1(
            predicted, self.train.label_ids[indices], num_labels
        )
        self.weights.settle()
        probabilities = self._validate()
        targets = self.validation.label_ids
        val_ids = probabilities.argmax(axis=1)
        val_acc, val_f1 = accuracy_and_macro_f1(val_ids, targets, num_labels)
        val_loss = float(row_log_losses(probabilities, targets).mean())
        entry = (train_loss, val_loss, train_acc, val_acc, train_f1, val_f1)
        for name, value in zip(History.__dataclass_fields__, entry, strict=True):
            getattr(self.history, name).append(value)
        extent = format_seconds(sum(report.seconds for report in seen))
        if self.unfinished is not None:
            extent = f"{format_steps(*self.unfinished)}, {extent}"
        epoch, best = self.history.num_epochs - 1, self.best_epoch
        rank = functools.partial(rank_epoch, self.history, metric=self.metric)
        if best < 0 or rank(epoch) > rank(best):
            self.best_epoch = epoch
            self.best_collapse = collapsed_class(val_ids, targets)
            save_model(self.weights.masters, self.best_folder)
        self.listener.note(
            f"Epoch {epoch + 1} ({extent}): train loss {train_loss:.4f}, "
            f"validation loss {val_loss:.4f}, accuracy {val_acc:.4f}, macro F1 {val_f1:.4f}"
        )

    def _heed_memory(self, report: StepReport) -> None:
        """Note if memory ran out in a step; scoring then uses smaller pieces too."""
        if report.max_tokens < self.max_tokens:
            self.max_tokens = report.max_tokens
            self.listener.note(
                f"Out of memory at step {report.step + 1}: it was taken again in pieces of at most "
                f"{report.max_tokens:,} tokens, with the same result, and so is the rest."
            )

    def _heed_recording(self) -> None:
        """Note if passes are no longer recorded."""
        if self.weights.recorded is not None:
            self.recording_seconds = self.weights.recorded.seconds
        plan = self.weights.recording
        if plan != self.recording:
            self.recording = plan
            self.listener.note(f"Recording: {plan}; the rest is computed as it is written.")

    def _heed_memory_in_scoring(self, tokens: int) -> None:
        if self.scoring_tokens is None:
            self.listener.note(SMALLER_PIECES)
        self.scoring_tokens = tokens

    def _validate(self) -> np.ndarray:
        with run_as_written():
            logits = self._score_validation()
        if not np.isfinite(logits).all():
            raise TrainingError(
                "the model gives logits that are not finite on the validation rows",
                hint=f"{advise_smaller_steps(self.precision)}.",
            )
        return softmax(logits)

    def _score_validation(self) -> np.ndarray:
        """Return the logits (n, C); if not even single texts fit, without recorded passes."""
        while True:
            try:
                return score_texts(
                    self.weights.working,
                    self.validation.encoded,
                    precision=self.precision,
                    pad_id=self.validation.pad_id,
                    max_tokens=self._choose_scoring_tokens(),
                    on_progress=lambda done, all_: self.listener.progress("validating", done, all_),
                    on_halved=self._heed_memory_in_scoring,
                )
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not self.weights.forget_recorded():
                    raise
            self._heed_recording()
            if self.precision.device.type == "cuda":
                torch.cuda.empty_cache()

    def _choose_scoring_tokens(self) -> int:
        """Return the tokens per micro-batch in validation: on a GPU, more than a small step has."""
        tokens = self.max_tokens
        ran_out = tokens < starting_budget(self.settings.micro_batch_tokens)
        if self.precision.device.type == "cuda" and not ran_out:
            tokens = max(tokens, TOKENS_ON_GPU)
        return min(tokens, self.scoring_tokens or tokens)

    def patience_is_over(self) -> bool:
        """Return whether too many epochs have passed without improvement."""
        patience = self.settings.patience
        waited = self.history.num_epochs - 1 - self.best_epoch
        over = patience is not None and waited >= patience
        if over and self.history.num_epochs < self.num_epochs:
            self.listener.note(f"Stopped early: no better epoch in {waited}.")
        return over

    def restore_best(self) -> None:
        """Put the weights of the best epoch back into the model."""
        if self.best_epoch < self.history.num_epochs - 1:
            restore_model(self.weights.masters, self.best_folder)

    def outcome(self, *, interrupted: bool) -> TrainingOutcome:
        """Sum up."""
        return TrainingOutcome(
            history=self.history,
            best_epoch=self.best_epoch,
            selection_metric=self.metric,
            reason=_explain_choice(self.history, self.metric, self.best_epoch),
            interrupted=interrupted,
            collapsed_to=self.best_collapse,
            train_seconds=self.train_seconds,
            num_steps=self.num_steps,
            unfinished=self.unfinished,
            recording=self.recording,
            recording_seconds=self.recording_seconds,
        )


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


def _by_epoch(
    steps: Iterator[TakenStep], *, num_steps: Sequence[int]
) -> Iterator[tuple[int, Iterator[TakenStep]]]:
    """Split one stream of steps into the streams of its epochs."""
    for count in num_steps:
        yield count, (next(steps) for _ in range(count))


def _explain_choice(history: History, metric: str, best_epoch: int) -> str:
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
