"""Find labels that are probably wrong, by a run or by word-count models that saw other rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.config import check_flags, is_whole_number
from bertfit.data.checks import CheckedData, check_evaluation_data, check_training_data
from bertfit.data.dataset import Columns, TextDataset, as_columns
from bertfit.data.delimited import USUAL_FORM, CsvForm, open_csv_writer
from bertfit.data.duplicates import fingerprint_texts
from bertfit.errors import ConfigError, DataError, Fault
from bertfit.evaluation.folds import DEFAULT_FOLDS, predict_by_folds
from bertfit.evaluation.suspicious import rank_suspicious_labels
from bertfit.files import as_path, check_output, keep_beside, open_atomically
from bertfit.inference.predictor import TextClassifier
from bertfit.inference.scoring import softmax
from bertfit.labels import encode_labels
from bertfit.progress import Listener, as_listener
from bertfit.reporting.text import note_columns
from bertfit.workflow.learned import find_known_rows, note_unknown

if TYPE_CHECKING:
    from bertfit.config import OnBadRow

_MOST_LEARNED = 0.01
"""Share of the rows, in [0, 1], that a run may have been trained on and still judge them all."""
CSV_COLUMNS = ("line", "label", "suggested_label", "looks_wrong", "confidence", "margin", "text")


@dataclass(frozen=True, slots=True)
class Suspect:
    """A row whose label is suspicious."""

    line: int
    """1-based line of the source."""
    label: str
    suggested_label: str
    looks_wrong: bool
    """Whether confident learning counts the label as wrong; if not, another is more probable."""
    confidence: float
    """Probability of the suggested label, by a model that had not seen the row's label."""
    margin: float
    """Probability of the given label minus that of the best other one; low is suspicious."""
    text: str


