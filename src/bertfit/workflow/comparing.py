"""Compare two runs on the same rows: the test rows that both kept, or rows that are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.data.dataset import Columns, TextDataset, as_columns
from bertfit.errors import ConfigError, Fault, RunError
from bertfit.evaluation.comparison import (
    PairedComparison,
    compare_predictions,
    describe_difference,
)
from bertfit.evaluation.predictions import TEST_NAME, KeptPredictions, read_predictions
from bertfit.evaluation.thresholds import decide
from bertfit.files import as_path
from bertfit.garbage import pause_collection
from bertfit.inference.confidence import read_confidence
from bertfit.labels import encode_labels, respell
from bertfit.progress import Listener, as_listener
from bertfit.reporting.text import shorten
from bertfit.run_directory import read_record
from bertfit.wording import format_count, list_some
from bertfit.workflow.learned import describe_leaks

if TYPE_CHECKING:
    from bertfit.config import Dtype, OnBadRow
    from bertfit.inference.predictor import TextClassifier
    from bertfit.workflow.rows_to_score import RowsToScore

_LABEL_WIDTH = 80
"""Columns of a label that a message shows: of both ends, where labels may differ."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A row that two models classify differently."""

    line: int
    label: str
    predicted_a: str
    predicted_b: str
    confidence_a: float
    confidence_b: float
    text: str | None
    """None if the rows were kept without their texts."""


@dataclass(frozen=True, slots=True)
class RunComparison:
    """The result of comparing two runs."""

    name_a: str
    name_b: str
    rows: str
    """Which rows were compared, in words."""
    comparison: PairedComparison
    verdict: str
    """Whether the difference could be chance; and, in further sentences, which runs answer by a
    threshold, and which were trained on some of the rows."""
    disagreements: tuple[Disagreement, ...] = field(repr=False)
    """All rows with different predictions, the most confident ones first."""
    learned: tuple[str | None, str | None] = (None, None)
    """On which of the rows each run was trained, in words; None if on none, as far as known."""
    skipped: tuple[Fault, ...] = ()
    """The bad rows that were left out, if asked for."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "a": self.name_a,
            "b": self.name_b,
            "rows": self.rows,
            "verdict": self.verdict,
            **self.comparison.to_json(),
            "learned": list(self.learned),
            "skipped": [str(fault) for fault in self.skipped],
            "disagreements": [asdict(one) for one in self.disagreements],
        }


@dataclass(frozen=True, slots=True)
class _Side:
    """One run's predictions for the rows."""

    label_names: tuple[str, ...]
    kept: KeptPredictions
    predicted_ids: np.ndarray
    threshold: float | None
    """By which it answers; None if it answers the most probable class."""
    texts: Sequence[str] | None


