"""Train a classifier from labelled rows and save it as a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertfit.config import ResolvedSettings, TrainSettings, check_flags, resolve_settings
from bertfit.errors import ConfigError, TrainingError
from bertfit.evaluation.baseline import BaselineResults
from bertfit.files import as_path
from bertfit.inference.predictor import TextClassifier
from bertfit.modeling.allocation import keep_freed_memory
from bertfit.modeling.locating import locate_model
from bertfit.progress import Listener, Silent
from bertfit.run_directory import Staging, check_place, stage_run
from bertfit.training.interruption import Interruption, catch_interrupts
from bertfit.training.reports import NonFiniteLossError
from bertfit.training.trainer import TrainingOutcome, fit
from bertfit.workflow.calibrating import calibrate, record_confidence, refuse_impossible_aim
from bertfit.workflow.judging import (
    BaselineFitter,
    baseline_fitter,
    compare_on_test,
    judge,
)
from bertfit.workflow.preparing import (
    PreparedModel,
    PreparedRows,
    prepare_model,
    prepare_rows,
)
from bertfit.workflow.recording import (
    LogKeeper,
    ScoredTest,
    keep_predictions,
    make_record,
    write_baselines,
    write_side_files,
)
from bertfit.workflow.reporting import add_report
from bertfit.workflow.settling import note_unused, settle_columns, settle_epochs, settle_model
from bertfit.workflow.speeding import compile_ahead, settle_speed

_MOST_LINES = 64
"""Most lines of a failed step that an error names."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished run."""

    run: Path
    classifier: TextClassifier
    outcome: TrainingOutcome
    label_names: tuple[str, ...]
    test: ScoredTest | None
    """The model and the best baseline on the test rows, which chose nothing."""
    baselines: BaselineResults | None
    """All baselines, if fitted."""
    num_train: int
    num_validation: int
    seeds: dict[str, Any] | None = None
    """Scores of every seed if several were trained, as in bertfit.json."""


def train(
    data: Any,  # noqa: ANN401 (a path, a DataFrame, an Arrow table or a list of dicts)
    output: str | Path,
    *,
    validation: Any = None,  # noqa: ANN401 (as data)
    test: Any = None,  # noqa: ANN401 (as data)
    settings: ResolvedSettings | None = None,
    overwrite: bool = False,
    baseline: bool = True,
    listener: Listener | None = None,
    **options: Any,  # noqa: ANN401 (a recipe, and fields of TrainSettings)
) -> TrainResult:
    """Train a classifier and write a run.

    Args:
        data: Labelled rows: path of a CSV, TSV, JSONL or Parquet file, a DataFrame, an Arrow
            table, or a list of dicts.
        output: Folder of the run to make.
        validation: Labelled rows that choose the epoch; None splits them off `data`.
        test: Labelled rows that are scored once at the end and choose nothing.
        settings: Resolved settings; None makes them from `options`.
        overwrite: Replace an existing run at `output` once the new one is complete.
        baseline: Fit lexical baselines on the same rows.
        listener: Receives notes and progress.
        **options: `recipe="notebook"`, and fields of `TrainSettings`, such as `epochs=2`.

    Raises:
        ConfigError: A setting or an argument is wrong.
        DataError: The data has faults; all are listed.
        LeakError: The setting `strict` is on, and the test set leaks.
        MissingDependencyError: The embedded model was asked for and is not installed.
        ModelError: The model cannot be loaded or computed.
        RunError: `output` exists and may not be replaced, or cannot be written.
        TrainingError: Training cannot go on: a loss is not finite, for example.
    """
    resolved = settle_settings(settings, options)
    log = LogKeeper(listener or Silent())
    output = settle_place(output, overwrite=overwrite, baseline=baseline, listener=log)
    resolved, rows, model = prepare_training(
        data, validation=validation, test=test, resolved=resolved, log=log
    )
    with catch_interrupts() as interruption:
        staging = stage_run(output, overwrite=overwrite)
        with keeping_the_model(staging, log):
            finished = make_run(
                resolved,
                rows,
                model=model,
                staging=staging,
                fit_baselines=baseline_fitter(rows, resolved.settings.seed) if baseline else None,
                log=log,
                interruption=interruption,
            )
            with catch_interrupts():  # count from 0 again: publishing must not stop half-way
                staging.publish(finished.record)
    return finished.result(output, rows)


