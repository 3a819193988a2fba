"""Train a classifier from labelled rows and leave a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertfit.config import ResolvedSettings, TrainSettings, choose_epochs, resolve_settings
from bertfit.data.dataset import TextDataset
from bertfit.errors import ConfigError, TrainingError
from bertfit.evaluation.baseline import compare_with_baseline, run_baseline
from bertfit.evaluation.metrics import score
from bertfit.inference.predictor import TextClassifier
from bertfit.progress import Listener, Silent, format_seconds
from bertfit.run_directory import Staging, refuse_existing, stage_run
from bertfit.training.loop import NonFiniteLossError
from bertfit.training.trainer import TrainingOutcome, fit, measure_speed
from bertfit.workflow.calibrating import calibrate, record_confidence, refuse_impossible_aim
from bertfit.workflow.evaluating import evaluate_classifier
from bertfit.workflow.gating import score_without_leaks
from bertfit.workflow.preparing import PreparedModel, PreparedRows, prepare_model, prepare_rows
from bertfit.workflow.recording import LogKeeper, ScoredTest, make_record, write_side_files

_MOST_LINES = 64
"""Lines of a failing step that an error names."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished run."""

    run: Path
    classifier: TextClassifier
    outcome: TrainingOutcome
    label_names: tuple[str, ...]
    test: ScoredTest | None
    """The model and the baseline on the test rows, which chose nothing."""
    num_train: int
    num_validation: int


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
        validation: Labelled rows that choose the epoch; split off `data` where None.
        test: Labelled rows that are scored once at the end and choose nothing.
        settings: Resolved settings; None makes them from `options`.
        overwrite: Replace a run that stands at `output` once the new one is whole.
        baseline: Fit TF-IDF and logistic regression on the same rows, where there is a test set.
        listener: Hears notes and progress.
        **options: `recipe="notebook"`, and fields of `TrainSettings`, such as `epochs=2`.

    Raises:
        ConfigError: A setting is wrong.
        DataError: The data has faults; all are listed.
        ModelError: The model cannot be loaded.
        RunError: `output` is taken.
        TrainingError: A loss became infinite or not a number.
    """
    resolved = _settle(settings, options)
    refuse_existing(Path(output), overwrite=overwrite)
    log = LogKeeper(listener or Silent())
    rows = prepare_rows(
        data, validation=validation, test=test, settings=resolved.settings, listener=log
    )
    resolved = _settle_by_rows(resolved, rows, log)
    model = prepare_model(rows, resolved.settings, listener=log)
    staging = stage_run(Path(output), overwrite=overwrite)
    with _keeping_the_model(staging, model.classifier, log):
        outcome = _fit(rows, model, settings=resolved.settings, staging=staging, listener=log)
        confidence = _calibrate(rows, model, resolved.settings, staging, log)
        seed = resolved.settings.seed if baseline else None
        scores = _score_test(rows, model, outcome, baseline_seed=seed, listener=log)
        record = make_record(resolved, rows, model=model, outcome=outcome, test=scores, log=log)
        record |= confidence
        write_side_files(staging, record, model=model, outcome=outcome, log=log)
        staging.publish(record)
    return TrainResult(
        run=Path(output),
        classifier=model.classifier,
        outcome=outcome,
        label_names=rows.label_names,
        test=scores,
        num_train=len(rows.train),
        num_validation=len(rows.validation),
    )


@contextlib.contextmanager
def _keeping_the_model(
    staging: Staging, classifier: TextClassifier, listener: Listener
) -> Iterator[None]:
    """Where an error ends the run, keep the best epoch's model if there is one.

    A second Ctrl-C gives it up; a non-finite loss is explained with the place of the model.
    """
    try:
        yield
    except Exception:
        if staging.holds_model():
            # The error may be a full disk: the weights stay even if the tokenizer cannot be added.
            with contextlib.suppress(OSError):
                classifier.save_tokenizer(staging.folder)
            kept = f"The best epoch so far is kept, as a plain model, in {staging.set_aside()}."
            listener.note(kept)
        else:
            staging.discard()
        raise
    except BaseException:
        staging.discard()
        raise


def _settle(settings: ResolvedSettings | None, options: dict[str, Any]) -> ResolvedSettings:
    if settings is None:
        recipe = options.pop("recipe", "default")
        return resolve_settings(options, recipe=recipe, options_origin="argument")
    if options:
        raise ConfigError(f"give settings or options, but not both; got {', '.join(options)}")
    return settings


def _settle_by_rows(
    resolved: ResolvedSettings, rows: PreparedRows, log: Listener
) -> ResolvedSettings:
    refuse_impossible_aim(resolved.settings, rows.label_names)
    return _settle_epochs(resolved, len(rows.train), log)


def _calibrate(
    rows: PreparedRows,
    model: PreparedModel,
    settings: TrainSettings,
    staging: Staging,
    log: Listener,
) -> dict[str, Any]:
    learned = calibrate(rows, model, settings=settings, folder=staging.folder, listener=log)
    return record_confidence(learned)


def _settle_epochs(resolved: ResolvedSettings, num_rows: int, log: Listener) -> ResolvedSettings:
    if resolved.settings.epochs is not None:
        return resolved
    epochs = choose_epochs(resolved.settings, num_rows)
    log.note(f"Epochs: {epochs}, chosen for {num_rows:,} training rows.")
    return resolved.settle("epochs", epochs, origin=f"default for {num_rows} training rows")


def _fit(
    rows: PreparedRows,
    model: PreparedModel,
    *,
    settings: TrainSettings,
    staging: Staging,
    listener: Listener,
) -> TrainingOutcome:
    """Measure the speed and say how long it will take, then train."""
    classifier = model.classifier
    speed = measure_speed(
        classifier.model, model.train, settings=settings, precision=classifier.precision
    )
    listener.note(
        f"Training {settings.epochs} epochs will take about {format_seconds(speed.train_seconds)} "
        f"(measured here: {speed.tokens_per_second:,.0f} tokens a second)."
    )
    try:
        outcome = fit(
            classifier.model,
            model.train,
            model.validation,
            settings=settings,
            precision=classifier.precision,
            best_folder=staging.folder,
            listener=listener,
        )
    except NonFiniteLossError as error:
        raise _name_lines(error, rows) from error
    listener.note(f"Kept: {outcome.reason}.")
    if outcome.collapsed_to is not None:
        listener.note(
            f"WARNING: the model collapsed: it predicts {rows.label_names[outcome.collapsed_to]!r} "
            "for every validation row. Lower learning_rate, train longer, or look at the labels."
        )
    return outcome


def _name_lines(error: NonFiniteLossError, rows: PreparedRows) -> TrainingError:
    lines = sorted(rows.train.lines[index] for index in error.indices)
    shown = ", ".join(str(line) for line in lines[:_MOST_LINES])
    message = f"{error.message}; the step's rows are lines {shown} of {rows.train.source}"
    return TrainingError(message, hint=error.hint)


def _score_test(
    rows: PreparedRows,
    model: PreparedModel,
    outcome: TrainingOutcome,
    *,
    baseline_seed: int | None,
    listener: Listener,
) -> ScoredTest | None:
    """Score the test rows, and a lexical baseline trained on the same rows beside them.

    Without a seed there is no baseline. Ctrl-C leaves the scoring out; the model is kept.
    """
    if rows.test is None:
        return None
    if not outcome.interrupted:
        try:
            return _compare(rows, rows.test, model=model, baseline_seed=baseline_seed, to=listener)
        except KeyboardInterrupt:
            pass
    listener.note("Interrupted: the test rows were not scored; bertfit evaluate does that.")
    return None


def _compare(
    rows: PreparedRows,
    test: TextDataset,
    *,
    model: PreparedModel,
    baseline_seed: int | None,
    to: Listener,
) -> ScoredTest:
    evaluation = evaluate_classifier(model.classifier, test, listener=to)
    without_leaks = score_without_leaks(evaluation, rows.report, groups=test.groups)
    if baseline_seed is None:
        return ScoredTest(evaluation, None, None, without_leaks)
    to.progress("baseline", 0, 1)
    baseline = run_baseline(
        rows.train.texts,
        model.train.label_ids,
        test_texts=test.texts,
        num_labels=len(rows.label_names),
        seed=baseline_seed,
    )
    to.progress("baseline", 1, 1)
    if baseline.note:
        to.note(f"The baseline: {baseline.note}.")
    comparison = compare_with_baseline(
        np.eye(len(rows.label_names))[evaluation.predicted_ids],  # what is answered
        baseline.probabilities,
        evaluation.label_ids,
        groups=np.asarray(test.groups) if test.groups else None,
    )
    scores = score(baseline.probabilities, evaluation.label_ids, rows.label_names)
    return ScoredTest(evaluation, comparison, scores.to_json(), without_leaks)
