"""Which rows a run was trained on or chosen by, to warn if they are scored or judged with it.

A run keeps a digest of each training and validation text, from which the text cannot be recovered.
Which texts have the same digest, `data.duplicates` says. A run whose training started from another
run has learned what that one had, as far as that kept digests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertfit.assets import find_model_path
from bertfit.data.dataset import TextDataset
from bertfit.data.duplicates import fingerprint_texts, list_earlier_digests
from bertfit.data.gate import GateReport, add_learned
from bertfit.errors import RunError
from bertfit.files import read_array, write_array
from bertfit.progress import Listener
from bertfit.run_directory import read_record
from bertfit.run_files import CHOOSING_NAME, TRAINED_NAME, find_changed_files, is_run


def write_digests(
    folder: Path, trained: Sequence[str], choosing: Sequence[str] = (), *, base: str | None = None
) -> None:
    """Keep the digests of the texts that a run was trained on, and of those that chose its epoch.

    Args:
        folder: Of the run.
        trained: Texts of the training rows.
        choosing: Texts of the validation rows.
        base: Model that the training started from; if that is a run, its digests are added.
    """
    learned = _digest(trained)
    folder_of_base = None if base is None else find_model_path(base)
    of_base = folder_of_base and _read_digests(folder_of_base / TRAINED_NAME)
    if of_base is not None:
        learned = np.concatenate([learned, of_base])
    for name, digests in ((TRAINED_NAME, learned), (CHOOSING_NAME, _digest(choosing))):
        write_array(folder / name, np.unique(digests))


def _read_digests(path: Path) -> np.ndarray | None:
    if not path.is_file():
        return None
    try:
        known = read_array(path)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read: {error}", hint="Remove it; trained rows are not found then."
        ) from None
    if known.dtype != np.uint64 or known.ndim != 1:
        raise RunError(
            f"{path}: expected a row of 64-bit digests, got shape {known.shape} of {known.dtype}",
            hint="Remove it; trained rows are not found then.",
        )
    return known


class Learned(NamedTuple):
    """The rows that a run was trained on, among others."""

    told: str
    """In words, after "trained"."""
    rows: Sequence[int]
    """Numbers of the rows, from 0 on, ascending."""
    share: float
    """Of all rows, in (0, 1]."""


def find_known_rows(run: Path, dataset: TextDataset) -> tuple[Learned | None, list[int]]:
    """Return on which of these rows a run was trained, and which others chose its epoch.

    If a run kept no digests, only all rows of its source, or of its validation part in the same
    order, are known again.

    Returns:
        None if it was trained on none, as far as known; and the numbers of its validation rows that
        are not training rows too.

    Raises:
        RunError: The run is damaged.
    """
    if not is_run(run):
        return None, []
    trained, choosing = (_read_digests(run / name) for name in (TRAINED_NAME, CHOOSING_NAME))
    if trained is None and choosing is None:
        return _find_whole(read_record(run), dataset)
    rows, digests = _digest_in_all_forms(dataset.texts)
    learned_rows, chose = (
        np.unique(rows[np.isin(digests, [] if known is None else known)])
        for known in (trained, choosing)
    )
    told = f"on {len(learned_rows):,} of these {len(dataset):,} texts"
    share = len(learned_rows) / len(dataset)
    learned = Learned(told, learned_rows.tolist(), share) if len(learned_rows) else None
    return learned, np.setdiff1d(chose, learned_rows).tolist()


def _find_whole(
    record: Mapping[str, Any], dataset: TextDataset
) -> tuple[Learned | None, list[int]]:
    """Return as `find_known_rows`, for a run that kept no digests."""
    trained = (record.get("data") or {}).get("train") or {}
    known = {trained.get("fingerprint_as_read"), trained.get("fingerprint")}
    if dataset.fingerprint() in known:
        return Learned(f"on rows of {trained['source']}", range(len(dataset)), 1.0), []
    return None, list(range(len(dataset))) if find_part(record, dataset) == "validation" else []


def add_known_to_base(
    report: GateReport,
    model: str,
    parts: Mapping[str, TextDataset | None],
    *,
    listener: Listener,
) -> GateReport:
    """Add which rows the model was trained on from which a training starts, if that is a run.

    Args:
        report: What the gate found.
        model: The model.
        parts: Rows of the parts that are scored.
        listener: Is told if the run does not tell its texts.

    Raises:
        RunError: The run is damaged.
    """
    run = find_model_path(model)
    if run is None or not is_run(run):
        return report
    if changed := find_changed_files(run, read_record(run)):
        listener.note(
            f"WARNING: {', '.join(changed)} in {model} changed after that run was made: the model "
            "may have learned other texts than the run tells."
        )
    known = {name: find_known_rows(run, rows) for name, rows in parts.items() if rows is not None}
    note_unknown(run, listener, of="rows of test or validation")
    learned = {name: of_run.rows for name, (of_run, _) in known.items() if of_run is not None}
    return add_learned(report, parts, learned, model)


def note_unknown(model: Path, listener: Listener, *, of: str) -> None:
    """Say so if a model is a run that kept no digests.

    Args:
        model: Folder of the run or model.
        listener: Is told.
        of: Which rows are looked for among the learned ones.
    """
    if is_run(model) and not (model / TRAINED_NAME).is_file():
        listener.note(
            f"{model} does not tell which texts it was trained on: whether {of} are among them is "
            "not known, unless they are all the rows of its file."
        )


def find_part(record: Mapping[str, Any], dataset: TextDataset) -> str | None:
    """Return which of a run's own parts these rows are: "validation", "test", or None if neither.

    Args:
        record: Content of bertfit.json; empty if it is not a run.
        dataset: The rows.
    """
    data = record.get("data") or {}
    known = {part: (data.get(part) or {}).get("fingerprint") for part in ("validation", "test")}
    if not any(known.values()):
        return None
    fingerprint = dataset.fingerprint()
    return next((part for part, of_part in known.items() if of_part == fingerprint), None)


def describe_leaks(runs: Sequence[tuple[Path, Mapping[str, Any]]]) -> str | None:
    """Return in a sentence how many of their test rows runs had seen; None if all were new to all.

    Args:
        runs: Folder of each run, and the content of its bertfit.json.
    """
    told, by_group = [], ""
    for run, record in runs:
        scores = record.get("scores") or {}
        clean = scores.get("test_without_groups") or scores.get("test_without_leaks")
        if clean:
            told.append(f"{run} knew {clean['num_leaked']:,}")
            by_group = " or by group" if scores.get("test_without_groups") else by_group
    if not told:
        return None
    return (
        f"Of all these rows, {' and '.join(told)}, by text (or nearly){by_group}: scores of known "
        "rows are too good."
    )


def _digest(texts: Sequence[str]) -> np.ndarray:
    """Return (n,) the first 64 bits of each text's digest."""
    return _shorten(fingerprint_texts(texts))


def _digest_in_all_forms(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of rows and their digests, also those that earlier runs may have kept."""
    earlier = [list_earlier_digests(text) for text in texts]
    rows = np.arange(len(texts)).repeat([len(digests) for digests in earlier])
    digests = _shorten([digest for of_text in earlier for digest in of_text])
    return np.concatenate([np.arange(len(texts)), rows]), np.concatenate([_digest(texts), digests])


def _shorten(digests: Sequence[bytes]) -> np.ndarray:
    joined = b"".join(digest[:8] for digest in digests)
    return np.frombuffer(joined, dtype="<u8").astype(np.uint64)
