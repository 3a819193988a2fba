"""Checks labelled rows before any training: what is wrong with them, test leaks first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.assets import EMBEDDED
from bertfit.config import TextCleaning, check_flags, resolve_settings
from bertfit.data.checks import CheckedData, check_training_data, describe
from bertfit.data.dataset import Columns, TextDataset, as_columns
from bertfit.data.findings import Finding, order_findings
from bertfit.data.gate import (
    NO_TEST_ROWS,
    GateReport,
    choose_cleaning_of,
    inspect_rows,
    refuse_leaks,
    summarize_leaks,
)
from bertfit.data.token_faults import (
    TokenCounts,
    choose_rows,
    count_tokens,
    describe_token_lengths,
    describe_tokens,
    shows_more,
    tell_known_signs,
)
from bertfit.garbage import pause_collection
from bertfit.modeling.classifier import load_architecture
from bertfit.modeling.input_limits import check_length, find_length_limit
from bertfit.modeling.tokenizer_files import fast_tokenizer
from bertfit.progress import Listener, as_listener
from bertfit.reporting.text import note_columns
from bertfit.workflow.base_model import load_base_tokenizer
from bertfit.workflow.learned import add_known_to_base

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bertfit.config import OnBadRow
    from bertfit.workflow.suspecting import SuspectReport


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was found in the data of a training."""

    report: GateReport
    """Findings by harm, including those of the tokenizer."""
    parts: dict[str, dict[str, Any]]
    """Statistics of each part: rows, labels, lengths in words and in tokens."""
    model: str
    """The model whose tokenizer counted the tokens."""
    suspects: SuspectReport | None = None
    """Labels of the training rows that look wrong; None if no run was given."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings by harm, leaks into the test set first."""
        return self.report.findings

    @property
    def summary(self) -> str:
        """One line: whether the test set leaks."""
        return summarize_leaks(self.report)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; whether the test set leaks comes first."""
        return {
            "summary": self.summary,
            "num_leaked_test_rows": len(self.report.leaked_test_rows),
            "num_grouped_test_rows": len(self.report.grouped_test_rows),
            "findings": [finding.to_json() for finding in self.findings],
            "parts": self.parts,
            "model": self.model,
            "suspects": None if self.suspects is None else self.suspects.to_json(),
        }


def check(
    data: Any,  # noqa: ANN401 (a path, a table or a list of dicts)
    *,
    validation: Any = None,  # noqa: ANN401 (as data)
    test: Any = None,  # noqa: ANN401 (as data)
    model: str | Path = EMBEDDED,
    max_length: int | None = None,
    columns: Columns | None = None,
    on_bad_row: OnBadRow = "error",
    strict: bool = False,
    run: str | Path | None = None,
    listener: Listener | None = None,
) -> CheckResult:
    """Check labelled rows for everything that spoils a training or its score.

    Args:
        data: Labelled rows to train on; see `train`.
        validation: Labelled rows that will choose the epoch.
        test: Labelled rows that will be scored.
        model: Model whose tokenizer counts the tokens: hub name, local folder, or "embedded".
        max_length: A token limit; the share of longer texts is then reported too.
        columns: Which columns hold what; the usual names are found.
        on_bad_row: "skip" leaves out rows that cannot be used and reports them as a finding.
        strict: Raise if the test set leaks.
        run: A run that judges the labels of `data`; if it was trained on these rows, lexical
            models judge them instead, fold by fold.
        listener: Receives the progress.

    Raises:
        DataError: Rows cannot be used at all; all are listed.
        LeakError: `strict` is on, and texts or groups of the test set occur in the other parts.
        ModelError: The model cannot be loaded, or reads fewer tokens than `max_length`.
        ConfigError: An argument is out of range.
        RunError: There is no such run.
    """
    listener = as_listener(listener)
    check_flags(strict=strict)
    options = {"model": model, "max_length": max_length, "on_bad_row": on_bad_row}
    settings = resolve_settings(options, options_origin="argument").settings  # checks the ranges
    model, max_length = settings.model, settings.max_length
    checked = _read(data, validation, test, columns, on_bad_row, listener)
    # Both before the long work: what is wrong with a model or a run is said at once.
    tokenizer = _load_tokenizer(model, max_length)
    judge = None
    if run is not None:
        with pause_collection():  # imports all that models need
            from bertfit.workflow.suspecting import prepare_judging

        rows = dataclasses.replace(checked.train, columns={})  # which are told below
        judge = prepare_judging(rows, run, columns, on_bad_row, listener, folds_if_learned=True)
    report = _inspect_rows(checked, model, listener)
    if strict:
        _refuse_leaks(checked, report, listener)
    cleaning, _ = choose_cleaning_of(report)
    count = partial(_inspect_tokens, tokenizer, cleaning, max_length, listener)
    parts, of_tokens = _inspect_parts(checked, count)
    findings = order_findings([*report.findings, *of_tokens])
    report = dataclasses.replace(report, findings=findings)
    return CheckResult(report, parts, model, None if judge is None else judge())


def _refuse_leaks(checked: CheckedData, report: GateReport, listener: Listener) -> None:
    if checked.test is None:
        listener.note(f"strict changes nothing: {NO_TEST_ROWS}.")
    refuse_leaks(report)


def _read(
    data: Any,  # noqa: ANN401 (as in check)
    validation: Any,  # noqa: ANN401 (as in check)
    test: Any,  # noqa: ANN401 (as in check)
    columns: Columns | None,
    on_bad_row: OnBadRow,
    listener: Listener,
) -> CheckedData:
    return check_training_data(
        data,
        validation=validation,
        test=test,
        columns=as_columns(columns),
        on_bad_row=on_bad_row,
        verb="checked further",
        on_progress=partial(listener.progress, "reading"),
    )


def _inspect_rows(checked: CheckedData, model: str, listener: Listener) -> GateReport:
    """Note which columns were read, and return what is wrong with the rows."""
    note_columns(checked.columns, listener)
    report = inspect_rows(
        checked.train,
        validation=checked.validation,
        test=checked.test,
        label_names=checked.label_names,
        skipped=checked.skipped,
        on_progress=listener.progress,
    )
    parts = {"validation": checked.validation, "test": checked.test}
    return add_known_to_base(report, model, parts, listener=listener)


def _inspect_parts(
    checked: CheckedData,
    inspect_tokens: Callable[[str, TextDataset], tuple[dict[str, Any], list[Finding]]],
) -> tuple[dict[str, dict[str, Any]], list[Finding]]:
    """Return statistics of each part, and findings about its tokens."""
    of_tokens: list[Finding] = []
    parts: dict[str, dict[str, Any]] = {}
    for name, rows in _name_parts(checked).items():
        described, found = inspect_tokens(name, rows)
        parts[name] = {"source": rows.source, **describe(rows, checked.label_names), **described}
        of_tokens += found
    return parts, of_tokens


def _load_tokenizer(model: str, max_length: int | None) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer, after checking that the model reads `max_length` tokens."""
    tokenizer = load_base_tokenizer(model)
    if max_length is not None:
        check_length(max_length, find_length_limit(load_architecture(model), tokenizer), model)
    return tokenizer


