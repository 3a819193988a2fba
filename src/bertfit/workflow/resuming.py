"""Finds the training that a command is to go on with: one that was killed, interrupted or failed.

Only a training of the same rows and settings would have taken the steps that are still to come.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.config import ResolvedSettings, is_default
from bertfit.environment import describe_environment
from bertfit.errors import RunError
from bertfit.killed_trainings import find_states
from bertfit.run_directory import Staging, adopt_folder, stage_run
from bertfit.wording import list_some
from bertfit.workflow.log import check_kept

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from bertfit.training.checkpoints import Checkpoints, SavedState
    from bertfit.workflow.log import LogKeeper
    from bertfit.workflow.preparing import PreparedModel
    from bertfit.workflow.rows import PreparedRows

_WITHOUT_EFFECT = {
    *("text_column", "label_column", "group_column", "on_bad_row", "drop_duplicates"),
    *("validation_fraction", "slice_columns", "encoding", "strict", "keep_texts", "keep_encoded"),
    *("calibration", "threshold_aim", "compile", "checkpoint_minutes", "min_label_rows"),
}
"""Settings that change no step of given rows, or only its rounding."""
_MOST_SHOWN = 5
"""Differences that an error names."""
_NUM_SAMPLED = 64
"""About as many values of each weight tell one model from another."""
_BUDGET = "micro_batch_tokens"
"""Measured in some trainings, each time a little differently: that of the first process counts."""


def open_folder(
    output: Path,
    *,
    overwrite: bool,
    resume: bool,
    resolved: ResolvedSettings,
    rows: PreparedRows,
    model: PreparedModel,
    log: LogKeeper,
) -> tuple[ResolvedSettings, Staging, Checkpoints]:
    """Return where a run is made: a new folder, or that of the training to go on with.

    Args:
        output: Folder of the run to make.
        overwrite: Whether a run there may be replaced.
        resume: Whether to go on with an unfinished training, and to leave this one's state if it
            is interrupted.
        resolved: All settled but `compile`.
        rows: Of the training.
        model: Prepared for it, with the encoded rows.
        log: Goes on from that of the other training.

    Returns:
        The settings, with that training's token budget; the folder; and what keeps its state.

    Raises:
        RunError: What was left has other rows or settings, or is damaged; or the folder cannot be
            made.
    """
    from bertfit.training.checkpoints import Checkpoints  # imports torch

    known_by = _identify(resolved, rows, model)
    saved = _find_fitting(output, known_by) if resume else None
    if saved is None:
        staging = stage_run(output, overwrite=overwrite)
        if resume:
            log.note("No training was left to go on with: this one starts from the beginning.")
    else:
        staging = adopt_folder(saved.path.parent, output, overwrite=overwrite)
        log.go_on_from(saved.kept)
        told = _tell_differences(saved.belongs_to["environment"], known_by["environment"])
        if told is not None:
            log.note(told)
        budget = saved.belongs_to["settings"][_BUDGET]
        if budget != resolved.settings.micro_batch_tokens:
            origin = f"{resolved.origins[_BUDGET]}, when the training began"
            resolved = resolved.settle(_BUDGET, budget, origin=origin)
            known_by["settings"][_BUDGET] = budget
    return (
        resolved,
        staging,
        Checkpoints(
            staging.folder,
            minutes=resolved.settings.checkpoint_minutes,
            belongs_to=known_by,
            saved=saved,
            keep=log.keep,
            stays=resume,
        ),
    )


def _identify(
    resolved: ResolvedSettings, rows: PreparedRows, model: PreparedModel
) -> dict[str, Any]:
    """Return what a training is known by, of JSON's types."""
    import torch

    settings, environment = dataclasses.asdict(resolved.settings), describe_environment()
    environment["hardware"]["num_threads"] = torch.get_num_threads()
    origin = resolved.origins[_BUDGET]
    return {
        "settings": {
            name: value for name, value in settings.items() if name not in _WITHOUT_EFFECT
        },
        "rows": {
            "training rows": rows.train.fingerprint(),
            "validation rows": rows.validation.fingerprint(),
            "labels": list(rows.label_names),
            "configuration of the model": _digest_config(model.classifier.model.config),
            "token ids": _digest_tokens(model),
        },
        "weights": _digest_weights(model.classifier.model),
        "environment": environment,
        "is_budget_given": not (is_default(origin) or "measured" in origin),
    }


