"""Evaluate a run on labelled rows: scores with intervals, and what was truncated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.data.checks import check_evaluation_data
from bertfit.data.dataset import Columns, TextDataset
from bertfit.errors import Fault
from bertfit.evaluation.calibration import ConfidenceScores, score_confidence
from bertfit.evaluation.intervals import Interval, bootstrap_intervals
from bertfit.evaluation.metrics import Scores, score
from bertfit.evaluation.thresholds import decide
from bertfit.inference.predictor import TextClassifier
from bertfit.inference.scoring import softmax
from bertfit.labels import encode_labels
from bertfit.progress import Listener, Silent
from bertfit.run_directory import is_run, read_record

if TYPE_CHECKING:
    from bertfit.config import Dtype, OnBadRow


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a model is on n rows, and how sure that is."""

    scores: Scores
    intervals: dict[str, Interval]
    """95 % bootstrap intervals of the headline numbers."""
    confidence: ConfidenceScores
    """How far the probabilities can be believed."""
    threshold: float | None
    """The second class is answered where its probability is at least this; None answers the most
    probable class."""
    num_truncated: int
    """Rows that lost tokens."""
    max_length: int
    """Tokens that a row may have."""
    truncation: str
    dtype: str
    grouped: bool
    """Whether the intervals resample groups instead of rows."""
    skipped: tuple[Fault, ...]
    probabilities: np.ndarray
    """(n, C), row by row."""
    label_ids: np.ndarray
    """(n,) the true classes."""
    predicted_ids: np.ndarray
    """(n,) the classes that are answered."""

    def to_json(self) -> dict[str, Any]:
        """Return everything but the rows as plain values."""
        return {
            **self.scores.to_json(),
            "intervals": {
                name: {"low": interval.low, "high": interval.high, "level": 0.95}
                for name, interval in self.intervals.items()
            },
            "interval_unit": "group" if self.grouped else "row",
            "confidence": self.confidence.to_json(),
            "threshold": self.threshold,
            "num_truncated": self.num_truncated,
            "max_length": self.max_length,
            "truncation": self.truncation,
            "dtype": self.dtype,
            "num_skipped": len(self.skipped),
        }


def evaluate(
    run: str | Path,
    data: Any,  # noqa: ANN401 (a path, a DataFrame, an Arrow table or a list of dicts)
    *,
    columns: Columns | None = None,
    on_bad_row: OnBadRow = "error",
    device: str = "auto",
    dtype: Dtype | None = None,
    listener: Listener | None = None,
) -> Evaluation:
    """Evaluate a run on labelled rows.

    Args:
        run: Folder of the run, or of any Hugging Face classifier.
        data: Path of a CSV, TSV, JSONL or Parquet file, a DataFrame, an Arrow table, or dicts.
        columns: Which columns hold what; those that the run was trained with by default.
        on_bad_row: "skip" leaves bad rows out and counts them.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: Type of the arithmetic; None takes that of the training.
        listener: Hears the progress.

    Raises:
        RunError: There is no such run.
        DataError: The rows have faults, or a label that the model does not know.
    """
    listener = listener or Silent()
    trained_with = ""
    if is_run(Path(run)):
        trained_with = read_record(Path(run)).get("training", {}).get("dtype", "")
    classifier = TextClassifier.load(
        run, device=device, dtype=dtype or ("bfloat16" if trained_with == "bfloat16" else "float32")
    )
    dataset, skipped = check_evaluation_data(
        data, classifier.known_columns(columns), classifier.label_names, on_bad_row
    )
    return evaluate_classifier(classifier, dataset, skipped=skipped, listener=listener)


def evaluate_classifier(
    classifier: TextClassifier,
    dataset: TextDataset,
    *,
    skipped: tuple[Fault, ...] = (),
    listener: Listener,
) -> Evaluation:
    """Evaluate a loaded classifier on checked rows."""
    encoded = classifier.encode(
        list(dataset.texts),
        on_progress=lambda done, total: listener.progress("encoding", done, total),
    )
    logits = classifier.score_logits(
        encoded, on_progress=lambda done, total: listener.progress("scoring", done, total)
    )
    label_ids = np.asarray(encode_labels(dataset.labels, classifier.label_names))
    groups = np.asarray(dataset.groups) if dataset.groups else None
    probabilities, rules = softmax(logits), classifier.confidence
    answers: dict[str, Any] = {
        "predicted_ids": decide(probabilities, rules.threshold),
        "groups": groups,
    }
    return Evaluation(
        scores=score(
            probabilities,
            label_ids,
            classifier.label_names,
            predicted_ids=answers["predicted_ids"],
        ),
        intervals=bootstrap_intervals(probabilities, label_ids, **answers),
        confidence=score_confidence(
            probabilities,
            label_ids,
            uncalibrated=softmax(rules.scaling.undo(logits)) if rules.scaling else None,
            **answers,
        ),
        threshold=rules.threshold,
        num_truncated=encoded.num_truncated,
        max_length=classifier.rule.max_length,
        truncation=classifier.rule.truncation,
        dtype=classifier.precision.dtype_name,
        grouped=groups is not None,
        skipped=skipped,
        probabilities=probabilities,
        label_ids=label_ids,
        predicted_ids=answers["predicted_ids"],
    )
