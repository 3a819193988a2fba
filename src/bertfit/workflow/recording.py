"""What a training writes besides the weights: bertfit.json, history, metrics and a log."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertfit.config import ResolvedSettings, TrainSettings
from bertfit.data.checks import describe
from bertfit.data.findings import Finding, order_findings
from bertfit.environment import describe_environment
from bertfit.evaluation.baseline import BaselineResults
from bertfit.evaluation.comparison import Comparison
from bertfit.evaluation.predictions import KeptPredictions, write_predictions
from bertfit.files import write_json
from bertfit.modeling.soundness import reads_padding
from bertfit.run_directory import Staging
from bertfit.run_files import BASELINES_NAME, HISTORY_NAME, SCORES_NAME, TEST_NAME, VALIDATION_NAME
from bertfit.training.outcome import TrainingOutcome
from bertfit.workflow.evaluating import Evaluation
from bertfit.workflow.leak_free import LeakFreeScores
from bertfit.workflow.learned import write_digests
from bertfit.workflow.log import LogKeeper, write_log
from bertfit.workflow.preparing import PreparedModel
from bertfit.workflow.rows import PreparedRows
from bertfit.workflow.speeding import MeasuredSpeed


@dataclass(frozen=True, slots=True, eq=False)
class ScoredTest:
    """The model and the baseline on the test rows."""

    evaluation: Evaluation
    comparison: Comparison | None
    baseline: dict[str, Any] | None
    """The baseline's scores, if one was fitted."""
    without_leaks: LeakFreeScores | None = None
    """The model on the test rows whose text did not leak; None if no text leaked."""
    without_groups: LeakFreeScores | None = None
    """The model on the test rows with neither text nor group leaked; None if no group leaked."""
    comparison_without_leaks: Comparison | None = None
    """The comparison on these rows; None if nothing leaked, or everything."""


def make_record(
    resolved: ResolvedSettings,
    rows: PreparedRows,
    *,
    model: PreparedModel,
    speed: MeasuredSpeed,
    outcome: TrainingOutcome,
    test: ScoredTest | None,
    log: LogKeeper,
) -> dict[str, Any]:
    """Return the content of bertfit.json for a training."""
    precision = model.classifier.precision
    return {
        "label_names": list(rows.label_names),
        "encoding": model.classifier.encoding_record(),
        "settings": resolved.to_json(),
        "training": {
            "best_epoch": outcome.best_epoch + 1,
            "selection_metric": outcome.selection_metric,
            "reason": outcome.reason,
            "interrupted": outcome.interrupted,
            "unfinished_epoch": outcome.unfinished and list(outcome.unfinished),
            "collapsed_to": outcome.collapsed_to,
            "num_epochs": outcome.history.num_epochs,
            "num_steps": outcome.num_steps,
            "train_seconds": round(outcome.train_seconds, 1),
            "total_seconds": log.count_seconds(),
            **speed.to_json(),
            "recording": str(outcome.recording),
            "recording_seconds": round(outcome.recording_seconds, 1),
            "resumed_after": list(outcome.resumed_after),
            "dtype": precision.dtype_name,
            "device": precision.device_name,
            "reads_padding": reads_padding(model.classifier.model),
            "length_limit": model.length_limit,
        },
        "data": _describe_data(rows, model, resolved.settings, test),
        "scores": _describe_scores(outcome, test),
        **describe_environment(),
    }


def write_side_files(
    staging: Staging,
    record: dict[str, Any],
    *,
    outcome: TrainingOutcome,
    rows: PreparedRows,
    settings: TrainSettings,
    log: LogKeeper,
) -> None:
    """Write history, metrics and log, and digests of the texts if they may be kept."""
    if settings.keep_texts:
        texts = rows.train.texts, rows.validation.texts
        write_digests(staging.folder, *texts, base=settings.model)
    write_json(staging.folder / HISTORY_NAME, dataclasses.asdict(outcome.history))
    write_json(staging.folder / SCORES_NAME, record["scores"])
    write_log(staging, log)


def keep_predictions(
    staging: Staging,
    rows: PreparedRows,
    *,
    model: PreparedModel,
    validation_probabilities: np.ndarray | None,
    evaluation: Evaluation | None,
) -> None:
    """Write the kept model's predictions for the validation and test rows, if they were scored."""
    if validation_probabilities is not None:
        encoded = model.validation.encoded
        kept = KeptPredictions(
            lines=rows.validation.lines,
            groups=rows.validation.groups,
            label_ids=model.validation.label_ids,
            probabilities=validation_probabilities,
            num_tokens=encoded.full_lengths,
            is_truncated=encoded.is_truncated,
        )
        write_predictions(staging.folder / VALIDATION_NAME, kept, rows.label_names)
    if evaluation is not None:
        kept = evaluation.kept()
        is_known = np.isin(np.arange(len(kept)), rows.report.known_test_rows)
        kept = dataclasses.replace(kept, is_known=is_known)
        write_predictions(staging.folder / TEST_NAME, kept, rows.label_names)


def write_baselines(staging: Staging, baselines: BaselineResults) -> None:
    """Write the scores of the baselines."""
    write_json(staging.folder / BASELINES_NAME, baselines.to_json())


def _describe_data(
    rows: PreparedRows, model: PreparedModel, settings: TrainSettings, test: ScoredTest | None
) -> dict[str, Any]:
    parts = {"train": rows.train, "validation": rows.validation, "test": rows.test}
    described: dict[str, Any] = {
        name: {
            "source": part.source,
            "fingerprint": part.fingerprint(),
            **describe(part, rows.label_names),
        }
        for name, part in parts.items()
        if part is not None
    }
    if not settings.keep_texts:  # then nothing else tells which rows were learned
        described["train"]["fingerprint_as_read"] = rows.checked.train.fingerprint()
    of_test = () if test is None else test.evaluation.findings
    findings = order_findings([*rows.report.findings, *model.findings, *of_test])
    return described | {
        "skipped": [
            str(fault if settings.keep_texts else fault.without_values())
            for fault in rows.checked.skipped
        ],
        "left_out": dataclasses.asdict(rows.left_out),
        "dropped": dataclasses.asdict(rows.dropped),
        "findings": [_describe_finding(finding, settings) for finding in findings],
    }


def _describe_finding(finding: Finding, settings: TrainSettings) -> dict[str, Any]:
    """Return plain values; if texts are not kept, its examples are only places."""
    if not settings.keep_texts:
        bare = tuple(dataclasses.replace(example, text="") for example in finding.examples)
        finding = dataclasses.replace(finding, examples=bare)
    return finding.to_json()


def _describe_scores(outcome: TrainingOutcome, test: ScoredTest | None) -> dict[str, Any]:
    history, best = outcome.history, outcome.best_epoch
    comparison = test.comparison if test is not None else None
    without_leaks = test.without_leaks if test is not None else None
    without_groups = test.without_groups if test is not None else None
    clean = test.comparison_without_leaks if test is not None else None
    return {
        "validation": {
            "loss": history.val_losses[best],
            "accuracy": history.val_acc[best],
            "macro_f1": history.val_f1[best],
        },
        "test": test.evaluation.scores_to_json() if test is not None else None,
        "test_without_leaks": without_leaks.to_json() if without_leaks is not None else None,
        "test_without_groups": without_groups.to_json() if without_groups is not None else None,
        "baseline": test.baseline if test is not None else None,
        "comparison": comparison.to_json() if comparison is not None else None,
        "comparison_without_leaks": clean.to_json() if clean is not None else None,
    }
