"""The facts behind a run's report and model card: plain values, gathered from its folder.

Owns what is gathered, and which rows are shown; the layout is up to reporting. The scores are those
of the run. If no test set was scored, those of the validation rows are computed by the same
functions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertfit.config import TrainSettings
from bertfit.errors import RunError
from bertfit.evaluation.calibration import score_confidence, take_best
from bertfit.evaluation.curves import (
    precision_recall_points,
    reliability_points,
    risk_coverage_points,
    roc_points,
)
from bertfit.evaluation.interval import intervals_to_json
from bertfit.evaluation.intervals import bootstrap_intervals
from bertfit.evaluation.metrics import score
from bertfit.evaluation.predictions import KeptPredictions, read_predictions
from bertfit.evaluation.scaling import Scaling
from bertfit.evaluation.slices import list_slices, score_slices
from bertfit.evaluation.suspicious import SuspiciousLabels, rank_suspicious_labels
from bertfit.evaluation.thresholds import decide
from bertfit.evaluation.units import are_one_group, count_units
from bertfit.files import read_json
from bertfit.inference.confidence import read_confidence
from bertfit.run_files import (
    BASELINES_NAME,
    HISTORY_NAME,
    REPORT_FACTS_NAME,
    TEST_NAME,
    VALIDATION_NAME,
)
from bertfit.workflow.reproducing import describe_command

KEPT_VERSION = 1
"""Version of the format of report.json."""
NUM_ERRORS = 20
NUM_SUSPECTS = 10
"""Most suspects shown of each part."""
_FILES = {"validation": VALIDATION_NAME, "test": TEST_NAME}


@dataclass(frozen=True, slots=True)
class KeptPart:
    """The rows of one part as kept in the run, and the predicted classes."""

    name: str
    """validation or test."""
    rows: KeptPredictions
    predicted_ids: np.ndarray
    """(n,)."""

    @property
    def is_right(self) -> np.ndarray:
        """(n,) whether the prediction is right."""
        right: np.ndarray = self.predicted_ids == self.rows.label_ids
        return right

    @property
    def confidences(self) -> np.ndarray:
        """(n,) probabilities of the predicted classes."""
        sure: np.ndarray = self.rows.probabilities[np.arange(len(self.rows)), self.predicted_ids]
        return sure


def gather_facts(run: Path, record: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """Return everything that the report and the model card show of a run, as JSON values.

    What the run does not have is None.

    Args:
        run: Folder of the run, or its staging folder.
        record: Content of its bertfit.json, also if not written yet.
        name: Name of the run.

    Raises:
        RunError: A file of the run is damaged.
    """
    kept = read_kept(run)
    parts = read_parts(run, record)
    judged = _judge(record, parts, kept)
    part = parts.get(judged["part"]) if judged else None
    label_names = list(record["label_names"])
    return {
        "name": name,
        "label_names": label_names,
        "record": dict(record),
        "history": _read_json(run / HISTORY_NAME),
        "judged": judged,
        "curves": _draw_curves(part, record, kept, run) if part else None,
        "lengths": _find_lengths(kept, part, record),
        "errors": _list_errors(part, label_names, kept) if part else None,
        "suspects": [_list_suspects(one, label_names, kept) for one in parts.values()],
        "baselines": _read_json(run / BASELINES_NAME),
        "validation_accuracy": _find_accuracy(parts.get("validation")),
        "model": kept.get("model"),
        "base_model": kept.get("base_model"),
        "has_texts": kept.get("texts") is not None,
        "command": describe_command(
            record,
            name=name,
            was_split=kept.get("validation"),
            with_baseline=(record.get("training") or {}).get(
                "with_baselines", (run / BASELINES_NAME).is_file()
            ),
        ),
    }


def read_kept(run: Path) -> dict[str, Any]:
    """Return what the training kept for the report; empty if there is no such file.

    Raises:
        RunError: The file is damaged, or of another version.
    """
    kept = _read_json(run / REPORT_FACTS_NAME)
    if kept is None:
        return {}
    if kept.get("format_version") != KEPT_VERSION:
        raise RunError(
            f"{run / REPORT_FACTS_NAME} has format {kept.get('format_version')!r}, "
            f"expected {KEPT_VERSION}",
            hint="It was written by another version of bertfit. Without it, a report has no texts.",
        )
    return kept


def read_parts(run: Path, record: Mapping[str, Any]) -> dict[str, KeptPart]:
    """Return the parts for which the run kept predictions, by name, the test first.

    Raises:
        RunError: A file is damaged.
    """
    names = tuple(record["label_names"])
    threshold = read_confidence(record, num_labels=len(names), run=run).threshold
    parts = {}
    for part in ("test", "validation"):
        if (run / _FILES[part]).is_file():
            num_rows = ((record.get("data") or {}).get(part) or {}).get("num_rows")
            rows = read_predictions(run / _FILES[part], names, num_rows=num_rows)
            parts[part] = KeptPart(part, rows, decide(rows.probabilities, threshold))
    return parts


def choose_shown_rows(parts: Mapping[str, KeptPart]) -> dict[str, list[int]]:
    """Return the rows of each part whose texts the report shows: errors and suspicious labels."""
    judged = next(iter(parts), None)
    return {
        name: sorted(
            {*(_rank_errors(part) if name == judged else []), *_rank_suspects(part)[0].tolist()}
        )
        for name, part in parts.items()
    }


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = read_json(path)
    except FileNotFoundError:
        return None
    except PermissionError:
        raise RunError(
            f"{path} cannot be read: no permission", hint="Ask its owner for permission to read it."
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read: {error}",
            hint="The file was changed or is damaged. Remove it: the report then goes without it.",
        ) from None
    if not isinstance(value, dict):
        raise RunError(
            f"{path} holds {type(value).__name__}, expected a JSON object",
            hint="The file was changed or is damaged. Remove it: the report then goes without it.",
        )
    return value


def _judge(
    record: Mapping[str, Any], parts: Mapping[str, KeptPart], kept: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the scores that tell how good the model is, as `Evaluation.scores_to_json` does.

    They are those of the test rows, else those of the validation rows, as far as known.
    """
    scores = record.get("scores") or {}
    if scores.get("test"):
        return {"part": "test", **scores["test"]}
    if "validation" in parts:
        return {"part": "validation", **_score_part(parts["validation"], record, kept)}
    if scores.get("validation"):
        return {"part": "validation", "intervals": {}, **scores["validation"]}
    return None


