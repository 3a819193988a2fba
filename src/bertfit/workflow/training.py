"""Train a classifier from labelled rows and save it as a run.

torch is imported only once the rows were read: faults in them are told at once, and a second
process checks them in the meantime.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertfit.config import ResolvedSettings, check_flags, resolve_settings
from bertfit.errors import ConfigError
from bertfit.files import as_path
from bertfit.garbage import pause_collection
from bertfit.modeling.locating import locate_model
from bertfit.progress import Listener, as_listener
from bertfit.run_directory import check_place, telling_of_unfinished
from bertfit.training.compiling_ahead import start_compiling
from bertfit.training.interruption import FirstInterrupt, Interruption, catch_interrupts
from bertfit.workflow.log import LogKeeper
from bertfit.workflow.rows import PreparedRows, finish_rows, start_rows

if TYPE_CHECKING:
    from bertfit.evaluation.baseline import BaselineResults
    from bertfit.inference.predictor import TextClassifier
    from bertfit.training.outcome import TrainingOutcome
    from bertfit.workflow.making import FinishedRun
    from bertfit.workflow.preparing import PreparedModel
    from bertfit.workflow.recording import ScoredTest


@dataclass(frozen=True, slots=True, eq=False)
class TrainResult:
    """A finished run; two are equal only if they are the same."""

    run: Path
    classifier: TextClassifier = field(repr=False)
    outcome: TrainingOutcome = field(repr=False)
    label_names: tuple[str, ...]
    test: ScoredTest | None = field(repr=False)
    """The model and the best baseline on the test rows, which chose nothing."""
    baselines: BaselineResults | None = field(repr=False)
    """All baselines, if fitted."""
    num_train: int
    num_validation: int
    interrupted: bool
    """Whether Ctrl-C or SIGTERM ended the training, or left out what comes after it."""
    seeds: dict[str, Any] | None = field(default=None, repr=False)
    """Scores of every seed if several were trained, as in bertfit.json."""


def train(
    data: Any,  # noqa: ANN401 (a path, a table or a list of dicts)
    output: str | Path,
    *,
    validation: Any = None,  # noqa: ANN401 (as data)
    test: Any = None,  # noqa: ANN401 (as data)
    settings: ResolvedSettings | None = None,
    overwrite: bool = False,
    resume: bool = False,
    baseline: bool = True,
    listener: Listener | None = None,
    **options: Any,  # noqa: ANN401 (a recipe, and fields of TrainSettings)
) -> TrainResult:
    """Train a classifier and write a run.

    A first Ctrl-C or SIGTERM ends the training after the current step. The best model so far is
    then written and the result is `interrupted`, which a loop of trainings has to ask for. With
    `resume`, no run is written then: the training's state is, and the same call goes on from there.

    Args:
        data: Labelled rows: path of a CSV, TSV, JSON or Parquet file, a DataFrame, an Arrow
            table, a `datasets.Dataset`, or a list of dicts.
        output: Folder of the run to make.
        validation: Labelled rows that choose the epoch; None splits them off `data`.
        test: Labelled rows that are scored once at the end and choose nothing.
        settings: Resolved settings; None makes them from `options`.
        overwrite: Replace an existing run at `output` once the new one is complete.
        resume: Go on with a training of the same rows and settings, if one for `output` was killed,
            interrupted or failed, and left its state.
        baseline: Fit lexical baselines on the same rows.
        listener: Receives notes and progress.
        **options: `recipe="notebook"`, and fields of `TrainSettings`, such as `epochs=2`.

    Raises:
        ConfigError: A setting or an argument is wrong.
        DataError: The data has faults; all are listed.
        KeyboardInterrupt: A second Ctrl-C or SIGTERM, or a first before a step or with `resume`.
        LeakError: The setting `strict` is on, and the test set leaks.
        MissingDependencyError: The embedded model was asked for and is not installed.
        ModelError: The model cannot be loaded or computed.
        RunError: `output` exists or cannot be written, or what was left is of another training.
        TrainingError: Training cannot go on: a loss is not finite, for example.
    """
    resolved = settle_settings(settings, options)
    log = LogKeeper(as_listener(listener))
    output = settle_place(
        output, resolved, overwrite=overwrite, resume=resume, baseline=baseline, listener=log
    )
    prepared = prepare_training(data, validation=validation, test=test, resolved=resolved, log=log)
    with catch_interrupts() as interruption:
        finished = _make_and_publish(
            prepared,
            output,
            overwrite=overwrite,
            resume=resume,
            baseline=baseline,
            log=log,
            interruption=interruption,
        )
    return sum_up(finished, prepared[1], run=output, interrupted=interruption.requested)


def _make_and_publish(
    prepared: tuple[ResolvedSettings, PreparedRows, PreparedModel],
    output: Path,
    *,
    overwrite: bool,
    resume: bool,
    baseline: bool,
    log: LogKeeper,
    interruption: Interruption,
) -> FinishedRun:
    from bertfit.workflow.judging import baseline_fitter
    from bertfit.workflow.making import keeping_the_model, make_run
    from bertfit.workflow.resuming import open_folder

    resolved, rows, model = prepared
    resolved, staging, checkpoints = open_folder(
        output,
        overwrite=overwrite,
        resume=resume,
        resolved=resolved,
        rows=rows,
        model=model,
        log=log,
    )
    with keeping_the_model(staging, log, stays=resume):
        finished = make_run(
            resolved,
            rows,
            model=model,
            staging=staging,
            checkpoints=checkpoints,
            fit_baselines=baseline_fitter(rows, resolved.settings.seed) if baseline else None,
            log=log,
            interruption=interruption,
        )
        if finished.interrupted and resume and staging.holds_state():
            log.note("Interrupted: the model is trained, but not judged.")
            raise FirstInterrupt
        with catch_interrupts():  # count from 0 again: publishing must not stop half-way
            staging.publish(finished.record)
    return finished


def prepare_training(
    data: Any,  # noqa: ANN401 (as in train)
    *,
    validation: Any,  # noqa: ANN401 (as data)
    test: Any,  # noqa: ANN401 (as data)
    resolved: ResolvedSettings,
    log: LogKeeper,
) -> tuple[ResolvedSettings, PreparedRows, PreparedModel]:
    """Read, check and encode the rows, load the model, and settle the settings left open."""
    with telling_of_unfinished(resolved.settings.model):
        locate_model(resolved.settings.model)  # a wrong name is told before the long work
    if start_compiling(resolved.settings) is not None:
        log.note("Compiling the GPU kernels in a second process; this is needed once.")
    started = start_rows(
        data, validation=validation, test=test, settings=resolved.settings, listener=log
    )
    with pause_collection():  # imports torch
        from bertfit.workflow.calibrating import refuse_impossible_aim
        from bertfit.workflow.preparing import load_model, prepare_model
        from bertfit.workflow.settling import (
            note_unused,
            settle_columns,
            settle_epochs,
            settle_model,
        )
    refuse_impossible_aim(resolved.settings, started.checked.label_names)
    loaded = load_model(resolved.settings, started.checked.label_names)
    rows = finish_rows(started, resolved.settings, listener=log)
    resolved = settle_columns(resolved, rows)
    resolved = settle_epochs(resolved, rows, listener=log)
    note_unused(resolved, rows, listener=log)
    model = prepare_model(loaded, rows, resolved.settings, listener=log)
    return settle_model(resolved, model, listener=log), rows, model


def sum_up(
    finished: FinishedRun,
    rows: PreparedRows,
    *,
    run: Path,
    interrupted: bool,
    seeds: dict[str, Any] | None = None,
) -> TrainResult:
    """Return the result of a training, once the run is at its place."""
    return TrainResult(
        run=run,
        classifier=finished.classifier,
        outcome=finished.outcome,
        label_names=rows.label_names,
        test=finished.test,
        baselines=finished.baselines,
        num_train=len(rows.train),
        num_validation=len(rows.validation),
        interrupted=interrupted,
        seeds=seeds,
    )


def settle_settings(settings: ResolvedSettings | None, options: dict[str, Any]) -> ResolvedSettings:
    """Return the settings given, or make them from options; giving both is an error."""
    if "columns" in options:
        raise ConfigError(
            "columns: train takes the names of columns one by one",
            hint="Give text_column, label_column, group_column, slice_columns or encoding.",
        )
    if not options.keys().isdisjoint({"num_seeds", "seeds"}):
        message = "num_seeds: train trains with one seed, seed=N"
        hint = "bertfit.train_seeds trains with several, num_seeds=N, the first of which is seed."
        raise ConfigError(message, hint=hint)
    if "resume" in options:
        message = "resume: train_seeds trains several, and train goes on with one training"
        raise ConfigError(message, hint="Give one of them.")
    if settings is None:
        recipe = options.pop("recipe", "default")
        return resolve_settings(options, recipe=recipe, options_origin="argument")
    if not isinstance(settings, ResolvedSettings):
        raise ConfigError(
            f"settings: expected ResolvedSettings, got {type(settings).__name__}",
            hint="Give settings as options, such as epochs=2; or bertfit.config.resolve_settings "
            "makes ResolvedSettings.",
        )
    if options:
        raise ConfigError(f"give settings or options, but not both; got {', '.join(options)}")
    return settings


def settle_place(
    output: str | Path,
    resolved: ResolvedSettings,
    *,
    overwrite: bool,
    resume: bool = False,
    baseline: bool,
    listener: Listener,
) -> Path:
    """Return `output` as a path, after checking that a run may be written there, and the flags.

    Raises:
        ConfigError: A flag is not a bool, or this is one of several processes of `torchrun`, which
            would all train on all rows.
        RunError: There is a run already.
    """
    check_flags(overwrite=overwrite, resume=resume, baseline=baseline)
    num_processes = os.environ.get("WORLD_SIZE", "").strip()
    if "RANK" in os.environ and num_processes not in {"", "1"}:
        raise ConfigError(
            f"expected one process, got {num_processes} (WORLD_SIZE): bertfit trains on one device",
            hint="Start it without torchrun; CUDA_VISIBLE_DEVICES or --device chooses the device.",
        )
    place = as_path(output, "output")
    check_place(place, overwrite=overwrite, listener=listener, resume=resume)
    _note_replaced_base(resolved.settings.model, place, listener=listener)
    return place


def _note_replaced_base(model: str, output: Path, *, listener: Listener) -> None:
    """Note that a training will take the place of the run that it starts from."""
    if output.is_dir() and as_path(model, "model").resolve() == output.resolve():
        listener.note(
            f"The run takes the place of the one that it starts from, {output}: the command in its "
            "report will not train it again, since those weights will be gone."
        )
