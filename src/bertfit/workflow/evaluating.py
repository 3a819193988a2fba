"""Evaluate a run on labelled rows: scores with intervals, and what was truncated."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.config import is_whole_number, split_names
from bertfit.data.dataset import Columns, TextDataset
from bertfit.data.encoding import EncodedTexts
from bertfit.data.findings import Finding
from bertfit.errors import ConfigError, Fault
from bertfit.evaluation.calibration import ConfidenceScores, score_confidence
from bertfit.evaluation.interval import Interval, intervals_to_json
from bertfit.evaluation.intervals import bootstrap_intervals
from bertfit.evaluation.metrics import Scores, score
from bertfit.evaluation.predictions import KeptPredictions
from bertfit.evaluation.slices import SliceReport, list_slices, name_values, score_slices
from bertfit.evaluation.thresholds import decide
from bertfit.evaluation.units import are_one_group, count_units
from bertfit.inference.predictor import TextClassifier
from bertfit.inference.scoring import softmax
from bertfit.labels import encode_labels
from bertfit.modeling.calibration_folding import widened
from bertfit.progress import Listener, as_listener
from bertfit.workflow.leak_free import LeakFreeScores, score_without
from bertfit.workflow.rows_to_score import read_rows
from bertfit.workflow.unreadable_texts import find_token_faults

if TYPE_CHECKING:
    from bertfit.config import Dtype, OnBadRow

_MANY_ROWS = 50_000
"""From here on, intervals take more than a few seconds."""


@dataclass(frozen=True, slots=True)
class WrongRow:
    """A row that the model gets wrong."""

    line: int
    label: str
    predicted: str
    confidence: float
    """Probability of the predicted class."""
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """How good a model is on n rows, and how certain that is.

    Two are equal only if they are the same. Rows are not shown, as there may be many.
    """

    scores: Scores
    intervals: dict[str, Interval]
    """95 % bootstrap intervals of the headline numbers."""
    confidence: ConfidenceScores
    """How far the probabilities can be trusted."""
    threshold: float | None
    """The second class is predicted if its probability is at least this; None predicts the most
    probable class."""
    num_truncated: int
    """Rows that lost tokens."""
    max_length: int
    """Tokens that a row may have."""
    truncation: str
    dtype: str
    num_units: int
    """Number of rows or groups that the intervals resample."""
    skipped: tuple[Fault, ...]
    probabilities: np.ndarray = field(repr=False)
    """(n, C)."""
    uncalibrated: np.ndarray | None = field(repr=False)
    """(n, C) probabilities before calibration; None if there was none or they are unknown."""
    label_ids: np.ndarray = field(repr=False)
    """(n,) the true classes."""
    predicted_ids: np.ndarray = field(repr=False)
    """(n,) the predicted classes."""
    dataset: TextDataset = field(repr=False)
    """The n rows."""
    num_tokens: np.ndarray = field(repr=False)
    """(n,) full length of each text in tokens, before truncation."""
    is_truncated: np.ndarray = field(repr=False)
    """(n,) whether the text lost tokens."""

    slices: SliceReport
    """Where the model is weak: by length, truncation, label, group and columns asked for."""
    findings: tuple[Finding, ...] = field(default=(), repr=False)
    """Rows that the model cannot read."""
    learned: str | None = None
    """On which of the rows the run was trained, in words; None if on none, as far as known."""
    without_learned: LeakFreeScores | None = None
    """Scores without those rows and those that chose the run; None if there are none."""
    warning: str | None = None
    """Why the scores are too good, if the run knew any of the rows or was chosen by them."""

    @property
    def grouped(self) -> bool:
        """Whether the intervals resample groups instead of rows."""
        return self.num_units < len(self.label_ids)

    def worst_errors(self, count: int) -> tuple[WrongRow, ...]:
        """Return the wrong rows with the highest confidence, at most `count`.

        Raises:
            ConfigError: `count` is negative or no whole number.
        """
        if not is_whole_number(count) or count < 0:
            raise ConfigError(f"count: expected a whole number, at least 0, got {count!r}")
        (wrong,) = np.nonzero(self.predicted_ids != self.label_ids)
        sure = self.probabilities[wrong, self.predicted_ids[wrong]]
        names = self.scores.label_names
        return tuple(
            WrongRow(
                line=int(self.dataset.lines[wrong[at]]),
                label=names[self.label_ids[wrong[at]]],
                predicted=names[self.predicted_ids[wrong[at]]],
                confidence=float(sure[at]),
                text=self.dataset.texts[wrong[at]],
            )
            for at in np.argsort(-sure, kind="stable")[:count]
        )

    def kept(self) -> KeptPredictions:
        """Return the predictions as kept in a run: without texts."""
        return KeptPredictions(
            lines=self.dataset.lines,
            groups=self.dataset.groups,
            label_ids=self.label_ids,
            probabilities=self.probabilities,
            num_tokens=self.num_tokens,
            is_truncated=self.is_truncated,
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything but the rows as plain values."""
        return {
            **self.scores_to_json(),
            "findings": [finding.to_json() for finding in self.findings],
            "learned": self.learned,
            "without_learned": None if (clean := self.without_learned) is None else clean.to_json(),
            "warning": self.warning,
            "num_skipped": len(self.skipped),
            "skipped": [str(fault) for fault in self.skipped],
        }

    def scores_to_json(self) -> dict[str, Any]:
        """Return the scores and what belongs to them as plain values."""
        return {
            **self.scores.to_json(),
            "intervals": intervals_to_json(self.intervals),
            "interval_unit": "group" if self.grouped else "row",
            "num_interval_units": self.num_units,
            "of_one_group": are_one_group(self.dataset.groups),
            "confidence": self.confidence.to_json(),
            "threshold": self.threshold,
            "num_truncated": self.num_truncated,
            "max_length": self.max_length,
            "truncation": self.truncation,
            "dtype": self.dtype,
            "slices": self.slices.to_json(),
        }


