"""Checks that the files of a model folder belong together, before it is used."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from bertfit.config import TextCleaning, Truncation
from bertfit.data.encoding import EncodingRule
from bertfit.errors import ModelError, RunError
from bertfit.inference.confidence import WITHOUT_UNCALIBRATED, UncalibratedLayer
from bertfit.modeling.calibration_folding import has_layer
from bertfit.modeling.soundness import mark_padding, try_model
from bertfit.run_files import RECORD_NAME, UNCALIBRATED_NAME
from bertfit.wording import quote_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bertfit.modeling.classifier import LoadedClassifier

_OTHER_TASKS = ("ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")
"""Ends of the names that transformers gives to models with heads for other tasks."""


def check_whole(loaded: LoadedClassifier, folder: Path, record: dict[str, Any]) -> None:
    """Refuse a model with newly initialized weights, or one that does not match the record.

    Raises:
        ModelError: Weights and config.json do not match, there is no head, it is one for another
            task, the model is not a single-label classifier, or the label ids are not 0, 1, 2, ….
        RunError: config.json and bertfit.json name different labels.
    """
    if not record:
        _check_task(loaded, folder)
    if loaded.is_encoder and not record:
        raise ModelError(
            f"{folder} is not a classifier: it has no classification head. "
            f"{' '.join(loaded.notes)}",
            hint="Train a classifier from it: "
            f"bertfit train TRAIN --model {quote_path(folder)} --output RUN",
        )
    if not loaded.is_whole or (record and loaded.notes):
        raise ModelError(
            f"the weights in {folder} do not fit its config.json. {' '.join(loaded.notes)}",
            hint="One of the two files was changed. Restore it, or train again.",
        )
    if not record:
        _check_one_label(loaded, folder)
    names, known = loaded.model.config.id2label, record.get("label_names")
    if sorted(names) != list(range(len(names))) or len({*map(str, names.values())}) < len(names):
        raise ModelError(
            f"{folder / 'config.json'}: expected names that differ for the labels 0, 1, 2, …, got "
            f"id2label {names}"
        )
    if known and [str(names[index]) for index in range(len(names))] != known:
        raise RunError(
            f"{folder / 'config.json'} names the labels {', '.join(map(str, names.values()))}, and "
            f"{RECORD_NAME} {', '.join(map(str, known))}",
            hint="One of the two was changed. Restore it, or train again.",
        )


def check_uncalibrated(
    loaded: LoadedClassifier, before: UncalibratedLayer | None, folder: Path
) -> None:
    """Check that a run's layer from before its calibration is one of the model.

    Raises:
        RunError: It is not.
    """
    if before is not None and not has_layer(loaded.model, before.name, before.weight.shape):
        raise RunError(
            f"{folder / UNCALIBRATED_NAME} does not fit the model: a linear layer "
            f"{before.name!r} of shape {before.weight.shape} was expected in it",
            hint=f"Remove that file; {WITHOUT_UNCALIBRATED}.",
        )


def _check_task(loaded: LoadedClassifier, folder: Path) -> None:
    """Refuse a head for words, spans or choices; ModernBERT's weights fit a text's, too."""
    named = loaded.model.config.architectures or []
    if named and all(name.endswith(_OTHER_TASKS) for name in named):
        raise ModelError(
            f"{folder} is not a text classifier: {folder / 'config.json'} says "
            f"{', '.join(named)}, {type(loaded.model).__name__} was expected",
            hint="Train a classifier from it: "
            f"bertfit train TRAIN --model {quote_path(folder)} --output RUN",
        )


def _check_one_label(loaded: LoadedClassifier, folder: Path) -> None:
    """Refuse a multi-label classifier or a regression: its softmax would be meaningless."""
    config = loaded.model.config
    kind, num_outputs = config.problem_type, config.num_labels
    if kind in (None, "single_label_classification") and num_outputs > 1:  # it may be a list
        return
    what = f"problem_type {kind!r}" if num_outputs > 1 else "one output"
    raise ModelError(
        f"{folder / 'config.json'} says {what}: bertfit answers one label per text, of two or more",
        hint="Multi-label classifiers and regressions are used with transformers; as a start, "
        f"bertfit train TRAIN --model {quote_path(folder)} gives it a task of one label.",
    )


def settle_padding(loaded: LoadedClassifier, folder: Path, record: dict[str, Any]) -> None:
    """Mark whether a model reads padding: as recorded before its training, else by trying it.

    Raises:
        ModelError: The model, which bertfit did not train, cannot be computed.
    """
    known = record.get("training", {}).get("reads_padding")
    if known is None:
        try_model(loaded, str(folder))
    else:
        mark_padding(loaded.model, reads_it=bool(known))


def describe_changes(run: Path, changed: Sequence[str]) -> str:
    """Return a warning that files of a run's model were changed after the run was made."""
    verb, files = ("was", "the file") if len(changed) == 1 else ("were", "the files")
    return (
        f"WARNING: {', '.join(changed)} in {run} {verb} changed or removed after the run was made. "
        f"The scores and the calibration in {RECORD_NAME} may not hold any more. Restore {files}, "
        "or train again."
    )


def read_rule(
    run: Path, record: dict[str, Any], tokenizer: PreTrainedTokenizerBase, *, limit: int
) -> EncodingRule:
    """Return a run's encoding rule; a plain model cuts at its limit, on its tokenizer's side.

    Args:
        run: Folder of the model.
        record: Content of bertfit.json; empty if it is not a run.
        tokenizer: Its tokenizer; a training with truncation=tail has set its `truncation_side`.
        limit: Most tokens that the model reads.

    Raises:
        RunError: The rule is missing in the record, or invalid.
    """
    if not record:
        is_tail = tokenizer.truncation_side == "left"
        return EncodingRule(max_length=limit, truncation="tail" if is_tail else "head")
    rule = record.get("encoding")
    with contextlib.suppress(TypeError):
        if isinstance(rule, dict) and _is_sound(EncodingRule(**rule), limit=limit):
            return EncodingRule(**rule)
    raise RunError(
        f"{run / RECORD_NAME} is damaged: its encoding is {rule!r}",
        hint="Expected max_length, truncation, head_fraction and text_cleaning.",
    )


def _is_sound(rule: EncodingRule, *, limit: int) -> bool:
    """Return whether a rule read from a file has values that are valid for this model."""
    values: dict[str, Any] = dataclasses.asdict(rule)
    length, share = values["max_length"], values["head_fraction"]
    return (
        isinstance(length, int)
        and not isinstance(length, bool)
        and 0 < length <= limit
        and isinstance(share, int | float)
        and 0 < share < 1
        and rule.truncation in get_args(Truncation)
        and rule.text_cleaning in get_args(TextCleaning)
    )
