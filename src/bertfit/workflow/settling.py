"""Decides settings that were left open, from the rows, the model and the machine.

The training uses these values, and bertfit.json records them with the reason. Whether layers are
compiled is decided in `speeding`, which measures first.
"""

from __future__ import annotations

from typing import Any

from bertfit.config import ResolvedSettings, is_given
from bertfit.data.gate import NO_TEST_ROWS
from bertfit.modeling.classifier import find_hidden_size
from bertfit.modeling.fast_path import is_compiled
from bertfit.progress import Listener
from bertfit.training.choices import choose_epochs, choose_learning_rate, choose_selection_metric
from bertfit.training.measuring import measure_token_budget
from bertfit.training.token_budget import DEFAULT_TOKENS, default_tokens
from bertfit.wording import format_count
from bertfit.workflow.preparing import PreparedModel
from bertfit.workflow.rows import PreparedRows


def note_unused(resolved: ResolvedSettings, rows: PreparedRows, *, listener: Listener) -> None:
    """Note each setting that was given but has no effect with the other settings and these rows.

    A recipe's settings are not noted, because recipes are meant for any rows.
    """
    settings = resolved.settings
    num_epochs = settings.epochs or 0  # settled by now
    epochs = format_count(num_epochs, "epoch")
    cannot = {
        "validation_fraction": (
            rows.checked.validation is not None,
            "the validation rows are given",
        ),
        "head_fraction": (
            settings.truncation != "head+tail",
            f"truncation is {settings.truncation}",
        ),
        "patience": (
            (settings.patience or 0) >= num_epochs - 1,
            f"with {epochs} there is none left to save",
        ),
        "strict": (rows.test is None, NO_TEST_ROWS),
    }
    for name, (is_idle, why) in cannot.items():
        origin = resolved.origins[name]
        if is_idle and is_given(origin) and getattr(settings, name):
            listener.note(f"{name} ({origin}) changes nothing: {why}.")


def settle_columns(resolved: ResolvedSettings, rows: PreparedRows) -> ResolvedSettings:
    """Return settings with the columns that the training rows were read from filled in."""
    for role, column in rows.train.columns.items():
        if not column.is_given:
            origin = f"{resolved.origins[f'{role}_column']}, found in the training rows"
            resolved = resolved.settle(f"{role}_column", column.name, origin=origin)
    return resolved


def settle_epochs(
    resolved: ResolvedSettings, rows: PreparedRows, *, listener: Listener
) -> ResolvedSettings:
    """Return settings with a number of epochs: the one given, else one chosen for the rows."""
    if resolved.settings.epochs is not None:
        return resolved
    num_rows, num_labels = len(rows.train), len(rows.label_names)
    epochs = choose_epochs(resolved.settings, num_rows, num_labels=num_labels)
    chosen_for = f"{num_rows:,} training rows of {num_labels} classes"
    listener.note(f"Epochs: {epochs}, chosen for {chosen_for}.")
    return resolved.settle("epochs", epochs, origin=_name_origin(resolved, "epochs", chosen_for))


def settle_model(
    resolved: ResolvedSettings, model: PreparedModel, *, listener: Listener
) -> ResolvedSettings:
    """Return settings with everything that the prepared model, its rows and the machine decide."""
    settings, classifier = resolved.settings, model.classifier
    if settings.learning_rate is None:
        size = find_hidden_size(classifier.model)
        rate = choose_learning_rate(settings, size)
        origin = _name_origin(resolved, "learning_rate", f"a hidden size of {size}")
        resolved = resolved.settle("learning_rate", rate, origin=origin)
    metric = choose_selection_metric(settings, model.train.label_ids)
    used: dict[str, tuple[object, Any, str]] = {
        "max_length": (None, classifier.rule.max_length, "for the model"),
        "text_cleaning": ("auto", classifier.rule.text_cleaning, "for the texts"),
        "selection_metric": ("auto", metric, "for the classes"),
        "device": ("auto", str(classifier.precision.device), "on this machine"),
        "dtype": ("auto", classifier.precision.dtype_name, "on this machine"),
    }
    for name, (left_open, value, chosen) in used.items():
        if getattr(settings, name) == left_open:
            origin = f"{resolved.origins[name]}, chosen {chosen}"
            resolved = resolved.settle(name, value, origin=origin)
    return _settle_token_budget(resolved, model, listener)


def _name_origin(resolved: ResolvedSettings, name: str, chosen_for: str) -> str:
    """Return the origin of a value that bertfit chose: by default, or because it was asked to.

    `--set epochs=none` undoes a recipe's value; only the setting's own origin tells of it.
    """
    origin = resolved.origins[name]
    return f"{'default' if origin == 'default' else f'{origin}, chosen'} for {chosen_for}"


def _settle_token_budget(
    resolved: ResolvedSettings, model: PreparedModel, listener: Listener
) -> ResolvedSettings:
    """Return settings with a token budget: the one given, else a measured one, or the default.

    It is measured if set to "auto", and on a GPU also if not set.
    """
    asked = resolved.settings.micro_batch_tokens
    if isinstance(asked, int):
        return resolved
    precision = model.classifier.precision
    if asked is None and precision.device.type != "cuda":
        origin = f"default on {precision.device.type}"
        classifier = model.classifier.model
        tokens = default_tokens(
            find_hidden_size(classifier), is_compiled=is_compiled(classifier, precision)
        )
        return resolved.settle("micro_batch_tokens", tokens, origin=origin)
    measured = measure_token_budget(
        model.classifier.model, model.train, settings=resolved.settings, precision=precision
    )
    origin = "default" if asked is None else resolved.origins["micro_batch_tokens"]
    if measured is None:
        listener.note(f"Micro-batches: at most {DEFAULT_TOKENS:,} tokens, and no step has more.")
        origin = f"{origin}, as no step has more"
        return resolved.settle("micro_batch_tokens", DEFAULT_TOKENS, origin=origin)
    listener.note(f"Micro-batches: at most {measured:,} tokens, the quickest that was measured.")
    return resolved.settle("micro_batch_tokens", measured, origin=f"{origin}, measured")