def _inspect_tokens(
    tokenizer: PreTrainedTokenizerBase,
    cleaning: TextCleaning,
    max_length: int | None,
    listener: Listener,
    name: str,
    rows: TextDataset,
) -> tuple[dict[str, Any], list[Finding]]:
    """Tokenise a part (or a sample and suspect rows of a large one); return what was found.

    Texts are cleaned as for a training with these rows, so that its lengths are told.
    """
    sample, suspects = choose_rows(rows.texts)
    fast = fast_tokenizer(tokenizer)

    def count(chosen: np.ndarray) -> TokenCounts:
        return count_tokens(
            rows.texts,
            fast,
            tokenizer.unk_token_id,
            rows=chosen,
            cleaning=cleaning,
            max_length=max_length,
            on_progress=partial(listener.progress, f"tokens of {name}"),
        )

    counts = count(np.union1d(sample, suspects))
    if len(counts.rows) < len(rows) and shows_more(counts, suspects):
        counts = count(np.arange(len(rows)))  # a sample can show such texts, but not count them
    is_sample = np.isin(counts.rows, sample)
    of_sample = counts.full_lengths[is_sample]
    num_estimated = int(counts.is_estimated[is_sample].sum())
    lengths = describe_token_lengths(of_sample, max_length, num_estimated=num_estimated)
    described = {"tokens": {**lengths, "text_cleaning": cleaning}}
    is_known = tell_known_signs(fast, tokenizer.unk_token_id)
    found = describe_tokens(name, rows, counts, is_sample=is_sample, is_known=is_known)
    return described, list(found)


def _name_parts(checked: CheckedData) -> dict[str, TextDataset]:
    parts = {"train": checked.train, "validation": checked.validation, "test": checked.test}
    return {name: rows for name, rows in parts.items() if rows is not None}