def _find_accuracy(part: KeptPart | None) -> float | None:
    """Return the accuracy of the most probable class, without the threshold, as for baselines."""
    if part is None:
        return None
    return float((part.rows.probabilities.argmax(axis=1) == part.rows.label_ids).mean())


def _score_part(
    part: KeptPart, record: Mapping[str, Any], kept: Mapping[str, Any]
) -> dict[str, Any]:
    rows, names = part.rows, list(record["label_names"])
    groups = rows.known_groups
    num_units = count_units(groups, len(rows))
    answers: dict[str, Any] = {"predicted_ids": part.predicted_ids}
    intervals = bootstrap_intervals(rows.probabilities, rows.label_ids, groups=groups, **answers)
    confidence = score_confidence(rows.probabilities, rows.label_ids, groups=groups, **answers)
    calibration = (record.get("calibration") or {}).get("validation") or {}
    is_calibrated = (record.get("calibration") or {}).get("kind", "none") != "none"
    slices = list_slices(
        rows.num_tokens,
        rows.is_truncated,
        [names[label_id] for label_id in rows.label_ids.tolist()],
        groups=rows.groups if groups is not None else None,
        further=kept.get("slices"),
    )
    encoding = record.get("encoding") or {}
    return {
        **score(rows.probabilities, rows.label_ids, names, **answers).to_json(),
        "intervals": intervals_to_json(intervals),
        "interval_unit": "group" if num_units < len(rows) else "row",
        "num_interval_units": num_units,
        "of_one_group": are_one_group(groups),
        "confidence": {
            **confidence.to_json(),
            "uncalibrated": calibration.get("before") if is_calibrated else None,
        },
        "num_truncated": int(rows.is_truncated.sum()),
        "max_length": encoding.get("max_length"),
        "truncation": encoding.get("truncation"),
        "slices": score_slices(part.is_right, slices, groups=groups).to_json(),
    }


def _draw_curves(
    part: KeptPart, record: Mapping[str, Any], kept: Mapping[str, Any], run: Path
) -> dict[str, Any]:
    """Return the points of each curve; ROC and precision-recall only for two classes."""
    probabilities, label_ids = part.rows.probabilities, part.rows.label_ids
    scaling = read_confidence(record, num_labels=probabilities.shape[1], run=run).scaling
    is_binary = probabilities.shape[1] == 2 and len(np.unique(label_ids)) == 2
    return {
        "roc": roc_points(probabilities[:, 1], label_ids == 1) if is_binary else None,
        "precision_recall": (
            precision_recall_points(probabilities[:, 1], label_ids == 1) if is_binary else None
        ),
        "positive_share": float((label_ids == 1).mean()) if is_binary else None,
        "reliability": reliability_points(*take_best(probabilities, label_ids)),
        "reliability_before": _draw_uncalibrated(part, scaling, kept),
        "risk_coverage": risk_coverage_points(part.confidences, part.is_right),
    }


