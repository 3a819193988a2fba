"""Compare two runs on the same rows: the test rows that both kept, or rows that are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.data.dataset import Columns, as_columns
from bertfit.errors import ConfigError, Fault
from bertfit.evaluation.comparison import PairedComparison, compare_predictions
from bertfit.evaluation.verdicts import describe_difference
from bertfit.files import as_path
from bertfit.garbage import pause_collection
from bertfit.labels import respell
from bertfit.progress import Listener, as_listener
from bertfit.reporting.text import format_percent
from bertfit.run_directory import read_record
from bertfit.workflow.learned import describe_leaks
from bertfit.workflow.sides import (
    Side,
    align,
    check_labels,
    check_rows,
    list_labels,
    read_kept_sides,
    score_side,
)

if TYPE_CHECKING:
    from bertfit.config import Dtype, OnBadRow
    from bertfit.workflow.rows_to_score import RowsToScore


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
    """On all of them."""
    verdict: str
    """Whether the difference could be chance, on rows that are new to both runs if there are others
    too; and, in further sentences, which runs answer by a threshold, and which were trained on some
    of the rows."""
    disagreements: tuple[Disagreement, ...] = field(repr=False)
    """All rows with different predictions, the most confident ones first."""
    learned: tuple[str | None, str | None] = (None, None)
    """On which of the rows each run was trained, in words; None if on none, as far as known."""
    without_known: PairedComparison | None = None
    """On the rows that are new to both runs; None if all are, or none, as far as known. Known are
    rows on which a run was trained or by which it was chosen, and leaked rows of its test set."""
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
            "without_known": None if (new := self.without_known) is None else new.to_json(),
            "skipped": [str(fault) for fault in self.skipped],
            "disagreements": [asdict(one) for one in self.disagreements],
        }


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

    check_labels(*map(list_labels, map(read_record, runs)), runs=runs)
    told = _TellingOnce(listener)
    scored = []
    for run in runs:
        classifier = TextClassifier.load(run, device=device, dtype=dtype, tell=told.note)
        known = classifier.known_columns(columns)
        rows = read_rows(run, classifier, data, columns=known, on_bad_row=on_bad_row, listener=told)
        scored.append((rows, score_side(run, classifier, rows, told)))
        del classifier  # before the next one is loaded
    return _compare_scored(scored[0], scored[1], runs=runs)


def _compare_kept(runs: tuple[Path, Path]) -> RunComparison:
    """Compare two runs by the test predictions that they kept."""
    records = [read_record(run) for run in runs]
    sides = read_kept_sides(runs, records)
    what = f"{_count_rows(len(sides[0].kept), 'test ')} that both runs kept"
    found = _compare(what, sides, runs=runs)
    leaks = describe_leaks(list(zip(runs, records, strict=True)))
    return found if leaks is None else replace(found, verdict=f"{found.verdict} {leaks}")


def _compare_scored(
    a: tuple[RowsToScore, Side], b: tuple[RowsToScore, Side], *, runs: tuple[Path, Path]
) -> RunComparison:
    """Compare two runs by their predictions for given rows."""
    (rows, side_a), (rows_b, side_b) = a, b
    spellings = respell(side_b.label_names, side_a.label_names)
    check_rows(rows.dataset, rows_b.dataset, spellings=spellings, runs=runs)
    what = f"{_count_rows(len(rows.dataset))} of {rows.dataset.source}"
    found = _compare(what, [side_a, side_b], runs=runs)
    learned = (rows.learned and rows.learned.told, rows_b.learned and rows_b.learned.told)
    verdict = found.verdict + _tell_learned(learned, runs)
    sides = zip(runs, (rows, rows_b), strict=True)
    known = [str(run) for run, of in sides if of.knows_more]
    if known:
        some, were = "some others" if any(learned) else "some", "was" if len(known) == 1 else "were"
        verdict += (
            f" {' and '.join(known)} knew {some} of these rows, or {were} chosen by them: the "
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
            f"{', '.join(useless)}: only for rows to score, which were not given; what both runs "
            "kept of their test rows is compared as it is",
            hint="Give the rows with --data, or leave these options out.",
        )


def _compare(rows: str, sides: Sequence[Side], *, runs: tuple[Path, Path]) -> RunComparison:
    """Compare two sides; `rows` says which rows were compared."""
    a, b = sides
    spellings = respell(b.label_names, a.label_names)
    b = align(replace(b, label_names=tuple(spellings.values())), a.label_names)
    comparison = _compare_rows(a, b, slice(None))
    is_new = np.logical_not(_find_known(a, b))
    without_known = _compare_rows(a, b, is_new) if is_new.any() and not is_new.all() else None
    name_a, name_b = (str(run) for run in runs)
    verdict = describe_difference(without_known or comparison, name_a, name_b)
    if without_known is not None:
        verdict += _tell_new((a, b), is_new, runs)
    elif not is_new.any():
        verdict += (
            " Each of these rows was known to one of them at least: with new text it may be "
            "otherwise."
        )
    verdict += _tell_thresholds(a, b, runs)
    if runs[0].samefile(runs[1]):
        verdict += " Both are the same run."
    return RunComparison(
        name_a=name_a,
        name_b=name_b,
        rows=rows,
        comparison=comparison,
        without_known=without_known,
        verdict=verdict,
        disagreements=tuple(_list_disagreements(a, b)),
    )


def _compare_rows(a: Side, b: Side, which: slice | np.ndarray) -> PairedComparison:
    groups = a.kept.known_groups if a.kept.known_groups is not None else b.kept.known_groups
    return compare_predictions(
        a.kept.probabilities[which],
        b.kept.probabilities[which],
        a.kept.label_ids[which],
        predicted_ids=(a.predicted_ids[which], b.predicted_ids[which]),
        groups=None if groups is None else groups[which],
    )


def _find_known(a: Side, b: Side) -> np.ndarray:
    """Return (n,) whether any of both runs knew a row; none if either does not tell."""
    if a.kept.is_known is None or b.kept.is_known is None:
        return np.zeros(len(a.kept), dtype=bool)
    known: np.ndarray = a.kept.is_known | b.kept.is_known
    return known


def _tell_new(sides: tuple[Side, Side], is_new: np.ndarray, runs: tuple[Path, Path]) -> str:
    """Return of which rows the verdict is: learned rows would tell who learned them."""
    shares = [
        format_percent(float((side.predicted_ids == side.kept.label_ids)[is_new].mean()))
        for side in sides
    ]
    told = " and ".join(f"{run} {share}" for run, share in zip(runs, shares, strict=True))
    count = int(is_new.sum())
    rows = "the only row" if count == 1 else f"the {count:,} rows"
    return f" That is on {rows}, of {len(is_new):,}, that neither knew (accuracy: {told})."


def _tell_learned(learned: tuple[str | None, str | None], runs: tuple[Path, Path]) -> str:
    """Return which runs were trained on some of the rows."""
    told = [f"{run} was trained {of}" for run, of in zip(runs, learned, strict=True) if of]
    return f" {' and '.join(told)}: scores of learned rows are too good." if told else ""


def _tell_thresholds(a: Side, b: Side, runs: tuple[Path, Path]) -> str:
    """Return which runs answer by a threshold, which may be chosen for more than accuracy."""
    sides = zip(runs, (a, b), strict=True)
    names = [str(run) for run, side in sides if side.threshold is not None]
    if not names:
        return ""
    told = " and ".join(names)
    how = "answers by its threshold" if len(names) == 1 else "answer by their thresholds"
    return f" {told} {how} here, which may cost accuracy."


def _list_disagreements(a: Side, b: Side) -> list[Disagreement]:
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
