"""The predictions of two runs to compare, and whether they are of the same rows and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.data.dataset import TextDataset
from bertfit.errors import RunError
from bertfit.evaluation.predictions import KeptPredictions, read_predictions
from bertfit.evaluation.thresholds import decide
from bertfit.inference.confidence import read_confidence
from bertfit.labels import encode_labels, respell
from bertfit.progress import Listener
from bertfit.reporting.text import shorten
from bertfit.run_files import TEST_NAME
from bertfit.wording import format_count, list_some

if TYPE_CHECKING:
    from bertfit.inference.predictor import TextClassifier
    from bertfit.workflow.rows_to_score import RowsToScore

_LABEL_WIDTH = 80
"""Columns of a label that a message shows: of both ends, where labels may differ."""


@dataclass(frozen=True, slots=True)
class Side:
    """One run's predictions for the rows."""

    label_names: tuple[str, ...]
    kept: KeptPredictions
    predicted_ids: np.ndarray
    threshold: float | None
    """By which it answers; None if it answers the most probable class."""
    texts: Sequence[str] | None
    """None if the rows were kept without their texts."""


def score_side(
    run: Path, classifier: TextClassifier, rows: RowsToScore, listener: Listener
) -> Side:
    """Return a run's predictions, and nothing else of what `evaluate` finds out."""
    from bertfit.inference.scoring import softmax

    dataset = rows.dataset
    encoded, logits = classifier.encode_and_score(
        dataset.texts, on_progress=partial(listener.progress, "scoring")
    )
    probabilities, names = softmax(logits), classifier.label_names
    kept = KeptPredictions(
        lines=dataset.lines,
        groups=dataset.groups,
        label_ids=np.asarray(encode_labels(dataset.labels, names)),
        probabilities=probabilities,
        num_tokens=encoded.full_lengths,
        is_truncated=encoded.is_truncated,
        is_known=np.isin(np.arange(len(dataset)), rows.known) | _find_leaked(run, names, rows),
    )
    threshold = classifier.confidence.threshold
    return Side(names, kept, decide(probabilities, threshold), threshold, dataset.texts)


def _find_leaked(run: Path, label_names: tuple[str, ...], rows: RowsToScore) -> np.ndarray:
    """Return (n,) whether rows leaked into the run's training, if they are its test rows."""
    none = np.zeros(len(rows.dataset), dtype=bool)
    if not rows.is_own_test:
        return none
    try:
        found = read_predictions(run / TEST_NAME, label_names, num_rows=len(none)).is_known
    except RunError:  # they were removed
        return none
    return none if found is None else found


def read_kept_sides(runs: tuple[Path, Path], records: Sequence[Mapping[str, Any]]) -> list[Side]:
    """Return each run's kept test predictions.

    Raises:
        RunError: A run kept none, or they are of other rows or labels.
    """
    check_labels(*map(list_labels, records), runs=runs)
    tests = [record.get("data", {}).get("test") or {} for record in records]
    sides = []
    for run, record, test in zip(runs, records, tests, strict=True):
        names = list_labels(record)
        kept = read_predictions(run / TEST_NAME, names, num_rows=test.get("num_rows"))
        threshold = read_confidence(record, num_labels=len(names), run=run).threshold
        answers = decide(kept.probabilities, threshold)
        sides.append(Side(names, kept, answers, threshold, None))
    fingerprints = [test.get("fingerprint") for test in tests]
    if fingerprints[0] is None or fingerprints[0] != fingerprints[1]:
        sources = [
            f"{run}: {test.get('source')}, {format_count(len(side.kept), 'row')}"
            for run, test, side in zip(runs, tests, sides, strict=True)
        ]
        raise RunError(
            "the runs were tested on different rows, or on the same in another order or with "
            f"labels spelt differently ({'; '.join(sources)})",
            hint="Give the rows to score both on with --data.",
        )
    return sides


def list_labels(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the label names of a run, in the order of their ids."""
    return tuple(record.get("label_names", ()))


def check_labels(
    names_a: tuple[str, ...], names_b: tuple[str, ...], *, runs: tuple[Path, Path]
) -> None:
    """Check that two runs have the same labels, apart from their spelling.

    Raises:
        RunError: They have not.
    """
    if sorted(names_a) != sorted(respell(names_b, names_a).values()):
        shown = [
            list_some((shorten(name, _LABEL_WIDTH) for name in _put_first(names, others)), 10)
            for names, others in ((names_a, names_b), (names_b, names_a))
        ]
        raise RunError(
            f"the runs have different labels: {runs[0]} has {shown[0] or 'none'}; "
            f"{runs[1]} has {shown[1] or 'none'}"
        )


def _put_first(names: tuple[str, ...], others: tuple[str, ...]) -> list[str]:
    """Return the names with those first that are not among the others."""
    return sorted(names, key=set(others).__contains__)


def check_rows(
    a: TextDataset, b: TextDataset, *, spellings: Mapping[str, str], runs: tuple[Path, Path]
) -> None:
    """Check that both runs read the same rows and labels: each reads its own training's columns.

    `spellings` has how run A spells the labels of run B.

    Raises:
        RunError: They read other rows or labels.
    """
    labels_b = [spellings[label] for label in b.labels]
    if (list(a.lines), list(a.labels)) != (list(b.lines), labels_b):
        read = [
            " and ".join(repr(column.name) for column in dataset.columns.values())
            for dataset in (a, b)
        ]
        raise RunError(
            f"the runs read other rows or labels of {a.source}: {runs[0]} the columns {read[0]}, "
            f"{runs[1]} {read[1]}",
            hint="Name the columns for both with --text-column and --label-column.",
        )


def align(side: Side, label_names: tuple[str, ...]) -> Side:
    """Return the same predictions with the classes in the order of `label_names`."""
    if side.label_names == label_names:
        return side
    old_ids = np.array([side.label_names.index(name) for name in label_names])
    new_ids = np.argsort(old_ids)
    kept = side.kept
    moved = replace(
        kept, label_ids=new_ids[kept.label_ids], probabilities=kept.probabilities[:, old_ids]
    )
    return replace(
        side, label_names=label_names, kept=moved, predicted_ids=new_ids[side.predicted_ids]
    )