class _TellingOnce:
    """Passes on each note once: that of the columns, for example, is the same for both runs."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._told: set[str] = set()
        self.progress = listener.progress

    def note(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._listener.note(text)


def compare(
    run_a: str | Path,
    run_b: str | Path,
    *,
    data: Any = None,  # noqa: ANN401 (a path, a table or a list of dicts)
    columns: Columns | None = None,
    on_bad_row: OnBadRow = "error",
    device: str = "auto",
    dtype: Dtype | None = None,
    listener: Listener | None = None,
) -> RunComparison:
    """Compare two runs on the same rows, and say whether the difference could be chance.

    Args:
        run_a: Folder of a run.
        run_b: Folder of another run with the same labels.
        data: Labelled rows to score both on; None uses the test predictions that the runs kept,
            which must be of the same rows.
        columns: Which columns of `data` hold what.
        on_bad_row: "skip" leaves bad rows of `data` out and lists them.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: Dtype of the computation; None uses that of each training, if it is fast here.
        listener: Receives the progress.

    Raises:
        ConfigError: An argument is wrong: there is no such device, for example.
        RunError: A run is missing or damaged, has no test predictions or those of other rows, or
            the labels differ; or the runs were trained on other columns, which give other rows.
        ModelError: A model cannot be loaded or computed.
        DataError: The rows have faults, or a label that a model does not know.
    """
    runs = (as_path(run_a, "run_a"), as_path(run_b, "run_b"))
    listener = as_listener(listener)
    if data is None:
        _refuse_options(as_columns(columns), on_bad_row, device, dtype)
        return _compare_kept(runs)
    with pause_collection():  # imports torch, which kept predictions do not need
        from bertfit.inference.predictor import TextClassifier
        from bertfit.workflow.rows_to_score import read_rows

    _check_labels(*map(_list_labels, map(read_record, runs)), runs=runs)
    told = _TellingOnce(listener)
    scored = []
    for run in runs:
        classifier = TextClassifier.load(run, device=device, dtype=dtype, tell=told.note)
        known = classifier.known_columns(columns)
        rows = read_rows(run, classifier, data, columns=known, on_bad_row=on_bad_row, listener=told)
        scored.append((rows, _score_side(classifier, rows.dataset, told)))
        del classifier  # before the next one is loaded
    return _compare_scored(scored[0], scored[1], runs=runs)


def _compare_kept(runs: tuple[Path, Path]) -> RunComparison:
    """Compare two runs by the test predictions that they kept."""
    records = [read_record(run) for run in runs]
    rows, sides = _read_kept(runs, records)
    found = _compare(rows, sides, runs=runs)
    leaks = describe_leaks(list(zip(runs, records, strict=True)))
    return found if leaks is None else replace(found, verdict=f"{found.verdict} {leaks}")


def _compare_scored(
    a: tuple[RowsToScore, _Side], b: tuple[RowsToScore, _Side], *, runs: tuple[Path, Path]
) -> RunComparison:
    """Compare two runs by their predictions for given rows."""
    (rows, side_a), (rows_b, side_b) = a, b
    spellings = respell(side_b.label_names, side_a.label_names)
    _check_rows(rows.dataset, rows_b.dataset, spellings=spellings, runs=runs)
    what = f"{_count_rows(len(rows.dataset))} of {rows.dataset.source}"
    found = _compare(what, [side_a, side_b], runs=runs)
    learned = (rows.learned and rows.learned.told, rows_b.learned and rows_b.learned.told)
    verdict = found.verdict + _tell_learned(learned, runs)
    sides = zip(runs, (rows, rows_b), strict=True)
    known = [str(run) for run, of in sides if of.knows_more]
    if known:
        other, were = " other" if any(learned) else "", "was" if len(known) == 1 else "were"
        verdict += (
            f" {' and '.join(known)} knew some{other} of these rows, or {were} chosen by them: the "
            "scores of such rows are too good. bertfit evaluate says more."
        )
    return replace(found, verdict=verdict, learned=learned, skipped=rows.skipped)


def _count_rows(count: int, kind: str = "") -> str:
    return f"the only {kind}row" if count == 1 else f"the {count:,} {kind}rows"


def _refuse_options(
    columns: Columns, on_bad_row: OnBadRow, device: str, dtype: Dtype | None
) -> None:
    """Refuse what only says how given rows are read and scored."""
    given = {
        "text column": columns.text is not None,
        "label column": columns.label is not None,
        "group column": columns.group is not None,
        "slices": bool(columns.slices),
        "kept columns": bool(columns.kept),
        "encoding": columns.encoding != "utf-8",
        "on_bad_row": on_bad_row != "error",
        "device": device != "auto",
        "dtype": dtype is not None,
    }
    useless = [name for name, is_given in given.items() if is_given]
    if useless:
        raise ConfigError(
            f"{', '.join(useless)}: this is for rows to score, which were not given; what both "
            "runs kept of their test rows is compared as it is",
            hint="Give the rows with --data, or leave these options out.",
        )


def _score_side(classifier: TextClassifier, dataset: TextDataset, listener: Listener) -> _Side:
    """Return a run's predictions, and nothing else of what `evaluate` finds out."""
    from bertfit.inference.scoring import softmax

    encoded, logits = classifier.encode_and_score(
        dataset.texts, on_progress=lambda done, total: listener.progress("scoring", done, total)
    )
    probabilities, names = softmax(logits), classifier.label_names
    kept = KeptPredictions(
        lines=dataset.lines,
        groups=dataset.groups,
        label_ids=np.asarray(encode_labels(dataset.labels, names)),
        probabilities=probabilities,
        num_tokens=encoded.full_lengths,
        is_truncated=encoded.is_truncated,
    )
    threshold = classifier.confidence.threshold
    return _Side(names, kept, decide(probabilities, threshold), threshold, dataset.texts)


