"""bertfit train."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from bertfit.cli import options

if TYPE_CHECKING:
    from bertfit.config import ResolvedSettings
    from bertfit.workflow.training import TrainResult


def train(
    context: typer.Context,
    data: options.TrainFile,
    output: options.Output,
    validation: options.Validation = None,
    validation_fraction: options.ValidationFraction = None,
    test: options.Test = None,
    model: options.Model = None,
    recipe: options.Recipe = "default",
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    learning_rate: options.LearningRate = None,
    max_length: options.MaxLength = None,
    truncation: options.TruncationOption = None,
    seed: options.Seed = None,
    seeds: options.Seeds = None,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
    group_column: options.GroupColumn = None,
    slice_columns: options.SliceColumns = None,
    encoding: options.Encoding = None,
    on_bad_row: options.OnBadRow = None,
    drop_duplicates: options.DropDuplicates = None,
    strict: options.Strict = None,
    keep_texts: options.KeepTexts = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    packing: options.Packing = None,
    compile: options.Compile = None,  # noqa: A002 (the name of the setting)
    micro_batch_tokens: options.TokenBudget = None,
    config: options.Config = None,
    assignments: options.Assignments = None,
    baseline: options.Baseline = True,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
    as_json: options.Json = False,
) -> None:
    """Fine-tune a model on labelled text and save it as a run."""
    from bertfit.cli.terminal import Terminal, console, error_console

    settings = _resolve_settings(context.params)
    run = _find_function(seeds, resume=resume)
    with Terminal(error_console if as_json else console) as terminal:
        result = run(
            data,
            output,
            validation=validation,
            test=test,
            settings=settings,
            overwrite=overwrite,
            baseline=baseline,
            listener=terminal,
        )
    _show(result, as_json=as_json)


def _resolve_settings(given: dict[str, Any]) -> ResolvedSettings:
    """Return the settings; an option with the name of a setting sets it."""
    from bertfit.config import resolve_settings, setting_names
    from bertfit.setting_types import parse_value

    named = {name: given[name] for name in setting_names() if name in given}
    if (budget := given["micro_batch_tokens"]) is not None:
        named["micro_batch_tokens"] = parse_value(budget, int)
    named["slice_columns"] = given["slice_columns"] or None  # an empty list means not given
    return resolve_settings(
        named,
        recipe=given["recipe"],
        config_file=given["config"],
        assignments=given["assignments"],
        typed_as={"micro_batch_tokens": "--token-budget"},
    )


def _find_function(seeds: int | None, *, resume: bool) -> Callable[..., TrainResult]:
    from bertfit.workflow.training import train as run_training

    if seeds is None:
        return functools.partial(run_training, resume=resume)
    if resume:
        from bertfit.errors import ConfigError

        raise ConfigError(
            "--resume goes on with one training, and --seeds trains several",
            hint="Give one of them; --seed trains one seed as a run of its own.",
        )
    from bertfit.workflow.seeds import train_seeds

    return functools.partial(train_seeds, num_seeds=seeds)


def _show(result: TrainResult, *, as_json: bool) -> None:
    from bertfit.cli.results import print_json, show_training
    from bertfit.cli.terminal import console
    from bertfit.run_directory import read_record

    if as_json:
        print_json({"run": str(result.run), **read_record(result.run)})
    else:
        show_training(console, result)