def prepare_training(
    data: Any,  # noqa: ANN401 (as in train)
    *,
    validation: Any,  # noqa: ANN401 (as data)
    test: Any,  # noqa: ANN401 (as data)
    resolved: ResolvedSettings,
    log: LogKeeper,
) -> tuple[ResolvedSettings, PreparedRows, PreparedModel]:
    """Read, check and encode the rows, load the model, and settle the settings left open."""
    locate_model(resolved.settings.model)  # a name that is wrong is told before the long work
    compile_ahead(resolved.settings, listener=log)
    rows = prepare_rows(
        data, validation=validation, test=test, settings=resolved.settings, listener=log
    )
    refuse_impossible_aim(resolved.settings, rows.label_names)
    resolved = settle_columns(resolved, rows)
    resolved = settle_epochs(resolved, rows, listener=log)
    note_unused(resolved, rows, listener=log)
    model = prepare_model(rows, resolved.settings, listener=log)
    return settle_model(resolved, model, listener=log), rows, model


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

    def result(self, run: Path, rows: PreparedRows) -> TrainResult:
        """Return the result of `train`, once the run is at its place."""
        return TrainResult(
            run=run,
            classifier=self.classifier,
            outcome=self.outcome,
            label_names=rows.label_names,
            test=self.test,
            baselines=self.baselines,
            num_train=len(rows.train),
            num_validation=len(rows.validation),
        )


@keep_freed_memory()  # from measuring to scoring the test rows: page faults are paid for once
def make_run(
    resolved: ResolvedSettings,
    rows: PreparedRows,
    *,
    model: PreparedModel,
    staging: Staging,
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
    settings, folder = resolved.settings, staging.folder
    outcome = _fit(
        rows, model, settings=settings, folder=folder, listener=log, interruption=interruption
    )
    learned = calibrate(
        rows, model, settings=settings, folder=folder, listener=log, interruption=interruption
    )
    judged = judge(
        rows, model, fit_baselines=fit_baselines, listener=log, interruption=interruption
    )
    evaluation, baselines = judged.evaluation, judged.baselines
    test = compare_on_test(evaluation, baselines, rows) if evaluation is not None else None
    record = make_record(
        resolved, rows, model=model, speed=speed, outcome=outcome, test=test, log=log
    )
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
    texts = rows.train.texts if settings.keep_texts else None
    write_side_files(staging, record, outcome=outcome, texts=texts, log=log)
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
    return FinishedRun(record, model.classifier, outcome, test, baselines, judged.interrupted)


@contextlib.contextmanager
def keeping_the_model(staging: Staging, listener: Listener) -> Iterator[None]:
    """If an error ends the run, keep the best epoch's model, if there is one, and note its place.

    A second Ctrl-C discards it.
    """
    try:
        yield
    except Exception:
        if staging.holds_model():
            kept = f"The best epoch so far is saved, as a plain model, in {staging.set_aside()}."
            listener.note(kept)
        else:
            staging.discard()
        raise
    except BaseException:
        staging.discard()
        raise


def settle_settings(settings: ResolvedSettings | None, options: dict[str, Any]) -> ResolvedSettings:
    """Return the settings given, or make them from options; giving both is an error."""
    if settings is None:
        recipe = options.pop("recipe", "default")
        return resolve_settings(options, recipe=recipe, options_origin="argument")
    if options:
        raise ConfigError(f"give settings or options, but not both; got {', '.join(options)}")
    return settings


def settle_place(
    output: str | Path, *, overwrite: bool, baseline: bool, listener: Listener
) -> Path:
    """Return `output` as a path, after checking that a run may be written there, and the flags."""
    check_flags(overwrite=overwrite, baseline=baseline)
    place = as_path(output, "output")
    check_place(place, overwrite=overwrite, listener=listener)
    return place


def _fit(
    rows: PreparedRows,
    model: PreparedModel,
    *,
    settings: TrainSettings,
    folder: Path,
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
            best_folder=folder,
            listener=listener,
            interruption=interruption,
        )
    except NonFiniteLossError as error:
        raise _name_lines(error, rows) from error
    listener.note(f"Kept: {outcome.reason}.")
    if outcome.collapsed_to is not None:
        listener.note(
            f"WARNING: the model collapsed: it predicts {rows.label_names[outcome.collapsed_to]!r} "
            "for every validation row. Lower learning_rate, train longer, or check the labels."
        )
    return outcome


def _name_lines(error: NonFiniteLossError, rows: PreparedRows) -> TrainingError:
    lines = sorted(rows.train.lines[index] for index in error.indices)
    shown = ", ".join(str(line) for line in lines[:_MOST_LINES])
    message = f"{error.message}; the step's rows are lines {shown} of {rows.train.source}"
    return TrainingError(message, hint=error.hint)