def _draw_uncalibrated(
    part: KeptPart, scaling: Scaling | None, kept: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the reliability before calibration and the name of its part, if known.

    Log-probabilities are the logits minus a constant per row. After undoing a temperature, it is
    still a constant per row, which softmax ignores; that does not hold for other scalings, so for
    those the training keeps the points.
    """
    if scaling is None:
        return None
    if scaling.kind != "temperature":
        if part.name == "test" and kept.get("test_reliability_before"):
            return {"part": "test", "points": kept["test_reliability_before"]}
        points = kept.get("reliability_before")
        return None if points is None else {"part": "validation", "points": points}
    from scipy.special import softmax

    logits = np.log(np.clip(part.rows.probabilities, 1e-300, 1))
    before = softmax(scaling.undo(logits), axis=1)
    points = reliability_points(*take_best(before, part.rows.label_ids))
    return {"part": part.name, "points": points}


def _find_lengths(
    kept: Mapping[str, Any], part: KeptPart | None, record: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the counts of text lengths in tokens, of the training rows, else of `part`."""
    limit = (record.get("encoding") or {}).get("max_length")
    if kept.get("lengths"):
        return {"part": "train", "max_length": limit, "counts": kept["lengths"]}
    if part is None:
        return None
    counts = sorted(Counter(part.rows.num_tokens.tolist()).items())
    return {"part": part.name, "max_length": limit, "counts": counts}


def _rank_errors(part: KeptPart) -> list[int]:
    """Return the wrong rows, the most confident first, at most `NUM_ERRORS`."""
    (wrong,) = np.nonzero(~part.is_right)
    chosen: list[int] = wrong[np.argsort(-part.confidences[wrong], kind="stable")].tolist()
    return chosen[:NUM_ERRORS]


def _list_errors(part: KeptPart, label_names: list[str], kept: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        {
            **_describe_row(part, row, kept),
            "label": label_names[part.rows.label_ids[row]],
            "predicted": label_names[part.predicted_ids[row]],
            "confidence": float(part.confidences[row]),
        }
        for row in _rank_errors(part)
    ]
    return {"part": part.name, "num_wrong": int((~part.is_right).sum()), "rows": rows}


def _rank_suspects(part: KeptPart) -> tuple[np.ndarray, SuspiciousLabels]:
    """Return the rows to show, the most suspicious first, and the ranking of all.

    Only rows whose labels confident learning counts as wrong are shown.
    """
    ranked = rank_suspicious_labels(part.rows.probabilities, part.rows.label_ids)
    return ranked.rows[: min(NUM_SUSPECTS, ranked.num_issues)], ranked


def _list_suspects(
    part: KeptPart, label_names: list[str], kept: Mapping[str, Any]
) -> dict[str, Any]:
    chosen, ranked = _rank_suspects(part)
    suggested = ranked.suggested_ids[: len(chosen)]
    rows = [
        {
            **_describe_row(part, row, kept),
            "label": label_names[part.rows.label_ids[row]],
            "suggested_label": label_names[label_id],
            "confidence": float(part.rows.probabilities[row, label_id]),
        }
        for row, label_id in zip(chosen.tolist(), suggested.tolist(), strict=True)
    ]
    return {
        "part": part.name,
        "num_rows": len(part.rows),
        "num_wrong": ranked.num_issues,
        "num_expected": ranked.num_expected,
        "rows": rows,
    }


def _describe_row(part: KeptPart, row: int, kept: Mapping[str, Any]) -> dict[str, Any]:
    line = int(part.rows.lines[row])
    texts = (kept.get("texts") or {}).get(part.name) or {}
    return {
        "line": line,
        "num_tokens": int(part.rows.num_tokens[row]),
        "is_truncated": bool(part.rows.is_truncated[row]),
        "text": texts.get(str(line)),
    }


def keeps_texts(record: Mapping[str, Any]) -> bool:
    """Return whether a run may keep texts of rows; runs older than the setting may."""
    entry = (record.get("settings") or {}).get("keep_texts") or {}
    return bool(entry.get("value", TrainSettings().keep_texts))
