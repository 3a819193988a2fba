"""Which rows a run was trained on, to warn if they are scored or judged with it.

A run keeps a digest of each training text, from which the text cannot be recovered. Two texts that
differ only in white space, case and HTML line breaks have the same digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertfit.data.dataset import TextDataset
from bertfit.data.duplicates import fingerprint_texts
from bertfit.errors import RunError
from bertfit.run_directory import read_record
from bertfit.run_files import is_run

DIGESTS_NAME = "trained_texts.npy"


def write_digests(folder: Path, texts: Sequence[str]) -> None:
    """Keep the digests of the texts that a run was trained on."""
    np.save(folder / DIGESTS_NAME, np.unique(_digest(texts)), allow_pickle=False)


def find_learned(run: Path, dataset: TextDataset) -> np.ndarray | None:
    """Return (n,) whether the run was trained on each row's text; None if it kept no digests.

    Raises:
        RunError: The digests are damaged.
    """
    path = run / DIGESTS_NAME
    if not path.is_file():
        return None
    try:
        known = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RunError(
            f"{path} cannot be read: {error}", hint="Remove it; trained rows are not found then."
        ) from None
    if known.dtype != np.uint64 or known.ndim != 1:
        raise RunError(
            f"{path}: expected a row of 64-bit digests, got shape {known.shape} of {known.dtype}",
            hint="Remove it; trained rows are not found then.",
        )
    return np.isin(_digest(dataset.texts), known)


class Learned(NamedTuple):
    """The rows that a run was trained on, among others."""

    told: str
    """In words, after "trained"."""
    rows: Sequence[int]
    """Numbers of the rows, from 0 on, ascending."""
    share: float
    """Of all rows, in (0, 1]."""


def find_learned_rows(run: Path, dataset: TextDataset) -> Learned | None:
    """Return on which of these rows a run was trained; None if on none, as far as known.

    If a run kept no digests, only the rows of its whole source are known again, in whatever file.

    Raises:
        RunError: The run is damaged.
    """
    if not is_run(run):
        return None
    learned = find_learned(run, dataset)
    if learned is not None:
        rows, of = np.flatnonzero(learned).tolist(), len(learned)
        told = f"on {len(rows):,} of these {of:,} texts"
        return Learned(told, rows, len(rows) / of) if rows else None
    trained = read_record(run).get("data", {}).get("train") or {}
    known = trained.get("fingerprint_as_read")
    if known is None or known != dataset.fingerprint():
        return None
    return Learned(f"on rows of {trained['source']}", range(len(dataset)), 1.0)


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
    told = []
    for run, record in runs:
        scores = record.get("scores") or {}
        clean = scores.get("test_without_groups") or scores.get("test_without_leaks")
        if clean:
            told.append(f"{run} knew {clean['num_leaked']:,}")
    if not told:
        return None
    return (
        f"Of these rows, {' and '.join(told)}, by text (or nearly) or by group: scores of known "
        "rows are too good."
    )


def _digest(texts: Sequence[str]) -> np.ndarray:
    """Return (n,) the first 64 bits of each text's digest."""
    joined = b"".join(digest[:8] for digest in fingerprint_texts(texts))
    return np.frombuffer(joined, dtype="<u8").astype(np.uint64)