def _find_fitting(output: Path, known_by: Mapping[str, Any]) -> SavedState | None:
    """Return the newest state of the same training; None if no training left any.

    Raises:
        RunError: All that were left are of other trainings, or damaged.
    """
    from bertfit.training.checkpoints import read_state

    left, held = find_states(output)
    refused = [f"{path.parent} is in use, or cannot be locked" for path in held]
    damaged: list[str] = []
    for path in left:
        try:
            saved = read_state(path)
            differing = list(_compare(saved.belongs_to, known_by))
            if not differing and saved.belongs_to["weights"] != known_by["weights"]:
                differing = ["weights to start from"]  # a seed changes them as well
            _tell_differences(saved.belongs_to["environment"], known_by["environment"])
            check_kept(saved.kept)
            if not differing:
                saved.check_whole()
        except RunError as error:
            damaged.append(error.message)
            continue
        except (AttributeError, KeyError, TypeError, ValueError):
            damaged.append(f"{path} is damaged")
            continue
        if not differing:
            return saved
        refused.append(f"that in {path.parent} has other {list_some(differing, _MOST_SHOWN)}")
    if not refused and not damaged:
        return None
    again = "Train from the beginning, without --resume."
    if refused:
        again = (
            "Give the command that the training began with, and --resume, once no other process "
            "trains it; or train from the beginning, without --resume."
        )
    raise RunError(
        "no unfinished training is this one: " + "; ".join([*refused, *damaged]),
        hint=f"{again} Unfinished trainings stay where they are.",
    )


def _compare(left: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """Return in words what is otherwise in an unfinished training."""
    for name, value in here["rows"].items():
        if left["rows"].get(name) != value:
            yield name
    may_vary = not (left["is_budget_given"] or here["is_budget_given"])
    for name, value in here["settings"].items():
        before = left["settings"].get(name)
        if before != value and not (name == _BUDGET and may_vary):
            yield f"{name} ({before}, here {value})"


def _digest_config(config: PretrainedConfig) -> str:
    """Return a digest of what decides how a model computes, and not where it was loaded from."""
    entries = {
        name: value
        for name, value in config.to_dict().items()
        if name not in {"_name_or_path", "transformers_version"}
    }
    written = json.dumps(entries, sort_keys=True, default=str)
    return hashlib.sha256(written.encode()).hexdigest()


def _digest_weights(model: PreTrainedModel) -> str:
    """Return a digest of some values of each weight; another model's differ in nearly all."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        flat = weight.detach().reshape(-1)
        some = flat[:: max(flat.numel() // _NUM_SAMPLED, 1)]
        digest.update(f"{name} {tuple(weight.shape)} {some.cpu().tolist()}".encode())
    return digest.hexdigest()


def _digest_tokens(model: PreparedModel) -> str:
    """Return a digest of the token ids of all rows."""
    digest = hashlib.sha256()
    for part in (model.train, model.validation):
        digest.update(np.ascontiguousarray(part.encoded.lengths, np.int64).tobytes())
        digest.update(np.ascontiguousarray(part.encoded.token_ids).data)
    return digest.hexdigest()


def _tell_differences(left: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """Return a sentence about versions and hardware that are not the same any more."""
    changed = [
        f"{name} {left[part].get(name)} (now {value})"
        for part in ("versions", "hardware")
        for name, value in here[part].items()
        if left[part].get(name) != value
    ]
    if not changed:
        return None
    return (
        f"The training began with {', '.join(changed)}: its result may differ in the last "
        "digits from that of an uninterrupted training."
    )