def _read_kept(
    runs: tuple[Path, Path], records: Sequence[Mapping[str, Any]]
) -> tuple[str, list[_Side]]:
    """Return a description of the rows, and each run's kept test predictions."""
    _check_labels(*map(_list_labels, records), runs=runs)
    tests = [record.get("data", {}).get("test") or {} for record in records]
    sides = []
    for run, record, test in zip(runs, records, tests, strict=True):
        names = _list_labels(record)
        kept = read_predictions(run / TEST_NAME, names, num_rows=test.get("num_rows"))
        threshold = read_confidence(record, num_labels=len(names), run=run).threshold
        answers = decide(kept.probabilities, threshold)
        sides.append(_Side(names, kept, answers, threshold, None))
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
    return f"{_count_rows(len(sides[0].kept), 'test ')} that both runs kept", sides


def _list_labels(record: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(record.get("label_names", ()))


def _check_labels(
    names_a: tuple[str, ...], names_b: tuple[str, ...], *, runs: tuple[Path, Path]
) -> None:
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


def _check_rows(
    a: TextDataset, b: TextDataset, *, spellings: Mapping[str, str], runs: tuple[Path, Path]
) -> None:
    """Check that both runs read the same rows and labels: each reads its own training's columns.

    `spellings` has how run A spells the labels of run B.
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


def _align(side: _Side, label_names: tuple[str, ...]) -> _Side:
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


def _compare(rows: str, sides: Sequence[_Side], *, runs: tuple[Path, Path]) -> RunComparison:
    """Compare two sides; `rows` says which rows were compared."""
    a, b = sides
    spellings = respell(b.label_names, a.label_names)
    b = _align(replace(b, label_names=tuple(spellings.values())), a.label_names)
    groups = a.kept.known_groups if a.kept.known_groups is not None else b.kept.known_groups
    comparison = compare_predictions(
        a.kept.probabilities,
        b.kept.probabilities,
        a.kept.label_ids,
        predicted_ids=(a.predicted_ids, b.predicted_ids),
        groups=groups,
    )
    name_a, name_b = (str(run) for run in runs)
    verdict = describe_difference(comparison, name_a, name_b) + _tell_thresholds(a, b, runs)
    if runs[0].samefile(runs[1]):
        verdict += " They are the same run."
    return RunComparison(
        name_a=name_a,
        name_b=name_b,
        rows=rows,
        comparison=comparison,
        verdict=verdict,
        disagreements=tuple(_list_disagreements(a, b)),
    )


def _tell_learned(learned: tuple[str | None, str | None], runs: tuple[Path, Path]) -> str:
    """Return which runs were trained on some of the rows."""
    told = [f"{run} was trained {of}" for run, of in zip(runs, learned, strict=True) if of]
    return f" {' and '.join(told)}: scores of learned rows are too good." if told else ""


def _tell_thresholds(a: _Side, b: _Side, runs: tuple[Path, Path]) -> str:
    """Return which runs answer by a threshold, which may be chosen for more than accuracy."""
    sides = zip(runs, (a, b), strict=True)
    names = [str(run) for run, side in sides if side.threshold is not None]
    if not names:
        return ""
    told = " and ".join(names)
    how = "answers by its threshold" if len(names) == 1 else "answer by their thresholds"
    return f" {told} {how} here, which may cost accuracy."


def _list_disagreements(a: _Side, b: _Side) -> list[Disagreement]:
    """Return the rows with different predictions, those where both models are surest first."""
    (rows,) = np.nonzero(a.predicted_ids != b.predicted_ids)
    sure_a, sure_b = (side.kept.probabilities[rows, side.predicted_ids[rows]] for side in (a, b))
    names, lines, texts = a.label_names, a.kept.lines, a.texts
    return [
        Disagreement(
            line=int(lines[rows[at]]),
            label=names[a.kept.label_ids[rows[at]]],
            predicted_a=names[a.predicted_ids[rows[at]]],
            predicted_b=names[b.predicted_ids[rows[at]]],
            confidence_a=float(sure_a[at]),
            confidence_b=float(sure_b[at]),
            text=None if texts is None else texts[rows[at]],
        )
        for at in np.argsort(-np.minimum(sure_a, sure_b), kind="stable")
    ]
