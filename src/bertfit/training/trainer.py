"""Training with validation: consumes the loop, keeps the best epoch, decides when to stop."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from bertfit.config import TrainSettings
from bertfit.data.batching import PlannedEpochs
from bertfit.evaluation.metrics import accuracy_and_macro_f1, collapsed_class, row_log_losses
from bertfit.modeling.allocation import Fragments, keep_freed_memory, return_cached_memory
from bertfit.modeling.classifier import find_hidden_size
from bertfit.modeling.plan import Plan
from bertfit.modeling.saving import restore_model, save_model
from bertfit.modeling.torch_defaults import usual_torch
from bertfit.modeling.transfer import wait_for
from bertfit.training.checkpoints import Checkpoints, SavedState, explain_damage
from bertfit.training.choices import (
    choose_epochs,
    choose_learning_rate,
    choose_selection_metric,
)
from bertfit.training.interruption import FirstInterrupt, Interruption
from bertfit.training.loop import TrainingData, train_steps
from bertfit.training.optimization import learning_rate_at
from bertfit.training.outcome import History, TrainingOutcome, explain_choice, rank_epoch
from bertfit.training.reports import StepReport, TakenStep, read_steps
from bertfit.training.state import Progress, save_state, take_up_state
from bertfit.training.token_budget import starting_budget
from bertfit.training.validation import score_validation
from bertfit.training.weights import TrainedWeights
from bertfit.wording import format_count, format_seconds, format_steps

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bertfit.modeling.precision import Precision
    from bertfit.progress import Listener


_STEPS_PER_LOOK = 32
"""Steps between checks for memory fragmentation, which took a small training on texts of many
lengths from 1.2 to 2.5 GB in 150 steps, and kept growing."""


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
    checkpoints: Checkpoints,
    listener: Listener,
    interruption: Interruption,
) -> TrainingOutcome:
    """Train `model` and leave the weights of its best epoch in it and in the checkpoints' folder.

    If `interruption` is requested, the epoch ends after the current step, and is the last. The
    caller's random numbers go on as if nothing had been drawn, except those of a GPU.

    Raises:
        FirstInterrupt: An end was requested, and `checkpoints` keep the state to go on later.
        RunError: The state from which the training is to go on is damaged, or of another `kind`.
        TrainingError: A loss, a gradient or a validation row's logit is not finite, or a recording
            on a GPU failed beyond recovery. The folder then holds the best epoch before that, if
            one had finished.
        KeyboardInterrupt: A second Ctrl-C came.
    """
    metric = choose_selection_metric(settings, train.label_ids)
    epochs = _plan_epochs(settings, train.encoded.lengths, int(model.config.num_labels))
    weights = TrainedWeights(model, settings, precision)
    for told in weights.tell_faults():
        listener.note(told)
    run = _Run(
        weights,
        train,
        validation,
        settings,
        precision,
        checkpoints,
        listener,
        metric,
        weights.recording,
        num_epochs=len(epochs),
        progress=Progress(max_tokens=starting_budget(settings.micro_batch_tokens)),
    )
    torch.manual_seed(settings.seed)
    try:
        if checkpoints.saved is not None:
            run.take_up(checkpoints.saved, epochs)
        steps = run.steps(epochs)
        for _ in range(run.progress.history.num_epochs, len(epochs)):
            if run.progress.has_ended or run.patience_is_over():
                break
            run.finish_epoch(run.train_epoch(steps, epochs.num_steps, interruption))
            if interruption.requested:
                run.leave_if_it_stays(None)
                run.is_cut_short = run.has_epochs_left()
                break
    finally:
        weights.release()
    return_cached_memory(precision.device)  # that of recordings
    run.keep_best()
    return run.outcome()


def _plan_epochs(settings: TrainSettings, lengths: np.ndarray, num_labels: int) -> PlannedEpochs:
    num_epochs = choose_epochs(settings, len(lengths), num_labels=num_labels)
    return PlannedEpochs(lengths, settings.batch_size, seed=settings.seed, num_epochs=num_epochs)


@dataclass(slots=True)
class _Run:
    """One call of `fit`."""

    weights: TrainedWeights
    train: TrainingData
    validation: TrainingData
    settings: TrainSettings
    precision: Precision
    checkpoints: Checkpoints
    listener: Listener
    metric: str
    recording: Plan
    num_epochs: int
    progress: Progress
    begun: list[StepReport] = field(default_factory=list)
    """Steps of the next epoch that were taken before the training was killed."""
    unfinished: tuple[int, int] | None = None
    is_cut_short: bool = False
    """Whether Ctrl-C came before the last step, and a run is made of what is there."""
    fragments: Fragments = field(default_factory=Fragments)

    def steps(self, epochs: PlannedEpochs) -> Iterator[TakenStep]:
        """Return the training loop over all epochs."""
        total = len(epochs) * epochs.num_steps
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
            max_tokens=self.progress.max_tokens,
            num_taken=self.progress.num_steps,
        )

    def train_epoch(
        self, steps: Iterator[TakenStep], num_steps: int, interruption: Interruption
    ) -> list[StepReport]:
        """Take the steps of an epoch, or fewer if interrupted; save the state when it is due.

        Args:
            steps: Those that are left of this epoch and of all later ones.
            num_steps: Of the whole epoch.
            interruption: Whether to end.
        """
        seen, self.begun = self.begun, []
        task = f"epoch {self.progress.history.num_epochs + 1}/{self.num_epochs}"
        self.listener.progress(task, len(seen), num_steps)
        left = itertools.islice(steps, num_steps - len(seen))
        while len(seen) < num_steps and not (seen and interruption.requested):
            self._take_steps(left, seen, interruption, tell=(task, num_steps))
            if self.checkpoints.is_due() and len(seen) < num_steps:
                self._save_state(seen)
        self._heed_recording()
        if interruption.requested:
            self.leave_if_it_stays(seen)
        if len(seen) < num_steps:
            self.unfinished = (len(seen), num_steps)
        if interruption.requested:
            self.listener.note(
                f"Interrupted after step {self.progress.num_steps}: validating on "
                f"{len(self.validation.label_ids):,} rows and keeping the best model so far. "
                "Ctrl-C again gives that up."
            )
            self.listener.progress(task, len(seen), len(seen), "interrupted")
        return seen

    def _take_steps(
        self,
        steps: Iterator[TakenStep],
        seen: list[StepReport],
        interruption: Interruption,
        *,
        tell: tuple[str, int],
    ) -> None:
        """Take steps and add their reports to `seen`, until the state is due, but at least one."""
        num_before = len(seen)
        num_rows = sum(len(report.indices) for report in seen)
        loss_sum = sum(report.loss * len(report.indices) for report in seen)

        def is_over() -> bool:
            may_end = len(seen) > num_before
            return may_end and (interruption.requested or self.checkpoints.is_due())

        task, num_steps = tell
        for report in read_steps(steps, self.precision.device, is_over=is_over):
            seen.append(report)
            self._heed_memory(report)
            num_rows += len(report.indices)
            loss_sum += report.loss * len(report.indices)
            self.progress.train_seconds += report.seconds
            self.progress.num_steps += 1
            if self.progress.num_steps % _STEPS_PER_LOOK == 0:
                self.fragments.look()
            self.listener.progress(task, len(seen), num_steps, f"loss {loss_sum / num_rows:.4f}")

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
        self._settle()
        probabilities = score_validation(
            self.weights,
            self.validation,
            settings=self.settings,
            precision=self.precision,
            progress=self.progress,
            listener=self.listener,
            on_forgotten=self._heed_recording,
        )
        targets = self.validation.label_ids
        val_ids = probabilities.argmax(axis=1)
        val_acc, val_f1 = accuracy_and_macro_f1(val_ids, targets, num_labels)
        val_loss = float(row_log_losses(probabilities, targets).mean())
        entry = (train_loss, val_loss, train_acc, val_acc, train_f1, val_f1)
        for name, value in zip(History.__dataclass_fields__, entry, strict=True):
            getattr(self.progress.history, name).append(value)
        extent = format_seconds(sum(report.seconds for report in seen))
        if self.unfinished is not None:
            extent = f"{format_steps(*self.unfinished)}, {extent}"
        done = self.progress
        epoch, best = done.history.num_epochs - 1, done.best_epoch
        rank = functools.partial(rank_epoch, done.history, metric=self.metric)
        is_best = best < 0 or rank(epoch) > rank(best)
        if is_best:
            done.best_epoch, done.best_collapse = epoch, collapsed_class(val_ids, targets)
        # Before the model: an earlier state would need the model that is replaced now. After an
        # epoch that was cut short there is none: it would count as a whole one.
        outdated = is_best and self.checkpoints.path.exists()
        is_wanted = outdated or self.checkpoints.is_due() or self.checkpoints.stays
        is_saved = self.unfinished is None and is_wanted and self._save_state([])
        if is_best:
            self._save_model(before=lambda: None if is_saved else self.checkpoints.remove())
        self.listener.note(
            f"Epoch {epoch + 1} ({extent}): train loss {train_loss:.4f}, "
            f"validation loss {val_loss:.4f}, accuracy {val_acc:.4f}, macro F1 {val_f1:.4f}"
        )

    def _settle(self) -> None:
        """Bring every weight up to date, which is work that the steps put off."""
        started = time.perf_counter()
        self.weights.settle()
        wait_for(self.precision.device)
        self.progress.train_seconds += time.perf_counter() - started

    def leave_if_it_stays(self, seen: list[StepReport] | None) -> None:
        """End if the training is to go on later, after saving the state unless that was just done.

        Raises:
            FirstInterrupt: So it is, and there is a state, if only an earlier one.
        """
        if not self.checkpoints.stays:
            return
        if seen is not None:
            self._save_state(seen)
        if self.checkpoints.path.exists():
            told = "the state is saved"
            if self.checkpoints.has_failed:
                told = "the state could not be saved, but an earlier one is"
            self.listener.note(f"Interrupted after step {self.progress.num_steps}; {told}.")
            raise FirstInterrupt

    def take_up(self, saved: SavedState, epochs: PlannedEpochs) -> None:
        """Go on from a state, before the first step."""
        device = self.precision.device
        self.progress, self.begun = take_up_state(saved, self.weights, device, epochs)
        done = self.progress
        done.resumed_after.append(done.num_steps)
        self.listener.note(
            f"Resumed after step {done.num_steps}, with {done.history.num_epochs} of "
            f"{format_count(self.num_epochs, 'epoch')} finished; until then, steps took "
            f"{format_seconds(done.train_seconds)}."
        )
        if done.has_the_best(self.begun):
            # The folder may not have it: the state is written first, and calibration comes last.
            self._save_model()
        elif done.best_epoch >= 0 and not any(self.checkpoints.folder.glob("model*.safetensors")):
            raise explain_damage(saved.path, "the model of its best epoch is missing beside it")

    def _save_model(self, before: Callable[[], object] = lambda: None) -> None:
        self.checkpoints.model = None
        save_model(self.weights.masters, self.checkpoints.folder, before=before)

    def _save_state(self, seen: list[StepReport]) -> bool:
        """Save the state after the steps of an epoch that were seen; return whether that worked."""
        at = (self.checkpoints, self.weights, self.precision.device)
        return save_state(*at, progress=self.progress, seen=seen, listener=self.listener)

    def _heed_memory(self, report: StepReport) -> None:
        """Note if memory ran out in a step; scoring then uses smaller pieces too."""
        if report.max_tokens < self.progress.max_tokens:
            self.progress.max_tokens = report.max_tokens
            self.listener.note(
                f"Out of memory at step {report.step + 1}: it was repeated in pieces of at most "
                f"{report.max_tokens:,} tokens, with the same result. So are the steps to come."
            )

    def _heed_recording(self) -> None:
        """Note if passes are no longer recorded."""
        if self.weights.recorded is not None:
            self.progress.recording_seconds = self.weights.recorded.seconds
        plan = self.weights.recording
        if plan != self.recording:
            self.recording = plan
            self.listener.note(f"Recording: {plan}; the steps to come are computed without.")

    def has_epochs_left(self) -> bool:
        """Return whether the last epoch was cut short, or others would have followed it."""
        if self.unfinished is not None:
            return True
        return self.progress.history.num_epochs < self.num_epochs and not self.patience_is_over()

    def patience_is_over(self) -> bool:
        """Return whether too many epochs have passed without improvement."""
        patience = self.settings.patience
        return patience is not None and self._count_waited() >= patience

    def _count_waited(self) -> int:
        """Return how many epochs have passed since the best one."""
        return self.progress.history.num_epochs - 1 - self.progress.best_epoch

    def keep_best(self) -> None:
        """Put the weights of the best epoch back into the model, and into the state, if any."""
        done = self.progress
        is_early = self.unfinished is None and done.history.num_epochs < self.num_epochs
        if is_early and not done.has_ended and self.patience_is_over():
            self.listener.note(f"Stopped early: no better epoch in {self._count_waited()}.")
        if done.best_epoch < done.history.num_epochs - 1 and not done.has_ended:
            restore_model(self.weights.masters, self.checkpoints.folder)
        done.has_ended = True
        # What comes after the training changes the model in the folder.
        if self.checkpoints.path.exists() and (self.is_cut_short or not self._save_state([])):
            self.checkpoints.remove()

    def outcome(self) -> TrainingOutcome:
        """Sum up."""
        done = self.progress
        return TrainingOutcome(
            history=done.history,
            best_epoch=done.best_epoch,
            selection_metric=self.metric,
            reason=explain_choice(done.history, self.metric, done.best_epoch),
            interrupted=self.is_cut_short,
            collapsed_to=done.best_collapse,
            train_seconds=done.train_seconds,
            num_steps=done.num_steps,
            unfinished=self.unfinished,
            recording=self.recording,
            recording_seconds=done.recording_seconds,
            resumed_after=tuple(done.resumed_after),
        )