def evaluate(
    run: str | Path,
    data: Any,  # noqa: ANN401 (a path, a table or a list of dicts)
    *,
    columns: Columns | None = None,
    slice_columns: str | Sequence[str] = (),
    on_bad_row: OnBadRow = "error",
    device: str = "auto",
    dtype: Dtype | None = None,
    listener: Listener | None = None,
) -> Evaluation:
    """Evaluate a run on labelled rows.

    Args:
        run: Folder of the run, or of any Hugging Face classifier.
        data: Labelled rows; see `train`.
        columns: Which columns hold what; by default text and label are those of the training.
            A group column must be named; otherwise intervals resample rows.
        slice_columns: Columns whose values divide the rows into slices, besides those of `columns`.
        on_bad_row: "skip" leaves bad rows out and counts them.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: Dtype of the computation; None uses that of the training, if it is fast here.
        listener: Receives the progress.

    Raises:
        ConfigError: An argument is wrong: there is no such device, for example.
        RunError: There is no such run, or it is damaged.
        ModelError: The model in it cannot be loaded or computed, or is not a classifier.
        DataError: The rows have faults, or a label that the model does not know.
    """
    listener = as_listener(listener)
    classifier = TextClassifier.load(run, device=device, dtype=dtype, tell=listener.note)
    asked = classifier.known_columns(columns)
    asked = replace(asked, slices=(*asked.slices, *split_names(slice_columns)))
    rows = read_rows(run, classifier, data, columns=asked, on_bad_row=on_bad_row, listener=listener)
    found = evaluate_classifier(classifier, rows.dataset, skipped=rows.skipped, listener=listener)
    return replace(
        found,
        learned=None if rows.learned is None else rows.learned.told,
        without_learned=score_without(found, rows.known if rows.leaves_some else ()),
        warning=rows.warning,
    )


def evaluate_classifier(
    classifier: TextClassifier,
    dataset: TextDataset,
    *,
    name: str | None = None,
    skipped: tuple[Fault, ...] = (),
    listener: Listener,
) -> Evaluation:
    """Evaluate a classifier on checked rows; findings call them `name`, or as their file."""
    encoded, logits, raw_logits = _score(classifier, dataset.texts, listener)
    named = (Path(dataset.source).name if name is None else name, dataset, encoded)
    findings = find_token_faults([named], classifier.tokenizer, listener)
    label_ids = np.asarray(encode_labels(dataset.labels, classifier.label_names))
    probabilities, rules = softmax(logits), classifier.confidence
    uncalibrated = None if raw_logits is None else softmax(raw_logits)
    groups = dataset.known_groups
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
        intervals=bootstrap_intervals(
            probabilities,
            label_ids,
            **answers,
            on_progress=_tell_of_resamples(listener, len(label_ids)),
        ),
        confidence=score_confidence(
            probabilities,
            label_ids,
            uncalibrated=uncalibrated,
            **answers,
        ),
        threshold=rules.threshold,
        num_truncated=encoded.num_truncated,
        max_length=classifier.rule.max_length,
        truncation=classifier.rule.truncation,
        dtype=classifier.precision.dtype_name,
        num_units=count_units(groups, len(label_ids)),
        skipped=skipped,
        probabilities=probabilities,
        uncalibrated=uncalibrated,
        label_ids=label_ids,
        predicted_ids=answers["predicted_ids"],
        dataset=dataset,
        num_tokens=encoded.full_lengths,
        is_truncated=encoded.is_truncated,
        slices=_cut_slices(dataset, encoded, answers["predicted_ids"] == label_ids, listener),
        findings=findings,
    )


def _tell_of_resamples(listener: Listener, num_rows: int) -> Callable[[int, int], None] | None:
    """Return what reports how far the intervals are, if that takes a while."""
    return functools.partial(listener.progress, "intervals") if num_rows >= _MANY_ROWS else None


def _score(
    classifier: TextClassifier, texts: Sequence[str], listener: Listener
) -> tuple[EncodedTexts, np.ndarray, np.ndarray | None]:
    """Return encoded texts, their logits (n, C), and those before calibration if known."""
    scaling, before = classifier.confidence.scaling, classifier.confidence.uncalibrated
    with contextlib.ExitStack() as stack:
        if before is not None:
            stack.enter_context(widened(classifier.model, before.name, before.weight, before.bias))
        encoded, outputs = classifier.encode_and_score(
            texts, on_progress=functools.partial(listener.progress, "scoring")
        )
    logits, further = np.hsplit(outputs, [len(classifier.label_names)])
    if before is not None:
        return encoded, logits, further
    if scaling is None or scaling.kind == "cubic":
        return encoded, logits, None
    return encoded, logits, scaling.undo(logits)


def _cut_slices(
    dataset: TextDataset, encoded: EncodedTexts, is_right: np.ndarray, listener: Listener
) -> SliceReport:
    further = {name: name_values(column) for name, column in dataset.slices.items()}
    values = list_slices(
        encoded.full_lengths,
        encoded.is_truncated,
        dataset.labels,
        groups=dataset.groups or None,
        further=further,
    )
    for name, column in further.items():
        first = next(by for by, value in values.items() if list(value) == column)
        if len(set(column)) == 1:
            listener.note(f"Column {name!r} has one value, so no slices are cut by it.")
        elif values[first] is not column:
            listener.note(
                f"Column {name!r} has the same values as slices by {first}, so it cuts no others."
            )
    return score_slices(is_right, values, groups=dataset.groups or None)