@dataclass(frozen=True, slots=True)
class SuspectReport:
    """The suspects of a source, and how they were found."""

    source: str
    num_rows: int
    """Rows that could be judged."""
    suspects: tuple[Suspect, ...] = field(repr=False)
    """Rows whose labels look wrong, most suspicious first, then those only predicted otherwise."""
    num_wrong: int
    """Number of suspects whose labels look wrong; they come first."""
    num_expected: float | None
    """How many would look wrong if every label were right (`SuspiciousLabels.num_expected`); None
    with more than two classes."""
    judged_by: str
    """Where the probabilities came from, in words."""
    unjudged_labels: tuple[str, ...]
    """Labels of rows that could not be judged, because no row of another fold has them: one row, or
    rows of one text or group."""
    warning: str | None
    skipped: tuple[Fault, ...] = ()
    """The bad rows that were left out, if asked for."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "skipped": [str(fault) for fault in self.skipped]}


def find_suspects(
    data: Any,  # noqa: ANN401 (a path, a table or a list of dicts)
    *,
    run: str | Path | None = None,
    num_folds: int | None = None,
    folds_if_learned: bool = False,
    columns: Columns | None = None,
    on_bad_row: OnBadRow = "error",
    seed: int | None = None,
    device: str = "auto",
    listener: Listener | None = None,
) -> SuspectReport:
    """Rank the rows of labelled data by how suspicious their labels are.

    Args:
        data: Labelled rows.
        run: A run trained on other rows, whose probabilities judge the labels; None fits lexical
            models, each judging a fold of the rows that it has not seen.
        num_folds: Folds without a run; None means 5.
        folds_if_learned: If the run was trained on more than a hundredth of these rows, judge by
            folds instead; if False, the run judges them, with a warning.
        columns: Which columns hold what; rows of one group are in one fold (not with a run).
        on_bad_row: "skip" leaves bad rows out and lists them.
        seed: Seed of the folds; None means 0.
        device: Device of the run: auto, cpu, cuda, cuda:N or mps.
        listener: Receives the progress.

    Raises:
        ConfigError: Both a run and folds are given, or another argument is wrong.
        DataError: The rows have faults, or are too few for the folds.
        RunError: There is no such run, or it is damaged.
        ModelError: The model in it cannot be loaded or computed, or is not a classifier.
    """
    check_flags(folds_if_learned=folds_if_learned)
    group = None if folds_if_learned else as_columns(columns).group
    of_folds = {"num_folds": num_folds, "columns.group": group}
    _refuse_of_folds(run, of_folds if folds_if_learned else of_folds | {"seed": seed})
    if run is None and device != "auto":
        raise ConfigError(
            f"device: {device} is for a run that judges (--with), which was not given; models that "
            "count words need none"
        )
    seed = 0 if seed is None else seed
    if not is_whole_number(seed) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed: expected a whole number at least 0 and below 2**32, got {seed!r}")
    listener = as_listener(listener)
    if run is None:
        folds = DEFAULT_FOLDS if num_folds is None else num_folds
        return _prepare_folds(data, folds, columns, on_bad_row, seed, listener)()
    judge = prepare_judging(
        data,
        run,
        columns,
        on_bad_row,
        listener,
        folds_if_learned=folds_if_learned,
        seed=seed,
        device=device,
    )
    return judge()


def prepare_judging(
    data: Any,  # noqa: ANN401 (as in find_suspects)
    run: str | Path,
    columns: Columns | None,
    on_bad_row: OnBadRow,
    listener: Listener,
    *,
    folds_if_learned: bool,
    seed: int = 0,
    device: str = "auto",
) -> Callable[[], SuspectReport]:
    """Load a run and read the rows, and return the function that judges them.

    So that other long work can begin once it is known that this will not be refused. Arguments and
    errors are those of `find_suspects`; `data` may also be rows that were read.
    """
    classifier = TextClassifier.load(run, device=device, dtype=None, tell=listener.note)
    known = classifier.known_columns(columns)
    dataset, skipped = check_evaluation_data(
        data,
        known,
        classifier.label_names,
        on_bad_row,
        verb="judged",
        names_may_change=not classifier.record,
        on_progress=partial(listener.progress, "reading"),
    )
    learned, _ = find_known_rows(as_path(run), dataset)
    if folds_if_learned and learned is not None and learned.share > _MOST_LEARNED:
        listener.note(
            f"The run was trained {learned.told}, so it has learned their labels, including wrong "
            "ones. Word-count models, which see other rows, judge them instead."
        )
        return _prepare_folds(data, DEFAULT_FOLDS, known, on_bad_row, seed, listener)
    if learned is None:
        note_unknown(as_path(run), listener, of="these rows")
    note_columns({"rows": dataset.columns}, listener)
    told = None if learned is None else learned.told
    judge = partial(_judge_with_run, dataset, as_path(run), classifier, told, listener)
    return lambda: replace(judge(), skipped=skipped)


def _prepare_folds(
    data: Any,  # noqa: ANN401 (as in find_suspects)
    num_folds: int,
    columns: Columns | None,
    on_bad_row: OnBadRow,
    seed: int,
    listener: Listener,
) -> Callable[[], SuspectReport]:
    if not is_whole_number(num_folds) or num_folds < 2:
        raise ConfigError(f"num_folds: expected a whole number, at least 2, got {num_folds!r}")
    checked = check_training_data(
        data,
        columns=as_columns(columns),
        on_bad_row=on_bad_row,
        verb="judged",
        on_progress=partial(listener.progress, "reading"),
    )
    note_columns({"rows": checked.train.columns}, listener)
    return partial(_judge_by_folds, checked, num_folds, seed, listener)


def _refuse_of_folds(run: str | Path | None, given: Mapping[str, object]) -> None:
    """Refuse what only says how folds are cut, by the names of its arguments, if a run judges."""
    for name, value in given.items():
        if run is not None and value is not None:
            raise ConfigError(f"run and {name}: a run judges all rows at once; give one of them")


def write_suspects(
    path: Path, report: SuspectReport, *, overwrite: bool = False, form: CsvForm = USUAL_FORM
) -> None:
    """Write the suspects to a CSV file of a form for editing, completely or not at all.

    Raises:
        ConfigError: `path` does not end in .csv, is a folder, or exists without `overwrite`.
        OSError: The file cannot be written.
    """
    check_output(path, (".csv",), overwrite=overwrite)
    left: list[Path] = []
    is_whole = False

    def keep(part: Path) -> None:
        if is_whole:
            left.append(keep_beside(part, path))

    try:
        with open_atomically(path, on_failure=keep) as file:
            _write_rows(report.suspects, open_csv_writer(file, form))
            is_whole = True
    except OSError as error:  # all is written, but cannot take the place of an earlier file
        if left:
            error.add_note(f"The suspects are in {left[0]}.")
        raise


def _write_rows(
    suspects: Iterable[Suspect], write_fields: Callable[[Sequence[object]], object]
) -> None:
    write_fields(CSV_COLUMNS)
    for one in suspects:
        numbers = (f"{one.confidence:.4f}", f"{one.margin:.4f}")
        verdict = "yes" if one.looks_wrong else "no"
        labels = (one.label, one.suggested_label)
        write_fields([one.line, *labels, verdict, *numbers, one.text])


def _judge_with_run(
    dataset: TextDataset,
    run: Path,
    classifier: TextClassifier,
    learned: str | None,
    listener: Listener,
) -> SuspectReport:
    warning = None
    if learned is not None:
        warning = (
            f"the run was trained {learned}, so it has learned their labels, including wrong ones. "
            "Leave --with out, or give a run trained on other rows."
        )
        listener.note(f"WARNING: {warning}")
    _, logits = classifier.encode_and_score(
        dataset.texts, on_progress=partial(listener.progress, "scoring")
    )
    probabilities = softmax(logits)
    judged, names = np.ones(len(dataset), dtype=bool), classifier.label_names
    return _rank(dataset, names, probabilities, judged, judged_by=f"the run {run}", warning=warning)


def _judge_by_folds(
    checked: CheckedData, num_folds: int, seed: int, listener: Listener
) -> SuspectReport:
    dataset, names = checked.train, checked.label_names
    predicted = predict_by_folds(
        dataset.texts,
        encode_labels(dataset.labels, names),
        num_labels=len(names),
        # Equal texts count as copies however they are spaced and spelt, as in the checks.
        units=dataset.groups or fingerprint_texts(dataset.texts),
        units_are="groups" if dataset.groups else "different texts",
        num_folds=num_folds,
        seed=seed,
        on_progress=partial(listener.progress, "folds"),
    )
    judged_by = f"TF-IDF + logistic regression, {num_folds} folds"
    found = _rank(
        dataset,
        names,
        predicted.probabilities,
        predicted.is_judged,
        judged_by=judged_by,
        warning=None,
    )
    return replace(found, skipped=checked.skipped)


def _rank(
    dataset: TextDataset,
    label_names: tuple[str, ...],
    probabilities: np.ndarray,
    is_judged: np.ndarray,
    *,
    judged_by: str,
    warning: str | None,
) -> SuspectReport:
    (judged,) = np.nonzero(is_judged)
    if not len(judged):
        raise DataError(
            f"no row of {dataset.source} can be judged: all rows of a label are in one fold",
            hint="Rows of one text or group are in one fold: a label needs at least two of these.",
        )
    label_ids = np.asarray(encode_labels(dataset.labels, label_names), dtype=np.int64)
    ranked = rank_suspicious_labels(probabilities[judged], label_ids[judged])
    # After the labels that look wrong, rows are sorted by margin: those predicted otherwise first.
    num_listed = int((ranked.suggested_ids != label_ids[judged[ranked.rows]]).sum())
    suspects = tuple(
        Suspect(
            line=int(dataset.lines[judged[row]]),
            label=dataset.labels[judged[row]],
            suggested_label=label_names[int(ranked.suggested_ids[place])],
            looks_wrong=place < ranked.num_issues,
            confidence=float(ranked.confidences[place]),
            margin=float(ranked.margins[place]),
            text=dataset.texts[judged[row]],
        )
        for place, row in enumerate(ranked.rows[:num_listed].tolist())
    )
    unjudged = sorted({dataset.labels[row] for row in np.flatnonzero(~is_judged).tolist()})
    return SuspectReport(
        source=dataset.source,
        num_rows=len(judged),
        suspects=suspects,
        num_wrong=ranked.num_issues,
        num_expected=ranked.num_expected,
        judged_by=judged_by,
        unjudged_labels=tuple(unjudged),
        warning=warning,
    )
