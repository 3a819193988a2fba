"""Texts that the model cannot read, and scores without leaked rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertfit.data.dataset import TextDataset
from bertfit.data.encoding import EncodedTexts, find_special_tokens
from bertfit.data.findings import Finding
from bertfit.data.token_faults import count_encoded, describe_tokens
from bertfit.evaluation.interval import Interval
from bertfit.evaluation.intervals import bootstrap_intervals
from bertfit.evaluation.metrics import score
from bertfit.modeling.classifier import LoadedClassifier
from bertfit.modeling.tokenizer_files import fast_tokenizer
from bertfit.progress import Listener
from bertfit.reporting.findings import brief_lines
from bertfit.workflow.evaluating import Evaluation


@dataclass(frozen=True, slots=True)
class LeakFreeScores:
    """The test score on the rows that did not leak."""

    num_leaked: int
    """Test rows left out: their text (or nearly) or their group also occurs in the training or
    validation rows."""
    num_rows: int
    """Remaining test rows."""
    accuracy: float | None
    """None if no row remains."""
    macro_f1: float | None
    intervals: dict[str, Interval]
    """95 % bootstrap intervals of both scores."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def find_token_faults(
    parts: Sequence[tuple[str, TextDataset, EncodedTexts]],
    loaded: LoadedClassifier,
    listener: Listener,
) -> tuple[Finding, ...]:
    """Note and return findings on texts that this model cannot read, using the encoded texts."""
    num_special = sum(map(len, find_special_tokens(fast_tokenizer(loaded.tokenizer))))
    findings = [
        finding
        for name, rows, encoded in parts
        for finding in describe_tokens(
            name, rows, count_encoded(encoded, loaded.tokenizer.unk_token_id, num_special)
        )
    ]
    for line in brief_lines(findings, most=len(findings)):
        listener.note(line)
    return tuple(findings)


def score_without(evaluation: Evaluation, leaked: Sequence[int]) -> LeakFreeScores | None:
    """Score the test rows that are not among `leaked`; return None if that is empty."""
    if not leaked:
        return None
    kept = np.setdiff1d(np.arange(len(evaluation.label_ids)), leaked)
    if not len(kept):
        return LeakFreeScores(len(leaked), 0, None, None, {})
    probabilities, label_ids = evaluation.probabilities[kept], evaluation.label_ids[kept]
    predicted_ids = evaluation.predicted_ids[kept]
    scores = score(
        probabilities, label_ids, evaluation.scores.label_names, predicted_ids=predicted_ids
    )
    groups = evaluation.dataset.groups
    intervals = bootstrap_intervals(
        probabilities,
        label_ids,
        predicted_ids=predicted_ids,
        groups=np.asarray(groups, dtype=object)[kept] if groups else None,
        with_auroc=False,
    )
    return LeakFreeScores(
        num_leaked=len(leaked),
        num_rows=len(kept),
        accuracy=scores.accuracy,
        macro_f1=scores.macro_f1,
        intervals={name: intervals[name] for name in ("accuracy", "macro_f1")},
    )
