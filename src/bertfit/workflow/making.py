"""Makes a run of a prepared model: trains, calibrates and judges it, and writes its files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

from bertfit.config import ResolvedSettings, TrainSettings
from bertfit.errors import RunError, TrainingError
from bertfit.evaluation.baseline import BaselineResults
from bertfit.inference.predictor import TextClassifier
from bertfit.modeling.allocation import keep_freed_memory
from bertfit.progress import Listener
from bertfit.run_directory import Staging
from bertfit.training.checkpoints import Checkpoints
from bertfit.training.interruption import Interruption, TrainingLeft, ignore_interrupts
from bertfit.training.outcome import TrainingOutcome
from bertfit.training.reports import NonFiniteLossError
from bertfit.training.trainer import fit
from bertfit.wording import list_some
from bertfit.workflow.calibrating import calibrate, record_confidence
from bertfit.workflow.judging import BaselineFitter, compare_on_test, judge
from bertfit.workflow.log import LogKeeper
from bertfit.workflow.preparing import PreparedModel
from bertfit.workflow.recording import (
    ScoredTest,
    keep_predictions,
    make_record,
    write_baselines,
    write_side_files,
)
from bertfit.workflow.reporting import add_report
from bertfit.workflow.rows import PreparedRows
from bertfit.workflow.speeding import settle_speed

_CAN_GO_ON = "The same command with --resume goes on from the last state saved."
_MOST_LINES = 64
"""Most lines of a failed step that an error names."""


class _Told(TypedDict):
    """Who hears what happens, and who asks for an end."""

    listener: Listener
    interruption: Interruption


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run that is complete except for its place and its bertfit.json."""

    record: dict[str, Any]
    """Content of bertfit.json."""
    classifier: TextClassifier
    outcome: TrainingOutcome
    test: ScoredTest | None
    baselines: BaselineResults | None
    interrupted: bool
    """Whether Ctrl-C ended the training, or came before the model was calibrated and judged."""


@keep_freed_memory()  # from measuring to scoring the test rows: page faults are paid for once
def make_run(
    resolved: ResolvedSettings,
    rows: PreparedRows,
    *,
    model: PreparedModel,
    staging: Staging,
    checkpoints: Checkpoints,
    fit_baselines: BaselineFitter | None,
    log: LogKeeper,
    interruption: Interruption,
) -> FinishedRun:
    """Train and judge a prepared model, and write everything of a run except bertfit.json.

    Raises:
        FirstInterrupt: An end was requested before the first step, so there is nothing to keep.
    """
    with interruption.raise_first():
        interruption.raise_if_requested()
        model.classifier.save_tokenizer(staging.folder)  # so that a kept model can always be loaded
        resolved, speed = settle_speed(resolved, model, listener=log)
    told: _Told = {"listener": log, "interruption": interruption}
    settings, folder = resolved.settings, staging.folder
    outcome = _fit(rows, model, settings=settings, checkpoints=checkpoints, **told)
    learned = calibrate(rows, model, settings=settings, folder=folder, **told)
    judged = judge(rows, model, fit_baselines=fit_baselines, **told)
    evaluation, baselines = judged.evaluation, judged.baselines
    test = compare_on_test(evaluation, baselines, rows) if evaluation is not None else None
    record = make_record(
        resolved, rows, model=model, speed=speed, outcome=outcome, test=test, log=log
    )
    # Whether they were asked for: Ctrl-C may have left them out.
    record["training"]["with_baselines"] = fit_baselines is not None
    record |= record_confidence(learned)
    keep_predictions(
        staging,
        rows,
        model=model,
        validation_probabilities=learned.probabilities if learned is not None else None,
        evaluation=evaluation,
    )
    if baselines is not None:
        write_baselines(staging, baselines)
    write_side_files(staging, record, outcome=outcome, rows=rows, settings=settings, log=log)
    add_report(
        staging,
        record,
        rows=rows,
        model=model,
        learned=learned,
        evaluation=evaluation,
        log=log,
        interruption=interruption,
    )
    model.classifier.record = record  # what it needs of it as if it had been loaded
    return FinishedRun(record, model.classifier, outcome, test, baselines, judged.interrupted)


@contextlib.contextmanager
def keeping_the_model(
    staging: Staging, listener: Listener, *, stays: bool = False
) -> Iterator[None]:
    """If an error ends the run, keep the model and the state, if there are any, and note the place.

    A second Ctrl-C discards them, unless the training `stays`: then a state is left where it is. So
    is one that cannot be gone on with, whose place the error names.
    """
    try:
        yield
    except Exception as error:
        holds_state = staging.holds_state()
        if stays and holds_state and isinstance(error, RunError):
            staging.leave()
        elif staging.holds_model():
            is_whole, place = staging.is_complete(), staging.set_aside()
            what = "The best epoch so far is saved, as a plain model,"
            kept = f"{'The finished run is' if is_whole else what} in {place}."
            listener.note(f"{kept} {_CAN_GO_ON}" if holds_state else kept)
        elif holds_state:
            listener.note(f"The training so far is saved in {staging.set_aside()}. {_CAN_GO_ON}")
        else:
            staging.discard()
        raise
    except BaseException as error:
        if not (stays and staging.holds_state()):
            with ignore_interrupts():
                staging.discard()
            raise
        staging.leave()
        if not isinstance(error, KeyboardInterrupt):
            raise
        raise TrainingLeft("the same command goes on with the training") from error


def _fit(
    rows: PreparedRows,
    model: PreparedModel,
    *,
    settings: TrainSettings,
    checkpoints: Checkpoints,
    listener: Listener,
    interruption: Interruption,
) -> TrainingOutcome:
    """Train, name the lines of a failed step, and note which epoch was kept."""
    classifier = model.classifier
    try:
        outcome = fit(
            classifier.model,
            model.train,
            model.validation,
            settings=settings,
            precision=classifier.precision,
            checkpoints=checkpoints,
            listener=listener,
            interruption=interruption,
        )
    except NonFiniteLossError as error:
        raise _name_lines(error, rows) from error
    listener.note(f"Kept: {outcome.reason}.")
    if outcome.collapsed_to is not None:
        first, second = "lower learning_rate", "train longer"
        if outcome.history.num_epochs == 1:
            first, second = second, first
        listener.note(
            f"WARNING: the model collapsed: it predicts {rows.label_names[outcome.collapsed_to]!r} "
            f"for every validation row. {first.capitalize()}, {second}, or check the labels."
        )
    return outcome


def _name_lines(error: NonFiniteLossError, rows: PreparedRows) -> TrainingError:
    lines = sorted(rows.train.lines[index] for index in error.indices)
    shown = list_some(lines, _MOST_LINES)
    message = f"{error.message}; the step's rows are lines {shown} of {rows.train.source}"
    return TrainingError(message, hint=error.hint)
